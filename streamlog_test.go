package ssefanin

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
)

// The ids are those that a list of all events gives, whatever is evicted.
func TestIDsInForce(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		bound := 1 + rnd.IntN(200)
		l := newStreamLog(eventlog.Options{MaxEvents: bound, MaxBytes: 1 << 20}, idsUpstream)
		inForce := []string{""} // by offset
		id := 0
		for range 500 {
			if rnd.IntN(3) > 0 {
				id = rnd.IntN(300) // some come again
			}
			l.appendWithID(time.Now(), 0, []byte("data: x\n\n"), fmt.Append(nil, id))
			inForce = append(inForce, fmt.Sprint(id))
			if rnd.IntN(100) == 0 {
				bound = 1 + rnd.IntN(200)
				l.memory.SetOptions(eventlog.Options{MaxEvents: bound, MaxBytes: 1 << 20})
			}
			next := l.memory.Tail() + rnd.Uint64N(l.memory.Head()+2-l.memory.Tail())
			if got, want := l.idBefore(next), inForce[next-1]; got != want {
				t.Fatalf("seed %d: before %d of %d to %d: id %q, want %q", seed, next, l.memory.Tail(), l.memory.Head(), got, want)
			}
		}
	}
}

// When much is evicted at once, ids are forgotten little by little, and those of
// evicted events are not found.
func TestIDsOfManyEvictedEvents(t *testing.T) {
	const events = 3 * maxForgotten
	l := newStreamLog(eventlog.Options{MaxEvents: events, MaxBytes: 64 << 20}, idsUpstream)
	for i := range events {
		l.appendWithID(time.Now(), 0, []byte("data: x\n\n"), fmt.Append(nil, i))
	}
	l.memory.SetOptions(eventlog.Options{MaxEvents: 10, MaxBytes: 64 << 20})
	for i := range 4 {
		before := len(l.noted)
		l.appendWithID(time.Now(), 0, []byte("data: x\n\n"), fmt.Append(nil, events+i))
		if n := before + 1 - len(l.noted); n > maxForgotten {
			t.Errorf("one event had %d ids forgotten", n)
		}
		if _, ok := l.afterID(fmt.Sprint(events - 20)); ok {
			t.Error("the id of an evicted event was found")
		}
		if id, want := l.idBefore(l.memory.Tail()), fmt.Sprint(l.memory.Tail()-2); id != want {
			t.Errorf("the id before the oldest one is %s, want %s", id, want)
		}
	}
	if len(l.noted) > 11 || len(l.byID) > 11 {
		t.Errorf("%d ids are noted and %d indexed of 10 events", len(l.noted), len(l.byID))
	}
}

// What `start oldest` asks for: the id before the oldest of a million.
func BenchmarkIDBefore(b *testing.B) {
	const events = 1_000_000
	l := newStreamLog(eventlog.Options{MaxEvents: events, MaxBytes: 1 << 30}, idsUpstream)
	now := time.Now()
	for i := range events {
		l.appendWithID(now, 0, []byte("data: x\n\n"), fmt.Append(nil, i))
	}
	for b.Loop() {
		l.idBefore(2)
	}
}
