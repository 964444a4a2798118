package ssefanin

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

const (
	// maxWrite is the most that is written to a client at once, in bytes. A
	// client has the write timeout for that much.
	maxWrite = 64 << 10

	// exitTimeout is the write deadline when the process exits.
	exitTimeout = time.Second

	// hardMargin is how long before a hard deadline of the server's a stream
	// ends by itself, so that the client sees an end and no error. Where that
	// would leave little of the stream, it is a quarter of the time there is.
	hardMargin = time.Second
)

// client writes a stream to one connected client, a turn at a time (see
// writers). From when the hub knows its subscriber to when that has left, it
// belongs to the writer whose turn it is; before and after, to the goroutine of
// the request, which waits in between.
type client struct {
	// Fields used for each event lie together: most of a turn's own time goes
	// into fetching them from memory.
	out          output
	hub          *hub
	settings     *clientSettings
	view         *view // nil: everything
	at           clientPosition
	stateVersion uint64 // of the source states that were sent last
	sent         sent   // to this client so far
	sub          subscriber

	logger       *zap.Logger  // of its handler, unless it is detached
	ended        endReason    // empty until it is
	buf          []byte       // scratch for output that is not in the log
	sentStates   *stateReport // the report sent last; nil: none
	sentPosition uint64       // of the reader when the client last got an id
	panics       any          // the value of a panic between us and the connection
	primed       bool         // it may get an id without an event, see ClientSettings.Prime
	placed       bool         // it reads the log; before, it waits for its position
	ahead        bool         // its position is beyond the log, which is to get there
	waited       bool         // it has waited for its position for as long as it is to
	toldGap      bool         // it was sent a gap before its position was known
	asking       bool         // it waits for an answer, see older
	from         int64        // what arrived from then on is wanted, unless it comes with a position, Unix ms; 0: start counts
	hasValues    bool         // it has got the last values of its log before
	waitUntil    int64        // how long it waits for its position without a gap, monotonic ns

	// older is the newest answer about events that memory no longer holds, and
	// questions how many there were. begin is where the client begins to read, while
	// the events there are asked for; nil: that is not known yet.
	older     atomic.Pointer[olderAnswer]
	questions uint64
	begin     *beginning

	values *valueDelivery // the last values that it is to get before events; nil: none

	evictedAt uint64 // the newest event for its view that was found to be evicted from memory
}

// serveStream answers a request with the stream until the client, the stream
// or the process ends. The header is written in any case: from there on,
// nothing may be reported but by the stream itself.
func serveStream(w http.ResponseWriter, r *http.Request, svc *service) error {
	settings := svc.settings
	visible, err := settings.only.choiceOf(r)
	if err != nil {
		return svc.forbidden(w, r, err)
	}
	from, err := requestedSince(r)
	if err != nil {
		return svc.badRequest(w, r, err)
	}
	h, err := svc.def.stream(r)
	if err != nil {
		return refuse(w, r, svc, err)
	}
	wanted, err := h.scopeOf(r, visible, settings.filters)
	if err != nil {
		h.endUnused()
		return svc.badRequest(w, r, err)
	}
	c := newClient(h, svc, w, r)
	c.from = from
	if wanted != nil {
		c.view = newView(wanted, h.tags)
	}
	if err := h.audience.subscribe(&c.sub); err != nil {
		if errors.Is(err, errGone) && h.keyed != nil && !caddy.Exiting() {
			return serveStream(w, r, svc) // it ended just now; the key gets another
		}
		h.endUnused()
		return refuse(w, r, svc, err)
	}
	stop := context.AfterFunc(r.Context(), c.sub.lost)
	defer stop()
	if detached := c.sub.wait(); detached {
		return nil // nothing of the client is ours any more
	}
	c.leave()
	c.logSent(r)
	if c.panics != nil {
		panic(c.panics) // where the server expects it
	}
	return nil
}

