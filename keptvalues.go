package ssefanin

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/internal/lastvalue"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// keptValues is the name under which a store keeps the last values.
const keptValues = "values"

// keptAtEnd is the most that an end of the stream stores of them, in bytes: the exit is
// to take no longer for it. Without that, the next start finds what has changed in the
// log, as after a kill.
const keptAtEnd = 8 << 20

const (
	// keepEvery is how often last values are stored that have changed a little.
	keepEvery = time.Minute

	// keepPause is how long nothing is stored after that, where little is retained.
	keepPause = 10 * time.Millisecond
)

// valueKeeping is when a durable log has its last values stored: whenever a quarter of
// what is read into memory at a start, or of what is retained, has come since, and
// every minute. So all that is missing from what is stored is read at the next start in
// any case.
type valueKeeping struct {
	due   chan struct{} // capacity 1: one is as good as several
	stale atomic.Bool   // there have been events since they were stored

	// of apply, which is called by one goroutine at a time
	events uint64
	bytes  int64
}

// recordOverhead is about what a store adds to a record, in bytes.
const recordOverhead = 64

// note takes committed records into account.
func (k *valueKeeping) note(batch []logstore.Record, def *logDef) {
	k.stale.Store(true)
	k.events += uint64(len(batch))
	for i := range batch {
		r := &batch[i]
		k.bytes += int64(len(r.Body)+len(r.Source)+len(r.Type)+len(r.ID)) + recordOverhead
	}
	atMost := min(def.cache.MaxBytes, loadedMost)
	if def.bounds.Bytes > 0 {
		atMost = min(atMost, def.bounds.Bytes)
	}
	if k.bytes >= atMost/4 || def.bounds.Events > 0 && k.events >= max(def.bounds.Events/4, 1) {
		k.events, k.bytes = 0, 0
		nudge(k.due)
	}
}

// keepValues has the last values stored when they are due, while this process writes
// the log, and at the end. run owns it; it ends with the log.
func (d *durable) keepValues(store logstore.Keeper) {
	failing := false
	for {
		every := keepEvery
		if age := d.def.Load().bounds.Age; age > 0 {
			every = min(every, max(age/4, time.Second))
		}
		if failing {
			every = reopenAfter
		}
		timer := time.NewTimer(every)
		select {
		case <-d.keeping.due:
			timer.Stop()
		case <-timer.C:
		case <-d.ctx.Done():
			timer.Stop()
			ctx, cancel := context.WithTimeout(context.Background(), commitOnExit)
			defer cancel()
			_ = d.storeValues(ctx, store, keptAtEnd) // the log has them, too
			return
		}
		err := d.storeValues(d.ctx, store, 0)
		if err != nil && !failing && d.ctx.Err() == nil {
			d.logger().Error("the last values cannot be stored; if that lasts, those that do not change are missing after a restart", zap.Error(err))
		}
		failing = err != nil
		d.pause(keepPause)
	}
}

// storeValues stores the last values. What is larger than most is left out; 0 is no bound.
func (d *durable) storeValues(ctx context.Context, store logstore.Keeper, most int) error {
	log := d.log()
	if d.shared() && !d.writing.Load() || !d.keeping.stale.Swap(false) {
		return nil // whoever writes stores them
	}
	taken, head := log.values.take()
	if taken == nil {
		return nil
	}
	k := keptLog{upTo: head, epoch: log.memory.Epoch(), ids: log.ids, text: log.values.def.Load().text()}
	body := k.appendHead(nil)
	for _, value := range taken.Between(0, lastvalue.NoOffset) {
		if source, _, ok := d.hub.tags.sourceAt(value.Tag >> tagTypeBits); ok {
			body = appendKept(body, source, value)
		}
	}
	log.values.giveBack(taken)
	if most > 0 && len(body) > most {
		return nil
	}
	err := store.Keep(ctx, keptValues, body)
	if err != nil {
		d.keeping.stale.Store(true)
	}
	return err
}

// restoreValues has the last values begin with those that are stored, and returns from
// which offset on the log is to be read into memory for that: from, as a rule.
func (d *durable) restoreValues(store logstore.Store, from uint64) uint64 {
	log := d.log()
	keeper, ok := store.(logstore.Keeper)
	if !ok || !log.values.kept() {
		return from
	}
	body, err := keeper.Kept(d.ctx, keptValues)
	var k keptLog
	var all []keptValue
	if err == nil && body != nil {
		k, all, err = parseKept(body)
	}
	if err != nil && d.ctx.Err() == nil {
		d.logger().Error("the last values cannot be read from where the log is; those remain whose events are read into memory", zap.Error(err))
	}
	if err != nil || body == nil || k.ids != log.ids {
		return from
	}
	st := store.Status()
	upTo, ok := k.goodUpTo(store.Epochs(), st.Last)
	if !ok {
		return from // they are of another log
	}
	if upTo+1 < st.First {
		d.logger().Error("the last values that are stored are older than the log reaches back, and are not used", zap.Uint64("offset", upTo), zap.Uint64("first", st.First))
		return from
	}
	log.values.restore(d.hub.tags, all, upTo, upTo < k.upTo || k.text != log.values.def.Load().text())
	return min(from, upTo+1)
}

// renamed has the last values stored soon: the log has their events by the name that
// their source had.
func (k *valueKeeping) renamed() {
	k.stale.Store(true)
	nudge(k.due)
}
