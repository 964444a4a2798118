package eventlog

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// appendTagged appends an event of a tag, which arrives at as many ms as its
// offset.
func appendTagged(l *Log, tag uint32) uint64 {
	offset, _ := l.Append(time.UnixMilli(int64(l.Head())+1), tag, fmt.Appendf(nil, "data: %d\n\n", tag))
	return offset
}

func wantTag(tag uint32) func(uint32) bool { return func(t uint32) bool { return t == tag } }

// What was evicted is known exactly, whatever the bound was.
func TestEvictedIsExact(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		l := New(Options{MaxEvents: 1 + rnd.IntN(300), MaxBytes: 1 << (12 + rnd.IntN(6)), IDs: true})
		var tags []uint32 // by offset, less 1
		for range 3000 {
			tag := uint32(rnd.IntN(8))
			if rnd.IntN(4) == 0 {
				tag = uint32(rnd.IntN(40))
			}
			switch rnd.IntN(200) {
			case 0:
				l.SetOptions(Options{MaxEvents: 1 + rnd.IntN(300), MaxBytes: 1 << (12 + rnd.IntN(6))})
			case 1:
				l.Take(time.UnixMilli(int64(l.Head()) + 1))
				tags = append(tags, 1<<31)
			}
			appendTagged(l, tag)
			tags = append(tags, tag)
			if rnd.IntN(50) != 0 {
				continue
			}
			from, tail, wanted := 1+uint64(rnd.IntN(len(tags))), l.Tail(), uint32(rnd.IntN(40))
			want := uint64(0)
			for o := from; o < tail; o++ {
				if tags[o-1] == wanted {
					want = o
				}
			}
			if got, arrived := l.Evicted(from, tail, wantTag(wanted)); got != want || arrived != int64(want) {
				t.Fatalf("seed %d: of tag %d, from %d to %d: got %d at %d, want %d", seed, wanted, from, tail, got, arrived, want)
			}
		}
	}
}

// Of a log that a store has, what is gone is not what memory has evicted: nothing
// that is gone is passed over, and what is far from the store's first event is
// exact.
func TestEvictedBeforeTheFirstOfAStore(t *testing.T) {
	l := New(Options{MaxEvents: 50, MaxBytes: 1 << 20, IDs: true})
	const begin = 1000
	l.Restore(l.epochs, begin)
	appendTagged(l, 7)
	const events = 20 * leastStretch
	for i := range events {
		appendTagged(l, uint32(i)%5)
	}
	if got, arrived := l.Evicted(begin-1, begin, wantTag(99)); got != begin-1 || arrived != begin {
		t.Errorf("before the log began, tag 99 was evicted at %d, %d, want to be unknown", got, arrived)
	}
	if got, _ := l.Evicted(begin+1, l.Tail(), wantTag(7)); got != 0 {
		t.Errorf("the only event of tag 7 is at %d", got)
	}
	if got, _ := l.Evicted(begin, l.Tail(), wantTag(7)); got != begin {
		t.Errorf("the only event of tag 7 is at %d, want %d", got, begin)
	}
	for first := uint64(begin) + 5; first < l.Tail(); first += 997 {
		for tag := range uint32(5) {
			if got, _ := l.Evicted(first-5, first, wantTag(tag)); got < first-5 || got >= first {
				t.Fatalf("of the five events before %d, that of tag %d is at %d", first, tag, got)
			}
		}
		if first%2 == 0 {
			l.GoneBefore(first)
		}
		if got, _ := l.Evicted(first-5, first, wantTag(99)); got != 0 {
			t.Fatalf("before %d, there is tag 99 at %d", first, got)
		}
	}
}

// The newest events of what is forgotten may be anything.
func TestEvictedIsBounded(t *testing.T) {
	for _, restored := range []bool{false, true} {
		l := New(Options{MaxEvents: 10, MaxBytes: 64 << 10, IDs: true})
		if restored {
			l.Restore(l.epochs, 1)
		}
		const events = 20_000
		for i := range uint32(events) {
			appendTagged(l, i)
			if n, most := l.evicted.entries, 256; n > most || len(l.evicted.stretches) > maxStretches {
				t.Fatalf("%d entries in %d stretches", n, len(l.evicted.stretches))
			}
		}
		if got, _ := l.Evicted(events-100, l.Tail(), wantTag(events-50)); got != events-49 {
			t.Errorf("a recent event is found at %d", got)
		}
		if got, _ := l.Evicted(events-100, l.Tail(), wantTag(5)); got != 0 {
			t.Errorf("what was not there lately is found at %d", got)
		}
		if got, _ := l.Evicted(100, l.Tail(), wantTag(events+1)); got == 0 {
			t.Error("what was forgotten is known")
		}
	}
}
