package eventlog

import (
	"fmt"
	"testing"
	"time"
)

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{50, 250, 4096} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			l := New(Options{MaxEvents: 1 << 30, MaxBytes: 64 << 20, IDs: true})
			body := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				l.Append(start, 0, body)
			}
		})
	}
}

func BenchmarkAppendParallel(b *testing.B) {
	l := New(Options{MaxEvents: 10000, MaxBytes: 64 << 20, IDs: true})
	body := make([]byte, 250)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Append(start, 0, body)
		}
	})
}

// Events of 250 bytes are appended, one or ten between two wake-ups, and every
// reader then does what a client does: it reads until nothing is left. ns/event
// is all of it for one event; ns/delivery is that divided by the readers, so
// with few of them it is mostly the appending.
func BenchmarkDeliver(b *testing.B) {
	for _, bm := range []struct {
		name string
		next func(r *Reader) (chunk []byte, events int, err error)
	}{
		{"Next", func(r *Reader) ([]byte, int, error) {
			return r.Next(maxSegment)
		}},
		{"NextMatching", func(r *Reader) ([]byte, int, error) {
			return r.NextMatching(maxSegment, func(tag uint32, _ []byte) bool { return tag == 0 })
		}},
	} {
		for _, readers := range []int{1, 10, 100, 1000, 10000} {
			for _, batch := range []int{1, 10} {
				b.Run(fmt.Sprintf("%s/readers=%d/batch=%d", bm.name, readers, batch), func(b *testing.B) {
					benchmarkDeliver(b, readers, batch, bm.next)
				})
			}
		}
	}
}

func benchmarkDeliver(b *testing.B, readers, batch int, next func(r *Reader) ([]byte, int, error)) {
	l := New(Options{MaxEvents: 10000, MaxBytes: 64 << 20, IDs: true})
	all := make([]*Reader, readers)
	for i := range all {
		all[i] = l.NewReader(1)
	}
	body := make([]byte, 250)
	b.ReportAllocs()
	for b.Loop() {
		for range batch {
			l.Append(start, 0, body)
		}
		for _, r := range all {
			read := 0
			for {
				chunk, events, err := next(r)
				if err != nil {
					b.Fatal(err)
				}
				if chunk == nil {
					break
				}
				read += events
			}
			if read != batch {
				b.Fatalf("read %d events of %d", read, batch)
			}
		}
	}
	perEvent := float64(b.Elapsed().Nanoseconds()) / float64(b.N*batch)
	b.ReportMetric(perEvent, "ns/event")
	b.ReportMetric(perEvent/float64(readers), "ns/delivery")
}

// million is a log of a million events, one each millisecond.
func million() *Log {
	l := New(Options{MaxEvents: 1 << 30, MaxBytes: 1 << 30, IDs: true})
	body := []byte("data: 0123456789\n\n")
	for i := range 1000000 {
		l.Append(start.Add(time.Duration(i)*time.Millisecond), uint32(i%100), body)
	}
	return l
}

// Reading a million events from the beginning, in pieces.
func BenchmarkCatchUp(b *testing.B) {
	l := million()
	for _, limit := range []int{4 << 10, 32 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("limit=%d", limit), func(b *testing.B) {
			b.SetBytes(l.Stats().Bytes)
			for b.Loop() {
				r := l.NewReader(1)
				for {
					if chunk, _, _ := r.Next(limit); chunk == nil {
						break
					}
				}
			}
		})
	}
	b.Run("matching=1%", func(b *testing.B) {
		for b.Loop() {
			r := l.NewReader(1)
			for {
				if chunk, _, _ := r.NextMatching(32<<10, func(tag uint32, _ []byte) bool { return tag == 7 }); chunk == nil && r.Position() > l.Head() {
					break
				}
			}
		}
	})
}

func BenchmarkSeek(b *testing.B) {
	l := million()
	b.Run("After", func(b *testing.B) {
		var i uint64
		for b.Loop() {
			i = (i + 700001) % 1000000
			l.After(Cursor{Epoch: l.Epoch(), Offset: i})
		}
	})
	b.Run("Since", func(b *testing.B) {
		var i int64
		for b.Loop() {
			i = (i + 700001) % 1000000
			l.Since(start.UnixMilli() + i)
		}
	})
	b.Run("AfterAndNext", func(b *testing.B) {
		var i uint64
		b.ReportAllocs()
		for b.Loop() {
			i = (i + 700001) % 1000000
			next, _ := l.After(Cursor{Epoch: l.Epoch(), Offset: i})
			if _, events, _ := l.NewReader(next).Next(32 << 10); events == 0 {
				b.Fatal("nothing read")
			}
		}
	})
}

func BenchmarkParseCursor(b *testing.B) {
	s := New(Options{MaxEvents: 1, MaxBytes: 1}).CursorBefore(1, start).String()
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := ParseCursor(s); !ok {
			b.Fatal(s)
		}
	}
}
