package ssefanin

import (
	"context"
	"errors"
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

// completeEvery is how often missing last values are looked for where they are found.
var completeEvery = 5 * time.Second // shorter in tests

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
// the log, and at the end, and has missing ones completed. run owns it; it ends with the
// log.
func (d *durable) keepValues(store logstore.Keeper) {
	failing := false
	for {
		every := keepEvery
		if age := d.def.Load().bounds.Age; age > 0 {
			every = min(every, max(age/4, time.Second))
		}
		switch {
		case failing:
			every = reopenAfter
		case d.log().values.incomplete():
			every = completeEvery
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
		d.completeValues(store)
		err := d.storeValues(d.ctx, store, 0)
		if err != nil && !failing && d.ctx.Err() == nil {
			d.logger().Error("the last values cannot be stored; if that lasts, those that do not change are missing after a restart", zap.Error(err))
		}
		failing = err != nil
		if d.log().values.incomplete() {
			d.pause(completeEvery)
		} else {
			d.pause(keepPause)
		}
	}
}

// storeValues stores the last values. What is larger than most is left out; 0 is no bound.
func (d *durable) storeValues(ctx context.Context, store logstore.Keeper, most int) error {
	log := d.log()
	if d.shared() && !d.writing.Load() || log.values.incomplete() || !d.keeping.stale.Swap(false) {
		return nil // whoever writes stores them, and some of what is stored may be missing here
	}
	all, head := log.values.snapshot()
	if all == nil {
		d.holdEvents(store, logstore.HoldNone)
		return nil
	}
	k := keptLog{upTo: head, epoch: log.memory.Epoch(), ids: log.ids, text: log.values.def.Load().text()}
	body := k.appendHead(nil)
	for _, value := range all.Between(0, lastvalue.NoOffset) {
		if source, _, ok := d.hub.tags.sourceAt(value.Tag >> tagTypeBits); ok {
			body = appendKept(body, source, value)
		}
	}
	if most > 0 && len(body) > most {
		return nil
	}
	err := store.Keep(ctx, keptValues, body)
	if err != nil {
		d.keeping.stale.Store(true)
		return err
	}
	d.holdEvents(store, head+1)
	return nil
}

// holdEvents has the events from an offset on stay, which are not in what is stored, until they
// are: else a kill during a flood would lose all values.
func (d *durable) holdEvents(store logstore.Store, from uint64) {
	if !d.log().values.kept() {
		from = logstore.HoldNone
	}
	if holder, ok := store.(logstore.Holder); ok {
		holder.Hold(from)
	}
}

// findValues reads what is found.
func (d *durable) findValues(store logstore.Keeper) (*foundValues, error) {
	log, found := d.log(), new(foundValues)
	body, err := store.Kept(d.ctx, keptValues)
	if err != nil || body == nil {
		return found, err
	}
	k, all, err := parseKept(body)
	if err != nil || k.ids != log.ids {
		return found, err
	}
	upTo, ok := k.goodUpTo(store.Epochs(), store.Status().Last)
	if def := log.values.def.Load(); ok && def != nil {
		found.known, found.all, found.upTo, found.rekeyed = true, all, upTo, k.text != def.text()
		found.doubtful = upTo < k.upTo || found.rekeyed
	}
	return found, nil // otherwise they are of another log
}

// restoreAt has the log in memory go on at an offset, with the last values that are
// stored, and returns from which offset on it is to be read for that: from, as a rule.
// first is the oldest that can be read. Nothing is being applied.
func (d *durable) restoreAt(store logstore.Store, from, first uint64) uint64 {
	log := d.log()
	if keeper, ok := store.(logstore.Keeper); ok && log.values.kept() {
		found, err := d.findValues(keeper)
		if err != nil && d.ctx.Err() == nil {
			d.logger().Error("the last values cannot be read from where the log is; those remain whose events are read into memory", zap.Error(err))
		}
		switch {
		case found.known && found.upTo+1 >= first && log.values.restore(found, true):
			from = min(from, found.upTo+1)
		case err == nil && !found.known:
			defer d.beginKept(store, keeper, from)
		}
	}
	log.values.lost(from)
	log.memory.Restore(store.Epochs(), from)
	return from
}

// beginKept stores that there are no last values before an offset, where none are
// stored. From there on events are held until values are stored for the first time; by
// this, a start after a kill in between knows that it is to read them all.
func (d *durable) beginKept(store logstore.Store, keeper logstore.Keeper, from uint64) {
	log := d.log()
	def := log.values.def.Load()
	if _, holds := store.(logstore.Holder); !holds || def == nil {
		return
	}
	k := keptLog{upTo: from - 1, epoch: log.memory.Epoch(), ids: log.ids, text: def.text()}
	_ = keeper.Keep(d.ctx, keptValues, k.appendHead(nil)) // keepValues logs it if nothing can be stored
}

// completeValues reads again what is stored if values are missing, since it was older
// than what could be read of the log. Whoever writes stores newer ones in time; if that
// is this process, there are no others.
func (d *durable) completeValues(store logstore.Keeper) {
	log := d.log()
	if !log.values.incomplete() {
		return
	}
	found, err := d.findValues(store)
	epochs := store.Epochs()
	switch {
	case found.upTo > 0 && epochs[len(epochs)-1].ID == log.memory.Epoch() && log.values.restore(found, false):
		return
	case d.shared() && (!d.writing.Load() || err != nil && !errors.Is(err, logstore.ErrDamaged) && !errors.Is(err, errKept)):
		return
	case found.upTo > 0:
		d.logger().Error("the last values that are stored are older than the log reaches back, and are not used", zap.Uint64("offset", found.upTo), zap.Uint64("first", store.Status().First))
	}
	log.values.giveUp()
}

// hasten has the last values stored soon, since what is read of the log at the next start
// would be other ones: it has their events by the names that their sources had, or other
// values are wanted.
func (k *valueKeeping) hasten() {
	k.stale.Store(true)
	nudge(k.due)
}
