package ssefanin

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// reopenAfter is how long to wait before a log that could not be opened is
// tried again.
var reopenAfter = time.Second // shorter in tests

const (
	// loadedMost is how many bytes of the newest events are read into memory before
	// positions are known: clients wait for it, and older events are read when they
	// are needed. With `ids upstream` all that memory may hold is read, since ids
	// are looked for there.
	loadedMost = 32 << 20

	// commitOnExit is how long the end of a stream waits for what was appended.
	commitOnExit = 300 * time.Millisecond
)

// durable keeps the log of one stream in a store besides memory. What the
// sources bring goes to the store; what the store has committed comes back, and
// is appended to the log in memory, from which clients read. So nobody sees an
// event that a restart could lose.
//
// The stream's log owns it. It lives from the first configuration's start to the
// stream's end, or to a reload that gives the stream another log.
//
// Locks: mu is taken below those of hub, inputs and intake, and above the
// store's own.
//
// Safe for concurrent use.
type durable struct {
	hub     *hub
	current atomic.Pointer[streamLog] // what it is appended to in memory; see renew
	before  *streamLog                // whose readers go on here; nil if there was none
	def     atomic.Pointer[logDef]    // of the oldest configuration in use

	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{} // closed when nothing of it runs

	loaded  atomic.Bool // all that the store had is known, and with it every position
	writing atomic.Bool // events can be appended: this process is the writer
	full    atomic.Bool // the store takes nothing at present
	over    atomic.Bool // it has ended: no event is appended any more
	held    atomic.Bool // nothing can be committed for long: the upstreams are hung up meanwhile

	older   olderEvents
	delay   commitDelay
	keeping valueKeeping
	cluster cluster

	// of apply, which is called by one goroutine at a time
	idInForce string // of the newest event, with `ids upstream`
	scratch   []byte
	again     uint64 // where it has stopped, to go on once last values are restored; 0: it has not

	mu      sync.Mutex // protects the fields below
	begun   bool
	store   logstore.Store     // nil until it is open
	err     error              // why it is not
	since   time.Time          // since when it is as it is: open or not
	term    logstore.Term      // nil while this process does not write
	wanted  bool               // as setDemand
	unwant  context.CancelFunc // of the last context of awaitDemand
	demand  chan struct{}      // has a token after a change of wanted
	backlog []logstore.Record
	waiting chan struct{} // has a token after the backlog has got its first record
	applied chan struct{} // has a token after records were applied
	room    chan struct{} // closed when the store takes records again; nil unless it is full
	starts  map[string]*startPoint
	standby standby
	seen    watched
	closed  bool // end was called
}

func newDurable(h *hub, l *streamLog, def *logDef) *durable {
	d := &durable{
		hub: h, ended: make(chan struct{}), since: time.Now(), demand: make(chan struct{}, 1),
		waiting: make(chan struct{}, 1), applied: make(chan struct{}, 1), starts: make(map[string]*startPoint),
	}
	d.current.Store(l)
	d.def.Store(def)
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.keeping.due = make(chan struct{}, 1)
	d.older.init(d)
	d.cluster.init(d)
	return d
}

// log returns the log in memory.
func (d *durable) log() *streamLog { return d.current.Load() }

// sharer returns the options of a log that several nodes share; nil if only one
// process has it.
func (d *durable) sharer() logstore.Sharer { return d.def.Load().sharer }

// shared reports whether other nodes may write the log.
func (d *durable) shared() bool { return d.sharer() != nil }

// begin opens the store, unless that was done. It returns at once.
func (d *durable) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.begun {
		d.begun = true
		go d.run()
	}
}

// adjust takes over the options of another configuration with the same log.
func (d *durable) adjust(def *logDef) {
	if d.def.Swap(def) == def {
		return
	}
	if !d.standsBy() {
		d.mu.Lock()
		d.standby.forget() // whoever writes has the log get it
		d.mu.Unlock()
	}
	store := d.opened()
	if store != nil {
		store.SetBounds(def.bounds)
		def.opener.Adjust(store)
	}
}

// end closes the store and waits until nothing of it runs. What was appended
// is committed first, if that takes no longer than a moment. It is called
// without the locks of hub and inputs.
func (d *durable) end() {
	d.cancel()
	d.mu.Lock()
	begun := d.begun
	d.begun, d.closed = true, true
	d.backlog = nil
	d.roomLocked()
	d.mu.Unlock()
	if !begun {
		d.finished()
	}
	<-d.ended
}

// finished notes that nothing of it runs any more. The clients go on with the
// next log, if there is one.
func (d *durable) finished() {
	d.over.Store(true)
	close(d.ended)
	d.hub.audience.wakeAll()
}

