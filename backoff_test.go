package ssefanin

import (
	"testing"
	"time"
)

// waits draws many waits of a backoff after n failures and returns the
// shortest and the longest.
func waits(base, ceiling time.Duration, n uint) (shortest, longest time.Duration) {
	shortest = time.Duration(1<<63 - 1)
	for range 2000 {
		b := backoff{base: base, max: ceiling, n: n}
		wait := b.next()
		shortest, longest = min(shortest, wait), max(longest, wait)
	}
	return shortest, longest
}

func TestBackoffGrowsToItsMaximum(t *testing.T) {
	for _, tc := range []struct {
		base, max time.Duration
		n         uint
		ceiling   time.Duration
	}{
		{time.Second, time.Minute, 0, time.Second},
		{time.Second, time.Minute, 1, 2 * time.Second},
		{time.Second, time.Minute, 5, 32 * time.Second},
		{time.Second, time.Minute, 6, time.Minute},
		{time.Second, time.Minute, 1000, time.Minute},
		{time.Millisecond, 24 * time.Hour, 20, 1 << 20 * time.Millisecond},
		{time.Hour, 1<<63 - 1, 60, 1<<63 - 1},
		{time.Hour, 1 << 62, 21, 1 << 62}, // base·2ⁿ would overflow
		{time.Second, time.Second, 3, time.Second},
	} {
		b := backoff{base: tc.base, max: tc.max, n: tc.n}
		if got := b.ceiling(); got != tc.ceiling {
			t.Errorf("base %s, max %s, %d failures: the ceiling is %s, want %s", tc.base, tc.max, tc.n, got, tc.ceiling)
		}
		shortest, longest := waits(tc.base, tc.max, tc.n)
		spread := tc.ceiling - tc.base
		if shortest < tc.base || longest > tc.ceiling || shortest > tc.base+spread/20 || longest < tc.ceiling-spread/20 {
			t.Errorf("base %s, max %s, %d failures: waits are %s to %s, want %s to %s", tc.base, tc.max, tc.n, shortest, longest, tc.base, tc.ceiling)
		}
	}
}

func TestBackoffCountsFailures(t *testing.T) {
	b := backoff{base: time.Second, max: time.Minute}
	for i, seconds := range []int{1, 2, 4, 8, 16, 32, 60, 60} {
		want := time.Duration(seconds) * time.Second
		if got := b.ceiling(); got != want {
			t.Errorf("after %d failures the ceiling is %s, want %s", i, got, want)
		}
		b.next()
	}
}

func TestBackoffStartsAgain(t *testing.T) {
	for _, tc := range []struct {
		failures int
		lived    time.Duration
		brought  bool
		again    bool
	}{
		{0, 0, false, true},
		{3, 0, false, false}, // a 200 alone proves nothing
		{3, 10*time.Second - 1, false, false},
		{3, 10 * time.Second, false, true},
		{9, 10 * time.Second, false, true}, // whatever the ceiling
		{9, time.Millisecond, true, true},
		{1, 2*time.Second + 1, false, false}, // longer than the ceiling
	} {
		b := backoff{base: time.Second, max: time.Minute}
		for range tc.failures {
			b.next()
		}
		b.noteEnd(tc.lived, tc.brought)
		if again := b.ceiling() == time.Second; again != tc.again {
			t.Errorf("%d failures, then a connection of %s, with new events: %t: starts again is %t, want %t", tc.failures, tc.lived, tc.brought, again, tc.again)
		}
	}
}

func TestRetryOfTheUpstreamReplacesTheBase(t *testing.T) {
	for _, tc := range []struct{ max, retry, base time.Duration }{
		{time.Minute, 3 * time.Second, 3 * time.Second},
		{time.Minute, 0, 100 * time.Millisecond},
		{time.Minute, 99 * time.Millisecond, 100 * time.Millisecond},
		{time.Minute, 1<<63 - 1, time.Minute},
		{50 * time.Millisecond, 0, 50 * time.Millisecond}, // the maximum is the user's word
	} {
		b := backoff{base: time.Second, max: tc.max}
		b.setBase(tc.retry)
		if got := b.next(); got != tc.base {
			t.Errorf("retry %s, max %s: the first wait is %s, want %s", tc.retry, tc.max, got, tc.base)
		}
		if got := b.next(); got < tc.base || got > tc.max || got > 2*tc.base {
			t.Errorf("retry %s, max %s: the second wait is %s", tc.retry, tc.max, got)
		}
	}
}

func TestSlowRetryIsTheMaximumAtLeast30s(t *testing.T) {
	for ceiling, want := range map[time.Duration]time.Duration{
		50 * time.Millisecond: 30 * time.Second,
		time.Minute:           time.Minute,
		time.Hour:             time.Hour,
	} {
		b := backoff{base: time.Millisecond, max: ceiling}
		if got := b.slow(); got != want {
			t.Errorf("max %s: the slow retry is %s, want %s", ceiling, got, want)
		}
	}
}
