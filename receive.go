package ssefanin

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// intake takes a source's events from the runners that have read them to the
// streams: repeats are dropped, of a connection's leading events and of a
// mirror's replicas, and the rest is handed to every subscription. The source
// owns it.
//
// Safe for concurrent use.
type intake struct {
	spec   *sourceSpec
	counts *sourceCounts

	// subs is replaced, never changed, so that delivering an event copies nothing.
	subs atomic.Pointer[[]*subscription]

	// mu makes judging and delivering an event one step. It protects the fields
	// below, lastID of the subscriptions, and recents, leading, release and enc
	// of the runners. The locks of the streams' logs are taken below it.
	mu      sync.Mutex
	mirror  *mirror // nil without `mirror`, and unless the log is a replica
	logSlot int     // of the log, if it is one
}

// printOf returns an event's print. It is a stable one where the log is.
func (in *intake) printOf(ev *sse.Event) print {
	if in.spec.Log != "" {
		return stablePrintOf(ev)
	}
	return printOf(ev)
}

// init is called once, before the first subscription.
func (in *intake) init(spec *sourceSpec, counts *sourceCounts) {
	in.spec, in.counts = spec, counts
	in.subs.Store(new([]*subscription))
	if spec.Policy == policyMirror || spec.Standby {
		in.mirror = newMirror()
	}
	if spec.Standby {
		in.logSlot, _ = in.mirror.add()
		in.mirror.noteUp(in.logSlot)
	}
}

// list returns the subscriptions as they are now. It is not to be changed.
func (in *intake) list() []*subscription { return *in.subs.Load() }

// add has a subscription get every event from now on. The source's lock is held,
// as for remove and exchange.
func (in *intake) add(use *subscription) {
	subs := append(slices.Clone(in.list()), use)
	in.subs.Store(&subs)
}

// remove has a subscription get no event from now on. It gets the events held
// of the runners' connections before: they may never come again.
func (in *intake) remove(use *subscription, runners map[string]*runner) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, r := range runners {
		waiting := &r.leading.held
		for i := range waiting.events {
			r.enc.reset()
			use.deliverLocked(waiting.event(i), &r.enc, waiting.events[i].at)
		}
	}
	subs := slices.DeleteFunc(slices.Clone(in.list()), func(other *subscription) bool { return other == use })
	in.subs.Store(&subs)
}

// exchange puts a subscription in the place of another: each event goes to
// one of the two.
func (in *intake) exchange(old, renamed *subscription) {
	subs := slices.Clone(in.list())
	subs[slices.Index(subs, old)] = renamed
	in.subs.Store(&subs)
}

// lastID returns the id of the event that a subscription got last, or the first
// limit bytes of it.
func (in *intake) lastID(use *subscription, limit int) string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return string(use.lastID[:min(len(use.lastID), limit)])
}

// remember takes over the events before the first connection, which another
// process or another source has received. What is returned is for the runners.
func (in *intake) remember(start func() *startPoint) *startPoint {
	in.mu.Lock()
	defer in.mu.Unlock()
	p := start()
	if in.mirror == nil || p == nil {
		return p
	}
	in.mirror.remember(p)
	p = &startPoint{id: p.id} // the runners leave the prints to the mirror
	if in.spec.Standby {
		in.mirror.sentAll(in.logSlot)
	}
	return p
}

// soFar returns where a source goes on that takes the place of a mirror; nil if that
// has no events.
func (in *intake) soFar() *startPoint {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.mirror.soFar()
}

// logged notes that an event has become part of the log, whichever node has
// brought it.
func (in *intake) logged(p print, id string, now time.Time) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mirror.first(in.logSlot, p, &sse.Event{ID: []byte(id), HasID: true}, now)
}

// mirrors reports whether the replicas are connected side by side.
func (in *intake) mirrors() bool { return in.spec.Policy == policyMirror }

// matches reports whether events are matched with those of replicas, of which the
// log may be one, and not only with those of the connection before.
func (in *intake) matches() bool { return in.mirror != nil }

// addReplica gives a replica a slot in the mirror, if there is one; false where
// there are too many.
func (in *intake) addReplica() (slot int, ok bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.mirror == nil {
		return 0, true
	}
	return in.mirror.add()
}

// removeReplica gives the slot of a mirror's replica back.
func (in *intake) removeReplica(slot int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.mirror.remove(slot)
}

// resumeElsewhere returns the id from which a mirror's replica is to resume
// instead of its own.
func (in *intake) resumeElsewhere(slot int) (id string, ok bool) {
	if in.mirror == nil || in.spec.Resume == resumeOff {
		return "", false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.mirror.resumeElsewhere(slot)
}

// opened notes that a runner's connection has become a stream.
func (in *intake) opened(r *runner, now time.Time) {
	r.broughtNew.Store(false)
	in.mu.Lock()
	defer in.mu.Unlock()
	patience := replayPatience
	if in.mirror != nil {
		patience += in.mirror.noteUp(r.slot)
	}
	if in.spec.Resume != resumeOff {
		r.leading.startJudging(now, patience, int(in.spec.MaxEventSize))
	}
}

// closed notes that a runner's connection has ended. The events held of it
// cannot be judged any more, and are delivered.
func (in *intake) closed(r *runner) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.mirror != nil {
		if l := &r.leading; l.line != nil && len(l.line.runs) == 1 {
			in.dropLateLocked(r, l.line.runs[0])
		}
		in.mirror.noteDown(r.slot)
	}
	in.releaseLocked(r)
	r.leading.stopJudging()
	if r.release != nil {
		r.release.Stop()
	}
}

