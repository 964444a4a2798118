package chaos

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// judge collects what all clients of a round saw.
type judge struct {
	plan *plan
	seed maphash.Seed

	mu       sync.Mutex // protects what follows
	epochs   map[string]*epoch
	verdicts []verdict
	strict   int             // pairs of events between which nothing may be lost
	filtered int             // events that a filtered client must have
	values   int             // last values after gaps
	excused  map[string]bool // stream/feed whose source was not the same all the time
	repeats  map[string]bool // feeds whose origins may repeat what nobody remembers
	renames  []renaming      // in order
	ending   bool            // the process was told to exit
}

// verdict is something that must not be, and whom to look at.
type verdict struct {
	text    string
	watches []*watch
}

// maxVerdicts bounds what is printed: the first ones are the ones to look at.
const maxVerdicts = 20

// epoch is one incarnation of a log, as far as clients saw it.
type epoch struct {
	stream *stream
	at     map[uint64]record
}

// record is the event at an offset.
type record struct {
	feed string
	n    uint64
	hash uint64 // of type, id and data
	by   *watch
}

func newJudge(p *plan) *judge {
	return &judge{
		plan:    p,
		seed:    maphash.MakeSeed(),
		epochs:  make(map[string]*epoch),
		excused: make(map[string]bool),
		repeats: make(map[string]bool),
	}
}

func (j *judge) violate(watches []*watch, format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.violateLocked(watches, format, args...)
}

func (j *judge) violateLocked(watches []*watch, format string, args ...any) {
	if len(j.verdicts) < maxVerdicts {
		j.verdicts = append(j.verdicts, verdict{fmt.Sprintf(format, args...), watches})
	}
}

func (j *judge) failed() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.verdicts) > 0
}

// end notes that the process was told to exit.
func (j *judge) end() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ending = true
}

// changed notes what a configuration does to sources. Where it takes one
// away, the log has a hole until it is back; where another source takes its
// place, that one does not remember what the former got.
func (j *judge) changed(before, after *config) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, s := range j.plan.streams {
		a, b := &before.states[i], &after.states[i]
		for k, u := range s.upstreams {
			for _, f := range u.feeds {
				if b.absent || b.without == k {
					j.excused[key(s, f.name)] = true
				}
				if a.revision[k] != b.revision[k] || a.absent != b.absent || (a.without == k) != (b.without == k) {
					j.repeats[key(s, f.name)] = true
				}
			}
		}
	}
}

// renaming is a configuration that gave a stream's last upstream another name,
// while it was loaded: which events that came meanwhile have which name, nobody
// knows.
type renaming struct {
	stream  *stream
	renamed bool              // it has the other name from now on
	until   map[string]uint64 // by epoch: events up to this offset came before
	since   map[string]uint64 // by feed: those with higher numbers came after; nil while it is loaded
}

// renaming notes that a configuration is being loaded, and returns what to call
// when it is in use, and the one before it is not any more.
func (j *judge) renaming(after *config) (loaded func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	from := len(j.renames)
	for i, s := range j.plan.streams {
		st := &after.states[i]
		if st.absent || st.renamed == j.renamedLocked(s) {
			continue // an upstream that is not defined keeps its name
		}
		r := renaming{stream: s, renamed: st.renamed, until: make(map[string]uint64)}
		for name, ep := range j.epochs {
			if ep.stream == s {
				r.until[name] = slices.Max(slices.Collect(maps.Keys(ep.at)))
			}
		}
		j.renames = append(j.renames, r)
	}
	return func() {
		numbers := make(map[string]uint64)
		for _, f := range j.plan.feeds {
			numbers[f.name] = f.last()
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		for i := range j.renames[from:] {
			j.renames[from+i].since = numbers
		}
	}
}

// renamedLocked reports whether the last upstream of a stream has the other name
// since its last renaming.
func (j *judge) renamedLocked(s *stream) bool {
	for _, r := range slices.Backward(j.renames) {
		if r.stream == s {
			return r.renamed
		}
	}
	return false
}

// sourceLocked returns the name that an event's upstream had when it came, false
// if nobody knows.
func (j *judge) sourceLocked(s *stream, u *upstream, c cursor, feed string, n uint64) (name string, ok bool) {
	if u != s.upstreams[len(s.upstreams)-1] {
		return u.name, true
	}
	earliest := false
	var may []bool // the names since the last renaming that was before it for sure
	for _, r := range j.renames {
		switch {
		case r.stream != s:
		case c.offset <= r.until[c.epoch]:
			return u.nameIf(earliest), !slices.Contains(may, !earliest)
		case r.since != nil && n > r.since[feed]:
			earliest, may = r.renamed, nil
		default:
			may = append(may, r.renamed)
		}
	}
	return u.nameIf(earliest), !slices.Contains(may, !earliest)
}

// moved notes that a dynamic upstream has other addresses.
func (j *judge) moved(s *stream, u *upstream) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, f := range u.feeds {
		j.excused[key(s, f.name)], j.repeats[key(s, f.name)] = true, true
	}
}

func key(s *stream, feed string) string { return s.name() + "/" + feed }

func (j *judge) hash(e ssetest.Event) uint64 {
	var h maphash.Hash
	h.SetSeed(j.seed)
	h.WriteString(e.Type)
	h.WriteByte('\n')
	h.WriteString(e.ID)
	h.WriteByte('\n')
	h.WriteString(e.Data)
	return h.Sum64()
}

