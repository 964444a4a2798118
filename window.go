package ssefanin

import "time"

// window is one value of `coalesce` among a stream's clients: for so long after
// an event was appended, its clients are not woken, and then get it with all
// that came meanwhile. It opens only when the writers have come to all of the
// clients that were woken before: when there is more to do than can be done,
// there is more to coalesce. Without `coalesce`, it is 0. The audience's mu
// protects it.
type window struct {
	length  time.Duration
	clients int
	pending bool  // events were appended since it closed
	ends    int64 // monotonic ns; never: it is closed
}
