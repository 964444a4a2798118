package ssefanin

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/lastvalue"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

const (
	// maxPosition is the longest Last-Event-ID that is looked at, in bytes.
	maxPosition = 1 << 10

	// noPosition stands for a text that cannot be a position. With its NUL it
	// is no cursor, no upstream's id, and never sent.
	noPosition = "\x00"

	// clockSkew is by how much the clocks of two nodes, or of two runs, may
	// differ for a cursor's time to be of use.
	clockSkew = time.Second

	// positionWait is how long a client waits for a log that has to be read first,
	// before it is told that its position is unknown. Of a log that several nodes
	// share, the time does not count in which its store is not known to be reached:
	// what another node has given is good all the same.
	positionWait = 10 * time.Second
)

// clientPosition is where a client reads. The log is replaced by
// audience.switchLog, since any goroutine may read the lag; all else is the
// client's.
type clientPosition struct {
	log    *streamLog      // nil until the head is written
	reader eventlog.Reader // the zero value is to begin somewhere first
}

// seek has the client read from the event at next.
func (p *clientPosition) seek(next uint64) {
	p.reader.Begin(p.log.memory, next)
}

// switchLog has the client read another log, from the event at next; see
// audience.switchLog.
func (p *clientPosition) switchLog(log *streamLog, next uint64) {
	p.log = log
	p.seek(next)
}

// lag is how many events a client has still to get.
func (p *clientPosition) lag() uint64 {
	n := uint64(0)
	if p.log == nil {
		return n
	}
	if head, at := p.log.memory.Head(), p.reader.Position(); at <= head {
		n = head + 1 - at
	}
	for log := p.log.following(); log != nil && log.ready(); log = log.following() {
		n += log.memory.Head() + 1 - log.begins.Load()
	}
	return n
}

// switchLog has the client read a log, from the event at next.
func (c *client) switchLog(log *streamLog, next uint64) {
	c.askNoMore()
	c.hasValues, c.evictedAt = false, 0
	c.hub.audience.switchLog(&c.at, log, next)
}

// place finds where the client begins, and appends the position, and the gap
// before it if there is one, to what is written next. Where the log, or an older
// part of it, has to be read first, the client is woken when it has been; then
// place is called again, in another turn.
func (c *client) place(now time.Time) {
	if c.at.log == nil {
		c.switchLog(c.hub.log.Load(), 1)
	}
	log := c.at.log
	if next := log.following(); next != nil && (!log.ready() || log.ended.Load()) { // it will never be
		c.switchLog(next, 1)
		log = next
	}
	if log.outOfReach() {
		c.waitUntil = monotonic(now) + int64(positionWait)
	}
	if !log.ready() {
		if !c.waited && monotonic(now) >= c.waitUntil {
			c.waited = true
			if c.toldGap = c.sub.asked != "" && log.resumable(); c.toldGap {
				c.buf = c.appendGap(c.buf, gapUnknown, nil, nil)
			}
		}
		return
	}
	log.expire(now)
	c.sent.head = log.memory.Head() // later events are no replay
	for {
		begin := c.begin
		if begin == nil {
			found, ok := c.beginning(c.sub.asked, now)
			if !ok {
				return // the client is woken
			}
			begin = &found
		}
		c.begin = nil
		c.at.seek(begin.next)
		if c.passEvicted() {
			begin.next = c.at.reader.Position()
		}
		if begin.next < log.memory.Tail() && log.durable != nil {
			// the time of its event is part of the position
			wait, evicted := c.goOnOlder()
			if wait {
				c.begin = begin // the beginning must not move on meanwhile
				return
			}
			if evicted {
				continue // now it is another one
			}
		}
		c.placed = true
		c.sentPosition = begin.next
		c.appendBeginning(begin, now)
		return
	}
}

// appendBeginning appends what a client gets before the first event: the gap before its
// position, or the position alone. The last values follow.
func (c *client) appendBeginning(begin *beginning, now time.Time) {
	if begin.gap != "" {
		state := c.takeValues(0)
		if !c.toldGap || c.values != nil {
			c.buf = c.appendGap(c.buf, begin.gap, begin.missed, state)
		}
		return
	}
	if begin.fresh && c.from == 0 && c.settings.start == startValues {
		c.at.seek(lastvalue.NoOffset)
		c.takeValues(0)
	}
	if begin.fresh && c.values == nil {
		c.prime(c.at.reader.Position(), now)
	}
}