// newClient returns the client of a request, not subscribed yet.
func newClient(h *hub, svc *service, w http.ResponseWriter, r *http.Request) *client {
	c := &client{hub: h, settings: svc.settings, logger: svc.logger, primed: svc.settings.primes(r)}
	c.sub.init(c, w, r)
	c.out = newResponseOutput(&c.sub, svc, w, r)
	return c
}

// refuse answers a client that gets no stream.
func refuse(w http.ResponseWriter, r *http.Request, svc *service, err error) error {
	svc.def.refused(err)
	settings := svc.settings
	wait := rand.N(fullWaitMax-fullWaitMin+1) + fullWaitMin
	var bad *keyError
	switch {
	case errors.As(err, &bad):
		return svc.badRequest(w, r, err)
	case errors.Is(err, errTooManyStreams), errors.Is(err, errFull) && settings.whenFull == fullReject:
		w.Header().Set("Retry-After", strconv.Itoa(int(wait/time.Second)))
		return svc.unavailable(w, err)
	}
	// EventSource never comes back from any other status
	writeHeader(w)
	if errors.Is(err, errGone) {
		wait = settings.drawRetry()
	}
	_, _ = w.Write(sse.AppendRetry(nil, wait)) // without a blank line it is no message
	_ = http.NewResponseController(w).Flush()
	return nil
}

// The range of the waits sent to clients that find the stream full.
const (
	fullWaitMin = 30 * time.Second
	fullWaitMax = 90 * time.Second
)

func (s *clientSettings) drawRetry() time.Duration {
	return s.retryMin + rand.N(s.retryMax-s.retryMin+1)
}

// turn serves the client with one write at most, so that one that is far behind
// takes turns with all others. now is the time, after the time of its end, f the
// buffer of the writer. more: there was more to do already. last: the stream is at
// its end. One writer at a time calls it.
func (c *client) turn(now time.Time, f *frame) (after time.Time, more, last bool) {
	defer func() {
		if value := recover(); value != nil {
			c.caught(value)
			after, more, last = time.Now(), false, true
		}
	}()
	begins := c.at.log == nil
	why, ended := c.sub.endDue(now)
	if ended && !begins { // the head is written in any case
		c.ended = why
		return now, false, true
	}
	p, events, err := c.nextWrite(now)
	switch {
	case err != nil:
		c.ended = endSlow
		return now, false, true
	case len(p) == 0:
		return now, c.behind(), false // it may have looked at much that it does not want
	}
	if after, why = c.write(f, p, events, now); why != "" {
		c.ended = why
		return after, false, true
	}
	c.valuesWritten()
	if begins {
		c.out = c.out.next()
	}
	return after, ended || c.behind(), false
}

// nextWrite returns the next bytes to write: the head, events, or others that
// are not in the log. events is the number of events of the log; if there are
// any, the bytes are the log's own, and never change. The error is that of a
// client that was overtaken, and is not to go on.
func (c *client) nextWrite(now time.Time) (p []byte, events int, err error) {
	if c.at.log == nil {
		c.makeHead(now)
		head := c.buf
		c.buf = nil // clients that only get events need no buffer
		return head, 0, nil
	}
	c.buf = c.buf[:0]
	switch {
	case !c.placed:
		c.place(now)
	case c.values != nil:
		if p, err = c.nextValues(now); p != nil || err != nil || c.values != nil {
			return p, 0, err
		}
	default:
		if p, events, err = c.events(); p != nil || err != nil {
			return p, events, err
		}
	}
	if c.stateVersion != c.hub.states.version.Load() {
		c.appendStates(now)
	}
	if monotonic(now) >= c.sub.beat.Load() {
		c.appendHeartbeat(now)
	}
	return c.buf, 0, nil
}

