package eventlog

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// broadcast turns the log's one signal into a wake-up for many readers, as the
// hub does.
type broadcast struct {
	mu   sync.Mutex // protects ch
	ch   chan struct{}
	stop chan struct{}
}

// run forwards the log's signals until stop is closed. The test waits for it.
func (b *broadcast) run(l *Log) {
	for {
		select {
		case <-l.Appended():
			b.mu.Lock()
			close(b.ch)
			b.ch = make(chan struct{})
			b.mu.Unlock()
		case <-b.stop:
			return
		}
	}
}

func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

// testBody is an event whose every byte follows from who sent it as which.
func testBody(appender, n int) []byte {
	return fmt.Appendf(nil, "data: %d %d %s\n\n", appender, n, strings.Repeat(string(rune('a'+n%26)), n*n%300))
}

// verify checks the events of a piece against the offset of the first and each
// appender's own order, and returns how many there are.
func verify(l *Log, chunk []byte, next uint64, last []int) (events int, err error) {
	for len(chunk) > 0 {
		text, rest, ok := bytes.Cut(chunk, []byte("\n\n"))
		if !ok {
			return events, fmt.Errorf("piece ends within an event: %q", chunk)
		}
		id, body, _ := strings.Cut(string(text), "\n")
		c, ok := ParseCursor(strings.TrimPrefix(id, "id: "))
		if !ok || c.Epoch != l.Epoch() || c.Offset != next+uint64(events) {
			return events, fmt.Errorf("cursor %q, want offset %d", id, next+uint64(events))
		}
		var appender, n int
		if _, err := fmt.Sscanf(body, "data: %d %d", &appender, &n); err != nil {
			return events, fmt.Errorf("event %q: %w", body, err)
		}
		if want := testBody(appender, n); body+"\n\n" != string(want) {
			return events, fmt.Errorf("event %q, want %q", body, want)
		}
		if n <= last[appender] {
			return events, fmt.Errorf("event %d of appender %d after %d", n, appender, last[appender])
		}
		last[appender] = n
		chunk = rest
		events++
	}
	return events, nil
}

func TestConcurrentAppendersAndReaders(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options Options
	}{
		{"everything retained", Options{MaxEvents: 1 << 30, MaxBytes: 1 << 30, IDs: true}},
		{"few bytes", Options{MaxEvents: 1 << 30, MaxBytes: 20000, IDs: true}},
		{"few events", Options{MaxEvents: 50, MaxBytes: 1 << 20, IDs: true}},
		{"short age", Options{MaxEvents: 1 << 30, MaxBytes: 1 << 30, MaxAge: 20 * time.Millisecond, IDs: true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			const appenders, perAppender, readers = 3, 3000, 12
			l := New(tc.options)
			b := &broadcast{ch: make(chan struct{}), stop: make(chan struct{})}
			var wg, notifier sync.WaitGroup
			notifier.Go(func() { b.run(l) })
			for a := range appenders {
				wg.Go(func() {
					for n := 1; n <= perAppender; n++ {
						// The clock of the log is the number of the event.
						l.Append(start.Add(time.Duration(n)*time.Millisecond), uint32(a), testBody(a, n))
						if n%100 == 0 {
							runtime.Gosched()
						}
					}
				})
			}
			for i := range readers {
				wg.Go(func() {
					if err := follow(l, b, i, appenders, appenders*perAppender); err != nil {
						t.Errorf("reader %d: %v", i, err)
					}
				})
			}
			wg.Wait()
			close(b.stop)
			notifier.Wait()
			if l.Head() != appenders*perAppender {
				t.Errorf("head %d, want %d", l.Head(), appenders*perAppender)
			}
		})
	}
}

