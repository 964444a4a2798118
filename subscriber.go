package ssefanin

import (
	"math"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// endReason is why a client's stream ended; a fixed set, for logs and metrics.
type endReason string

const (
	endClient  endReason = "client"  // it went away, or a write to it failed
	endTimeout endReason = "timeout" // it took nothing for the write timeout
	endSlow    endReason = "slow"    // overtaken, and `slow disconnect`
	endAge     endReason = "max_age"
	endRemoved endReason = "removed" // a reload removed the stream
	endReload  endReason = "reload"  // `on_reload drain`
	endDrained endReason = "drained" // by an operator
	endExit    endReason = "exit"
)

// never is a time that does not come, in Unix nanoseconds.
const never = math.MaxInt64

// subscriber is the hub's handle of one connected client. The client's
// goroutine waits on its token alone; whatever it is to do, new events, a
// heartbeat, the end, it is woken for by a token.
//
// The fields before mu are set before the hub knows the subscriber. Its
// methods are safe for concurrent use.
type subscriber struct {
	handler  *Handler
	settings *clientSettings
	asked    string // the position that the client came with
	since    time.Time

	// token has capacity 1: a client that was woken looks for everything, so
	// that a second token would say nothing new.
	token chan struct{}

	index int // in the hub's list; the hub's

	beat  atomic.Int64 // when the next heartbeat is due, Unix ns; stored by the client
	endAt atomic.Int64 // when the client is to be ended, Unix ns

	at atomic.Pointer[clientPosition] // where the client reads; nil before it does; stored by the client

	mu        sync.Mutex // protects what follows, and the lowering of endAt
	endReason endReason
	deadline  func(time.Time) error // sets the connection's write deadline from another goroutine; nil once the handler has returned
}

func newSubscriber(handler *Handler, settings *clientSettings, base http.ResponseWriter) *subscriber {
	sub := &subscriber{
		handler:  handler,
		settings: settings,
		token:    make(chan struct{}, 1),
		deadline: http.NewResponseController(base).SetWriteDeadline,
	}
	now := time.Now()
	sub.since = now
	sub.beat.Store(never)
	if settings.heartbeat > 0 {
		sub.beat.Store(now.Add(settings.heartbeat).UnixNano())
	}
	sub.endAt.Store(never)
	if age := settings.maxAge; age > 0 {
		sub.endBy(now.Add(age-rand.N(age/5+1)), endAge)
	}
	return sub
}

// wake gives the client its token.
func (s *subscriber) wake() {
	select {
	case s.token <- struct{}{}:
	default:
	}
}

// due is when the client's clock next has something for it, in Unix ns.
func (s *subscriber) due() int64 {
	return min(s.beat.Load(), s.endAt.Load())
}

// endBy has the client ended at a time, unless it ends earlier anyway.
func (s *subscriber) endBy(at time.Time, why endReason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if nanos := at.UnixNano(); nanos < s.endAt.Load() {
		s.endReason = why
		s.endAt.Store(nanos)
	}
}

// drain has the client ended at a random time within its drain window.
func (s *subscriber) drain(now time.Time, why endReason) {
	s.endBy(now.Add(rand.N(s.settings.drain+1)), why)
}

// endNow ends the client at once.
func (s *subscriber) endNow(why endReason) {
	s.endBy(time.Unix(0, 0), why)
	s.wake()
}

// ended says whether the client is to end by now, and why.
func (s *subscriber) ended(now time.Time) (endReason, bool) {
	if now.UnixNano() < s.endAt.Load() {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endReason, true
}

// cut bounds a write that the client is blocked in. It sets the deadline
// below the writers that are not made for other goroutines.
func (s *subscriber) cut(deadline time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deadline != nil {
		_ = s.deadline(deadline) // a writer without deadlines cannot be helped
	}
}

// close is called by the client's goroutine before its handler returns: the
// connection is no longer its own.
func (s *subscriber) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = nil
}
