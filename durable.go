package ssefanin

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// reopenAfter is how long to wait before a log that could not be opened is
	// tried again.
	reopenAfter = time.Second

	// watchEvery is how often the state of a store is looked at, to announce that
	// it has changed.
	watchEvery = time.Second

	// keepPrints is after how many looks the events of sources that no upstream has
	// are forgotten: a minute, in which addresses are looked up.
	keepPrints = 60

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
	hub    *hub
	log    *streamLog
	before *streamLog             // whose readers go on here; nil if there was none
	def    atomic.Pointer[logDef] // of the oldest configuration in use

	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{} // closed when nothing of it runs

	loaded  atomic.Bool // all that the store had is known, and with it every position
	writing atomic.Bool // events can be appended: this process is the writer
	full    atomic.Bool // the store takes nothing at present
	over    atomic.Bool // it has ended: no event is appended any more

	older olderEvents
	delay commitDelay

	// of apply, which is called by one goroutine at a time
	idInForce string // of the newest event, with `ids upstream`
	scratch   []byte

	mu      sync.Mutex // protects the fields below
	begun   bool
	store   logstore.Store // nil until it is open
	err     error          // why it is not
	since   time.Time      // since when it is as it is: open or not
	term    logstore.Term  // nil while this process does not write
	backlog []logstore.Record
	waiting chan struct{} // has a token after the backlog has got its first record
	applied chan struct{} // has a token after records were applied
	room    chan struct{} // closed when the store takes records again; nil unless it is full
	starts  map[string]*startPoint
	stalled bool // that has been announced
	closed  bool // end was called
}

// startPoint is where a source goes on that has events in the log.
type startPoint struct {
	id     string  // the id in force after the newest
	prints []print // of the newest, oldest first
	times  []int64 // their arrivals, Unix ms
}

func newDurable(h *hub, l *streamLog, def *logDef) *durable {
	d := &durable{
		hub: h, log: l, ended: make(chan struct{}), since: time.Now(),
		waiting: make(chan struct{}, 1), applied: make(chan struct{}, 1), starts: make(map[string]*startPoint),
	}
	d.def.Store(def)
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.older.init(d)
	return d
}

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
	size := d.def.Load().cache.MaxBytes
	if d.log.ids != idsUpstream {
		size = min(size, loadedMost)
	}
	from, err := store.Back(d.ctx, size)
	if err != nil {
		return // it ends
	}
	d.log.Restore(store.Epochs(), from)
	parts.Go(func() { d.follow(store, from) })
	parts.Go(d.older.serve)
	if !d.awaitApplied(store) {
		return
	}
	d.log.begins.Store(d.firstNew())
	d.loaded.Store(true)
	d.hub.audience.wakeAll() // they wait for their positions
	for {
		term, err := store.Campaign(d.ctx)
		if err != nil {
			return
		}
		if !d.awaitApplied(store) {
			release(term)
			return
		}
		d.write(store, term)
	}
}

