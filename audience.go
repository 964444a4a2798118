package ssefanin

import (
	"slices"
	"sync"
	"time"
)

// audience is the clients of one stream, and the notifier, which wakes them.
// The hub owns it.
//
// Safe for concurrent use.
type audience struct {
	hub *hub

	mu          sync.Mutex // protects the fields below, and the index and the log of each subscriber
	subscribers []*subscriber
	windows     windows
	views       views
	running     bool   // the notifier
	gone        bool   // no new subscribers; the stream ends with the last one
	joined      bool   // there was a client
	seed        string // the first client's position, with `ids upstream`

	// handedOut gets a value when the writers have come to all clients of a
	// window. It has capacity 1: of two that end in one go, one is enough.
	handedOut chan struct{}

	poke chan struct{} // capacity 1: "look at the subscribers again" needs to be said once
}

func newAudience(h *hub) *audience {
	a := &audience{hub: h, poke: make(chan struct{}, 1), handedOut: make(chan struct{}, 1)}
	a.views.init(h)
	return a
}

// subscribe adds a client. The error is errGone or errFull.
func (a *audience) subscribe(sub *subscriber) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gone || endingAll.Load() {
		return errGone
	}
	if !a.hub.admit(sub.client.settings.maxClients) {
		return errFull
	}
	if !a.joined {
		a.joined = true
		if a.hub.beginsWithFirstClient() && sendable(sub.asked) {
			a.seed = sub.asked
		}
	}
	if sub.client.view != nil {
		sub.client.view = a.views.join(sub.client.view)
	}
	a.windows.join(sub)
	sub.index = len(a.subscribers)
	a.subscribers = append(a.subscribers, sub)
	if !a.running {
		a.running = true
		go a.notify()
	}
	a.wakeNotifier()
	return nil
}

// unsubscribe removes a client, which was added. It reports whether it was the
// last one of a stream that is gone: the caller is to release the hub.
func (a *audience) unsubscribe(sub *subscriber) (last bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	end := len(a.subscribers) - 1
	a.subscribers[sub.index] = a.subscribers[end]
	a.subscribers[sub.index].index = sub.index
	a.subscribers[end] = nil
	a.subscribers = a.subscribers[:end]
	a.windows.leave(sub)
	if sub.client.view != nil {
		a.views.leave(sub.client.view)
	}
	a.hub.clients.Add(-1)
	if end == 0 {
		a.wakeNotifier()
	}
	return a.gone && end == 0
}

// close lets no more clients in, ends the present ones over their drain
// windows, and returns their number. If there are none, the caller is to
// release the hub; else the last one's unsubscribe reports it.
func (a *audience) close(why endReason) (clients int) {
	a.mu.Lock()
	a.gone = true
	a.drainLocked(everybody, why)
	clients = len(a.subscribers)
	a.mu.Unlock()
	a.wakeNotifier()
	return clients
}

// closeUnused lets no clients in if there never were any. It reports whether
// that was so.
func (a *audience) closeUnused() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.subscribers) > 0 || a.running || a.gone {
		return false
	}
	a.gone = true
	return true
}

// closed reports whether no more clients are let in.
func (a *audience) closed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.gone
}

// drain ends the clients that are chosen, each at a time within its drain
// window.
func (a *audience) drain(chosen func(*subscriber) bool, why endReason) {
	a.mu.Lock()
	a.drainLocked(chosen, why)
	a.mu.Unlock()
	a.wakeNotifier()
}

// drainLocked is drain with the lock held. The caller wakes the notifier once
// it is released.
func (a *audience) drainLocked(chosen func(*subscriber) bool, why endReason) {
	now := time.Now()
	for _, sub := range a.subscribers {
		if chosen(sub) {
			sub.drain(now, why)
		}
	}
}

// everybody chooses all clients.
func everybody(*subscriber) bool { return true }

// servedBy chooses the clients that a handler serves.
func servedBy(svc *service) func(*subscriber) bool {
	return func(sub *subscriber) bool { return sub.client.settings == svc.settings }
}

// list returns the clients as they are now.
func (a *audience) list() []*subscriber {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.subscribers)
}

// wakeAll has every client take a turn.
func (a *audience) wakeAll() {
	var woken turns
	a.mu.Lock()
	for _, sub := range a.subscribers {
		if sub.want() {
			woken.add(sub)
		}
	}
	a.mu.Unlock()
	clientWriters.push(woken)
}

// present reports whether there are clients, or were a linger ago: whether a
// stream that is connected on demand is to be connected.
func (a *audience) present() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running
}

// firstAsked returns the id that the first client came with, if the upstream is
// to be asked for the events after it; else empty.
func (a *audience) firstAsked() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seed
}

// forgetFirstAsked is called when the log is another one, which does not begin
// after the first client's id.
func (a *audience) forgetFirstAsked() {
	a.mu.Lock()
	a.seed = ""
	a.mu.Unlock()
	a.wakeNotifier()
}

// switchLog has a client read a log, from the event at next. It is called in the
// client's turn; others look at how far it is behind.
func (a *audience) switchLog(at *clientPosition, log *streamLog, next uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at.switchLog(log, next)
}

// logs returns the present log of the stream, and those before it that clients
// still read.
func (a *audience) logs() []*streamLog {
	a.mu.Lock()
	defer a.mu.Unlock()
	logs := []*streamLog{a.hub.log.Load()}
	for _, sub := range a.subscribers {
		for log := sub.client.at.log; log != nil && !slices.Contains(logs, log); log = log.next.Load() {
			logs = append(logs, log)
		}
	}
	return logs
}

