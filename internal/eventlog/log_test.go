package eventlog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var start = time.UnixMilli(1763856000000)

// roomy bounds nothing that these tests append.
var roomy = Options{MaxEvents: 1 << 30, MaxBytes: 1 << 30}

func appendN(l *Log, n int, body string) {
	for range n {
		l.Append(start, 0, []byte(body))
	}
}

// readAll reads to the end and returns how often Next returned something.
func readAll(t *testing.T, r *Reader, limit int) (text string, events, pieces int) {
	t.Helper()
	var sb strings.Builder
	for {
		chunk, n, err := r.Next(limit)
		if err != nil {
			t.Fatalf("reading: %v", err)
		}
		if chunk == nil {
			return sb.String(), events, pieces
		}
		sb.Write(chunk)
		events += n
		pieces++
	}
}

func TestEmptyLog(t *testing.T) {
	l := New(roomy)
	if l.Head() != 0 || l.Tail() != 1 || l.Stats() != (Stats{Tail: 1}) {
		t.Errorf("head %d, tail %d, %+v", l.Head(), l.Tail(), l.Stats())
	}
	last := func(n uint64) uint64 { next, _ := l.Last(n); return next }
	since, all := l.Since(0)
	if !all || l.Newest() != 0 {
		t.Errorf("something is said to be evicted: %t, the newest is of %d", !all, l.Newest())
	}
	for name, next := range map[string]uint64{"Since": since, "Last(0)": last(0), "Last(5)": last(5)} {
		if next != 1 {
			t.Errorf("%s = %d, want 1", name, next)
		}
	}
	c := l.CursorBefore(1, start)
	if want := (Cursor{l.Epoch(), 0, start.UnixMilli()}); c != want {
		t.Errorf("CursorBefore(1) = %v, want %v", c, want)
	}
	if next, state := l.After(c); next != 1 || state != Known {
		t.Errorf("After(%v) = %d, %v", c, next, state)
	}
	if chunk, n, err := l.NewReader(1).Next(100); chunk != nil || n != 0 || err != nil {
		t.Errorf("Next = %q, %d, %v", chunk, n, err)
	}
}

func TestIDLineBeforeEveryEvent(t *testing.T) {
	o := roomy
	o.IDs = true
	l := New(o)
	r := l.NewReader(1)
	l.Append(start, 0, []byte("data: a\n\n"))
	l.Append(start.Add(time.Second), 0, []byte("data: b\n\n"))
	got, _, _ := readAll(t, r, 1000)
	want := fmt.Sprintf("id: %[1]s-1-miaybk00\ndata: a\n\nid: %[1]s-2-miaybkrs\ndata: b\n\n", l.Epoch())
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestIDsAreFixed(t *testing.T) {
	l := New(roomy)
	o := roomy
	o.IDs = true
	l.SetOptions(o)
	l.Append(start, 0, []byte("data: a\n\n"))
	if got, _, _ := readAll(t, l.NewReader(1), 100); got != "data: a\n\n" {
		t.Errorf("got %q", got)
	}
}

func TestAfter(t *testing.T) {
	l := New(Options{MaxEvents: 3, MaxBytes: 1 << 20})
	appendN(l, 10, "data: x\n\n") // 8, 9 and 10 are retained
	for _, tc := range []struct {
		name  string
		c     Cursor
		next  uint64
		state CursorState
	}{
		{"newest", Cursor{l.Epoch(), 10, 0}, 11, Known},
		{"in the middle", Cursor{l.Epoch(), 9, 0}, 10, Known},
		{"before the oldest", Cursor{l.Epoch(), 7, 0}, 8, Known},
		{"evicted", Cursor{l.Epoch(), 6, 0}, 8, Expired},
		{"before everything", Cursor{l.Epoch(), 0, 0}, 8, Expired},
		{"ahead", Cursor{l.Epoch(), 11, 0}, 0, Ahead},
		{"far ahead", Cursor{l.Epoch(), 1<<64 - 1, 0}, 0, Unknown},
		{"other epoch", Cursor{"aaaaaaaaaa", 9, 0}, 0, Unknown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if next, state := l.After(tc.c); next != tc.next || state != tc.state {
				t.Errorf("After = %d, %v, want %d, %v", next, state, tc.next, tc.state)
			}
		})
	}
}

