package eventlog

import (
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// Offsets that no event has are none of the last events.
func TestLastPassesOverOffsetsThatAreTaken(t *testing.T) {
	l := New(Options{MaxEvents: 100, MaxBytes: 1 << 20})
	now := time.Now()
	events := func(n int) {
		for range n {
			l.Append(now, 0, []byte("data: 1\n\n"))
		}
	}
	take := func(n int) {
		for range n {
			l.Take(now)
		}
	}
	check := func(n, wantNext, wantMissing uint64) {
		t.Helper()
		if next, missing := l.Last(n); next != wantNext || missing != wantMissing {
			t.Errorf("the last %d events begin at %d, and %d are missing; want %d and %d", n, next, missing, wantNext, wantMissing)
		}
	}
	take(2)    // 1, 2
	events(10) // 3 to 12
	take(5)    // 13 to 17
	events(3)  // 18 to 20
	take(2)    // 21, 22
	check(0, 23, 0)
	check(1, 20, 0)
	check(3, 18, 0)
	check(4, 12, 0)
	check(13, 3, 0)
	check(20, 1, 7)
	events(93) // up to 115: the oldest is 16
	check(93, 23, 0)
	check(94, 20, 0)
	check(96, 18, 0)
	check(97, 16, 1)
	l.Restore([]logstore.Epoch{{ID: logstore.NewEpochID(), First: 1}}, 500)
	events(1)
	check(2, 500, 1)
}