// run opens the store, follows it, and writes whenever this process is the
// writer. The log owns it; end ends it.
func (d *durable) run() {
	defer d.finished()
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(d.watch)
	if d.before != nil && d.before.durable != nil { // it may have the same files
		select {
		case <-d.before.durable.ended:
		case <-d.ctx.Done():
			return
		}
	}
	store := d.open()
	if store == nil {
		return
	}
	defer store.Close()
	d.cluster.join(store)
	size := d.def.Load().cache.MaxBytes
	if d.log().ids != idsUpstream {
		size = min(size, loadedMost)
	}
	from, err := store.Back(d.ctx, size)
	if err != nil {
		return // it ends
	}
	from = d.restoreAt(store, from, store.Status().First)
	d.holdEvents(store, from)
	parts.Go(func() { d.follow(store, from) })
	parts.Go(d.older.serve)
	if keeper, ok := store.(logstore.Keeper); ok {
		var keeping sync.WaitGroup // until the store is closed
		defer keeping.Wait()
		keeping.Go(func() { d.keepValues(keeper) })
	}
	if !d.awaitApplied(store) {
		return
	}
	d.log().values.loaded()
	d.log().begins.Store(d.firstNew())
	d.loaded.Store(true)
	d.hub.audience.wakeAll() // they wait for their positions
	for {
		ctx, done := d.awaitDemand()
		goesOn := d.serveTerm(ctx, store)
		done()
		if !goesOn {
			return
		}
	}
}

// open opens the store, however long that takes. nil: it is not wanted any more.
func (d *durable) open() logstore.Store {
	logged, began := "", time.Now()
	for {
		def := d.def.Load()
		store, err := def.opener.Open(d.ctx, d.hub.label, logstore.OpenOptions{Bounds: def.bounds, Hold: d.log().values.kept(), Logger: d.logger()})
		d.mu.Lock()
		d.store, d.err = store, err
		if err == nil {
			d.since = time.Now()
		}
		d.mu.Unlock()
		if err == nil {
			st := store.Status()
			d.logger().Info("the log is open", zap.String("log", def.key), zap.Uint64("first", st.First), zap.Uint64("last", st.Last),
				zap.Int64("bytes", st.Bytes), zap.Duration("after", time.Since(began)))
			if now := d.def.Load(); now != def { // a reload has come between
				store.SetBounds(now.bounds)
				now.opener.Adjust(store)
			}
			return store
		}
		if d.ctx.Err() != nil {
			return nil
		}
		if text := err.Error(); text != logged {
			logged = text
			d.logger().Error("the log cannot be opened; the stream stands still until it can", zap.Error(err))
		}
		timer := time.NewTimer(reopenAfter)
		select {
		case <-timer.C:
		case <-d.ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// firstNew returns the offset from which on the readers of the log before go on,
// when all is known that the store had. The same log, opened anew, goes on where
// it was.
func (d *durable) firstNew() uint64 {
	before := d.before
	d.before = nil // it is needed no more
	switch {
	case before == nil:
	case before.durable == nil || !d.reopens(before.durable):
		d.log().noteEarlier(before)
	default:
		d.log().earlier.Store(before.earlier.Load())
		return min(before.memory.Head(), d.log().memory.Head()) + 1
	}
	return d.log().memory.Head() + 1
}

// reopens reports whether the log is that of another one, which has ended. It may
// be found in another way than before: then its epochs show that it is the same.
func (d *durable) reopens(before *durable) bool {
	if before.def.Load().same(d.def.Load()) {
		return true
	}
	last := before.epochs()
	return len(last) > 0 && slices.ContainsFunc(d.epochs(), func(e logstore.Epoch) bool { return e.ID == last[len(last)-1].ID })
}

// pause waits for a while, or until the log ends.
func (d *durable) pause(length time.Duration) {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.ctx.Done():
	}
}

// opened returns the store; nil until it is open.
func (d *durable) opened() logstore.Store {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.store
}

// first returns the offset of the oldest event that the store has; the largest
// there is until it is open.
func (d *durable) first() uint64 {
	store := d.opened()
	if store == nil {
		return ^uint64(0)
	}
	return store.Status().First
}

// status returns what the store is doing. A log that cannot be opened is
// stalled.
func (d *durable) status() logstore.Status {
	d.mu.Lock()
	store, err, since, waiting := d.store, d.err, d.since, len(d.backlog)
	var waitingBytes int64
	for i := range d.backlog {
		waitingBytes += int64(len(d.backlog[i].Body))
	}
	d.mu.Unlock()
	if store == nil {
		st := logstore.Status{State: logstore.Loading, Since: since, Err: err}
		if err != nil {
			st.State = logstore.Stalled
		}
		return st
	}
	st := store.Status()
	st.Buffered += waiting
	st.BufferedBytes += waitingBytes
	if st.State == logstore.Following && !d.loaded.Load() {
		st.State = logstore.Loading
	}
	return st
}

// epochs returns the log's incarnations, oldest first.
func (d *durable) epochs() []logstore.Epoch {
	store := d.opened()
	if store == nil {
		return nil
	}
	return store.Epochs()
}

// logger logs with whichever configuration is active.
func (d *durable) logger() *zap.Logger {
	return followingLogger().With(zap.String("stream", d.hub.label))
}
