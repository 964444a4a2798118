package ssefanin

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
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
)

// clientPosition is where a client reads. The log is replaced by
// audience.switchLog, since any goroutine may read the lag; all else is the
// client's.
type clientPosition struct {
	log    *streamLog // nil until the head is written
	reader logReader
}

// seek has the client read from the event at next.
func (p *clientPosition) seek(next uint64) {
	p.reader.seek(p.log, next)
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
	if head, at := p.log.Head(), p.reader.Position(); at <= head {
		n = head + 1 - at
	}
	for log := p.log.next.Load(); log != nil; log = log.next.Load() {
		n += log.Head()
	}
	return n
}

// switchLog has the client read a log, from the event at next.
func (c *client) switchLog(log *streamLog, next uint64) { c.hub.audience.switchLog(&c.at, log, next) }

// position finds where the client begins, makes its reader, and appends the
// position, and the gap before it if there is one, to the head. Called once, in
// the first turn.
func (c *client) position(asked string, now time.Time) {
	log := c.hub.log.Load()
	log.Expire(now)
	c.sent.head = log.Head() // later events are no replay
	c.switchLog(log, c.sent.head+1)
	defer func() { c.sentPosition = c.at.reader.Position() }()
	if asked == "" || !c.at.log.resumable() {
		next := c.startPosition()
		c.at.seek(next)
		c.prime(next, now)
		return
	}
	if c.at.log.ids == idsUpstream {
		c.positionByID(asked)
		return
	}
	cursor, ok := eventlog.ParseCursor(asked)
	var next uint64
	state := eventlog.Unknown
	if ok {
		next, state = c.at.log.After(cursor)
	}
	switch state {
	case eventlog.Known:
		c.at.seek(next)
	case eventlog.Expired:
		c.at.seek(next)
		missed := next - cursor.Offset - 1
		c.buf = c.appendGap(c.buf, gapExpired, &missed)
	default:
		next = c.startPosition()
		if ok && cursor.Time <= now.Add(clockSkew).UnixMilli() {
			next = c.at.log.Since(cursor.Time - clockSkew.Milliseconds())
		}
		c.at.seek(next)
		c.buf = c.appendGap(c.buf, gapUnknown, nil)
	}
}

// positionByID resumes after the event with the upstream's id.
func (c *client) positionByID(asked string) {
	next, ok := c.at.log.afterID(asked)
	if !ok && c.hub.inputs.beginsAfter(asked) && c.at.log.Tail() == 1 {
		// Everything in the log came after that id.
		next, ok = 1, true
	}
	if !ok {
		next = c.startPosition()
	}
	c.at.seek(next)
	if !ok {
		c.buf = c.appendGap(c.buf, gapUnknown, nil)
	}
}

// idAt returns the id of a client that has everything before next; empty if
// there is none.
func (c *client) idAt(next uint64, now time.Time) string {
	switch c.at.log.ids {
	case idsStream:
		return c.at.log.CursorBefore(next, now).String()
	case idsUpstream:
		return c.at.log.idBefore(next)
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

// startPosition is where a client without a cursor begins.
func (c *client) startPosition() uint64 {
	switch c.settings.start {
	case startLive:
		return c.at.log.Head() + 1
	case startOldest:
		return c.at.log.Tail()
	}
	n, _ := strconv.ParseUint(string(c.settings.start), 10, 63) // validated at load
	return c.at.log.Last(n)
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
}

// appendGap appends the event for a gap, with an id that makes the client's
// next reconnect good.
func (c *client) appendGap(dst []byte, why string, missed *uint64) []byte {
	c.countGap(why, missed)
	gap := gapData{Reason: why, Missed: missed}
	ev := sse.Event{Type: []byte(controlPrefix + "gap")}
	if resumed := c.idAt(c.at.reader.Position(), time.Now()); resumed != "" {
		gap.Resumed = &resumed
		ev.ID = []byte(resumed)
	}
	ev.Data, _ = json.Marshal(gap) // strings and numbers cannot fail
	return sse.AppendEvent(dst, &ev)
}
