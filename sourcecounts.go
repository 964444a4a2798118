package ssefanin

import (
	"slices"
	"sync/atomic"
	"time"
)

// reasons are all there are, in the order of their counters.
var reasons = []reason{
	reasonEOF, reasonError, reasonHeadTimeout, reasonIdle, reasonStatus, reasonType, reasonFinished,
	reasonRedirect, reasonRequest, reasonRefusedID, reasonClosed, reasonRemoved,
	reasonCertificate, reasonTLS, reasonUnknownHost,
}

const maxReasons = 16 // room for reasons; a test keeps it

// reasonWords are what is said where a reason has no error of its own.
var reasonWords = map[reason]string{
	reasonFinished:    "it answered 204, which is that nothing more is to come",
	reasonEOF:         "the upstream ended the stream",
	reasonError:       "the connection failed",
	reasonHeadTimeout: "no answer in time",
	reasonIdle:        "nothing came for the idle_timeout",
	reasonStatus:      "it answered with a status other than 200",
	reasonType:        "it answered with something else than an event stream",
	reasonRedirect:    "it redirected to where it may not",
	reasonRequest:     "the request could not be made",
	reasonRefusedID:   "it refused the last event id",
}

// sourceCounts are the counts of a source, over all its replicas.
//
// Safe for concurrent use.
type sourceCounts struct {
	connects    atomic.Uint64 // answers that were a stream
	disconnects atomic.Uint64 // ends of such streams
	ends        [maxReasons]atomic.Uint64
	events      atomic.Uint64 // received, duplicates included
	bytes       atomic.Uint64 // received, comments included
	tooLarge    atomic.Uint64 // events skipped by max_event_size
	duplicates  atomic.Uint64 // sent again, or had from another replica

	lastEvent atomic.Int64 // arrival, Unix ms; 0: never
	lastEnd   atomic.Pointer[lastEnd]
}

// lastEnd is how the last attempt or connection ended.
type lastEnd struct {
	reason reason
	text   string // more about it, or empty
	status int    // of the response, if that was the reason
	hint   string // what to look at; text has it at its end
	at     time.Time
}

// countEnd counts an attempt that has ended.
func (c *sourceCounts) countEnd(end ending) {
	if end.wasUp {
		c.disconnects.Add(1)
	}
	if i := slices.Index(reasons, end.reason); i >= 0 {
		c.ends[i].Add(1)
	}
	if end.reason == reasonClosed {
		return // by us; not the upstream's
	}
	c.lastEnd.Store(&lastEnd{reason: end.reason, text: end.detail(), status: end.status, hint: end.hint, at: time.Now()})
}

// load returns the counts. Counts that are raised together may differ by an
// event in progress.
func (c *sourceCounts) load() upstreamCounts {
	n := upstreamCounts{
		connects:    c.connects.Load(),
		disconnects: c.disconnects.Load(),
		events:      c.events.Load(),
		bytes:       c.bytes.Load(),
		tooLarge:    c.tooLarge.Load(),
		duplicates:  c.duplicates.Load(),
	}
	for i := range n.ends {
		n.ends[i] = c.ends[i].Load()
	}
	return n
}

// upstreamCounts are the counts of an upstream of one stream.
type upstreamCounts struct {
	connects, disconnects, events, bytes uint64
	tooLarge, unwanted, duplicates       uint64
	ends                                 [maxReasons]uint64 // by number of the reason
}

// combine applies f to each pair of counts.
func (n *upstreamCounts) combine(other upstreamCounts, f func(a, b uint64) uint64) {
	n.connects = f(n.connects, other.connects)
	n.disconnects = f(n.disconnects, other.disconnects)
	n.events = f(n.events, other.events)
	n.bytes = f(n.bytes, other.bytes)
	n.tooLarge = f(n.tooLarge, other.tooLarge)
	n.unwanted = f(n.unwanted, other.unwanted)
	n.duplicates = f(n.duplicates, other.duplicates)
	for i := range n.ends {
		n.ends[i] = f(n.ends[i], other.ends[i])
	}
}

func plus(a, b uint64) uint64  { return a + b }
func minus(a, b uint64) uint64 { return a - b }
func most(a, b uint64) uint64  { return max(a, b) }
