package eventlog

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// arrivals is the log as a slice of the times at which its offsets were given out,
// which never forgets. Offset i+1 is at i.
type arrivals []int64

// since is what Log.Since has to answer about the offsets from tail on.
func (a arrivals) since(t int64, tail uint64) (next uint64, all bool) {
	next, all = uint64(len(a)+1), true
	for i := len(a) - 1; i >= 0 && a[i] >= t; i-- {
		if uint64(i+1) < tail {
			return next, false
		}
		next = uint64(i + 1)
	}
	return next, all
}

// At every millisecond there is, over segments of all sizes and evictions of all
// kinds: many events of one millisecond, clocks that go back, offsets without an
// event, more than one epoch.
func TestSinceIsExactToTheMillisecond(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 7))
		l := New(Options{MaxEvents: 1 << 20, MaxBytes: []int64{1, 2000, 30_000, 1 << 20}[seed%4], IDs: seed%3 == 0})
		if seed%5 == 0 {
			l.Restore([]logstore.Epoch{{ID: logstore.NewEpochID(), First: 1}, {ID: logstore.NewEpochID(), First: 50}}, 1)
		}
		now, given := start.UnixMilli(), arrivals{}
		add := func() {
			at := now - rng.Int64N(20)*rng.Int64N(2) // the clock was set back
			if n := len(given); n > 0 {
				given = append(given, max(at, given[n-1]))
			} else {
				given = append(given, at)
			}
			if arrival := time.UnixMilli(at); rng.IntN(10) == 0 {
				l.Take(arrival)
			} else {
				l.Append(arrival, 0, make([]byte, rng.IntN(200)))
			}
		}
		for range 30 {
			for range rng.IntN(30) {
				add()
				now += rng.Int64N(4) * rng.Int64N(2)
			}
			switch rng.IntN(4) {
			case 0:
				l.SetOptions(Options{MaxEvents: 1 + rng.IntN(500), MaxBytes: l.Options().MaxBytes})
			case 1:
				l.SetOptions(Options{MaxBytes: 1 + rng.Int64N(50_000), MaxAge: l.Options().MaxAge})
			case 2:
				l.SetOptions(Options{MaxBytes: l.Options().MaxBytes, MaxAge: time.Duration(1+rng.IntN(200)) * time.Millisecond})
				l.Expire(time.UnixMilli(now))
			}
			for at := start.UnixMilli() - 30; at <= now+1; at++ {
				next, all := l.Since(at)
				wantNext, wantAll := given.since(at, l.Tail())
				if !wantAll {
					wantNext = l.Tail()
				}
				if next != wantNext || all != wantAll {
					t.Fatalf("seed %d: since %d: from %d, all %t; want %d, %t; log [%d, %d]", seed, at, next, all, wantNext, wantAll, l.Tail(), l.Head())
				}
			}
		}
	}
}

// What a log does not know of the time before it went on from a store, it says.
func TestSinceOfALogThatGoesOn(t *testing.T) {
	l := New(Options{MaxEvents: 2, MaxBytes: 1 << 20})
	l.Append(start, 0, []byte("data: a\n\n"))
	l.Restore([]logstore.Epoch{{ID: logstore.NewEpochID(), First: 1}}, 500)
	at := start.UnixMilli()
	check := func(t0 int64, wantNext uint64, wantAll bool) {
		t.Helper()
		if next, all := l.Since(t0); next != wantNext || all != wantAll {
			t.Errorf("since %d ms after the start: from %d, all %t; want %d, %t", t0-at, next, all, wantNext, wantAll)
		}
	}
	check(at, 500, false)
	check(at+1000, 500, false)
	for i := range 3 { // 500, which is evicted, to 502
		l.Append(start.Add(time.Duration(i)*time.Second), 0, []byte("data: a\n\n"))
	}
	check(at, 501, false)
	check(at+1, 501, true)
	check(at+1000, 501, true)
	check(at+1001, 502, true)
	check(at+2001, 503, true)
}
