package ssetest

import (
	"net/http"
	"slices"
	"time"
)

// maxRequests bounds the record of requests: a client in a hot loop must not
// take the test's memory (about 1 KiB each, 10 MiB in all).
const maxRequests = 10_000

// Request is one request an Origin received.
type Request struct {
	Time   time.Time
	Method string
	Host   string
	Path   string
	Query  string // raw
	Proto  string
	Remote string
	Header http.Header
}

// LastEventID is the request's Last-Event-ID and whether there is one.
func (r Request) LastEventID() (string, bool) {
	v, ok := r.Header["Last-Event-Id"]
	if !ok || len(v) == 0 {
		return "", ok
	}
	return v[0], true
}

// recordLocked appends a request; beyond maxRequests the oldest half goes.
func (o *Origin) recordLocked(r *http.Request) {
	if len(o.requests) >= maxRequests {
		o.requests = slices.Delete(o.requests, 0, maxRequests/2)
	}
	o.requests = append(o.requests, Request{
		Time:   time.Now(),
		Method: r.Method,
		Host:   r.Host,
		Path:   r.URL.Path,
		Query:  r.URL.RawQuery,
		Proto:  r.Proto,
		Remote: r.RemoteAddr,
		Header: r.Header.Clone(),
	})
	o.total++
}

// Requests returns the requests so far, the newest 10,000 at most.
func (o *Origin) Requests() []Request {
	o.mon.Lock()
	defer o.mon.Unlock()
	return slices.Clone(o.requests)
}

// LastEventIDs returns the Last-Event-ID of every request, "" where there is
// none.
func (o *Origin) LastEventIDs() []string {
	requests := o.Requests()
	ids := make([]string, len(requests))
	for i, r := range requests {
		ids[i], _ = r.LastEventID()
	}
	return ids
}

// Connections is the number of requests being served now, see WaitConnections.
func (o *Origin) Connections() int {
	o.mon.Lock()
	defer o.mon.Unlock()
	return o.servingLocked()
}

func (o *Origin) servingLocked() int {
	n := 0
	for c := range o.conns {
		if c.end == endNone {
			n++
		}
	}
	return n
}

// TotalConnections is the number of requests received so far.
func (o *Origin) TotalConnections() int {
	o.mon.Lock()
	defer o.mon.Unlock()
	return o.total
}

// Accepts is the number of transport connections accepted so far, including
// ones closed at once.
func (o *Origin) Accepts() int {
	o.mon.Lock()
	defer o.mon.Unlock()
	return o.accepts
}

// Overruns is the number of events that a connection could not be sent
// because the history no longer held them: losses that are the origin's own.
func (o *Origin) Overruns() uint64 {
	o.mon.Lock()
	defer o.mon.Unlock()
	return o.overruns
}