// follow is a reader that checks every event up to the last. Each one reads in
// pieces of another size, and the higher its number the slower it is.
func follow(l *Log, b *broadcast, number, appenders int, last uint64) error {
	r := l.NewReader(1)
	order := make([]int, appenders)
	var kept, copied []byte
	for next := uint64(1); next <= last; {
		wake := b.next()
		chunk, events, err := r.Next(1 << number)
		switch {
		case errors.Is(err, ErrOvertaken):
			missed := r.Skip()
			if next += missed; missed == 0 || next > l.Tail() {
				return fmt.Errorf("missed %d, now at %d, tail %d", missed, next, l.Tail())
			}
		case err != nil:
			return err
		case chunk == nil:
			if next <= last {
				<-wake
			}
		default:
			got, err := verify(l, chunk, next, order)
			if err != nil {
				return err
			}
			if got != events {
				return fmt.Errorf("%d events in a piece of %d", got, events)
			}
			next += uint64(events)
			if kept == nil {
				kept, copied = chunk, bytes.Clone(chunk)
			}
			for range number * 10 {
				runtime.Gosched()
			}
		}
		if r.Position() != next {
			return fmt.Errorf("now at %d, want %d", r.Position(), next)
		}
	}
	if !bytes.Equal(kept, copied) {
		return fmt.Errorf("a piece changed after it was read: %q, was %q", kept, copied)
	}
	return nil
}

// Between positioning and reading, nothing is lost and nothing comes twice.
func TestSeamBetweenSeekAndLive(t *testing.T) {
	l := New(Options{MaxEvents: 1 << 30, MaxBytes: 1 << 30, IDs: true})
	const total = 8000
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1; n <= total; n++ {
			l.Append(start.Add(time.Duration(n)*time.Millisecond), 0, testBody(0, n))
			if n%10 == 0 {
				runtime.Gosched()
			}
		}
	})
	for i := range 4 {
		wg.Go(func() {
			for l.Head() < total {
				before := l.Head()
				var next, want uint64
				switch i {
				case 0:
					want = before + 1
					next, _ = l.After(Cursor{Epoch: l.Epoch(), Offset: before})
				case 1:
					want = max(before, 1)
					next, _ = l.Since(start.UnixMilli() + int64(want))
				case 2:
					next, _ = l.Last(5)
					want = max(next, before-min(before, 4)) // the log may have grown since
				case 3:
					want = max(before, 1)
					next, _ = l.After(l.CursorBefore(want, start))
				}
				if next != want {
					t.Errorf("way %d: sought to %d, want %d", i, next, want)
					return
				}
				r := l.NewReader(next)
				order := []int{int(next) - 1}
				for runtime.Gosched(); ; {
					chunk, _, err := r.Next(1000)
					if err != nil {
						t.Errorf("way %d: reading: %v", i, err)
						return
					}
					if chunk == nil {
						break
					}
					events, err := verify(l, chunk, next, order)
					if err != nil {
						t.Errorf("way %d: %v", i, err)
						return
					}
					next += uint64(events)
					if order[0] != int(next)-1 { // the n-th event says n
						t.Errorf("way %d: event %d at offset %d", i, order[0], next-1)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestConcurrentFilterAndOptions(t *testing.T) {
	l := New(Options{MaxEvents: 1 << 30, MaxBytes: 1 << 20, IDs: true})
	const total = 10000
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1; n <= total; n++ {
			l.Append(start.Add(time.Duration(n)*time.Millisecond), uint32(n%3), testBody(0, n))
		}
	})
	wg.Go(func() {
		for i := 0; l.Head() < total; i++ {
			o := []Options{{MaxEvents: 10, MaxBytes: 1 << 20}, {MaxEvents: 1 << 30, MaxBytes: 1 << 14}, {MaxEvents: 1 << 30, MaxBytes: 1 << 30, MaxAge: time.Second}}[i%3]
			l.SetOptions(o)
			l.Expire(start.Add(time.Duration(l.Head()) * time.Millisecond))
			l.Stats()
			runtime.Gosched()
		}
	})
	for range 4 {
		wg.Go(func() {
			r := l.NewReader(1)
			order := []int{0}
			for r.Position() <= total {
				chunk, events, err := r.NextMatching(2000, func(tag uint32, _ []byte) bool { return tag != 1 })
				switch {
				case err != nil:
					if r.Skip() == 0 {
						t.Error("overtaken, but nothing missed")
						return
					}
				case chunk == nil:
					runtime.Gosched()
				default:
					if got, err := verify(l, chunk, r.Position()-uint64(events), order); err != nil || got != events {
						t.Errorf("%d events, want %d: %v", got, events, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}
