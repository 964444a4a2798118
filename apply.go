package ssefanin

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// This file takes what the store has committed over into the log in memory.

// follow has what the store has committed appended to the log in memory. run
// owns it; it ends when the store is closed. Where eviction has overtaken it, it stops
// to read the last values, for which the store is not to wait.
func (d *durable) follow(store logstore.Store, from uint64) {
	for {
		ctx, cancel := context.WithCancel(context.Background())
		err := store.Follow(ctx, from, func(batch []logstore.Record) {
			d.apply(store, batch)
			if d.again > 0 {
				cancel()
			}
		})
		cancel()
		switch {
		case errors.Is(err, logstore.ErrClosed):
			return
		case d.again == 0:
			d.logger().Error("reading the log has ended", zap.Error(err))
			return
		}
		from = d.restoreAt(store, d.again, d.again)
		d.again = 0
	}
}

// apply appends committed records to the log in memory, until it stops. The store calls
// it.
func (d *durable) apply(store logstore.Store, batch []logstore.Record) {
	for len(batch) > 0 && d.again == 0 {
		batch = batch[d.applySome(store, batch):]
	}
}

// applySome applies as much of a batch as goes to one log in memory, or stops.
func (d *durable) applySome(store logstore.Store, batch []logstore.Record) (n int) {
	log, n := d.log(), len(batch)
	if d.shared() {
		epochs := store.Epochs()
		next := 1 + slices.IndexFunc(epochs, func(e logstore.Epoch) bool { return e.ID == log.memory.Epoch() })
		if next < len(epochs) {
			for n = 0; n < len(batch) && batch[n].Offset < epochs[next].First; {
				n++
			}
			if n == 0 {
				d.renew(epochs[:next+1], batch[0].Offset)
				return 0 // there may be another one
			}
		}
	}
	batch = batch[:n]
	if first := batch[0].Offset; first != log.memory.Head()+1 { // what was between is gone
		if !log.values.goesOn(first) {
			d.again = first
			return 0
		}
		log.values.lost(first)
		log.memory.Restore(store.Epochs(), first)
	}
	for i := range batch {
		r := &batch[i]
		t := time.UnixMilli(r.Time)
		if r.Fence() {
			log.memory.Take(t)
			continue
		}
		switch {
		case d.standsBy():
			d.noteFound(r)
		case d.shared() || !d.writing.Load():
			d.noteStart(r)
		}
		typ := []byte(r.Type)
		tag := d.hub.tags.tag(d.hub.tags.stored(r.Source), typ)
		if log.ids != idsUpstream {
			log.append(t, tag, typ, r.Body, nil)
			continue
		}
		d.scratch = append(appendUpstreamID(d.scratch[:0], r.ID, d.idInForce), r.Body...)
		d.idInForce = r.ID
		log.append(t, tag, typ, d.scratch, []byte(r.ID))
	}
	d.delay.applied(batch)
	d.keeping.note(batch, d.def.Load())
	nudge(d.applied)
	return n
}

// renew begins another log in memory, with the event at an offset, where the
// store has begun an epoch: what the one before has from there on, the store has
// lost. Its readers read it to its end, and go on here. They have missed nothing
// but the offsets.
func (d *durable) renew(epochs []logstore.Epoch, next uint64) {
	old := d.log()
	log := newStreamLog(d.def.Load().cache, old.ids)
	log.memory.Restore(epochs, next)
	log.values.inherit(&old.values, next)
	log.durable = d
	log.begins.Store(next)
	log.earlier.Store(old.earlier.Load())
	d.older.forgetRuns()
	d.mu.Lock()
	clear(d.starts) // sources go on after what the store still has of them
	d.mu.Unlock()
	d.current.Store(log)
	d.hub.replaceLog(old, log)
	d.logger().Warn("the store has begun an epoch; positions behind its end are gone", zap.Uint64("offset", next))
}

// appendUpstreamID appends the id line of an event of a stream with `ids
// upstream`: none where no id is in force, and none was.
func appendUpstreamID(dst []byte, id, before string) []byte {
	if id == "" && before == "" {
		return dst
	}
	return sse.AppendID(dst, id)
}

// awaitApplied waits until all that the store has is in the log in memory. False:
// the log ends before. Campaign does not wait for a Follow that has yet to begin.
func (d *durable) awaitApplied(store logstore.Store) bool {
	ticker := time.NewTicker(reopenAfter) // what is missing may be dropped for damage
	defer ticker.Stop()
	for {
		st := store.Status()
		if st.State != logstore.Loading && (st.First > st.Last || d.log().memory.Head() >= st.Last) {
			return true
		}
		select {
		case <-d.applied:
		case <-ticker.C:
		case <-d.ctx.Done():
			return false
		}
	}
}
