package eventlog

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// modelEvent is an event as the log should give it out.
type modelEvent struct {
	time int64
	tag  uint32
	text []byte
}

// model is the log as one slice that never forgets. events[i] has offset i+1.
type model struct {
	t   *testing.T
	rng *rand.Rand

	log     *Log
	options Options
	events  []modelEvent
	now     int64
	tail    uint64 // as last seen

	readers []*modelReader
	held    []held
}

type modelReader struct {
	*Reader
	next uint64
}

// held is a piece that was read earlier, and a copy of what it was.
type held struct{ chunk, copy []byte }

func TestAgainstModel(t *testing.T) {
	for seed := range uint64(80) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := newModel(t, seed)
			for range 400 {
				m.step()
			}
			for _, h := range m.held {
				if !bytes.Equal(h.chunk, h.copy) {
					t.Fatalf("a piece changed after it was read: %q, was %q", h.chunk, h.copy)
				}
			}
		})
	}
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: 1763856000000, tail: 1}
	m.options = m.randomOptions()
	m.options.IDs = seed%2 == 0
	m.log = New(m.options)
	for range 4 {
		m.readers = append(m.readers, &modelReader{Reader: m.log.NewReader(1), next: 1})
	}
	return m
}

func (m *model) randomOptions() Options {
	return Options{
		MaxEvents: []int{1, 2, 10, 100, 10000}[m.rng.IntN(5)],
		MaxBytes:  []int64{1, 300, 1000, 5000, 20000, 100000, 1 << 20}[m.rng.IntN(7)],
		MaxAge:    []time.Duration{0, 0, time.Microsecond, 50 * time.Millisecond, time.Second}[m.rng.IntN(5)],
		IDs:       m.options.IDs,
	}
}

func (m *model) step() {
	switch op := m.rng.IntN(100); {
	case op < 45:
		for range 1 + m.rng.IntN(8)*m.rng.IntN(8) {
			m.append()
		}
	case op < 50:
		m.now += m.rng.Int64N(200)
	case op < 53:
		m.log.Expire(time.UnixMilli(m.now))
		m.check(m.options.MaxAge, 0)
	case op < 55:
		m.options = m.randomOptions()
		m.log.SetOptions(m.options)
		m.check(0, 0)
	case op < 65:
		m.seek()
	default:
		m.read(m.readers[m.rng.IntN(len(m.readers))])
	}
}

func (m *model) append() {
	size := m.rng.IntN(60)
	switch m.rng.IntN(40) {
	case 0:
		size = m.rng.IntN(10000)
	case 1, 2, 3, 4:
		size = m.rng.IntN(500)
	case 5:
		size = 0
	}
	body := make([]byte, size)
	for i := range body {
		body[i] = byte('a' + m.rng.IntN(26))
	}
	// Clocks stand still, and jump back.
	m.now += m.rng.Int64N(3)
	e := modelEvent{time: m.now - m.rng.Int64N(5)*m.rng.Int64N(2), tag: m.rng.Uint32N(3)}
	arrival := time.UnixMilli(e.time)
	if n := len(m.events); n > 0 {
		e.time = max(e.time, m.events[n-1].time)
	}
	offset := uint64(len(m.events) + 1)
	if m.options.IDs {
		e.text = fmt.Appendf(nil, "id: %s\n", Cursor{m.log.Epoch(), offset, e.time})
	}
	e.text = append(e.text, body...)
	m.events = append(m.events, e)

	before := m.log.Stats().Memory
	if got, _ := m.log.Append(arrival, e.tag, body); got != offset {
		m.t.Fatalf("Append = %d, want %d", got, offset)
	}
	clear(body) // the log has its own copy
	// What a new segment, or a longer index, may have needed in addition.
	needed := before + 2*max(m.options.MaxBytes/segmentsPerLog, minSegment) + int64(len(e.text)) + segmentCost + entryCost
	m.check(m.options.MaxAge, needed)
	select {
	case <-m.log.Appended():
	default:
		m.t.Fatal("Append did not signal")
	}
}

func (m *model) head() uint64 { return uint64(len(m.events)) }

// event returns the event at an offset.
func (m *model) event(offset uint64) modelEvent { return m.events[offset-1] }

