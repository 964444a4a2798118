package ssetest

import (
	"net/http"
	"strconv"
)

// FaultKind is what an Origin does to a connection instead of serving events.
type FaultKind int

const (
	// CloseOnAccept closes transport connections as they are accepted.
	CloseOnAccept FaultKind = iota + 1
	// Drop reads the request and closes the connection without an answer.
	Drop
	// Hang reads the request and never answers.
	Hang
	// EndAtOnce answers as usual, head and replay included, and ends cleanly.
	EndAtOnce
	// Respond answers with Status, Header and Body.
	Respond
	// Wire writes Body as it is, head included, and closes; with Hold it keeps
	// the connection open. HTTP/1.1 only.
	Wire
	// Endless answers as usual and writes Body (default "data: "), then one
	// line without end at BytesPerSecond.
	Endless
	// Override calls Handler.
	Override
)

// Fault applies to requests that come after it was set; connections that are
// open stay as they are (see CutConnections).
type Fault struct {
	Kind FaultKind

	// Number of connections it applies to. Default: 0, all until Clear.
	Times int

	Status  int          // Respond
	Header  http.Header  // Respond
	Body    []byte       // Respond, Wire, Endless
	Hold    bool         // Wire
	Handler http.Handler // Override

	// Endless: default 0, as fast as the client reads.
	BytesPerSecond int
}

// Resume is what an Origin does with Last-Event-ID.
type Resume int

const (
	// Honour replays everything after it. An id that is unknown, or of an
	// event to come, is ignored. The default.
	Honour Resume = iota
	// LiveOnly ignores it: no replay.
	LiveOnly
	// ReplayAll ignores it and replays the whole history on every connection.
	ReplayAll
)

// Inject sets the fault for coming connections; it replaces an earlier one.
func (o *Origin) Inject(f Fault) {
	o.mon.Lock()
	defer o.mon.Unlock()
	o.fault = &f
}

// Clear ends the fault: coming connections are served events.
func (o *Origin) Clear() {
	o.mon.Lock()
	defer o.mon.Unlock()
	o.fault = nil
}

// takeFaultLocked returns the fault for a connection that was just accepted,
// or for a request, and uses up one of its times.
func (o *Origin) takeFaultLocked(accepting bool) *Fault {
	f := o.fault
	if f == nil || (f.Kind == CloseOnAccept) != accepting {
		return nil
	}
	if f.Times > 0 {
		if f.Times--; f.Times == 0 {
			o.fault = nil
		}
	}
	return f
}

// RespondWith answers coming requests with a fixed response.
func (o *Origin) RespondWith(status int, header http.Header, body string) {
	o.Inject(Fault{Kind: Respond, Status: status, Header: header, Body: []byte(body)})
}

// Redirect answers coming requests with a redirect.
func (o *Origin) Redirect(status int, location string) {
	o.RespondWith(status, http.Header{"Location": {location}}, "")
}

// Handle answers coming requests with h.
func (o *Origin) Handle(h http.Handler) { o.Inject(Fault{Kind: Override, Handler: h}) }

// Stall keeps connections open and sends nothing; with false everything that
// was held back is sent. New connections get a response head and nothing else.
func (o *Origin) Stall(on bool) {
	o.mon.Lock()
	defer o.mon.Unlock()
	o.stalled = on
	o.mon.signalLocked()
}

// CutEvery closes, at every n-th event, every connection that sees it live,
// somewhere inside the bytes of that event. A connection that replays the
// event later gets it whole. 0 is off.
func (o *Origin) CutEvery(n uint64) {
	o.mon.Lock()
	defer o.mon.Unlock()
	o.cutEvery = n
}

// CutConnections closes the transport of every open connection now, between
// two events.
func (o *Origin) CutConnections() {
	o.mon.Lock()
	conns := o.openLocked()
	for _, c := range conns {
		c.endLocked(endCut)
	}
	o.mon.signalLocked()
	o.mon.Unlock()
	for _, c := range conns {
		c.abort()
	}
}

// EndConnections ends every open response cleanly: terminating chunk or
// END_STREAM.
func (o *Origin) EndConnections() {
	o.mon.Lock()
	defer o.mon.Unlock()
	for c := range o.conns {
		c.endLocked(endClean)
	}
	o.mon.signalLocked()
}

// SetResume changes what coming connections get for their Last-Event-ID.
func (o *Origin) SetResume(r Resume) {
	o.mon.Lock()
	defer o.mon.Unlock()
	o.resume = r
}

// SetOverlap makes every replay begin k events too early, as servers do that
// resume at a checkpoint.
func (o *Origin) SetOverlap(k int) {
	o.mon.Lock()
	defer o.mon.Unlock()
	o.overlap = k
}

// SetIDs changes the ids of coming events; n counts events from 1 and an empty
// id is left out. Nil restores the decimal numbers. It is called with a lock
// held: it must not call the origin.
func (o *Origin) SetIDs(id func(n uint64) string) {
	o.mon.Lock()
	defer o.mon.Unlock()
	o.ids = id
}

// RepeatIDs gives k events in a row the same id; with 0 all have the same.
func (o *Origin) RepeatIDs(k uint64) {
	o.SetIDs(func(n uint64) string {
		if k == 0 {
			return "same"
		}
		return strconv.FormatUint((n-1)/k+1, 10)
	})
}