func TestTimesNeverGoBackwards(t *testing.T) {
	l := New(roomy)
	l.Append(start, 0, []byte("data: a\n\n"))
	l.Append(start.Add(-time.Hour), 0, []byte("data: b\n\n"))
	l.Append(time.Time{}, 0, []byte("data: c\n\n"))
	if c := l.CursorBefore(3, start); c.Time != start.UnixMilli() {
		t.Errorf("time %d, want %d", c.Time, start.UnixMilli())
	}
	if next, all := l.Since(start.UnixMilli()); next != 1 || !all || l.Newest() != start.UnixMilli() {
		t.Errorf("Since = %d, all %t, the newest is of %d; want 1, true and %d", next, all, l.Newest(), start.UnixMilli())
	}
}

func TestExpiredLogTakesNoMemoryAndGoesOn(t *testing.T) {
	o := roomy
	o.MaxAge = time.Minute
	l := New(o)
	appendN(l, 10000, "data: x\n\n")
	idle := l.NewReader(l.Head() + 1)
	late := l.NewReader(1)

	l.Expire(start.Add(time.Minute))
	if st := l.Stats(); st.Events != 10000 {
		t.Fatalf("at the bound %+v, want everything retained", st)
	}
	l.Expire(start.Add(time.Minute + time.Millisecond))
	if st, want := l.Stats(), (Stats{Head: 10000, Tail: 10001}); st != want {
		t.Fatalf("over the bound %+v, want %+v", st, want)
	}
	if next, state := l.After(Cursor{l.Epoch(), 10000, 0}); next != 10001 || state != Known {
		t.Errorf("After(head) = %d, %v", next, state)
	}
	if offset, _ := l.Append(start.Add(time.Hour), 0, []byte("data: y\n\n")); offset != 10001 {
		t.Errorf("Append = %d, want 10001", offset)
	}
	if got, _, _ := readAll(t, idle, 100); got != "data: y\n\n" {
		t.Errorf("idle reader read %q", got)
	}
	if _, _, err := late.Next(100); !errors.Is(err, ErrOvertaken) {
		t.Errorf("late reader: %v, want ErrOvertaken", err)
	}
	if missed := late.Skip(); missed != 10000 {
		t.Errorf("Skip = %d, want 10000", missed)
	}
	if got, _, _ := readAll(t, late, 100); got != "data: y\n\n" {
		t.Errorf("late reader read %q", got)
	}
}

func TestSetOptionsEvictsAtOnce(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options Options
		want    uint64 // at most so many events
	}{
		{"events", Options{MaxEvents: 7, MaxBytes: 1 << 30}, 7},
		{"bytes", Options{MaxEvents: 1 << 30, MaxBytes: 512 << 10}, 4600},
		{"bytes, less than a segment", Options{MaxEvents: 1 << 30, MaxBytes: 1000}, 7},
		{"bytes, less than an event", Options{MaxEvents: 1 << 30, MaxBytes: 1}, 1},
		{"age", Options{MaxEvents: 1 << 30, MaxBytes: 1 << 30, MaxAge: time.Second}, 1001},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := New(roomy)
			for i := range 10000 {
				l.Append(start.Add(time.Duration(i)*time.Millisecond), 0, fmt.Appendf(nil, "data: %091d\n\n", i))
			}
			r := l.NewReader(10000)
			l.SetOptions(tc.options)
			st := l.Stats()
			if st.Events > tc.want || st.Events < tc.want*7/10 {
				t.Errorf("%+v, want about %d events", st, tc.want)
			}
			if st.Memory > tc.options.MaxBytes && st.Events > 1 {
				t.Errorf("%+v, want %d bytes", st, tc.options.MaxBytes)
			}
			want := fmt.Sprintf("data: %091d\n\n", 9999)
			if got, n, _ := readAll(t, r, 1000); got != want {
				t.Errorf("newest event: read %d, %q", n, got)
			}
			appendN(l, 1, want)
			if got, n, _ := readAll(t, r, 1000); got != want {
				t.Errorf("next event: read %d, %q", n, got)
			}
		})
	}
}

