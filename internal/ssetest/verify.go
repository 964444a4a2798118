package ssetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// gapType is the control event that announces a loss.
const gapType = "fanin.gap"

// Numbered finds source and number in an event's data; ok is false for an
// event to leave alone. It must be safe for concurrent use; source is used
// only until the next event.
type Numbered func(data []byte) (source []byte, n uint64, ok bool)

// Verifier judges what many clients of one stream saw: nothing lost, nothing
// twice, per source in order, and one total order, id, type and data for
// everybody. Its methods are safe for concurrent use.
type Verifier struct {
	numbered  Numbered
	allowGaps bool
	seed      maphash.Seed

	mu         sync.RWMutex // protects the fields below
	tracks     []*Track
	sources    map[string]*ledger
	names      []string // of sources, by index - 1
	violations []string // the first maxViolations

	waiting atomic.Int32 // WaitSeen calls; events wake them through mon
	mon     monitor
}

// VerifierOption changes a Verifier.
type VerifierOption func(*Verifier)

// AllowGaps makes announced losses, and repeats after them, no violation.
func AllowGaps() VerifierOption { return func(v *Verifier) { v.allowGaps = true } }

// ParseNumbered replaces FindNumbered.
func ParseNumbered(f Numbered) VerifierOption { return func(v *Verifier) { v.numbered = f } }

// NewVerifier returns a Verifier for one stream.
func NewVerifier(options ...VerifierOption) *Verifier {
	v := &Verifier{
		numbered: FindNumbered,
		seed:     maphash.MakeSeed(),
		sources:  make(map[string]*ledger),
	}
	for _, o := range options {
		o(v)
	}
	return v
}

// FindNumbered finds what an Origin writes, `"source":"…","n":…`, anywhere in
// the data: an envelope around it does not matter.
func FindNumbered(data []byte) (source []byte, n uint64, ok bool) {
	for {
		_, rest, found := bytes.Cut(data, []byte(`"source":"`))
		if !found {
			return nil, 0, false
		}
		source, rest, found = bytes.Cut(rest, []byte(`"`))
		if !found {
			return nil, 0, false
		}
		if digits, isN := bytes.CutPrefix(rest, []byte(`,"n":`)); isN {
			i := 0
			for ; i < len(digits) && digits[i] >= '0' && digits[i] <= '9'; i++ {
				n = n*10 + uint64(digits[i]-'0')
			}
			return source, n, i > 0
		}
		data = rest
	}
}

// Track follows one client through all its connections.
type Track struct {
	v     *Verifier
	name  string
	index uint32 // from 1

	mu       sync.Mutex // protects the fields below
	sources  map[string]*sourceTrack
	prev     *slot // of the event before; nil: no order to check
	prevRef  ref
	counts   Counts
	gaps     []Gap
	finished bool
}

// sourceTrack is where a client stands in one source.
type sourceTrack struct {
	ledger *ledger
	first  uint64
	last   uint64
	jump   bool    // a gap was announced: the next event may be any
	holes  []holes // lost so far, the oldest first, at most maxHoles

	chunk       *chunk
	chunkNumber uint64
}

// holes is a range of numbers not seen.
type holes struct{ from, to uint64 }

// maxHoles bounds the memory for lost events that may still come late.
const maxHoles = 256

// Gap is one gap event.
type Gap struct {
	Client  string
	Time    time.Time
	ID      string
	Data    string
	Reason  string
	Missed  *uint64 // nil where the stream does not know
	Resumed string
}

// Track returns the account of one more client.
func (v *Verifier) Track(name string) *Track {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := &Track{v: v, name: name, index: uint32(len(v.tracks) + 1), sources: make(map[string]*sourceTrack)}
	v.tracks = append(v.tracks, t)
	return t
}

// Finish takes the client out of WaitSeen: it will see no more events.
func (t *Track) Finish() {
	t.mu.Lock()
	t.finished = true
	t.mu.Unlock()
	t.v.wake()
}

// Range is the first and the newest number of a source this client saw; ok is
// false before the first.
func (t *Track) Range(source string) (first, last uint64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sources[source]
	if s == nil {
		return 0, 0, false
	}
	return s.first, s.last, true
}

// Observe takes the client's next event, in the order of its stream. The
// slices are not kept.
func (t *Track) Observe(typ, id, data []byte) {
	t.mu.Lock()
	t.observeLocked(typ, id, data)
	t.mu.Unlock()
	if t.v.waiting.Load() > 0 {
		t.v.wake()
	}
}

func (t *Track) observeLocked(typ, id, data []byte) {
	t.counts.Events++
	if bytes.HasPrefix(typ, []byte("fanin.")) {
		t.counts.Control++
		if string(typ) == gapType {
			t.gapLocked(id, data)
		}
		return
	}
	source, n, ok := t.v.numbered(data)
	if !ok {
		t.counts.Other++
		return
	}
	t.counts.Numbered++
	s := t.sources[string(source)]
	if s == nil {
		s = &sourceTrack{ledger: t.v.ledger(string(source)), first: n, last: n - 1}
		t.sources[string(source)] = s
	}
	here := s.slot(n)
	ref := newRef(s.ledger.index, n)
	if !t.numberLocked(s, n) {
		return
	}
	t.contentLocked(s, here, n, typ, id, data)
	if t.prev != nil {
		if other, who, ok := agree(&t.prev.next, &t.prev.nextBy, uint64(ref), t.index); !ok {
			t.orderLocked("after", t.prevRef, ref, other, who)
		} else if other, who, ok := agree(&here.prev, &here.prevBy, uint64(t.prevRef), t.index); !ok {
			t.orderLocked("before", ref, t.prevRef, other, who)
		}
	}
	t.prev, t.prevRef = here, ref
}