// open opens the store, however long that takes. nil: it is not wanted any more.
func (d *durable) open() logstore.Store {
	logged, began := "", time.Now()
	for {
		def := d.def.Load()
		store, err := def.opener.Open(d.ctx, d.hub.label, logstore.OpenOptions{Bounds: def.bounds, Logger: d.logger()})
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

// follow has what the store has committed appended to the log in memory. run
// owns it; it ends when the store is closed.
func (d *durable) follow(store logstore.Store, from uint64) {
	err := store.Follow(context.Background(), from, func(batch []logstore.Record) { d.apply(store, batch) })
	if !errors.Is(err, logstore.ErrClosed) {
		d.logger().Error("reading the log has ended", zap.Error(err))
	}
}

// apply appends committed records to the log in memory. The store calls it.
func (d *durable) apply(store logstore.Store, batch []logstore.Record) {
	if batch[0].Offset != d.log.Head()+1 { // what was between is gone
		d.log.Restore(store.Epochs(), batch[0].Offset)
	}
	for i := range batch {
		r := &batch[i]
		t := time.UnixMilli(r.Time)
		if r.Fence() {
			d.log.Take(t)
			continue
		}
		if !d.writing.Load() {
			d.noteStart(r)
		}
		tag := d.hub.tags.tag(d.hub.tags.stored(r.Source), []byte(r.Type))
		if d.log.ids != idsUpstream {
			d.log.Append(t, tag, r.Body)
			continue
		}
		d.scratch = append(appendUpstreamID(d.scratch[:0], r.ID, d.idInForce), r.Body...)
		d.idInForce = r.ID
		d.log.appendWithID(t, tag, d.scratch, []byte(r.ID))
	}
	d.delay.applied(batch)
	nudge(d.applied)
}

// appendUpstreamID appends the id line of an event of a stream with `ids
// upstream`: none where no id is in force, and none was.
func appendUpstreamID(dst []byte, id, before string) []byte {
	if id == "" && before == "" {
		return dst
	}
	return sse.AppendID(dst, id)
}

// noteStart notes where the source of an event is to go on.
func (d *durable) noteStart(r *logstore.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.starts[r.Source]
	if p == nil {
		p = new(startPoint)
		d.starts[r.Source] = p
	}
	p.add(r)
}

func (p *startPoint) add(r *logstore.Record) {
	p.id = r.ID
	if len(p.prints) == 2*mirrorWindow {
		p.prints = p.prints[:copy(p.prints, p.prints[mirrorWindow:])]
		p.times = p.times[:copy(p.times, p.times[mirrorWindow:])]
	}
	p.prints = append(p.prints, print(r.Hash))
	p.times = append(p.times, r.Time)
}

// startOf returns where a source goes on when it is connected for the first
// time; nil if the log has nothing of it, or it was asked for before.
func (d *durable) startOf(name string) *startPoint {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.starts[name]
	delete(d.starts, name)
	return p
}

// awaitApplied waits until all that the store has is in the log in memory. False:
// the log ends before. Campaign does not wait for a Follow that has yet to begin.
func (d *durable) awaitApplied(store logstore.Store) bool {
	ticker := time.NewTicker(reopenAfter) // what is missing may be dropped for damage
	defer ticker.Stop()
	for {
		st := store.Status()
		if st.State != logstore.Loading && (st.First > st.Last || d.log.Head() >= st.Last) {
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

// write has the sources connected while this process is the writer, and appends
// what the store had no room for. It returns when the term is over.
func (d *durable) write(store logstore.Store, term logstore.Term) {
	d.addLatest(store)
	d.delay.begin(term.Number())
	d.mu.Lock()
	d.term = term
	d.mu.Unlock()
	d.writing.Store(true)
	d.hub.inputs.followWriter()
	nudge(d.waiting) // something may have come before
	for done := false; !done; {
		select {
		case <-d.waiting:
			done = !d.catchUp(term)
		case <-term.Done():
			done = true
		case <-d.ctx.Done():
			done = true
		}
	}
	d.writing.Store(false)
	d.hub.inputs.followWriter()
	release(term)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.term = nil
}

// release ends a term once what was appended is committed, if that takes no
// longer than a moment. What was not committed was seen by nobody.
func release(term logstore.Term) {
	ctx, cancel := context.WithTimeout(context.Background(), commitOnExit)
	defer cancel()
	_ = term.Release(ctx)
}

// firstNew returns the offset from which on the readers of the log before go on,
// when all is known that the store had. The same log, opened anew, goes on where
// it was.
func (d *durable) firstNew() uint64 {
	before := d.before
	d.before = nil // it is needed no more
	if before != nil && before.durable != nil && d.reopens(before.durable) {
		return min(before.Head(), d.log.Head()) + 1
	}
	return d.log.Head() + 1
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

// addLatest adds the sources whose newest event is no longer held in memory.
func (d *durable) addLatest(store logstore.Store) {
	latest, err := store.Latest(d.ctx)
	if d.ctx.Err() != nil {
		return
	}
	if err != nil {
		d.logger().Error("where upstreams are to be resumed is not known", zap.Error(err))
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, l := range latest {
		if d.starts[name] == nil {
			d.starts[name] = &startPoint{id: l.ID}
		}
	}
}

// committed returns where a source goes on after what the store has of it.
func (d *durable) committed(name string) *startPoint {
	store := d.opened()
	if store == nil {
		return nil
	}
	latest, err := store.Latest(context.Background())
	if l, ok := latest[name]; err == nil && ok {
		return &startPoint{id: l.ID}
	}
	return nil
}

// append hands an event over to the store. It does not wait: what the store has
// no room for is kept until it has, and nothing more is read meanwhile.
func (d *durable) append(r *logstore.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.backlog) == 0 && d.takesLocked(r) {
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
func (d *durable) catchUp(term logstore.Term) bool {
	for {
		if err := term.Wait(d.ctx); err != nil {
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

// watch announces that the store cannot be written, and that it can again. run
// owns it; it ends with the log.
func (d *durable) watch() {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	loaded := 0 // looks since then
	for {
		select {
		case <-ticker.C:
			d.look()
			if d.loaded.Load() {
				if loaded++; loaded == keepPrints {
					d.forgetPrints()
				}
			}
		case <-d.ctx.Done():
			return
		}
	}
}

// forgetPrints frees the memory of sources that nobody has asked for. Where to
// resume them stays known.
func (d *durable) forgetPrints() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.starts {
		p.prints, p.times = nil, nil
	}
}

// look compares the store's state with what was announced of it.
func (d *durable) look() {
	st := d.status()
	stalled := st.State == logstore.Stalled
	d.mu.Lock()
	changed := stalled != d.stalled
	d.stalled = stalled
	d.mu.Unlock()
	if changed {
		announceLog(d.hub.label, stalled, st.Err)
	}
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