// audienceStatus is the operators' view of the clients.
type audienceStatus struct {
	connected int
	maxLag    uint64 // events
	oldest    int64  // when the one that has been here longest came, Unix ms
	gone      bool
}

// snapshot returns the operators' view.
func (a *audience) snapshot() audienceStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	st := audienceStatus{connected: len(a.subscribers), gone: a.gone}
	for _, sub := range a.subscribers {
		st.maxLag = max(st.maxLag, sub.client.lag())
		st.oldest = earlier(st.oldest, sub.since)
	}
	return st
}

// wakeNotifier has the notifier look again. It never blocks; locks may be held.
func (a *audience) wakeNotifier() {
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// notify wakes the subscribers: all of them when events were appended, at the
// end of their coalescing window; each when its time has come (see
// subscriber.due). So appending does not cost more with more clients, and
// clients need no timer each. It also has the sources connected while there are
// clients. The audience owns it; it ends with the last subscriber, after the
// linger of a stream that is connected on demand, and begins again with the
// next.
func (a *audience) notify() {
	a.hub.inputs.followDemand()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	log := a.hub.log.Load()
	look := glance{appended: true, clocks: true} // whatever happened before
	var idleSince time.Time                      // when the last subscriber was found to have left
	for {
		now := time.Now()
		look.now = monotonic(now)
		next, ok := a.wakeSubscribers(&look)
		switch {
		case ok:
			idleSince = time.Time{}
		case idleSince.IsZero():
			idleSince = now
			fallthrough
		default:
			next = a.lingerLeft(now.Sub(idleSince))
			if next <= 0 {
				if a.retire() {
					return
				}
				next = clockStep
			}
		}
		log.expire(now) // without appends, nothing else does
		timer.Reset(next)
		look.appended, look.clocks = look.more, false
		appended := log.memory.Appended()
		if look.waiting {
			appended = nil // it would be heard again and again, and change nothing
		}
		select {
		case <-appended:
			look.appended = true
		case <-a.handedOut:
			look.handing = false
		case <-timer.C:
		case <-a.poke:
			look.clocks = true
		}
		// Readers move on to another log; the old one's last signal may be unheard.
		if current := a.hub.log.Load(); current != log {
			log, look.appended = current, true
		}
	}
}

// lingerLeft is how long a stream without clients keeps its sources connected.
func (a *audience) lingerLeft(idle time.Duration) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.hub.shaped.Load(); s.onDemand && !a.gone {
		return s.linger - idle
	}
	return 0
}

// retire ends the notifier when there is still no subscriber. One key of a
// keyed stream goes with it.
func (a *audience) retire() bool {
	a.mu.Lock()
	if len(a.subscribers) > 0 {
		a.mu.Unlock()
		return false
	}
	a.running = false
	dropped := a.hub.keyed != nil && !a.gone
	if dropped {
		a.gone = true
	}
	a.mu.Unlock()
	a.hub.inputs.followDemand()
	if dropped {
		a.hub.dropKey()
	}
	return true
}

const (
	// clockStep is the least time between two looks at the subscribers' clocks;
	// heartbeats and ends may be late by so much.
	clockStep = 20 * time.Millisecond

	// clockIdle is the longest time between two looks.
	clockIdle = time.Minute
)

// windowHandedOut signals to the notifier that the writers have come to the
// last client that was woken when a window ended.
func (a *audience) windowHandedOut() {
	select {
	case a.handedOut <- struct{}{}:
	default:
	}
}

// glance is the notifier's memory between two looks at the subscribers.
type glance struct {
	now      int64 // monotonic ns
	appended bool  // there are new events
	more     bool  // there are more than could be judged in one go
	clocks   bool  // clocks may have been changed
	waiting  bool  // new events change nothing
	handing  bool  // clients that were woken when a window ended stand in the writers' queue
	due      int64 // when the next clock is due, monotonic ns

	blocked []*subscriber // whose write's time is to be enforced
}

// wakeSubscribers wakes the subscribers whose window has ended, or whose time
// has come, and returns how long there is nothing to do; false when there is no
// subscriber. The notifier calls it.
func (a *audience) wakeSubscribers(l *glance) (time.Duration, bool) {
	var woken turns
	a.mu.Lock()
	if len(a.subscribers) == 0 {
		a.mu.Unlock()
		return 0, false
	}
	l.blocked = l.blocked[:0]
	windowEnd := a.lookAtWindowsLocked(l, &woken)
	if l.clocks || l.now >= l.due {
		a.lookAtClocksLocked(l, &woken)
	}
	a.mu.Unlock()
	clientWriters.push(woken)
	for _, sub := range l.blocked {
		sub.deadline.enforce(l.now)
	}
	clear(l.blocked)
	if l.more {
		return 0, true
	}
	next := max(time.Duration(l.due-l.now), clockStep)
	return min(next, time.Duration(windowEnd-l.now)), true
}

// lookAtClocksLocked collects the subscribers whose time has come and the blocked
// ones, and notes when the next clock is due.
func (a *audience) lookAtClocksLocked(l *glance, woken *turns) {
	l.due = l.now + int64(clockIdle)
	for _, sub := range a.subscribers {
		due := sub.due()
		if due <= l.now {
			if sub.want() {
				woken.add(sub)
			}
			// By then it has done its work, or is woken once more: the writer's
			// time may have been older than ours.
			due = l.now + int64(clockStep)
		}
		l.due = min(l.due, due)
		again, blocked := sub.deadline.overdue(l.now)
		if blocked {
			l.blocked = append(l.blocked, sub)
		} else {
			l.due = min(l.due, again)
		}
	}
}
