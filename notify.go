package ssefanin

import (
	"slices"
	"time"
)

func (h *hub) wakeNotifier() {
	select {
	case h.poke <- struct{}{}:
	default:
	}
}

// notify wakes the subscribers: all of them when events were appended, at the
// end of their coalescing window; each when its time has come (see
// subscriber.due). So the one who appends does not pay for the number of
// clients, and clients need no timer each. It also has the sources connected
// while there are clients. The hub owns it; it ends with the last subscriber,
// after the linger of a stream that is connected on demand, and begins again
// with the next.
func (h *hub) notify() {
	h.followDemand()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	log := h.log.Load()
	look := look{appended: true, clocks: true} // whatever happened before
	var idleSince time.Time                    // when the last subscriber was found to have left
	for {
		now := time.Now()
		look.now = monotonic(now)
		next, ok := h.wakeSubscribers(&look)
		switch {
		case ok:
			idleSince = time.Time{}
		case idleSince.IsZero():
			idleSince = now
			fallthrough
		default:
			next = h.lingerLeft(now.Sub(idleSince))
			if next <= 0 {
				if h.retire() {
					return
				}
				next = clockStep
			}
		}
		log.Expire(now) // where nothing is appended, nobody else does
		timer.Reset(next)
		look.appended, look.clocks = false, false
		appended := log.Appended()
		if look.waiting {
			appended = nil // it would be heard again and again, and change nothing
		}
		select {
		case <-appended:
			look.appended = true
		case <-h.handedOut:
			look.handing = false
		case <-timer.C:
		case <-h.poke:
			look.clocks = true
		}
		// Readers move on to another log; the old one's last signal may be unheard.
		if current := h.log.Load(); current != log {
			log, look.appended = current, true
		}
	}
}

// lingerLeft is how long a stream without clients keeps its sources connected.
func (h *hub) lingerLeft(idle time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.shaped.Load(); s.onDemand && !h.gone {
		return s.linger - idle
	}
	return 0
}

// retire ends the notifier when there is still no subscriber. One key of a
// keyed stream goes with it.
func (h *hub) retire() bool {
	h.mu.Lock()
	if len(h.subscribers) > 0 {
		h.mu.Unlock()
		return false
	}
	h.running = false
	dropped := h.keyed != nil && !h.gone
	if dropped {
		h.gone = true
	}
	h.mu.Unlock()
	h.followDemand()
	if dropped {
		h.keyed.drop(h)
		h.release()
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

// window is one value of `coalesce` among a stream's clients: for so long after
// an event was appended, those clients are not woken, and then get it with all
// that came meanwhile. It opens only when the writers have come to all of the
// clients that were woken before: when there is more to do than can be done,
// there is more to coalesce. Without `coalesce`, it is 0. The hub's mu protects
// it.
type window struct {
	length  time.Duration
	clients int
	pending bool  // events were appended since it closed
	ends    int64 // monotonic ns; never: it is closed
}

// windowLocked returns the window of a length for one more client.
func (h *hub) windowLocked(length time.Duration) *window {
	for _, w := range h.windows {
		if w.length == length {
			w.clients++
			return w
		}
	}
	w := &window{length: length, clients: 1, ends: never}
	h.windows = append(h.windows, w)
	return w
}

// windowHandedOut tells the notifier that the writers have come to the last
// client that was woken when a window ended.
func (h *hub) windowHandedOut() {
	select {
	case h.handedOut <- struct{}{}:
	default:
	}
}

// leaveWindowLocked takes a client from its window.
func (h *hub) leaveWindowLocked(w *window) {
	if w.clients--; w.clients == 0 {
		h.windows = slices.DeleteFunc(h.windows, func(other *window) bool { return other == w })
	}
}

// look is what the notifier knows from one look at the subscribers to the next.
type look struct {
	now      int64 // monotonic ns
	appended bool  // there are new events
	clocks   bool  // clocks may have been changed
	waiting  bool  // new events change nothing
	handing  bool  // clients that were woken when a window ended stand in the writers' queue
	due      int64 // when the next clock is due, monotonic ns

	blocked []*subscriber // whose write's time is to be enforced
}

// wakeSubscribers wakes those whose window has ended, or whose time has come,
// and returns how long there is nothing to do. False when there is no
// subscriber.
func (h *hub) wakeSubscribers(l *look) (time.Duration, bool) {
	var woken turns
	h.mu.Lock()
	if len(h.subscribers) == 0 {
		h.mu.Unlock()
		return 0, false
	}
	l.blocked = l.blocked[:0]
	ended, windowEnd := h.lookAtWindowsLocked(l)
	if ended || l.clocks || l.now >= l.due {
		h.lookAtSubscribersLocked(l, &woken)
	}
	h.mu.Unlock()
	clientWriters.push(woken)
	for _, sub := range l.blocked {
		sub.deadline.enforce(l.now)
	}
	clear(l.blocked)
	next := max(time.Duration(l.due-l.now), clockStep)
	return min(next, time.Duration(windowEnd-l.now)), true
}

// lookAtWindowsLocked opens the windows that new events open. It returns whether
// one has ended, and when the next one does.
func (h *hub) lookAtWindowsLocked(l *look) (ended bool, next int64) {
	next = never
	l.waiting = true
	for _, w := range h.windows {
		w.pending = w.pending || l.appended
		if w.pending && w.ends == never && (w.length == 0 || !l.handing) {
			w.ends, w.pending = l.now+int64(w.length), false
		}
		switch {
		case w.ends <= l.now:
			ended, l.waiting = true, false
		case w.ends != never:
			next = min(next, w.ends)
		case !w.pending:
			l.waiting = false
		}
	}
	return ended, next
}

// lookAtSubscribersLocked collects the subscribers that are to be woken and
// those that are blocked, closes the windows that have ended, and notes when the
// next clock is due.
func (h *hub) lookAtSubscribersLocked(l *look, woken *turns) {
	l.due = l.now + int64(clockIdle)
	for _, sub := range h.subscribers {
		due := sub.due()
		if wake := due <= l.now || sub.window.ends <= l.now; wake && sub.want() {
			woken.add(sub)
		}
		if due <= l.now {
			// By then it has done what was due, or is woken once more: the
			// writer's time may have been older than ours.
			due = l.now + int64(clockStep)
		}
		l.due = min(l.due, due)
		again, blocked := sub.deadline.look(l.now)
		if blocked {
			l.blocked = append(l.blocked, sub)
		} else {
			l.due = min(l.due, again)
		}
	}
	for _, w := range h.windows {
		if w.ends <= l.now {
			w.ends, w.pending = never, false
			if w.length > 0 && woken.last != nil {
				woken.last.lastWoken, l.handing = true, true
			}
		}
	}
}
