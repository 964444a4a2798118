package filestore

import (
	"context"
	"errors"
	"fmt"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// term is the time in which this process appends. The store's mutex protects
// its fields, but for number and done.
type term struct {
	store   *Store
	number  uint64
	done    chan struct{} // closed when the term is over
	over    error         // why it is
	granted bool          // Campaign has returned it
	newest  int64         // arrival of the record appended last, Unix ms
}

func (t *term) endLocked(why error) {
	if t.over == nil {
		t.over = why
		close(t.done)
	}
}

// Campaign implements logstore.Store. The only process that has the directory
// is the writer.
func (s *Store) Campaign(ctx context.Context) (logstore.Term, error) {
	stop := context.AfterFunc(ctx, s.broadcast)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.term != nil || !s.caughtUpLocked() {
		if err := s.overLocked(ctx); err != nil {
			return nil, err
		}
		s.cond.Wait()
	}
	if err := s.overLocked(ctx); err != nil {
		return nil, err
	}
	// The number is nobody else's once its file is written.
	s.meta.Term++
	s.unsaved = true
	t := &term{store: s, number: s.meta.Term, done: make(chan struct{}), newest: s.lastTime}
	s.term = t
	s.rouse()
	for s.saved < t.number || !s.caughtUpLocked() {
		if err := s.overLocked(ctx); err != nil {
			t.endLocked(err)
			s.term = nil
			s.settleLocked()
			return nil, err
		}
		s.cond.Wait()
	}
	s.terms++
	t.granted = true
	s.settleLocked()
	return t, nil
}

// overLocked returns why nothing is to be waited for any more.
func (s *Store) overLocked(ctx context.Context) error {
	if s.closing {
		return logstore.ErrClosed
	}
	return ctx.Err()
}

// caughtUpLocked reports whether nothing of an earlier term is on its way, and
// Follow, if it runs, has applied everything.
func (s *Store) caughtUpLocked() bool {
	return s.inFlight == 0 && len(s.pending.records) == 0 && (s.follower == nil || s.follower.live)
}

// Number implements logstore.Term.
func (t *term) Number() uint64 { return t.number }

// Done implements logstore.Term.
func (t *term) Done() <-chan struct{} { return t.done }

// Err implements logstore.Term.
func (t *term) Err() error {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	return t.over
}

// Append implements logstore.Term.
func (t *term) Append(r *logstore.Record) error {
	if len(r.Body)+len(r.Source)+len(r.Type)+len(r.ID)+recordOverhead > maxRecord {
		return logstore.ErrTooLarge
	}
	first, err := t.add(r)
	if first { // otherwise the committer knows
		t.store.rouse()
	}
	return err
}

// add is Append without a word to the committer. first reports whether nothing
// else waits for it.
func (t *term) add(r *logstore.Record) (first bool, err error) {
	s := t.store
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case t.over != nil:
		return false, fmt.Errorf("%w: %w", logstore.ErrOver, t.over)
	case s.fullLocked():
		return false, logstore.ErrNoRoom
	}
	t.newest = max(t.newest, r.Time)
	s.appended++
	own := *r
	own.Term, own.Offset, own.Time = t.number, s.appended, t.newest
	s.pending.add(&own)
	return len(s.pending.records) == 1, nil
}

// fullLocked reports whether what waits to be committed fills the buffer, or is
// so much of what is retained that readers would be overtaken by it when it is
// committed at once, as after a disk was full. One record always fits.
func (s *Store) fullLocked() bool {
	limit := int64(s.o.Buffer)
	if s.bounds.Bytes > 0 {
		limit = min(limit, max(s.bounds.Bytes/waitingShare, minSegment))
	}
	if s.taken+s.pending.memory() >= limit {
		return true
	}
	waiting := uint64(len(s.pending.records) + s.inFlight)
	return s.bounds.Events > 0 && waiting >= max(s.bounds.Events/waitingShare, minEvents)
}

// waitingShare is the share of what is retained that may wait to be committed.
const waitingShare = 4

// Wait implements logstore.Term.
func (t *term) Wait(ctx context.Context) error {
	s := t.store
	stop := context.AfterFunc(ctx, s.broadcast)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case t.over != nil:
			return fmt.Errorf("%w: %w", logstore.ErrOver, t.over)
		case !s.fullLocked():
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		s.cond.Wait()
	}
}

var errReleased = errors.New("it was released")

// Release implements logstore.Term. Releasing twice is no error.
func (t *term) Release(ctx context.Context) error {
	s := t.store
	stop := context.AfterFunc(ctx, s.broadcast)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	t.endLocked(errReleased)
	var err error
	for s.term == t && (len(s.pending.records) > 0 || s.inFlight > 0) {
		if err = ctx.Err(); err == nil && s.closed {
			err = logstore.ErrClosed
		}
		if err != nil {
			break
		}
		s.cond.Wait()
	}
	if s.term == t {
		// What is being committed still may be; the next term waits for it. The rest
		// was never shown, and never will be.
		s.appended -= uint64(len(s.pending.records))
		s.pending.reset()
		s.term = nil
		s.settleLocked()
	}
	return err
}

// Interface guards
var _ logstore.Term = (*term)(nil)