// receive takes an event from a runner, which calls it from one goroutine.
func (in *intake) receive(r *runner, ev *sse.Event, now time.Time) {
	p := in.printOf(ev)
	in.mu.Lock()
	defer in.mu.Unlock()
	l := &r.leading
	if !l.opened {
		in.passLocked(r, p, ev, now)
		return
	}
	if l.line == nil {
		if in.mirror != nil {
			l.line = in.mirror.lineup(r.slot)
		} else {
			l.line = r.recents.lineup()
		}
	}
	if l.late(now) {
		in.releaseLocked(r)
		l.line.close()
	}
	l.last = now
	v, through := l.line.next(p)
	if v == verdictReaches && in.mirror != nil && in.mirror.alsoSince(r.slot, &l.held, p) {
		v, l.line.broken = verdictNew, stretch{}
	}
	if v == verdictNew && in.mirror != nil && in.mirror.lags(r.slot) && in.dropLateLocked(r, l.line.broken) {
		// It goes on with what was there, but others have missed something of it,
		// or had it in another order.
		if l.lagsUntil.IsZero() {
			l.lagsUntil = now.Add(l.patience)
		}
		l.line.again()
		v, through = l.line.next(p)
	}
	switch v {
	case verdictFollows:
		if l.held.add(p, ev, now, l.limit) {
			in.releaseLaterLocked(r, now)
			return
		}
	case verdictReaches:
		in.dropLocked(r, len(l.held.take().events)+1, through)
		if in.mirror == nil {
			r.recents.reached(through == len(l.line.seen))
		}
		return
	case verdictKnown:
		in.dropLocked(r, 1, through)
		return
	case verdictKnownOff:
		in.releaseLocked(r)
		in.dropLocked(r, 1, through)
		return
	case verdictNew:
		if len(l.held.events) == 0 && now.Before(l.lagsUntil) {
			in.passLocked(r, p, ev, now)
			l.line.again()
			return
		}
	}
	in.releaseLocked(r)
	if in.mirror != nil || !l.line.reachesBack() { // a mirror knows ids for ever
		l.stopJudging()
	}
	in.passLocked(r, p, ev, now)
}

// dropLateLocked drops what is held of a replica if it came as late as its
// events do; run is where it lies.
func (in *intake) dropLateLocked(r *runner, run stretch) bool {
	l := &r.leading
	if !in.mirror.asLate(r.slot, l, run) {
		return false
	}
	in.dropLocked(r, len(l.held.take().events), int(run.next))
	return true
}

// dropLocked counts events that are repeats; through tells the last of them.
func (in *intake) dropLocked(r *runner, n, through int) {
	in.counts.duplicates.Add(uint64(n))
	if in.mirror != nil {
		in.mirror.repeated(r.slot, through)
	}
}

// passLocked delivers an event of a runner, unless another replica has sent it.
func (in *intake) passLocked(r *runner, p print, ev *sse.Event, now time.Time) {
	r.bringsNew()
	if in.mirror == nil {
		r.recents.add(p)
	} else if !in.mirror.first(r.slot, p, ev, now) {
		in.counts.duplicates.Add(1)
		return
	}
	in.publishLocked(r, ev, now)
}

// bringsNew notes that the connection brought an event which is not known to
// have been sent before.
func (r *runner) bringsNew() {
	if !r.broughtNew.Load() { // a store for each event would cost more
		r.broughtNew.Store(true)
	}
}

// publishLocked hands an event to every subscription.
func (in *intake) publishLocked(r *runner, ev *sse.Event, now time.Time) {
	r.enc.reset()
	for _, use := range in.list() {
		use.deliverLocked(ev, &r.enc, now)
	}
}

// releaseLocked delivers the events held of a runner's connection.
func (in *intake) releaseLocked(r *runner) {
	waiting := r.leading.held.take()
	for i := range waiting.events {
		e := &waiting.events[i]
		if in.mirror != nil {
			in.passLocked(r, e.print, waiting.event(i), e.at)
			continue
		}
		r.bringsNew()
		r.recents.addUndecided(e.print)
		in.publishLocked(r, waiting.event(i), e.at)
	}
}

// releaseLaterLocked has the held events delivered in time in any case.
func (in *intake) releaseLaterLocked(r *runner, now time.Time) {
	if len(r.leading.held.events) > 1 {
		return // the timer runs already
	}
	wait := r.leading.due().Sub(now)
	if r.release == nil {
		r.release = time.AfterFunc(wait, r.releaseLate)
	} else {
		r.release.Reset(wait)
	}
}

// releaseLate is called by a timer when held events may be due. It returns at
// once; the end of the connection stops the timer.
func (r *runner) releaseLate() {
	in := &r.source.intake
	in.mu.Lock()
	defer in.mu.Unlock()
	l := &r.leading
	if len(l.held.events) == 0 {
		return
	}
	if wait := time.Until(l.due()); wait > 0 {
		r.release.Reset(wait)
		return
	}
	in.releaseLocked(r)
	l.line.close()
}