// check compares all that can be asked without a position. needed is the memory
// that justifies evicting events whose number and age are within the bounds.
func (m *model) check(maxAge time.Duration, needed int64) {
	m.t.Helper()
	st := m.log.Stats()
	if st.Head != m.head() || m.log.Head() != st.Head || m.log.Tail() != st.Tail {
		m.t.Fatalf("head %d, tail %d, Stats %+v, want head %d", m.log.Head(), m.log.Tail(), st, m.head())
	}
	if st.Tail < m.tail || st.Tail > st.Head+1 {
		m.t.Fatalf("tail %d, was %d, head %d", st.Tail, m.tail, st.Head)
	}
	due := m.tail // what the bounds on number and age demand
	if maxEvents := uint64(m.options.MaxEvents); st.Head > maxEvents {
		due = max(due, st.Head-maxEvents+1)
	}
	if maxAge > 0 && st.Head > 0 {
		// Append's clock is the event's arrival, Expire's is now.
		now := m.now
		if needed > 0 {
			now = m.event(st.Head).time
		}
		bound := max(maxAge.Milliseconds(), 1) // times are whole milliseconds
		for due <= st.Head && now-m.event(due).time > bound {
			due++
		}
	}
	if st.Tail < due {
		m.t.Fatalf("tail %d, want %d at least: too much retained under %+v", st.Tail, due, m.options)
	}
	if needed > 0 && st.Tail > due && needed <= m.options.MaxBytes {
		m.t.Fatalf("tail %d, want %d: evicted without need, %d of %d bytes", st.Tail, due, needed, m.options.MaxBytes)
	}
	if needed > 0 && st.Events == 0 {
		m.t.Fatal("the newest event was not kept")
	}
	m.tail = st.Tail

	var payload int64
	for o := st.Tail; o <= st.Head; o++ {
		payload += int64(len(m.event(o).text))
	}
	if st.Bytes != payload || st.Events != st.Head+1-st.Tail {
		m.t.Fatalf("Stats %+v, want %d bytes", st, payload)
	}
	bound := m.options.MaxBytes
	if st.Events > 0 {
		if st.Oldest.UnixMilli() != m.event(st.Tail).time || st.Newest.UnixMilli() != m.event(st.Head).time {
			m.t.Fatalf("Stats %+v, want times %d and %d", st, m.event(st.Tail).time, m.event(st.Head).time)
		}
		bound = max(bound, costOf(len(m.event(st.Head).text), 1))
	} else if st.Memory != 0 {
		m.t.Fatalf("nothing retained takes %d bytes", st.Memory)
	}
	if st.Memory > bound {
		m.t.Fatalf("Memory %d, bound %d", st.Memory, bound)
	}
	m.checkSegments(st)
}

// checkSegments recounts what the log keeps count of.
func (m *model) checkSegments(st Stats) {
	m.t.Helper()
	m.log.mu.Lock()
	defer m.log.mu.Unlock()
	var memory int64
	next := uint64(0)
	for i, s := range m.log.segments {
		switch {
		case i == 0 && (s.base > st.Tail || s.next() <= st.Tail):
			m.t.Fatalf("oldest segment [%d, %d) with tail %d", s.base, s.next(), st.Tail)
		case i > 0 && s.base != next:
			m.t.Fatalf("segment from %d, want %d", s.base, next)
		case s.next() == s.base:
			m.t.Fatal("empty segment")
		}
		next = s.next()
		memory += int64(len(s.buf)) + segmentCost + entryCost*int64(len(*s.index.Load()))
	}
	if memory != st.Memory {
		m.t.Fatalf("segments take %d bytes, Stats %+v", memory, st)
	}
}

