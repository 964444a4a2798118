package ssefanin

import (
	"time"
)

func (h *hub) wakeNotifier() {
	select {
	case h.poke <- struct{}{}:
	default:
	}
}

// notify wakes the subscribers: all of them when events were appended, each
// when its time has come (see subscriber.due). So the one who appends does not
// pay for the number of clients, and clients need no timer each. It also has
// the sources connected while there are clients. The hub owns it; it ends
// with the last subscriber, after the linger of a stream that is connected on
// demand, and begins again with the next.
func (h *hub) notify() {
	h.demand(true)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	log := h.log.Load()
	all := true             // whatever happened before
	var idleSince time.Time // when the last subscriber was found to have left
	for {
		now := time.Now()
		next, ok := h.wakeSubscribers(now, all)
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
		all = false
		select {
		case <-log.Appended():
			all = true
		case <-timer.C:
		case <-h.poke:
		}
		// Readers move on to another log; the old one's last signal may be unheard.
		if current := h.log.Load(); current != log {
			log, all = current, true
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
	h.demand(false)
	h.mu.Lock()
	if len(h.subscribers) > 0 {
		h.mu.Unlock()
		h.demand(true)
		return false
	}
	h.running = false
	dropped := h.keyed != nil && !h.gone
	if dropped {
		h.gone = true
	}
	h.mu.Unlock()
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

// wakeSubscribers wakes those that have something to do, or all, and returns
// how long the next one's clock has still to run. False when there is no
// subscriber.
func (h *hub) wakeSubscribers(now time.Time, all bool) (time.Duration, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.subscribers) == 0 {
		return 0, false
	}
	nanos := now.UnixNano()
	first := nanos + int64(clockIdle)
	for _, sub := range h.subscribers {
		due := sub.due()
		if due <= nanos {
			sub.wake()
			// once it has done what was due; its end may come before the next heartbeat
			due = min(nanos+int64(sub.settings.heartbeat), sub.endAt.Load())
		} else if all {
			sub.wake()
		}
		if due > nanos {
			first = min(first, due)
		}
	}
	return max(time.Duration(first-nanos), clockStep), true
}
