package natslog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// fenceTimeout is how long to wait for a fence before it is looked whether it
	// is there.
	fenceTimeout = 2 * time.Second

	// catchUpTimeout is how long to wait for the tracker before it is looked anew
	// what there is to catch up with.
	catchUpTimeout = 5 * time.Second
)

// Campaign implements logstore.Store.
//
// A lease says who may try. The fence, appended behind all that this node knows,
// makes sure that no earlier term can append any more; once the tracker has
// applied it, everything is known.
func (s *Store) Campaign(ctx context.Context) (logstore.Term, error) {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := s.awaitTurn(ctx); err != nil {
		return nil, err
	}
	defer s.leaveTurn()
	for {
		l, err := s.acquire(ctx)
		if err != nil {
			return nil, err
		}
		t, err := s.takeOver(ctx, l)
		if err == nil {
			return t, nil
		}
		l.release()
		if over := s.over(ctx); over != nil {
			return nil, over
		}
		s.o.Logger.Info("the lease was lost before this node could write", zap.Error(err))
	}
}

// awaitTurn waits until this store has no term and no other campaign.
func (s *Store) awaitTurn(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.broadcast)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.term != nil || s.campaigning || s.closing {
		if err := s.over(ctx); err != nil {
			return err
		}
		if s.closing && s.term == nil {
			return logstore.ErrClosed
		}
		s.cond.Wait()
	}
	s.campaigning = true
	return s.over(ctx)
}

func (s *Store) leaveTurn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.campaigning = false
	s.cond.Broadcast()
}

// attempt is a fence that was published.
type attempt struct {
	record logstore.Record // each record of it, with the offset of the last
	data   [][]byte
	result chan error // capacity 1: the answer
}

// takeOver appends a fence and waits until the tracker and the follower have
// applied it. The error says that the lease was lost, or is ctx's.
func (s *Store) takeOver(ctx context.Context, l *lease) (*term, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go l.cancelWith(ctx, cancel)
	var attempts []attempt
	for r := (retry{}); ; {
		if err := s.over(ctx); err != nil {
			return nil, err
		}
		a, err := s.tryFence(ctx, l, &attempts)
		s.heard(err)
		if err == nil {
			if t := s.confirmFence(ctx, l, a); t != nil {
				return t, nil
			}
		}
		r.again(ctx, retryLeast, retryMost)
	}
}

// cancelWith ends a context when the lease is lost. takeOver owns it.
func (l *lease) cancelWith(ctx context.Context, cancel context.CancelCauseFunc) {
	select {
	case <-l.lost:
		cancel(l.why)
	case <-ctx.Done():
	}
}

// tryFence appends a fence behind all that there is, and returns it, or one that
// was appended before.
func (s *Store) tryFence(ctx context.Context, l *lease, attempts *[]attempt) (attempt, error) {
	in, err := s.eng.info(ctx)
	if errors.Is(err, errNoStream) {
		s.look()
	}
	if err != nil {
		return attempt{}, err
	}
	var own attempt
	found := false
	s.waitUntil(ctx, catchUpTimeout, func() bool {
		for _, a := range *attempts {
			if s.log.fence.nonce == a.record.Hash && in.last >= a.record.Offset { // or it is lost again
				own, found = a, true
			}
		}
		return found || s.log.incarnation == in.incarnation && s.log.head >= in.last
	})
	if found {
		return own, nil
	}
	s.mu.Lock()
	if s.log.incarnation != in.incarnation || s.log.head < in.last {
		s.mu.Unlock()
		s.look()
		return attempt{}, errors.New("the newest records have not come yet")
	}
	expected := min(s.log.head, in.last)
	a := s.newFenceLocked(l, expected)
	s.mu.Unlock()
	*attempts = append(*attempts, a)
	s.eng.publish(expected, a.data, func(err error) { a.result <- err })
	timer := time.NewTimer(fenceTimeout)
	defer timer.Stop()
	select {
	case err = <-a.result:
	case <-timer.C:
		err = s.unacknowledged("the fence was not acknowledged in time")
	case <-ctx.Done():
		err = s.over(ctx)
	}
	if errors.Is(err, errRefused) {
		s.mu.Lock()
		s.refused++
		s.mu.Unlock()
		s.look()
	}
	return a, err
}

// newFenceLocked returns a fence to be appended behind an offset. If it is, and a
// higher offset was known before, that has been lost: an epoch begins.
func (s *Store) newFenceLocked(l *lease, behind uint64) attempt {
	known := max(s.known, s.log.head, l.value.Head, s.peers.head())
	epoch := s.log.epoch()
	if known > behind || l.value.Lost || s.log.unsure {
		epoch = logstore.NewEpochID()
	}
	r := logstore.Record{
		Term: max(l.rev, s.log.term()+1, l.value.Term+1), Time: s.log.newest,
		Source: s.o.Node, ID: epoch, Hash: rand.Uint64() | 1,
	}
	length := uint64(s.fenceLength)
	r.Offset = behind + length
	data := slices.Repeat([][]byte{r.AppendTo(nil)}, int(length))
	begin := r
	begin.Type = fenceBegins
	data[0] = begin.AppendTo(nil)
	return attempt{r, data, make(chan error, 1)}
}

// confirmFence waits until the fence was applied, and begins the term. nil: it is
// not the newest any more.
func (s *Store) confirmFence(ctx context.Context, l *lease, a attempt) *term {
	s.mu.Lock()
	if s.log.head >= a.record.Offset && s.log.fence.nonce != a.record.Hash {
		s.look() // the stream has lost what is known here
	}
	s.mu.Unlock()
	mine := func() bool {
		return s.log.fence.nonce == a.record.Hash && s.log.fence.last == a.record.Offset
	}
	applied := s.waitUntil(ctx, catchUpTimeout, func() bool { return mine() && s.caughtUpLocked() })
	s.mu.Lock()
	defer s.mu.Unlock()
	if !applied || !mine() || s.closing {
		return nil
	}
	t := newTerm(s, l, &a.record)
	s.term = t
	s.takeovers++
	s.known, s.log.unsure = 0, false
	nudge(l.update)
	s.settleLocked()
	s.o.Logger.Info("this node writes the log now", zap.Uint64("term", t.number), zap.Uint64("offset", a.record.Offset))
	s.parts.Go(t.run)
	return t
}

// why returns what a term that is over has ended with.
func why(err error) error { return fmt.Errorf("%w: %w", logstore.ErrOver, err) }