// beginning is where a client begins to read.
type beginning struct {
	next   uint64
	fresh  bool    // it came without a position
	gap    string  // reason of the gap before it; empty: there is none
	missed *uint64 // events in the gap, if that is known
}

// beginning returns where the client begins. False: that is being asked for, or
// the log is to get there first.
func (c *client) beginning(asked string, now time.Time) (b beginning, ok bool) {
	log := c.at.log
	if asked == "" || !log.resumable() {
		if c.from != 0 {
			return c.beginningSince()
		}
		b.next, ok = c.startPosition()
		b.fresh = true
		return b, ok
	}
	if log.ids == idsUpstream {
		return c.beginningByID(asked)
	}
	cursor, ok := eventlog.ParseCursor(asked)
	state := eventlog.Unknown
	if ok {
		b.next, state = log.after(cursor)
	}
	switch state {
	case eventlog.Known:
		if cursor.Time == 0 && log.values.kept() { // that of a gap, see appendGap
			b.gap, b.missed = gapExpired, new(uint64)
		}
		return b, true
	case eventlog.Expired:
		if !c.hasLost(cursor.Offset+1, b.next) {
			return b, true
		}
		missed := b.next - cursor.Offset - 1
		b.gap, b.missed = gapExpired, &missed
		return b, true
	case eventlog.Ahead:
		// Another node may have given it, which is ahead of this one.
		if c.ahead = log.shared() && monotonic(now) < c.waitUntil; c.ahead {
			return b, false
		}
	case eventlog.Unknown:
	}
	b.gap = gapUnknown
	if ok && cursor.Time <= now.Add(clockSkew).UnixMilli() {
		b.next, _, ok = c.since(cursor.Time - clockSkew.Milliseconds())
		return b, ok
	}
	b.next, ok = c.startPosition()
	return b, ok
}

// ask has the client woken when a question is answered. False: it will not be,
// since what is not in memory cannot be had any more.
func (c *client) ask(q olderQuestion) bool {
	if !c.asking {
		c.questions++
		q.client, q.number = c, c.questions
		c.asking = c.at.log.durable.older.ask(q)
	}
	return c.asking
}

// answer gives the client an answer, and wakes it. Any goroutine may call it.
func (c *client) answer(a *olderAnswer) {
	for {
		newest := c.older.Load()
		if newest != nil && newest.number > a.number {
			return // that of a log which the client has left
		}
		if c.older.CompareAndSwap(newest, a) {
			break
		}
	}
	c.sub.wake()
}

// answered returns the answer to the client's question, once; nil if there is
// none yet.
func (c *client) answered() *olderAnswer {
	a := c.older.Swap(nil)
	if a == nil || !c.asking || a.number != c.questions {
		return nil
	}
	c.asking = false
	return a
}

// askNoMore takes the client's question back.
func (c *client) askNoMore() {
	if c.asking {
		c.asking = false
		c.at.log.durable.older.forget(c)
	}
}

// goOnOlder has the client read at its position where memory no longer holds the
// event there. wait: it is woken when the event has been read. evicted: nobody
// has it any more.
func (c *client) goOnOlder() (wait, evicted bool) {
	log, next := c.at.log, c.at.reader.Position()
	if log.durable == nil || log.ended.Load() {
		return false, true
	}
	if a := c.answered(); a != nil && a.run != nil && c.at.reader.ReadRun(a.run) {
		return false, false
	}
	if next < log.first() {
		c.askNoMore()
		return false, true
	}
	if !c.ask(olderQuestion{offset: next}) {
		return false, true
	}
	return true, false
}

// hasLost reports whether an event for the client may be among those from one
// offset on and before another, which nobody has any more.
func (c *client) hasLost(from, first uint64) bool {
	if c.view == nil {
		return from < first
	}
	log := c.at.log
	if log.durable != nil {
		log.memory.GoneBefore(first)
	}
	lost, _ := log.memory.Evicted(from, first, c.view.mayWant)
	return lost != 0
}

// passEvicted has a filtered client go on at the oldest event in memory, if none
// for it was evicted from there since its position. It reports whether the client
// has moved.
func (c *client) passEvicted() bool {
	at, tail := c.at.reader.Position(), c.at.log.memory.Tail()
	if c.view == nil || at >= tail || at <= c.evictedAt {
		return false
	}
	if c.evictedAt, _ = c.at.log.memory.Evicted(at, tail, c.view.mayWant); c.evictedAt != 0 {
		return false
	}
	return c.at.reader.SkipTo(tail) > 0
}