// A shrunken log copies its newest events; a reader in the original goes on in
// the copy.
func TestReaderSurvivesShrinking(t *testing.T) {
	l := New(roomy)
	r := l.NewReader(1)
	appendN(l, 20, "data: x\n\n")
	if _, n, err := r.Next(150); n != 16 || err != nil {
		t.Fatalf("Next = %d events, %v, want 16", n, err)
	}
	l.SetOptions(Options{MaxEvents: 1 << 30, MaxBytes: 300})
	if tail := l.Tail(); tail < 2 || tail > 17 {
		t.Fatalf("tail %d, want some but not all of the 20 events", tail)
	}
	appendN(l, 1, "data: y\n\n")
	missed := r.Skip()
	_, events, _ := readAll(t, r, 1000)
	if uint64(events)+missed != 5 || r.Position() != 22 {
		t.Errorf("read %d, missed %d, now at %d, want 5 up to 22", events, missed, r.Position())
	}
}

func TestSegmentCapacities(t *testing.T) {
	for _, tc := range []struct {
		name     string
		maxBytes int64
		sizes    []int // of the events
		want     []int // capacities
	}{
		{"doubling up to the maximum", 64 << 20, slices.Repeat([]int{1000}, 300), []int{4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 64 << 10, 64 << 10, 64 << 10}},
		{"a sixteenth of the bound", 100 << 10, slices.Repeat([]int{1000}, 13), []int{4 << 10, 4 << 10, 4 << 10, 4 << 10}},
		{"large event alone", 64 << 20, []int{100, 100000, 100}, []int{4 << 10, 100000, 4 << 10}},
		{"small ones between large ones", 64 << 20, []int{100000, 100, 100000, 100, 100000}, []int{100000, 4 << 10, 100000, 4 << 10, 100000}},
		{"skipping sizes", 64 << 20, []int{5000, 5000}, []int{8 << 10, 16 << 10}},
		{"tiny bound", 2000, []int{10, 10}, []int{256}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := New(Options{MaxEvents: 1 << 30, MaxBytes: tc.maxBytes})
			if len(l.segments) != 0 {
				t.Error("memory before the first event")
			}
			for _, size := range tc.sizes {
				l.Append(start, 0, make([]byte, size))
			}
			var got []int
			for _, s := range l.segments {
				got = append(got, len(s.buf))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("capacities %d, want %d", got, tc.want)
			}
		})
	}
}

// The bound on memory is of use only if most of it holds events.
func TestMemoryIsMostlyEvents(t *testing.T) {
	for _, tc := range []struct {
		size int
		want float64
	}{{50, 0.70}, {250, 0.87}, {4096, 0.90}, {30000, 0.85}, {40000, 0.90}, {500000, 0.90}} {
		t.Run(fmt.Sprint(tc.size), func(t *testing.T) {
			const bound = 4 << 20
			l := New(Options{MaxEvents: 1 << 30, MaxBytes: bound})
			body := make([]byte, tc.size)
			for range 2 * bound / tc.size {
				l.Append(start, 0, body)
			}
			if share := float64(l.Stats().Bytes) / bound; share < tc.want {
				t.Errorf("%.2f of the bound are events, want %.2f", share, tc.want)
			}
		})
	}
}