// behind reports whether there is something to write of which the client may
// not be notified again.
func (c *client) behind() bool {
	if c.stateVersion != c.hub.states.version.Load() {
		return true
	}
	if !c.placed || c.asking {
		return false // it is woken
	}
	if c.values != nil {
		return true
	}
	if _, events, known := c.judged(); known && c.at.log.next.Load() == nil {
		return events > 0
	}
	next := c.at.log.following()
	return c.at.reader.Position() <= c.at.log.memory.Head() || next != nil && next.ready()
}

// makeHead makes the head: the position, and the gap before it if there is one.
// Its first lines belong to the block that comes next: ended by a blank line,
// they would be an empty message to several clients.
func (c *client) makeHead(now time.Time) {
	c.out.begin()
	c.buf = sse.AppendRetry(c.buf[:0], c.settings.drawRetry())
	c.buf = sse.AppendComment(c.buf, "sse_fanin")
	c.waitUntil = monotonic(now) + int64(positionWait)
	c.place(now)
	c.appendStates(now)
}

// appendHeartbeat appends a comment, without the blank line that several
// clients take for the end of an empty event. A filtered client that got
// nothing while the stream went on gets its position with it, if it may be
// primed, so that a resume need not search events it has no interest in, or
// find them gone.
func (c *client) appendHeartbeat(now time.Time) {
	c.buf = append(c.buf, ":\n"...)
	if at := c.at.reader.Position(); c.placed && c.view != nil && at != c.sentPosition && c.at.log.resumable() {
		c.prime(at, now)
	}
}

// prime appends a block with an id and no data, if the client may get one. It
// fires nothing, but gives the client a position: should its connection fail
// before the next event, it still misses nothing.
func (c *client) prime(next uint64, now time.Time) {
	if !c.primed {
		return
	}
	c.sentPosition = next
	if id := c.idAt(now); id != "" {
		c.buf = append(sse.AppendID(c.buf, id), '\n')
	}
}

// judged returns where the client's next event is; see view.next. For a client
// without a view, that is not known.
func (c *client) judged() (next uint64, events int, known bool) {
	if c.view == nil {
		return 0, 0, false
	}
	return c.view.next(c.hub.audience.views.at.Load(), c.at.log, c.at.reader.Position())
}

// lag returns how many events the client has still to get. The audience's mu is
// held.
func (c *client) lag() uint64 {
	if c.at.log != nil {
		if _, events, known := c.judged(); known && c.at.log.next.Load() == nil {
			return uint64(events)
		}
	}
	return c.at.lag()
}

// wants reports whether the client is to get an event that is stored under a tag.
func (c *client) wants(tag uint32, stored []byte) bool {
	return c.view == nil || c.view.wants(tag, stored)
}

// nextEvents returns the events to write next, as the log has them.
func (c *client) nextEvents() (chunk []byte, events int, err error) {
	if c.view == nil {
		return c.at.reader.Next(maxWrite)
	}
	if next, events, known := c.judged(); known {
		c.at.reader.SkipTo(next)
		if events == 0 && c.at.log.next.Load() == nil {
			return nil, 0, nil // it is woken when there is something for it
		}
	}
	chunk, events, err = c.at.reader.NextMatching(maxWrite, c.view.wants)
	if chunk != nil {
		c.sentPosition = c.at.reader.Position()
	}
	return chunk, events, err
}

// events returns the events to write next, or the gap before them. Nothing:
// the client has everything.
func (c *client) events() (p []byte, events int, err error) {
	for {
		p, events, err = c.nextEvents()
		switch {
		case p != nil:
			return p, events, nil
		case err != nil:
			if c.passEvicted() {
				continue
			}
			if wait, evicted := c.goOnOlder(); wait || !evicted {
				if wait {
					return nil, 0, nil
				}
				continue
			}
			first := c.at.log.first()
			if !c.hasLost(c.at.reader.Position(), first) {
				c.at.reader.SkipTo(first)
				continue
			}
			p, err = c.skipAhead()
			return p, 0, err
		}
		log := c.at.log.following()
		if log == nil || c.at.reader.Position() <= c.at.log.memory.Head() || !log.ready() {
			return nil, 0, nil // the rest, if there is any, in another turn
		}
		// Another log. The old one gets no more events.
		c.switchLog(log, log.begins.Load())
		c.sent.head = 0
	}
}

