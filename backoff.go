package ssefanin

import (
	"math/rand/v2"
	"time"
)

const (
	// leastRetry is the floor of an upstream's own `retry:`; 0 would make a
	// server that closes at once a hot loop.
	leastRetry = 100 * time.Millisecond

	// slowRetry is the least wait after an answer that most likely is a
	// mistake in the configuration.
	slowRetry = 30 * time.Second

	// provenAfter is how long a connection has to live to count as one that
	// works though it brought nothing.
	provenAfter = 10 * time.Second

	// maxRetryAfter is the longest wait an upstream can ask for.
	maxRetryAfter = 10 * time.Minute
)

// backoff computes the waits between the connections to one upstream:
// base + random(0, min(max, base·2ⁿ) − base) after n failures in a row.
// Not safe for concurrent use.
type backoff struct {
	base, max time.Duration
	n         uint // failures in a row
}

// setBase replaces the base by the upstream's own (`retry:`), within 100ms and
// the maximum.
func (b *backoff) setBase(d time.Duration) {
	b.base = min(max(d, leastRetry), b.max)
}

// ceiling is the longest wait that next can return now.
func (b *backoff) ceiling() time.Duration {
	c := b.base << min(b.n, 40)
	if c>>min(b.n, 40) != b.base || c > b.max { // it overflowed, or is too long
		c = b.max
	}
	return max(c, b.base)
}

// next counts a failure and returns the wait before the next attempt.
func (b *backoff) next() time.Duration {
	wait := b.base
	if spread := b.ceiling() - b.base; spread > 0 {
		wait += rand.N(spread + 1)
	}
	b.n++
	return wait
}

// noteEnd notes how long a connection held, and whether it brought an event
// that was not sent before. A connection that did either has proved itself, and
// the count starts again; a 200 alone proves nothing.
func (b *backoff) noteEnd(lived time.Duration, broughtNew bool) {
	if broughtNew || lived >= provenAfter {
		b.n = 0
	}
}

// slow returns the wait after an answer that will not change soon.
func (b *backoff) slow() time.Duration {
	return max(b.max, slowRetry)
}