// numberLocked checks the number against the source's last one. It is false
// when the event is no new position in the total order.
func (t *Track) numberLocked(s *sourceTrack, n uint64) bool {
	last := s.last
	switch {
	case s.jump:
		s.jump = false
		if n > last {
			t.counts.Announced += n - last - 1
		} else {
			t.counts.Repeated += last - n + 1
		}
		s.last = n
		t.prev = nil
		return true
	case n == last+1:
		s.last = n
		return true
	case n > last:
		t.counts.Lost += n - last - 1
		if len(s.holes) < maxHoles {
			s.holes = append(s.holes, holes{last + 1, n - 1})
		}
		t.v.violate("client %s lost %s:%d to %d (then came %d)", t.name, s.ledger.name, last+1, n-1, n)
		s.last = n
		t.prev = nil
		return true
	case s.fill(n):
		t.counts.Lost--
		t.counts.OutOfOrder++
		t.v.violate("client %s got %s:%d out of order, after %d", t.name, s.ledger.name, n, last)
		t.prev = nil
		return false
	default:
		t.counts.Doubled++
		t.v.violate("client %s got %s:%d again (last was %d)", t.name, s.ledger.name, n, last)
		return false
	}
}

// fill takes n out of the holes; it is false when n is in none.
func (s *sourceTrack) fill(n uint64) bool {
	i := slices.IndexFunc(s.holes, func(h holes) bool { return h.from <= n && n <= h.to })
	if i < 0 {
		return false
	}
	h := s.holes[i]
	s.holes = slices.Delete(s.holes, i, i+1)
	if n < h.to {
		s.holes = slices.Insert(s.holes, i, holes{n + 1, h.to})
	}
	if h.from < n {
		s.holes = slices.Insert(s.holes, i, holes{h.from, n - 1})
	}
	return true
}

func (s *sourceTrack) slot(n uint64) *slot {
	if number := n / chunkSize; s.chunk == nil || s.chunkNumber != number {
		s.chunk, s.chunkNumber = s.ledger.chunk(number), number
	}
	return &s.chunk[n%chunkSize]
}

// contentLocked checks that everybody gets the same id, type and data.
func (t *Track) contentLocked(s *sourceTrack, here *slot, n uint64, typ, id, data []byte) {
	var h maphash.Hash
	h.SetSeed(t.v.seed)
	_, _ = h.Write(typ)
	_ = h.WriteByte('\n')
	_, _ = h.Write(id)
	_ = h.WriteByte('\n')
	_, _ = h.Write(data)
	if _, who, ok := agree(&here.content, &here.contentBy, h.Sum64()|1, t.index); !ok {
		t.counts.Differing++
		t.v.violate("client %s got %s:%d with another id, type or data than client %s: id %q, type %q, data %q",
			t.name, s.ledger.name, n, t.v.client(who), id, typ, data)
	}
}

func (t *Track) orderLocked(where string, pivot, mine ref, other uint64, who uint32) {
	t.counts.Order++
	t.v.violate("client %s got %s directly %s %s, client %s got %s there",
		t.name, t.v.event(mine), where, t.v.event(pivot), t.v.client(who), t.v.event(ref(other)))
}

// maxGaps bounds the gaps kept per client.
const maxGaps = 100

func (t *Track) gapLocked(id, data []byte) {
	t.counts.Gaps++
	g := Gap{Client: t.name, Time: time.Now(), ID: string(id), Data: string(data)}
	var body struct {
		Reason  string
		Missed  *uint64
		Resumed string
	}
	if err := json.Unmarshal(data, &body); err != nil {
		t.v.violate("client %s got a gap event that is no JSON: %q", t.name, data)
	}
	g.Reason, g.Missed, g.Resumed = body.Reason, body.Missed, body.Resumed
	if g.Missed != nil {
		t.counts.GapMissed += *g.Missed
	}
	if len(t.gaps) < maxGaps {
		t.gaps = append(t.gaps, g)
	}
	for _, s := range t.sources {
		s.jump = true
	}
	t.prev = nil
	if !t.v.allowGaps {
		t.v.violate("client %s got a gap event: %s", t.name, data)
	}
}

// ledger returns the shared account of a source.
func (v *Verifier) ledger(name string) *ledger {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.sources[name]
	if l == nil {
		if len(v.names) == maxSources {
			panic("ssetest: more than 4095 sources")
		}
		v.names = append(v.names, name)
		l = &ledger{index: len(v.names), name: name, chunks: make(map[uint64]*chunk)}
		v.sources[name] = l
	}
	return l
}

// client is the name of a track by its index.
func (v *Verifier) client(index uint32) string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if index == 0 || int(index) > len(v.tracks) {
		return "(another)"
	}
	return v.tracks[index-1].name
}

// event writes a ref as source:n.
func (v *Verifier) event(r ref) string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return fmt.Sprintf("%s:%d", v.names[r.source()-1], r.n())
}
