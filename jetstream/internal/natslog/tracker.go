package natslog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// retryLeast and retryMost bound how long to wait before following is tried
	// again.
	retryLeast = 50 * time.Millisecond
	retryMost  = time.Second

	// beyondKnown is by how much the offsets of a stream that is made anew begin
	// beyond those that are known: others may have known more, and every cursor is
	// to find a gap.
	beyondKnown = 1 << 16
)

// errLost says that the stream ends before records that it has had.
var errLost = errors.New("the JetStream stream has lost records, after a power cut or from a backup; the next writer begins an epoch")

// load reads the state that the log begins with for this node: the newest
// checkpoint, or that before the first record. It makes the stream if there is
// none.
func (s *Store) load(ctx context.Context) error {
	saved, rev, err := s.eng.load(ctx, checkpointKey)
	if err != nil && !errors.Is(err, errNoStream) {
		return err
	}
	s.saved.rev = rev
	known := false
	if rev > 0 {
		if s.log, err = loadState(saved); err != nil {
			s.o.Logger.Warn("the checkpoint of the log cannot be read, the whole log is", zap.Error(err))
		} else {
			known, s.known = true, s.log.head
		}
	}
	in, err := s.eng.info(ctx)
	if errors.Is(err, errNoStream) {
		in, err = s.remake(ctx)
	}
	if err != nil {
		return err
	}
	switch {
	case !known:
		s.log = newState(in)
	case in.incarnation != s.log.incarnation:
		s.log.adopt(in)
	case s.log.head > in.last: // nobody has been handed anything yet
		lost := s.log.rewind(in.last + 1)
		if err := s.findLatest(ctx, in.first, in.last+1, lost); err != nil {
			return err
		}
	}
	s.saved.head = s.log.head
	s.info, s.until = in, in.last
	s.loaded = s.log.head >= s.until
	return nil
}

// remake makes the JetStream stream, which is missing, and returns its state. Who
// of several nodes is first has chosen where its offsets begin.
func (s *Store) remake(ctx context.Context) (streamInfo, error) {
	lease, err := s.readLease(ctx)
	if err != nil && !errors.Is(err, errNoStream) {
		return streamInfo{}, err
	}
	s.mu.Lock()
	known := max(s.known, s.log.head, lease.Head)
	s.mu.Unlock()
	known = max(known, s.peers.head())
	first := uint64(1)
	if known > 0 {
		first = known + beyondKnown
		s.o.Logger.Warn("the JetStream stream of the log is gone, and is made anew", zap.Uint64("first", first))
	}
	if err := s.eng.create(ctx, logstore.NewEpochID(), first); err != nil {
		return streamInfo{}, err
	}
	return s.eng.info(ctx)
}

// track follows the stream for as long as the store is open. Open starts it,
// Close ends it by its context.
func (s *Store) track() {
	wait := retryLeast
	for {
		began := time.Now()
		err := s.trackOnce(s.ctx)
		if s.ctx.Err() != nil {
			return
		}
		s.heard(err)
		if errors.Is(err, errNoStream) {
			_, err = s.remake(s.ctx)
			s.heard(err)
		}
		if time.Since(began) > retryMost {
			wait = retryLeast
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			wait = min(2*wait, retryMost)
		case <-s.recheck:
			wait = retryLeast
		case <-s.ctx.Done():
		}
		timer.Stop()
	}
}

// look has the tracker look whether the stream is what is known of it.
func (s *Store) look() { nudge(s.recheck) }

// trackOnce follows the stream until something is wrong, or it is to look anew.
func (s *Store) trackOnce(ctx context.Context) error {
	in, err := s.eng.info(ctx)
	if err != nil {
		return err
	}
	if err := s.reconcile(ctx, in); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go s.interrupt(ctx, cancel)
	s.mu.Lock()
	from := s.log.head + 1
	s.mu.Unlock()
	s.heard(nil)
	return s.eng.follow(ctx, from, func(batch []message) error { return s.take(ctx, batch) })
}

// interrupt ends a follower when the tracker is to look anew. trackOnce owns it; it
// ends with the context.
func (s *Store) interrupt(ctx context.Context, cancel context.CancelCauseFunc) {
	select {
	case <-s.recheck:
		cancel(errInterrupted)
	case <-ctx.Done():
	}
}

// termOf returns the term of a record; 0 if it cannot be read.
func termOf(m message) uint64 {
	r, err := logstore.DecodeRecord(m.data)
	if err != nil {
		return 0
	}
	return r.Term
}

// take takes the next records into account, and hands them to the follower if it
// has all before them. The engine calls it.
func (s *Store) take(ctx context.Context, batch []message) error {
	s.mu.Lock()
	next := s.log.head + 1
	s.mu.Unlock()
	if batch[0].seq != next {
		if err := s.checkHole(ctx, next, batch[0].seq); err != nil {
			return err
		}
	}
	records := make([]logstore.Record, 0, len(batch))
	s.mu.Lock()
	epoch := s.log.epoch()
	if batch[0].seq != next {
		s.log.spans = nil // of what is between, nothing is known
	}
	parted := false
	for i, m := range batch {
		r := s.decodeLocked(m)
		if parted = !s.log.follows(&r); parted {
			batch = batch[:i]
			break
		}
		records = append(records, r)
		s.log.apply(&r)
		s.saved.bytes += int64(len(m.data) + recordHeaders/2)
		if m.seq > s.info.last {
			s.extra += int64(len(m.data) + recordHeaders/2)
		}
	}
	if s.log.epoch() != epoch {
		s.known = 0 // cursors find out by the epoch
	}
	if len(records) == 0 {
		s.mu.Unlock()
		return errParted
	}
	s.log.sum, s.log.unknown = fingerprint(batch[len(batch)-1].data), false
	s.contact = time.Now()
	if !s.loaded && s.log.head >= s.until {
		s.loaded = true
	}
	if s.term != nil {
		s.term.appliedLocked(records)
	}
	s.peers.noteFence(s.log.fence)
	f := s.liveLocked(records)
	s.settleLocked()
	s.cond.Broadcast()
	s.mu.Unlock()
	if f != nil {
		f.hand(records)
	}
	if parted {
		return errParted
	}
	return nil
}

// errParted ends following, so that it is compared what is behind.
var errParted = errors.New("a record does not follow those that are known")

// decodeLocked reads a record. What is none, since somebody else has published it,
// takes its offset like a fence.
func (s *Store) decodeLocked(m message) logstore.Record {
	r, err := logstore.DecodeRecord(m.data)
	if err != nil {
		s.o.Logger.Error("something in the log is no record, and is left out", zap.Uint64("offset", m.seq), zap.Error(err))
		r = logstore.Record{Term: s.log.term(), Time: s.log.newest}
	}
	r.Offset = m.seq
	return r
}

// checkHole returns nil if the records between two offsets are no longer
// retained. A consumer that is asked to begin with what is not, begins later
// without an error.
func (s *Store) checkHole(ctx context.Context, next, found uint64) error {
	if found < next {
		return fmt.Errorf("JetStream returned offset %d, after %d", found, next-1)
	}
	in, err := s.eng.info(ctx)
	if err != nil {
		return err
	}
	if in.first >= found {
		return nil
	}
	if _, err := s.eng.record(ctx, found-1); !errors.Is(err, errNoRecord) {
		return fmt.Errorf("JetStream returned offset %d, after %d", found, next-1)
	}
	return nil // removed by hand, or by now
}