func TestPiecesEndAtLimits(t *testing.T) {
	l := New(roomy)
	appendN(l, 10, "data: 789\n\n") // 11 bytes each
	for _, tc := range []struct{ limit, pieces int }{
		{-1, 10}, {0, 10}, {1, 10}, {11, 10}, {21, 10}, {22, 5}, {33, 4}, {109, 2}, {110, 1}, {1 << 30, 1},
	} {
		if _, events, pieces := readAll(t, l.NewReader(1), tc.limit); events != 10 || pieces != tc.pieces {
			t.Errorf("limit %d: %d events in %d pieces, want 10 in %d", tc.limit, events, pieces, tc.pieces)
		}
		r, pieces := l.NewReader(1), 0
		for chunk := []byte{}; chunk != nil; pieces++ {
			chunk, _, _ = r.NextMatching(tc.limit, func(uint32, []byte) bool { return true })
		}
		if pieces != tc.pieces+1 { // the last is none
			t.Errorf("limit %d: %d matching pieces, want %d", tc.limit, pieces-1, tc.pieces)
		}
	}
}

func TestNextMatchingPassesOver(t *testing.T) {
	l := New(roomy)
	for i := range 100000 {
		l.Append(start, uint32(i%1000/998), fmt.Appendf(nil, "data: %d\n\n", i))
	}
	r := l.NewReader(1)
	for i := 998; i < 100000; i += 1000 {
		chunk, n, err := r.NextMatching(1<<20, func(tag uint32, _ []byte) bool { return tag == 1 })
		if n == 1 { // a segment ended in between
			var more []byte
			more, _, err = r.NextMatching(1<<20, func(tag uint32, _ []byte) bool { return tag == 1 })
			chunk = append(chunk, more...)
		}
		if want := fmt.Sprintf("data: %d\n\ndata: %d\n\n", i, i+1); string(chunk) != want || err != nil {
			t.Fatalf("read %q, %v, want %q", chunk, err, want)
		}
	}
	none, asked := l.NewReader(1), 0
	for none.Position() <= l.Head() {
		asked = 0
		before := none.Position()
		if chunk, n, err := none.NextMatching(1<<20, func(uint32, []byte) bool { asked++; return false }); chunk != nil || n != 0 || err != nil {
			t.Fatalf("nothing wanted, read %q, %d, %v", chunk, n, err)
		}
		if none.Position() == before {
			t.Fatalf("stays at %d", before)
		}
		if asked > maxPassed+maxSegment/bytesPerEntry { // it looks at whole segments
			t.Errorf("looked at %d events in one go", asked)
		}
	}
	if none.Position() != 100001 {
		t.Errorf("now at %d, want 100001", none.Position())
	}
}

// No callback under a lock: a filter that asks the log is no deadlock.
func TestFilterMayUseTheLog(t *testing.T) {
	l := New(roomy)
	appendN(l, 3, "data: x\n\n")
	_, n, err := l.NewReader(1).NextMatching(1000, func(uint32, []byte) bool { return l.Stats().Head == 3 })
	if n != 3 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
}

func TestReaderPositionIsBounded(t *testing.T) {
	l := New(roomy)
	appendN(l, 5, "data: x\n\n")
	for next, want := range map[uint64]uint64{0: 1, 1: 1, 6: 6, 7: 6, 1<<64 - 1: 6} {
		if got := l.NewReader(next).Position(); got != want {
			t.Errorf("NewReader(%d) at %d, want %d", next, got, want)
		}
	}
}

func TestAppendedIsCoalesced(t *testing.T) {
	l := New(roomy)
	appendN(l, 3, "data: x\n\n")
	<-l.Appended()
	select {
	case <-l.Appended():
		t.Error("second signal")
	default:
	}
}

func TestCursorStateNames(t *testing.T) {
	for state, want := range map[CursorState]string{Known: "known", Expired: "expired", Unknown: "unknown", CursorState(9): "unknown"} {
		if state.String() != want {
			t.Errorf("%d is %q, want %q", state, state.String(), want)
		}
	}
}
