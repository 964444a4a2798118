package ssefanin

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// This file takes the events of the sources to the store, and keeps what it has
// no room for.

// append hands an event over to the store. It does not wait: what the store has
// no room for is kept until it has, and nothing more is read meanwhile. An event
// that this node cannot write is left to the one that can.
func (d *durable) append(r *logstore.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	if d.standsBy() {
		d.standby.keep(r)
	}
	if d.term != nil || !d.shared() {
		d.appendLocked(r)
	}
}

func (d *durable) appendLocked(r *logstore.Record) {
	if len(d.backlog) == 0 && d.takesLocked(r) {
		return
	}
	if len(d.backlog) == 0 {
		d.room = make(chan struct{})
		d.full.Store(true)
		nudge(d.waiting)
	}
	own := *r
	own.Body = append([]byte(nil), r.Body...)
	d.backlog = append(d.backlog, own)
}

// takeTerm has events appended from now on, those first that the node has read
// and nobody has appended.
func (d *durable) takeTerm(term logstore.Term) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.term = term
	for i := range d.standby.waiting {
		d.appendLocked(&d.standby.waiting[i])
	}
}

// takesLocked hands a record to the store. False: it has no room for it, or this
// process does not write at present.
func (d *durable) takesLocked(r *logstore.Record) bool {
	if d.term == nil {
		return false
	}
	err := d.term.Append(r)
	switch {
	case err == nil:
		d.delay.appended()
	case errors.Is(err, logstore.ErrTooLarge):
		d.logger().Error("an event is too large for the log, and is left out",
			zap.String("upstream", r.Source), zap.Int("bytes", len(r.Body)))
	default:
		return false
	}
	return true
}

// catchUp appends what the store had no room for. False: the term is over, or
// the stream ends.
func (d *durable) catchUp(ctx context.Context, term logstore.Term) bool {
	for {
		if err := term.Wait(ctx); err != nil {
			return false
		}
		d.mu.Lock()
		for len(d.backlog) > 0 && d.takesLocked(&d.backlog[0]) {
			d.backlog[0] = logstore.Record{}
			d.backlog = d.backlog[1:]
		}
		empty := len(d.backlog) == 0
		if empty {
			d.backlog = nil
			d.roomLocked()
		}
		d.mu.Unlock()
		if empty {
			return true
		}
	}
}

// roomLocked lets the sources read again.
func (d *durable) roomLocked() {
	if d.room != nil {
		close(d.room)
		d.room = nil
	}
	d.full.Store(false)
}

// hasRoom returns a channel that is closed when the store takes events again;
// nil if it does.
func (d *durable) hasRoom() <-chan struct{} {
	if !d.full.Load() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.room
}
