package ssefanin

import (
	"context"
	"errors"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// This file is about the time in which this process writes a log.

// serveTerm waits until this node is the writer, and writes until it is not any
// more, or ctx ends. False: the log ends.
func (d *durable) serveTerm(ctx context.Context, store logstore.Store) bool {
	term, err := store.Campaign(ctx)
	if err != nil {
		return d.ctx.Err() == nil && !errors.Is(err, logstore.ErrClosed)
	}
	if !d.awaitApplied(store) {
		release(term)
		return false
	}
	d.write(ctx, store, term)
	return true
}

// awaitDemand waits until this node is to write the log, and returns a context
// that ends when it is not any more. A log that no other node can write is always
// to be written.
func (d *durable) awaitDemand() (ctx context.Context, done context.CancelFunc) {
	for {
		d.mu.Lock()
		if !d.shared() || d.wanted || d.ctx.Err() != nil {
			ctx, done = context.WithCancel(d.ctx)
			d.unwant = done
			d.mu.Unlock()
			return ctx, done
		}
		d.mu.Unlock()
		select {
		case <-d.demand:
		case <-d.ctx.Done():
		}
	}
}

// setDemand sets whether somebody wants the stream's events on this node. If
// nobody does, another node may write.
func (d *durable) setDemand(wanted bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted = wanted
	if !wanted && d.shared() && d.unwant != nil {
		d.unwant()
	}
	nudge(d.demand)
}

// write has the sources connected while this process is the writer, and appends
// what the store had no room for. It returns when the term is over, or ctx ends.
func (d *durable) write(ctx context.Context, store logstore.Store, term logstore.Term) {
	d.addLatest(store)
	d.delay.begin(term.Number())
	if d.shared() && !d.standsBy() {
		d.hub.inputs.startAfresh() // others may have written since
	}
	d.takeTerm(term)
	if d.shared() {
		announceRole(d.hub.label, true, nil)
	}
	d.setWriting(true)
	nudge(d.waiting)     // something may have come before
	nudge(d.keeping.due) // whoever has written before may not have stored the last values
	for done := false; !done; {
		select {
		case <-d.waiting:
			done = !d.catchUp(ctx, term)
		case <-term.Done():
			done = true
		case <-ctx.Done():
			done = true
		}
	}
	d.setWriting(false)
	why := term.Err()
	release(term)
	d.mu.Lock()
	d.term = nil
	if d.shared() {
		d.backlog = nil // whoever writes next asks the upstreams for it
		d.roomLocked()
	}
	d.mu.Unlock()
	if d.shared() {
		announceRole(d.hub.label, false, why)
	}
}

// setWriting has the sources connected while this process is the writer.
func (d *durable) setWriting(writing bool) {
	d.writing.Store(writing)
	d.held.Store(false)
	d.hub.inputs.followWriter()
	nudge(d.cluster.news)
}

// release ends a term once what was appended is committed, if that takes no
// longer than a moment. What was not committed was seen by nobody.
func release(term logstore.Term) {
	ctx, cancel := context.WithTimeout(context.Background(), commitOnExit)
	defer cancel()
	_ = term.Release(ctx)
}
