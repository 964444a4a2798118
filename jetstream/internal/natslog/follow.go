package natslog

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// followBatch is about how many bytes Follow reads at once of what was there
// before.
const followBatch = 1 << 20

var errFollowed = errors.New("natslog: Follow is running already")

// follower is a running Follow. The store's mutex protects it, but for apply.
type follower struct {
	store *Store
	apply func([]logstore.Record)
	next  uint64 // offset that it is to be handed next
	begun bool   // it has been handed something
	live  bool   // the tracker hands it what comes
	busy  bool   // the tracker is in apply
}

// Follow implements logstore.Store. What was there before is read; what comes is
// handed over by the tracker, so that a store has one consumer.
//
// When the JetStream stream has lost records, an epoch begins, and Follow hands
// over again from the first offset on that has another record now.
func (s *Store) Follow(ctx context.Context, from uint64, apply func([]logstore.Record)) error {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	f := &follower{store: s, apply: apply, next: max(from, 1)}
	s.mu.Lock()
	if s.follower != nil {
		s.mu.Unlock()
		return errFollowed
	}
	s.follower = f
	s.cond.Broadcast()
	s.mu.Unlock()
	defer s.leave(f)
	stop := context.AfterFunc(ctx, s.broadcast)
	defer stop()
	for {
		next, last, generation := f.goLive(ctx)
		if err := s.over(ctx); err != nil {
			return err
		}
		records, err := s.read(ctx, next, last, followBatch)
		s.heard(err)
		switch {
		case len(records) > 0:
			f.handOver(records, generation)
		case errors.Is(err, logstore.ErrEvicted):
			f.skip(next, generation)
		case err != nil && s.over(ctx) == nil:
			s.pause(retryMost)
		}
	}
}

// goLive waits until ctx ends, if the follower has everything. Otherwise it
// returns which records are to be read, and of which generation.
func (f *follower) goLive(ctx context.Context) (next, last, generation uint64) {
	s := f.store
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.over(ctx) != nil {
			return 0, 0, 0
		}
		f.live = f.next > s.log.head
		s.cond.Broadcast()
		if !f.live {
			return f.next, s.log.head, s.generation
		}
		for f.live && s.over(ctx) == nil && f.next > s.log.head || f.busy {
			s.cond.Wait()
		}
	}
}

// handOver hands records over that were read, unless they have been lost since.
func (f *follower) handOver(records []logstore.Record, generation uint64) {
	s := f.store
	s.mu.Lock()
	if s.generation != generation {
		s.mu.Unlock()
		return
	}
	f.begun = true
	f.next = records[len(records)-1].Offset + 1
	epochs := slices.Clone(s.log.epochs)
	s.mu.Unlock()
	f.applyByEpoch(records, epochs)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cond.Broadcast()
}

// skip goes on behind what was evicted.
func (f *follower) skip(next, generation uint64) {
	s := f.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.generation == generation && f.next == next {
		f.next = max(f.next, min(s.info.first, s.log.head+1))
	}
}

// liveLocked returns the follower if it is to be handed these records now. It is
// busy then.
func (s *Store) liveLocked(records []logstore.Record) *follower {
	f := s.follower
	if f == nil || !f.live || records[len(records)-1].Offset < f.next {
		return nil
	}
	f.busy = true
	return f
}

// hand hands over what has come. The tracker calls it.
func (f *follower) hand(records []logstore.Record) {
	for records[0].Offset < f.next { // it was to begin later
		records = records[1:]
	}
	s := f.store
	f.applyByEpoch(records, s.Epochs())
	s.mu.Lock()
	defer s.mu.Unlock()
	f.begun, f.busy = true, false
	f.next = records[len(records)-1].Offset + 1
	s.cond.Broadcast()
}

// applyByEpoch hands records over, those of an epoch in batches of their own.
func (f *follower) applyByEpoch(records []logstore.Record, epochs []logstore.Epoch) {
	for _, e := range epochs {
		first, last := records[0].Offset, records[len(records)-1].Offset
		if e.First > first && e.First <= last {
			n := e.First - first
			f.apply(records[:n:n])
			records = records[n:]
		}
	}
	f.apply(records)
}

// leave waits until the tracker is done with a follower.
func (s *Store) leave(f *follower) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.live = false
	for f.busy {
		s.cond.Wait()
	}
	s.follower = nil
	s.cond.Broadcast()
}

// caughtUpLocked reports whether the follower, if there is one, has been handed
// all that is known.
func (s *Store) caughtUpLocked() bool {
	f := s.follower
	return f == nil || f.next > s.log.head && !f.busy && f.live
}

// Latest implements logstore.Store.
func (s *Store) Latest(ctx context.Context) (map[string]logstore.Latest, error) {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	stop := context.AfterFunc(ctx, s.broadcast)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.loaded {
		if err := s.over(ctx); err != nil {
			return nil, err
		}
		s.cond.Wait()
	}
	return s.log.sources.All(), nil
}

// waitUntil waits until a condition holds, no longer than d. False: it does not.
// The condition is asked under the mutex.
func (s *Store) waitUntil(ctx context.Context, d time.Duration, condition func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	stop := context.AfterFunc(ctx, s.broadcast)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !condition() {
		if ctx.Err() != nil {
			return false
		}
		s.cond.Wait()
	}
	return true
}