// seek asks for a position in one of the ways there are, and gives it to a
// reader.
func (m *model) seek() {
	var next, want uint64
	head, tail := m.head(), m.tail
	switch m.rng.IntN(5) {
	case 0:
		c := Cursor{m.log.Epoch(), m.rng.Uint64N(head + 3), m.now}
		var state CursorState
		next, state = m.log.After(c)
		var wantState CursorState
		switch {
		case c.Offset > head:
			wantState = Ahead
		case c.Offset+1 >= tail:
			want, wantState = c.Offset+1, Known
		default:
			want, wantState = tail, Expired
		}
		if state != wantState {
			m.t.Fatalf("After(%v) is %v, want %v", c, state, wantState)
		}
	case 1:
		at := m.now - m.rng.Int64N(300)
		var all bool
		next, all = m.log.Since(at)
		want = tail
		for want <= head && m.event(want).time < at {
			want++
		}
		if wantAll := tail == 1 || m.event(tail-1).time < at; all != wantAll {
			m.t.Fatalf("since %d: all retained is %t, want %t; log [%d, %d]", at, all, wantAll, tail, head)
		}
	case 2:
		n := m.rng.Uint64N(20)
		next, _ = m.log.Last(n)
		want = head + 1
		for ; n > 0 && want > tail; n-- {
			want--
		}
	case 3:
		want = tail + m.rng.Uint64N(head+2-tail)
		c := m.log.CursorBefore(want, time.UnixMilli(m.now))
		wantTime := m.now
		if want <= head {
			wantTime = m.event(want).time
		}
		var state CursorState
		if next, state = m.log.After(c); state != Known || c.Time != wantTime {
			m.t.Fatalf("CursorBefore(%d) = %v which is %v, want Known and time %d", want, c, state, wantTime)
		}
	case 4: // any offset, evicted or not yet there
		next = m.rng.Uint64N(head + 3)
		want = next
	}
	if next != want {
		m.t.Fatalf("sought to %d, want %d, log [%d, %d]", next, want, tail, head)
	}
	r := m.log.NewReader(next)
	m.readers[m.rng.IntN(len(m.readers))] = &modelReader{Reader: r, next: min(max(next, 1), head+1)}
}

func (m *model) read(r *modelReader) {
	limit := []int{-1, 0, 1, 50, 200, 1000, 1 << 20}[m.rng.IntN(7)]
	wanted := func(uint32, []byte) bool { return true }
	var chunk []byte
	var events int
	var err error
	filtered := m.rng.IntN(2) == 0
	if filtered {
		mask := m.rng.Uint32N(8)
		wanted = func(tag uint32, _ []byte) bool { return mask>>tag&1 == 1 }
		chunk, events, err = r.NextMatching(limit, wanted)
	} else {
		chunk, events, err = r.Next(limit)
	}
	if r.next < m.tail {
		if !errors.Is(err, ErrOvertaken) || chunk != nil || r.Position() != r.next {
			m.t.Fatalf("reading at %d with tail %d: %d events, %v, now at %d", r.next, m.tail, events, err, r.Position())
		}
		if missed := r.Skip(); missed != m.tail-r.next {
			m.t.Fatalf("Skip = %d, want %d", missed, m.tail-r.next)
		}
		r.next = m.tail
		return
	}
	if err != nil {
		m.t.Fatalf("reading at %d with tail %d: %v", r.next, m.tail, err)
	}
	if missed := r.Skip(); missed != 0 {
		m.t.Fatalf("Skip without being overtaken = %d", missed)
	}
	for r.next <= m.head() && !wanted(m.event(r.next).tag, nil) {
		r.next++
	}
	if r.next > m.head() {
		if chunk != nil || events != 0 || r.Position() != r.next {
			m.t.Fatalf("caught up, but read %q, now at %d, want %d", chunk, r.Position(), r.next)
		}
		return
	}
	if chunk == nil || events < 1 || cap(chunk) != len(chunk) {
		m.t.Fatalf("read %q (capacity %d), %d events at %d, head %d", chunk, cap(chunk), events, r.next, m.head())
	}
	var want []byte
	for i := range events {
		e := m.event(r.next)
		if !wanted(e.tag, nil) {
			m.t.Fatalf("event %d is not wanted", r.next)
		}
		if want = append(want, e.text...); i > 0 && len(want) > limit {
			m.t.Fatalf("%d bytes or more with a limit of %d", len(want), limit)
		}
		r.next++
	}
	if !bytes.Equal(chunk, want) || r.Position() != r.next {
		m.t.Fatalf("read %q, want %q, now at %d, want %d", chunk, want, r.Position(), r.next)
	}
	// Nothing but a limit, an unwanted event or a segment's end ends a piece.
	if r.next <= m.head() && wanted(m.event(r.next).tag, nil) && len(want)+len(m.event(r.next).text) <= limit && r.next < r.seg.next() {
		m.t.Fatalf("piece of %d bytes ends before %d, limit %d", len(want), r.next, limit)
	}
	m.held = append(m.held, held{chunk, want})
}
