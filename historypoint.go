package ssefanin

import (
	"math"
	"strconv"
)

// A historyPoint has one value for each of the columns. Values that were not
// measured are NaN.
type historyPoint [historyColumns]float32

const (
	colIn      = iota // events a second
	colInBytes        // a second
	colOut            // events a second
	colOutBytes
	colP50 // ms
	colP99
	colLag // events, of the client that is furthest behind
	colClients
	colExpired // gaps
	colUnknown
	colRefused // clients
	historyColumns
)

// historyNames are the columns as the page knows them.
var historyNames = [historyColumns]string{
	"in", "in_bytes", "out", "out_bytes", "p50", "p99", "lag", "clients", "gaps_expired", "gaps_unknown", "refused",
}

// historyCounts are counters of a stream at a sample.
type historyCounts struct {
	out, outBytes uint64
	head          uint64 // of the log in memory, if another node receives the events
	recentCounts
	delay delayCounts
}

// recentCounts are the counters that the verdict compares with their values
// recentMinutes ago.
type recentCounts struct {
	expired, unknown           uint64
	full, streams, only, other uint64 // refused clients, by reason
	timeouts, overtaken        uint64 // clients that read too slowly
}

func recentCountsOf(st *streamStatus) recentCounts {
	c := recentCounts{
		expired: st.Gaps.Expired, unknown: st.Gaps.Unknown,
		timeouts: st.Clients.timeouts, overtaken: st.Clients.overtaken,
	}
	for why, n := range st.Clients.Refused {
		switch why {
		case "full":
			c.full = n
		case "streams":
			c.streams = n
		case "only":
			c.only = n
		case "exit": // the process ends, there is nothing to do about it
		default:
			c.other += n
		}
	}
	return c
}

// since returns the counts after an earlier time.
func (c recentCounts) since(before recentCounts) recentCounts {
	return recentCounts{
		expired: grown(before.expired, c.expired), unknown: grown(before.unknown, c.unknown),
		full: grown(before.full, c.full), streams: grown(before.streams, c.streams),
		only: grown(before.only, c.only), other: grown(before.other, c.other),
		timeouts: grown(before.timeouts, c.timeouts), overtaken: grown(before.overtaken, c.overtaken),
	}
}

// refused returns how many clients got no stream.
func (c recentCounts) refused() uint64 { return c.full + c.streams + c.only + c.other }

func noPoint() (p historyPoint) {
	for i := range p {
		p[i] = float32(math.NaN())
	}
	return p
}

// join adds a later point to one: counts are added, of rates it is the mean,
// of all else the higher value.
func (p *historyPoint) join(later historyPoint) {
	for i, b := range later {
		a := p[i]
		switch {
		case a != a:
			p[i] = b
		case b != b:
		case i <= colOutBytes:
			p[i] = (a + b) / 2
		case i >= colExpired:
			p[i] = a + b
		default:
			p[i] = max(a, b)
		}
	}
}

func historyCountsOf(v *streamView) historyCounts {
	c := historyCounts{
		out: v.Delivered.Events, outBytes: v.Delivered.Bytes,
		recentCounts: recentCountsOf(&v.streamStatus), delay: v.delay,
	}
	if log := v.Log.Store; log != nil && log.shared() && !log.Writes {
		c.head = log.MemoryLast
	}
	return c
}

// since returns the delays observed after an earlier time.
func (n delayCounts) since(before delayCounts) delayCounts {
	for i := range n.buckets {
		n.buckets[i] = grown(before.buckets[i], n.buckets[i])
	}
	return n
}

// quantiles returns the median and the 99th percentile in ms, each taken as
// evenly spread within its bucket; no numbers where nothing was observed.
func (n delayCounts) quantiles() (p50, p99 float32) {
	var all uint64
	for _, c := range n.buckets {
		all += c
	}
	return n.quantile(all, .5), n.quantile(all, .99)
}

func (n delayCounts) quantile(all uint64, q float64) float32 {
	if all == 0 {
		return float32(math.NaN())
	}
	rank, below, lower := q*float64(all), 0.0, 0.0
	for i, bound := range delayBounds {
		if in := float64(n.buckets[i]); in > 0 && below+in >= rank {
			return float32(lower + (float64(bound)-lower)*(rank-below)/in)
		}
		below += float64(n.buckets[i])
		lower = float64(bound)
	}
	return float32(lower)
}

// shownHistory is the history of a stream, or its points since the last one.
type shownHistory struct {
	Step int64 `json:"step"` // between two points, in ms
	End  int64 `json:"end"`  // when the last point was taken, Unix ms
	// It is all there is; else it goes on where the one before ended.
	Whole   bool                     `json:"whole"`
	Columns map[string]historyColumn `json:"columns"`
	// The events of each upstream in each of the last minutes.
	Upstreams map[string][]uint32 `json:"upstreams"`
}

// historyColumn is encoded with null for NaN.
type historyColumn []float32

// MarshalJSON implements json.Marshaler.
func (c historyColumn) MarshalJSON() ([]byte, error) {
	buf := append(make([]byte, 0, 4*len(c)+2), '[')
	for i, f := range c {
		if i > 0 {
			buf = append(buf, ',')
		}
		if f != f {
			buf = append(buf, "null"...)
			continue
		}
		// three digits are more than a plot shows
		buf = strconv.AppendFloat(buf, math.Round(float64(f)*1000)/1000, 'f', -1, 32)
	}
	return append(buf, ']'), nil
}

// grown returns how much a counter has grown; one that is less than before
// belongs to another object.
func grown(before, now uint64) uint64 {
	if now < before {
		return 0
	}
	return now - before
}

func clamp(n uint64) uint32 { return uint32(min(n, math.MaxUint32/uint64(minuteSteps+1))) } //nolint:gosec // bounded

// pushed appends a value to a list with a limit, at which the oldest goes.
func pushed[T any](list []T, value T, most int) []T {
	if len(list) < most {
		return append(list, value)
	}
	copy(list, list[1:])
	list[len(list)-1] = value
	return list
}
