package ssefanin

import (
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// This file has what a source does with an event between the runner that has
// read it and the streams: repeats are dropped, of a connection's leading
// events and of a mirror's replicas.

// opened notes that a runner's connection has become a stream.
func (s *source) opened(r *runner, now time.Time) {
	r.broughtNew.Store(false)
	s.deliverMu.Lock()
	defer s.deliverMu.Unlock()
	patience := replayPatience
	if s.mirror != nil {
		patience += s.mirror.open(r.slot)
	}
	if s.spec.Resume != resumeOff {
		r.leading.open(now, patience, int(s.spec.MaxEventSize))
	}
}

// closed notes that a runner's connection has ended. What is held of it cannot
// be told any more, and is delivered.
func (s *source) closed(r *runner) {
	s.deliverMu.Lock()
	defer s.deliverMu.Unlock()
	if s.mirror != nil {
		if l := &r.leading; l.line != nil && len(l.line.runs) == 1 {
			s.dropLateLocked(r, l.line.runs[0])
		}
		s.mirror.close(r.slot)
	}
	s.releaseLocked(r)
	r.leading.end()
	if r.release != nil {
		r.release.Stop()
	}
}

// receive takes an event from a runner, which calls it from one goroutine.
func (s *source) receive(r *runner, ev *sse.Event, now time.Time) {
	p := printOf(ev)
	s.deliverMu.Lock()
	defer s.deliverMu.Unlock()
	l := &r.leading
	if !l.opened {
		s.passLocked(r, p, ev, now)
		return
	}
	if l.line == nil {
		if s.mirror != nil {
			l.line = s.mirror.lineup(r.slot)
		} else {
			l.line = r.recents.lineup()
		}
	}
	if l.late(now) {
		s.releaseLocked(r)
		l.line.close()
	}
	l.last = now
	verdict, through := l.line.next(p)
	if verdict == verdictReaches && s.mirror != nil && s.mirror.alsoSince(r.slot, &l.held, p) {
		verdict, l.line.broken = verdictNew, stretch{}
	}
	if verdict == verdictNew && s.mirror != nil && s.mirror.lags(r.slot) && s.dropLateLocked(r, l.line.broken) {
		// It goes on with what was there, but others have missed something of it,
		// or had it in another order.
		if l.lagsUntil.IsZero() {
			l.lagsUntil = now.Add(l.patience)
		}
		l.line.again()
		verdict, through = l.line.next(p)
	}
	switch verdict {
	case verdictFollows:
		if l.held.add(p, ev, now, l.limit) {
			s.releaseLaterLocked(r, now)
			return
		}
	case verdictReaches:
		s.dropLocked(r, len(l.held.take().events)+1, through)
		if s.mirror == nil {
			r.recents.reached(through == len(l.line.seen))
		}
		return
	case verdictKnown:
		s.dropLocked(r, 1, through)
		return
	case verdictKnownOff:
		s.releaseLocked(r)
		s.dropLocked(r, 1, through)
		return
	case verdictNew:
		if len(l.held.events) == 0 && now.Before(l.lagsUntil) {
			s.passLocked(r, p, ev, now)
			l.line.again()
			return
		}
	}
	s.releaseLocked(r)
	l.end()
	s.passLocked(r, p, ev, now)
}

// dropLateLocked drops what is held of a replica if it came as late as its
// events do; run is where it lies.
func (s *source) dropLateLocked(r *runner, run stretch) bool {
	l := &r.leading
	if !s.mirror.asLate(r.slot, l, run) {
		return false
	}
	s.dropLocked(r, len(l.held.take().events), int(run.next))
	return true
}

// dropLocked counts events that are repeats; through tells the last of them.
func (s *source) dropLocked(r *runner, n, through int) {
	s.counts.duplicates.Add(uint64(n))
	if s.mirror != nil {
		s.mirror.repeated(r.slot, through)
	}
}

// passLocked delivers an event of a runner, unless another replica has sent it.
func (s *source) passLocked(r *runner, p print, ev *sse.Event, now time.Time) {
	r.bringsNew()
	if s.mirror == nil {
		r.recents.add(p)
	} else if !s.mirror.first(r.slot, p, ev, now) {
		s.counts.duplicates.Add(1)
		return
	}
	s.publishLocked(r, ev, now)
}

// bringsNew notes that the connection brought an event which is not known to
// have been sent before.
func (r *runner) bringsNew() {
	if !r.broughtNew.Load() { // a store for each event would cost more
		r.broughtNew.Store(true)
	}
}

// publishLocked hands an event to every subscription.
func (s *source) publishLocked(r *runner, ev *sse.Event, now time.Time) {
	r.enc.begin()
	for _, sub := range *s.subs.Load() {
		sub.hub.publish(sub, ev, &r.enc, now)
	}
}

// handOverLocked delivers what is held of a runner's connection to a
// subscription that leaves: it may never hear of it again.
func (s *source) handOverLocked(r *runner, sub *subscription) {
	held := &r.leading.held
	for i := range held.events {
		r.enc.begin()
		sub.hub.publish(sub, held.event(i), &r.enc, held.events[i].at)
	}
}

// releaseLocked delivers what is held of a runner's connection.
func (s *source) releaseLocked(r *runner) {
	held := r.leading.held.take()
	for i := range held.events {
		e := &held.events[i]
		if s.mirror != nil {
			s.passLocked(r, e.print, held.event(i), e.at)
			continue
		}
		r.bringsNew()
		r.recents.addUndecided(e.print)
		s.publishLocked(r, held.event(i), e.at)
	}
}

// releaseLaterLocked sees to it that what is held is delivered in time,
// whatever comes.
func (s *source) releaseLaterLocked(r *runner, now time.Time) {
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

// releaseLate is called by a timer when what is held may be due. It returns at
// once; the end of the connection stops the timer.
func (r *runner) releaseLate() {
	s := r.source
	s.deliverMu.Lock()
	defer s.deliverMu.Unlock()
	l := &r.leading
	if len(l.held.events) == 0 {
		return
	}
	if wait := time.Until(l.due()); wait > 0 {
		r.release.Reset(wait)
		return
	}
	s.releaseLocked(r)
	l.line.close()
}
