package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// memoryTerm is the time in which a node writes.
type memoryTerm struct {
	node    *memoryNode
	number  uint64
	done    chan struct{} // closed when the term is over
	over    error         // why it is
	dropped bool          // what is pending is not committed any more
	pending []logstore.Record
	size    int64 // as stored
}

func (t *memoryTerm) endLocked(why error) {
	if t.over == nil {
		t.over = why
		close(t.done)
	}
	t.node.log.cond.Broadcast()
}

func (t *memoryTerm) dropLocked(why error) {
	t.endLocked(why)
	t.dropped, t.pending, t.size = true, nil, 0
	if m := t.node.log; m.writer == t {
		m.writer = nil
	}
}

// run commits what the term appends. The node owns it; it ends when the term is
// over and nothing is pending.
func (t *memoryTerm) run() {
	m := t.node.log
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		switch {
		case len(t.pending) == 0 && t.over != nil:
			if m.writer == t {
				m.writer = nil
			}
			t.node.running--
			m.cond.Broadcast()
			return
		case len(t.pending) == 0 || m.stalls > 0:
			m.cond.Wait()
			continue
		}
		n := len(t.pending)
		if m.delay > 0 {
			delay := time.NewTimer(m.delay)
			m.mu.Unlock()
			<-delay.C
			m.mu.Lock()
			if t.dropped || m.stalls > 0 {
				continue
			}
		}
		for i := range t.pending[:n] {
			t.size -= stored(&t.pending[i])
		}
		m.commitLocked(t.pending[:n])
		t.pending = t.pending[n:]
	}
}

// Number implements logstore.Term.
func (t *memoryTerm) Number() uint64 { return t.number }

// Done implements logstore.Term.
func (t *memoryTerm) Done() <-chan struct{} { return t.done }

// Err implements logstore.Term.
func (t *memoryTerm) Err() error {
	t.node.log.mu.Lock()
	defer t.node.log.mu.Unlock()
	return t.over
}

// Append implements logstore.Term.
func (t *memoryTerm) Append(r *logstore.Record) error {
	m := t.node.log
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case t.over != nil:
		return fmt.Errorf("%w: %w", logstore.ErrOver, t.over)
	case t.size >= m.buffer:
		return logstore.ErrNoRoom
	}
	own := *r
	own.Term, own.Body = t.number, bytes.Clone(r.Body)
	t.pending = append(t.pending, own)
	t.size += stored(&own)
	m.cond.Broadcast()
	return nil
}

// Wait implements logstore.Term.
func (t *memoryTerm) Wait(ctx context.Context) error {
	m := t.node.log
	stop := context.AfterFunc(ctx, m.broadcast)
	defer stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		switch {
		case t.over != nil:
			return fmt.Errorf("%w: %w", logstore.ErrOver, t.over)
		case t.size < m.buffer:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		m.cond.Wait()
	}
}

// Release implements logstore.Term.
func (t *memoryTerm) Release(ctx context.Context) error {
	m := t.node.log
	stop := context.AfterFunc(ctx, m.broadcast)
	defer stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	t.endLocked(errors.New("it was released"))
	for m.writer == t {
		if err := ctx.Err(); err != nil {
			t.dropLocked(err)
			return err
		}
		m.cond.Wait()
	}
	return nil
}

// Interface guards
var _ logstore.Term = (*memoryTerm)(nil)
