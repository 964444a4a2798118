package eventlog

import (
	"bytes"
	"runtime"
	"testing"
	"time"
	"weak"
)

// track remembers all segments the log has now without keeping them alive.
func track(l *Log, seen map[weak.Pointer[segment]]bool) {
	for _, s := range l.segments {
		seen[weak.Make(s)] = true
	}
}

// alive counts the tracked segments that can still be reached.
func alive(seen map[weak.Pointer[segment]]bool) (n int) {
	runtime.GC()
	runtime.GC()
	for p := range seen {
		if p.Value() != nil {
			n++
		}
	}
	return n
}

func TestBlockedReaderKeepsOneSegment(t *testing.T) {
	l := New(Options{MaxEvents: 1 << 30, MaxBytes: 100 << 10})
	seen := make(map[weak.Pointer[segment]]bool)
	body := bytes.Repeat([]byte("x"), 200)
	l.Append(start, 0, body)
	r := l.NewReader(1)
	chunk, _, err := r.Next(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	for range 20000 {
		l.Append(start, 0, body)
		track(l, seen)
	}
	if l.Tail() < 15000 || len(seen) < 100 {
		t.Fatalf("tail %d after %d segments: nothing evicted", l.Tail(), len(seen))
	}
	if n, want := alive(seen), len(l.segments)+1; n != want {
		t.Errorf("%d segments are alive, want %d: the log's and the reader's", n, want)
	}
	if !bytes.Equal(chunk, body) {
		t.Errorf("the piece is now %q", chunk)
	}
	runtime.KeepAlive(r)

	// Nothing uses the reader any more: only the log's are left.
	if n, want := alive(seen), len(l.segments); n != want {
		t.Errorf("%d segments are alive, want %d", n, want)
	}
}

func TestIdleReaderKeepsOneSegment(t *testing.T) {
	l := New(Options{MaxEvents: 1 << 30, MaxBytes: 1 << 20, MaxAge: time.Minute})
	seen := make(map[weak.Pointer[segment]]bool)
	r := l.NewReader(1)
	for range 20000 {
		l.Append(start, 0, []byte("data: 0123456789\n\n"))
		track(l, seen)
		if _, _, err := r.Next(1 << 20); err != nil {
			t.Fatal(err)
		}
	}
	l.Expire(start.Add(time.Hour))
	if n := alive(seen); n != 1 || len(seen) < 5 {
		t.Errorf("%d of %d segments are alive, want the reader's", n, len(seen))
	}
	runtime.KeepAlive(r)
	runtime.KeepAlive(l)
}

// What Stats counts is what the heap holds.
func TestMemoryIsAccountedFor(t *testing.T) {
	for _, size := range []int{20, 250, 4096} {
		const logs, bound = 4, 2 << 20
		before := heap()
		all := make([]*Log, logs)
		var accounted int64
		body := make([]byte, size)
		for i := range all {
			all[i] = New(Options{MaxEvents: 1 << 30, MaxBytes: bound})
			for range 2 * bound / size {
				all[i].Append(start, 0, body)
			}
			accounted += all[i].Stats().Memory
		}
		held := heap() - before
		if held > accounted*11/10 || held < accounted*9/10 {
			t.Errorf("events of %d bytes: the heap holds %d, accounted for are %d", size, held, accounted)
		}
		runtime.KeepAlive(all)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
