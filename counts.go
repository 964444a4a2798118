package ssefanin

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Events are counted where they happen, in plain atomics on the objects that
// outlive configurations: a source counts its receipts, a stream its
// deliveries. Metrics, admin API and status page read them.

// endReasons are all there are, in the order of their counters.
var endReasons = []endReason{
	endClient, endTimeout, endSlow, endAge, endRemoved, endReload, endDrained, endExit,
}

// gapReasons are all there are, in the order of their counters.
var gapReasons = []string{gapExpired, gapUnknown}

const (
	maxEndReasons = 16 // room for endReasons

	// shownID is how much of an upstream's last event id is shown, in bytes:
	// it is as long as the upstream likes.
	shownID = 256
)

// streamCounts are the counts of a stream; the keys of a keyed stream share
// one.
//
// Safe for concurrent use.
type streamCounts struct {
	clients  atomic.Uint64 // that were served
	ends     [maxEndReasons]atomic.Uint64
	events   atomic.Uint64 // delivered, replayed ones included
	bytes    atomic.Uint64 // written to clients, heartbeats included
	replayed atomic.Uint64 // events from before the client came
	gaps     [2]atomic.Uint64
	values   atomic.Uint64 // last values that were dropped by their bounds
	refused  refusals
	delay    delays

	mu sync.Mutex // protects the fields below; taken last
	// left are the counts of sources that the stream has left, by counted
	// name: an upstream's count goes on when its source is another one.
	left map[string]upstreamCounts
	// reported are the counts that were reported last, by counted name. Keys
	// come and go while their counts are added up; a reported count never
	// falls.
	reported map[string]upstreamCounts
}

func newStreamCounts() *streamCounts {
	return &streamCounts{left: make(map[string]upstreamCounts), reported: make(map[string]upstreamCounts)}
}

// countEnd counts a client that was served, once, by why it ended.
func (c *streamCounts) countEnd(why endReason) {
	if i := slices.Index(endReasons, why); i >= 0 {
		c.ends[i].Add(1)
	}
}

// gap counts a gap sent to a client.
func (c *streamCounts) gap(why string) {
	if i := slices.Index(gapReasons, why); i >= 0 {
		c.gaps[i].Add(1)
	}
}

// addLeft adds the counts of a source that the stream leaves.
func (c *streamCounts) addLeft(name string, n upstreamCounts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n.combine(c.left[name], plus)
	c.left[name] = n
}

// before returns the counts of the sources that were left.
func (c *streamCounts) before() map[string]upstreamCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.left)
}

// ratchet returns the counts, none of them less than was reported before.
func (c *streamCounts) ratchet(name string, n upstreamCounts) upstreamCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	n.combine(c.reported[name], most)
	c.reported[name] = n
	return n
}

// keep forgets the upstreams that are no longer configured.
func (c *streamCounts) keep(names map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, counts := range []map[string]upstreamCounts{c.left, c.reported} {
		maps.DeleteFunc(counts, func(name string, _ upstreamCounts) bool { return !names[name] })
	}
}

// delayBounds are the buckets of delays, in milliseconds: arrivals are known
// to the millisecond.
var delayBounds = [...]int64{1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000}

// delays is a histogram. Safe for concurrent use.
type delays struct {
	buckets [len(delayBounds) + 1]atomic.Uint64 // not cumulative; the last is for delays beyond the bounds
	sum     atomic.Int64                        // milliseconds
}

// observe counts one delay.
func (d *delays) observe(ms int64) {
	i := 0
	for i < len(delayBounds) && ms > delayBounds[i] {
		i++
	}
	d.buckets[i].Add(1)
	d.sum.Add(ms)
}

// delayCounts is a histogram as it was at a time.
type delayCounts struct {
	buckets [len(delayBounds) + 1]uint64
	sum     int64
}

// load returns the histogram. A delay observed meanwhile may be in a part of
// it.
func (d *delays) load() (n delayCounts) {
	for i := range d.buckets {
		n.buckets[i] = d.buckets[i].Load()
	}
	n.sum = d.sum.Load()
	return n
}

func (n *delayCounts) add(other delayCounts) {
	for i := range n.buckets {
		n.buckets[i] += other.buckets[i]
	}
	n.sum += other.sum
}