// skipAhead has a client that was overtaken go on with the oldest event that can be
// had, and returns the gap. The error is that of one that is to be disconnected.
func (c *client) skipAhead() (p []byte, err error) {
	if c.settings.slow == slowDisconnect {
		return nil, eventlog.ErrOvertaken
	}
	from := c.valuesFrom()
	missed := c.at.reader.SkipTo(c.at.log.first())
	state := c.takeValues(from)
	c.buf = c.appendGap(c.buf[:0], gapExpired, &missed, state)
	return c.buf, nil
}

// write sends a piece that ends at the end of an event, and notes when the
// next heartbeat is due. events is how many events of the log it is.
func (c *client) write(f *frame, p []byte, events int, now time.Time) (after time.Time, why endReason) {
	c.sub.deadline.startWrite(now)
	err := c.out.write(f, p, events > 0)
	c.sub.deadline.endWrite()
	after = time.Now()
	if err != nil {
		if why, ended := c.sub.endDue(after); ended && why != endClient {
			return after, why
		}
		// HTTP/2 resets the stream, which looks like a client that went away.
		if errors.Is(err, os.ErrDeadlineExceeded) || after.Sub(now) >= c.settings.writeTimeout || c.sub.deadline.conn.wasCut() {
			return after, endTimeout
		}
		return after, endClient
	}
	c.countWrite(len(p), events, after)
	if c.settings.heartbeat > 0 {
		c.sub.beat.Store(monotonic(after) + int64(c.settings.heartbeat))
	}
	if c.at.log.durable != nil {
		c.beatByWaiting(after)
	}
	return after, ""
}

// beatByWaiting has the client take a turn when it has waited for its position
// for long enough.
func (c *client) beatByWaiting(now time.Time) {
	beat := int64(never)
	if c.settings.heartbeat > 0 {
		beat = monotonic(now) + int64(c.settings.heartbeat)
	}
	if !c.placed && !c.waited && (c.ahead || !c.at.log.ready()) {
		beat = min(beat, c.waitUntil)
	}
	c.sub.beat.Store(beat)
}

// forgetRequest lets go of what the client has of its request, and of the
// configuration that answered it, but for values.
func (c *client) forgetRequest() {
	c.logger = detachedLogger
	c.sub.asked = strings.Clone(c.sub.asked) // which was a part of the header
}

// leave ends the response, which may block for as long as a write may, and takes
// the client off its stream. It is called once, after the last turn.
func (c *client) leave() {
	defer c.hub.unsubscribe(&c.sub)
	clientWriters.leave()
	exits.look()
	c.hub.counts.countEnd(c.ended)
	c.askNoMore()
	c.returnValues()
	var deadline time.Time
	switch {
	case c.ended == endTimeout || c.panics != nil: // the connection is broken, or the stream reset
	case c.ended == endExit:
		deadline = time.Now().Add(exitTimeout)
	default:
		deadline = time.Now().Add(c.settings.writeTimeout)
	}
	c.out.end(deadline)
	if entry := c.logger.Check(zap.DebugLevel, "client ended"); entry != nil {
		entry.Write(zap.String("stream", c.hub.label), zap.String("reason", string(c.ended)))
	}
}

// caught ends a client whose turn panicked. The goroutine of the request, if it
// waits, panics in turn, for the server, but has not the stack of this one.
func (c *client) caught(value any) {
	c.ended, c.panics = endClient, value
	if value == http.ErrAbortHandler { //nolint:errorlint // it is a value, as for net/http
		return
	}
	c.logger.Error("writing to a client panicked",
		zap.String("stream", c.hub.label), zap.Any("panic", value), zap.Stack("stack"))
}
