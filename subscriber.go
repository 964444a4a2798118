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

// never is a time that does not come, in monotonic nanoseconds.
const never = math.MaxInt64

// subscriber is the hub's handle of one connected client. The client is woken
// for each thing it is to do (write events or a heartbeat, end), and looks for
// everything in its turn.
//
// Fields without a named owner are set before the hub knows the subscriber. Its
// methods are safe for concurrent use.
type subscriber struct {
	// Fields used for each event lie together.
	turn        atomic.Uint32 // where the client stands with the writers
	lastWoken   bool          // the hub wants to know when its turn begins; the notifier's and then the writer's
	multiplexed bool          // over HTTP/2 or HTTP/3, where each of its writes waits for another goroutine
	slow        bool          // it was blocked in a write and has not caught up since; protected by the writers' mu
	client      *client
	following   *subscriber  // the next in the writers' queue; theirs
	window      *window      // of its view and settings; the audience's
	beat        atomic.Int64 // when the next heartbeat is due, monotonic ns; stored by the client
	endAt       atomic.Int64 // when the client is to be ended, monotonic ns
	deadline    writeDeadline

	asked string // the position that the client came with
	since int64  // when it came, Unix ms
	came  int64  // the same, monotonic ns
	index int    // in the audience's list; the audience's
	place int    // in the window's list; the audience's

	// left is closed by the output after the last turn. If the client is detached, it
	// gets a value instead, before the request's goroutine may wait for it: it has
	// capacity 1.
	left chan struct{}

	mu        sync.Mutex // protects the fields below, and the lowering of endAt
	endReason endReason
}

// Where a client stands with the writers.
const (
	turnIdle   = iota // has nothing to do
	turnQueued        // will look for everything there is to do
	turnTaken         // is looking
	turnAgain         // is looking, and something happened meanwhile
	turnNone          // has had its last turn
)

// init makes the subscriber of a request.
func (s *subscriber) init(c *client, w http.ResponseWriter, r *http.Request) {
	settings := c.settings
	s.client = c
	s.left = make(chan struct{}, 1)
	s.asked = requestedPosition(r)
	now := time.Now()
	s.since, s.came = now.UnixMilli(), monotonic(now)
	s.multiplexed = r.ProtoMajor > 1
	s.beat.Store(never)
	if settings.heartbeat > 0 {
		s.beat.Store(monotonic(now) + int64(settings.heartbeat))
	}
	s.endAt.Store(never)
	if age := settings.maxAge; age > 0 {
		s.endBy(monotonic(now)+int64(age-rand.N(age/5+1)), endAge)
	}
	s.deadline.init(w, r, settings.writeTimeout)
	if hard := s.deadline.hard; !hard.IsZero() {
		left := hard.Sub(now)
		s.endBy(monotonic(now)+int64(left-min(hardMargin, left/4)), endAge)
	}
}

// want has the client take a turn. True: the caller is to push it.
func (s *subscriber) want() bool {
	for {
		switch s.turn.Load() {
		case turnIdle:
			if s.turn.CompareAndSwap(turnIdle, turnQueued) {
				return true
			}
		case turnTaken:
			if s.turn.CompareAndSwap(turnTaken, turnAgain) {
				return false
			}
		default:
			return false
		}
	}
}

// wake has the client take a turn soon.
func (s *subscriber) wake() {
	if s.want() {
		clientWriters.push(turns{s, s})
	}
}

// idle reports whether the client has nothing to do at present, or has ended.
func (s *subscriber) idle() bool {
	turn := s.turn.Load()
	return turn == turnIdle || turn == turnNone
}

// wait has the client served, to its end or until it is detached.
func (s *subscriber) wait() (detached bool) {
	clientWriters.enter()
	exits.look()
	s.wake()
	_, detached = <-s.left
	return detached
}

// due is when the client's clock next has something for it, in monotonic ns.
func (s *subscriber) due() int64 {
	return min(s.beat.Load(), s.endAt.Load())
}

// endBy has the client ended at a time, in monotonic ns, unless it ends earlier
// anyway.
func (s *subscriber) endBy(at int64, why endReason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at < s.endAt.Load() {
		s.endReason = why
		s.endAt.Store(at)
	}
}

// drain has the client ended at a random time within its drain window.
func (s *subscriber) drain(now time.Time, why endReason) {
	s.endBy(monotonic(now)+int64(rand.N(s.client.settings.drain+1)), why)
}

// endNow ends the client at once.
func (s *subscriber) endNow(why endReason) {
	s.endBy(0, why)
	s.wake()
}

// lost ends the client at once when its request does: it went away, or its
// connection was closed for the sake of another stream over it.
func (s *subscriber) lost() {
	if s.deadline.conn.wasCut() {
		s.endNow(endTimeout)
	} else {
		s.endNow(endClient)
	}
}

// endDue reports whether the client is to end by now, and why.
func (s *subscriber) endDue(now time.Time) (endReason, bool) {
	if monotonic(now) < s.endAt.Load() {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endReason, true
}