// record notes what a client got at a place, and compares it with what others
// got there.
func (j *judge) record(w *watch, c cursor, feed string, n uint64, e ssetest.Event) {
	hash := j.hash(e)
	j.mu.Lock()
	defer j.mu.Unlock()
	ep := j.epochs[c.epoch]
	if ep == nil {
		ep = &epoch{stream: w.stream, at: make(map[uint64]record)}
		j.epochs[c.epoch] = ep
	}
	if ep.stream != w.stream {
		j.violateLocked([]*watch{w}, "%s got an event of %s's log", w.name, ep.stream.name())
		return
	}
	other, ok := ep.at[c.offset]
	if !ok {
		ep.at[c.offset] = record{feed, n, hash, w}
		return
	}
	if other.hash != hash {
		j.violateLocked([]*watch{w, other.by}, "%s got %s:%d at %s, %s got %s:%d there, or its id, type or data differ",
			w.name, feed, n, c, other.by.name, other.feed, other.n)
	}
}

// logs judges every log as a whole, when its clients have gone.
func (j *judge) logs() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for name, ep := range j.epochs {
		j.logLocked(name, ep)
	}
}

func (j *judge) logLocked(name string, ep *epoch) {
	top := make(map[string]uint64) // offset of each feed's event with the highest number
	orders := make(map[string]*order)
	seen := make(map[string][]uint64) // numbers of mirrored feeds
	known := uint64(0)                // everything from here on is known
	before := uint64(0)
	first := slices.Min(slices.Collect(maps.Keys(ep.at)))
	for _, offset := range slices.Sorted(maps.Keys(ep.at)) {
		if offset != before+1 {
			known = offset
		}
		before = offset
		r := ep.at[offset]
		u, f := ep.stream.upstreamOf(r.feed)
		at, had := top[r.feed]
		if orders[r.feed] == nil {
			orders[r.feed] = new(order)
		}
		rises := orders[r.feed].next(f, r.n)
		if !had || r.n > ep.at[at].n {
			top[r.feed] = offset
		}
		if u == nil || !had {
			continue
		}
		p := ep.at[at]
		where := fmt.Sprintf("log %s of %s: %s:%d at %d, %s:%d at %d", name, ep.stream.name(), p.feed, p.n, at, r.feed, r.n, offset)
		if u.policy == "mirror" {
			seen[r.feed] = append(seen[r.feed], r.n)
			continue
		}
		if at >= known && !j.mayLoseLocked(ep.stream, u, f) {
			j.strict++
		}
		switch {
		case !rises:
			if !j.mayRepeatLocked(ep.stream, u, f) {
				j.violateLocked([]*watch{p.by, r.by}, "repeated or out of order: %s", where)
			}
		case f.overlap > 0 && p.n < orders[r.feed].first+uint64(f.overlap):
			// from before the first event, which may have come where nobody looked
		case at >= known && u.between(p.n, r.n):
			if !j.mayLoseLocked(ep.stream, u, f) {
				j.violateLocked([]*watch{p.by, r.by}, "lost: %s", where)
			}
		}
	}
	whole := known == first
	for feed, numbers := range seen {
		u, f := ep.stream.upstreamOf(feed)
		slices.Sort(numbers)
		for i, n := range numbers[1:] {
			if n == numbers[i] && !j.mayRepeatLocked(ep.stream, u, f) {
				j.violateLocked(nil, "log %s of %s: %s:%d twice", name, ep.stream.name(), feed, n)
				break
			}
			if whole && u.between(numbers[i], n) && !j.mayLoseLocked(ep.stream, u, f) {
				j.violateLocked(nil, "log %s of %s: nothing between %s:%d and %d", name, ep.stream.name(), feed, numbers[i], n)
				break
			}
		}
	}
}

// order is that of a feed's numbers.
type order struct{ first, highest, older uint64 }

// next reports whether a number may come next: a higher one, or where the origin
// sends more than it was asked for, the next of those from before the first one.
func (o *order) next(f *feed, n uint64) bool {
	switch {
	case o.first == 0:
		o.first, o.highest = n, n
	case n > o.highest:
		o.highest = n
	case f != nil && f.overlap > 0 && n < o.first && n > o.older:
		o.older = n
	default:
		return false
	}
	return true
}

// between reports whether an event between two numbers would be let through.
func (u *upstream) between(from, to uint64) bool {
	for n := from + 1; n < to; n++ {
		if u.lets(typeOf(n)) {
			return true
		}
	}
	return false
}

// mayLoseLocked reports whether the feed's events may have holes in a stream's
// log: its origin cannot send again what it sent while nobody was connected, or
// the upstream was away.
func (j *judge) mayLoseLocked(s *stream, u *upstream, f *feed) bool {
	return f.class == liveOnly || f.class == idless || j.excused[key(s, f.name)]
}

// mayRepeatLocked reports whether nobody may have known what was sent again.
func (j *judge) mayRepeatLocked(s *stream, u *upstream, f *feed) bool {
	if j.repeats[key(s, f.name)] || s.loose() || u.dynamic != "" {
		return f.class != liveOnly && f.class != idless
	}
	return f.class == idlessAll && f.disturbed()
}

// String tells how much there was to judge.
func (j *judge) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	events := 0
	for _, ep := range j.epochs {
		events += len(ep.at)
	}
	return fmt.Sprintf("judged %d logs, %d events, %d without a hole, %d filtered, %d last values", len(j.epochs), events, j.strict, j.filtered, j.values)
}

// cursor is a position as clients know it.
type cursor struct {
	epoch  string
	offset uint64
}

func (c cursor) String() string { return c.epoch + "-" + strconv.FormatUint(c.offset, 10) }

func parseCursor(id string) (c cursor, ok bool) {
	parts := strings.Split(id, "-")
	if len(parts) != 3 || len(parts[0]) != 10 {
		return c, false
	}
	offset, err := strconv.ParseUint(parts[1], 10, 64)
	return cursor{parts[0], offset}, err == nil
}
