package ssefanin

import (
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

const (
	// replayPatience is how long a replay may pause. It comes at once; a "tick"
	// that comes later is a new one, however equal.
	replayPatience = time.Second

	// maxReplay is how long events may be held in all, in patiences: a server
	// that reads 10,000 events from a database may take ten seconds. The bound
	// is for upstreams that happen to send the same again, event by event.
	maxReplay = 30

	// leastHeld is for how many bytes of held events there is room at least:
	// 16,384 events, as many as are remembered, of 1 KiB. An upstream whose
	// events may be larger than all of it has room for one of them.
	leastHeld = 16 << 20
)

// leading judges the events that a connection begins with, until one is new.
// Possible repeats are held meanwhile.
//
// The intake's lock protects it.
type leading struct {
	opened   bool    // a connection has begun, and none of its events was new
	line     *lineup // made for its first event
	held     held
	last     time.Time // the event before, or the connection's beginning
	patience time.Duration
	limit    int // of held bytes

	// lagsUntil is until when a mirror's replica is known to send what is from
	// before the connection; zero: it is not.
	lagsUntil time.Time
}

// startJudging begins a connection. Before that, and once an event was new,
// there are no events to judge.
func (l *leading) startJudging(now time.Time, patience time.Duration, maxEventSize int) {
	*l = leading{opened: true, last: now, patience: patience, limit: max(leastHeld, maxEventSize)}
}

// stopJudging ends the judging, and frees its memory. No event may be held.
func (l *leading) stopJudging() { *l = leading{} }

// due is when the held events have been held for long enough. A run that lies
// in several places is no more than a guess, and a new event must not wait long
// for it: it has one patience in all.
func (l *leading) due() time.Time {
	longest := l.patience
	if !l.line.ambiguous() {
		longest *= maxReplay
	}
	due, latest := l.last.Add(l.patience), l.held.since().Add(longest)
	if latest.Before(due) {
		return latest
	}
	return due
}

// late reports whether the events are too late to line up with the ones before
// the connection.
func (l *leading) late(now time.Time) bool {
	if len(l.held.events) == 0 {
		return now.Sub(l.last) >= l.patience
	}
	return !now.Before(l.due())
}

// held are events that wait, in order, in memory of their own.
type held struct {
	events []heldEvent
	bytes  []byte
}

// heldEvent is an event whose id, type and data stand one behind the other.
type heldEvent struct {
	print     print
	at        time.Time // its arrival
	begin     int
	typ, data int // where they begin
	end       int
	hasID     bool
}

// add copies an event; false if there is no room for it.
func (h *held) add(p print, ev *sse.Event, now time.Time, limit int) bool {
	if len(h.bytes)+len(ev.ID)+len(ev.Type)+len(ev.Data) > limit {
		return false
	}
	e := heldEvent{print: p, at: now, begin: len(h.bytes), hasID: ev.HasID}
	h.bytes = append(h.bytes, ev.ID...)
	e.typ = len(h.bytes)
	h.bytes = append(h.bytes, ev.Type...)
	e.data = len(h.bytes)
	h.bytes = append(h.bytes, ev.Data...)
	e.end = len(h.bytes)
	h.events = append(h.events, e)
	return true
}

// since is the arrival of the first.
func (h *held) since() time.Time { return h.events[0].at }

// take empties it and returns its events.
func (h *held) take() held {
	was := *h
	*h = held{}
	return was
}

// event returns the event as it came. It shares the memory.
func (h *held) event(i int) *sse.Event {
	e := &h.events[i]
	return &sse.Event{
		ID:    h.bytes[e.begin:e.typ:e.typ],
		Type:  h.bytes[e.typ:e.data:e.data],
		Data:  h.bytes[e.data:e.end:e.end],
		HasID: e.hasID,
	}
}
