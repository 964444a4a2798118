package ssefanin

import "sync"

// The events that are emitted to a configuration's event handlers.
const (
	eventUp   = "upstream_up"
	eventDown = "upstream_down"
	eventGap  = "gap"

	eventLogStalled   = "log_stalled"
	eventLogRecovered = "log_recovered"
	eventTookOver     = "took_over"
	eventResigned     = "resigned"
)

// maxAnnouncements is how many events wait for the handlers of earlier ones; some
// 200 bytes each. Beyond that they are dropped: a handler that takes a second
// each would be hours behind anyway.
const maxAnnouncements = 1024

// announcement is an event for the event handlers.
type announcement struct {
	name   string
	stream string
	// of upstream_up and upstream_down
	upstream     string
	reason, text string
	// of gap: several of a stream become one
	count, missed uint64
}

// announcements are the events not emitted yet, in order. Streams must not wait
// for event handlers, which may run commands; handlers run one after the other
// in the goroutine of an App.
var announcements struct {
	mu      sync.Mutex // protects the fields below
	waiting []*announcement
	gaps    map[[2]string]*announcement // of waiting, by stream and reason
	dropped int                         // since the last one that was emitted
	holders int                         // Apps that have streams attached

	// signal gets a value when something waits; capacity 1, since one is
	// enough.
	signal chan struct{}
	// announcer holds a token while an App emits; capacity 1. So the oldest
	// configuration emits, until it stops.
	announcer chan struct{}
}

func init() {
	announcements.signal = make(chan struct{}, 1)
	announcements.announcer = make(chan struct{}, 1)
	announcements.gaps = make(map[[2]string]*announcement)
}

// announce queues an event, if there is a configuration to handle it. It never
// waits, but for mu.
func announce(a *announcement) {
	q := &announcements
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.holders == 0 {
		return
	}
	gap := [2]string{a.stream, a.reason}
	if a.name == eventGap {
		if same := q.gaps[gap]; same != nil {
			same.count += a.count
			same.missed += a.missed
			return
		}
	}
	if len(q.waiting) >= maxAnnouncements {
		q.dropped++
		return
	}
	q.waiting = append(q.waiting, a)
	if a.name == eventGap {
		q.gaps[gap] = a
	}
	select {
	case q.signal <- struct{}{}:
	default:
	}
}

// holdAnnouncements has events queued for a configuration's handlers, until it
// calls releaseAnnouncements.
func holdAnnouncements() {
	q := &announcements
	q.mu.Lock()
	defer q.mu.Unlock()
	q.holders++
}

// releaseAnnouncements is called once for each holdAnnouncements. The last one
// drops the waiting events: they do not concern a later configuration.
func releaseAnnouncements() {
	q := &announcements
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.holders--; q.holders == 0 {
		q.waiting, q.dropped = nil, 0
		clear(q.gaps)
	}
}

// announceState queues that an upstream of a stream has gone up or down.
func announceState(streamName, upstream string, up bool, why reason, text string) {
	a := announcement{name: eventUp, stream: streamName, upstream: upstream}
	if !up {
		a.name, a.reason, a.text = eventDown, string(why), text
	}
	announce(&a)
}

// announceLog queues that the log of a stream cannot be written, or that it can
// again.
func announceLog(streamName string, stalled bool, err error) {
	a := announcement{name: eventLogRecovered, stream: streamName}
	if stalled {
		a.name = eventLogStalled
		if err != nil {
			a.text = err.Error()
		}
	}
	announce(&a)
}

// announceRole queues that this node writes the log of a stream that several nodes
// share, or that it does not any more.
func announceRole(streamName string, writes bool, why error) {
	a := announcement{name: eventTookOver, stream: streamName}
	if !writes {
		a.name = eventResigned
		if why != nil {
			a.text = why.Error()
		}
	}
	announce(&a)
}

func announceGap(streamName, why string, missed uint64) {
	announce(&announcement{name: eventGap, stream: streamName, reason: why, count: 1, missed: missed})
}

// nextAnnouncement returns the first that waits, or nil.
func nextAnnouncement() (a *announcement, dropped int) {
	q := &announcements
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.waiting = nil
		return nil, 0
	}
	a = q.waiting[0]
	q.waiting[0] = nil
	q.waiting = q.waiting[1:]
	if a.name == eventGap {
		delete(q.gaps, [2]string{a.stream, a.reason})
	}
	dropped, q.dropped = q.dropped, 0
	return a, dropped
}

// data is the event's data as handlers get it.
func (a *announcement) data() map[string]any {
	switch a.name {
	case eventUp:
		return map[string]any{"stream": a.stream, "upstream": a.upstream}
	case eventLogStalled, eventResigned:
		return map[string]any{"stream": a.stream, "error": a.text}
	case eventLogRecovered, eventTookOver:
		return map[string]any{"stream": a.stream}
	case eventDown:
		return map[string]any{"stream": a.stream, "upstream": a.upstream, "reason": a.reason, "error": a.text}
	}
	return map[string]any{"stream": a.stream, "reason": a.reason, "clients": a.count, "missed": a.missed}
}