// beginningByID begins after the event with the upstream's id. To a client that may
// not see the event, its id is unknown. False: where else is being asked for.
func (c *client) beginningByID(asked string) (b beginning, ok bool) {
	next, ok := c.at.log.afterID(asked)
	switch {
	case c.view.protects():
		ok = ok && c.mayKnow(next-1)
	case !ok && c.hub.inputs.beginsAfter(asked) && c.at.log.first() == 1:
		// Everything in the log came after that id.
		next, ok = 1, true
	}
	if !ok {
		b.gap = gapUnknown
		b.next, ok = c.startPosition()
		return b, ok
	}
	return beginning{next: next}, true
}

// mayKnow reports whether an event in memory is one that the client may see.
func (c *client) mayKnow(offset uint64) (visible bool) {
	_, err := c.at.log.memory.NewReader(offset).Scan(1, func(found uint64, tag uint32, stored []byte) {
		visible = found == offset && c.view.wants(tag, stored)
	})
	return visible && err == nil
}

// idAt returns the id of a client that has everything before its position; empty
// if there is none, or none is known yet.
func (c *client) idAt(now time.Time) string {
	if !c.at.log.ready() {
		return ""
	}
	switch c.at.log.ids {
	case idsStream:
		return c.at.reader.Cursor(now).String()
	case idsUpstream:
		if c.view.protects() {
			return "" // it may be that of an event which the client may not see
		}
		return c.at.log.idBefore(c.at.reader.Position())
	}
	return ""
}

// requestedPosition is the cursor that a client comes with; the header wins. A
// text that cannot be a cursor is regarded as one of an unknown epoch. It
// shares no memory with the request: the hub may keep it for longer.
func requestedPosition(r *http.Request) string {
	asked := r.Header.Get("Last-Event-ID")
	if asked == "" {
		query := r.URL.Query()
		if asked = query.Get("lastEventId"); asked == "" {
			asked = query.Get("last_event_id")
		}
	}
	if len(asked) > maxPosition {
		return noPosition
	}
	return strings.Clone(asked)
}

// startPosition is where a client without a cursor begins, and without a time of
// its own. False: that is being asked for.
func (c *client) startPosition() (next uint64, ok bool) {
	start := c.settings.start
	switch start {
	case startLive, startValues:
		return c.at.log.memory.Head() + 1, true
	case startOldest:
		return c.at.log.first(), true
	}
	if last, ok := start.duration(); ok {
		// as of when it came, so that the same is asked for in the next turn
		next, _, ok = c.since(c.sub.since - last.Milliseconds())
		return next, ok
	}
	n, _ := start.events() // validated at load
	return c.at.log.last(n), true
}

// The reasons of a gap.
const (
	gapExpired = "expired"
	gapUnknown = "unknown"
)

// gapData is the data of a fanin.gap event.
type gapData struct {
	Reason  string  `json:"reason"`
	Missed  *uint64 `json:"missed"`
	Resumed *string `json:"resumed"`
	State   *int    `json:"state,omitempty"` // of a stream that keeps last values: how many follow
}

// appendGap appends the event for a gap, with an id that makes the client's
// next reconnect good. state is how many last values follow it; nil if the stream keeps
// none.
//
// A client whose connection fails before it has got any of them comes back with that
// id, and must not go without them. So the id carries no time, which tells it from that
// of an event. An upstream's id cannot tell that: such a gap has none, and leaves the client
// with the position that has led to it.
func (c *client) appendGap(dst []byte, why string, missed *uint64, state *int) []byte {
	c.countGap(why, missed)
	gap := gapData{Reason: why, Missed: missed, State: state}
	if c.view.protects() {
		gap.Missed = nil // most of them may be those of others
	}
	ev := sse.Event{Type: []byte(controlPrefix + "gap")}
	resumed := c.idAt(time.Now())
	if c.values != nil && c.at.log.ids == idsStream {
		cursor := c.at.reader.Cursor(time.Now())
		cursor.Time = 0
		resumed = cursor.String()
	}
	if resumed != "" {
		gap.Resumed = &resumed
		if c.values == nil || c.at.log.ids == idsStream {
			ev.ID = []byte(resumed)
		}
	}
	ev.Data, _ = json.Marshal(gap) // strings and numbers cannot fail
	return sse.AppendEvent(dst, &ev)
}
