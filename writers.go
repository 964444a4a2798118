package ssefanin

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// clientWriters write to the clients of all streams of the process.
var clientWriters writers

// maxIdleWriters is how many writers wait for work at most, with a stack of
// some 16 KiB each: 2 MiB.
const maxIdleWriters = 128

// multiplexedShare is how many writers to clients over HTTP/2 and HTTP/3, where
// each write waits for the goroutine that writes to the connection, count as
// much as one that writes itself: enough to keep connections busy, while one for
// each client that an event wakes would be a stack for each, too.
const multiplexedShare = 32

// longTurn is how long a turn takes only if the write blocked, or the processor
// was taken away.
const longTurn = time.Millisecond

// longQueue is how long clients may stand in the queue before the writers take
// the last processor, too, until it is shorter or empty.
const longQueue = 12 * time.Millisecond

// writers are the goroutines that write to clients, instead of one for each
// client: a client that has something to do stands in one queue, and the
// goroutine of its request only waits. A delivery so costs no switch of
// goroutines, and a waiting client no stack that has ever written.
//
// There are as many at work as keep all processors but one busy. The last one
// is for whatever else the process does, and saves more than it could add: with
// a processor to spare, Go's runtime leaves a thread alone that is in a write,
// instead of handing its processor to another one every few writes. Only where
// the queue is long, all processors are to write. Over HTTP/2 and HTTP/3 a writer
// counts as a fraction of one, since it mostly waits.
//
// But a writer may block in a write, and the queue must not wait for it. A
// writer is taken for blocked whose turn is long, and another takes its place;
// from then on the client is slow, and its writer does not count, until it has
// caught up. So a client delays the others by longTurn or two when it begins to
// block, and many that do so together by little more; then it has a goroutine,
// as it would have in any other server.
//
// The invariant under mu: as long as a client stands in the queue, either a
// writer has been called and is on its way, or as many as may are at work and
// watched.
//
// Safe for concurrent use.
type writers struct {
	clients atomic.Int64 // connected; the idle writers end with the last
	limit   atomic.Int64 // how many may be at work

	mu     sync.Mutex // protects the fields below
	queue  turns
	idle   []*writer // the one that came last is called first: its stack is in the cache
	called bool      // a writer is on its way to the queue
	atWork []*writer // and not taken for blocked
	load   int       // what they count, in multiplexedShare-ths of a writer

	// The watch looks for writers that are blocked, while there is a queue and
	// no other writer may be called.
	watch    *time.Timer // nil: it has not been needed since there are clients
	watching bool        // the timer runs
	blocked  bool        // it found some when it last looked
	extra    int         // how many more may be at work until it looks again

	marker *subscriber // stood at the end of the queue at some time, and still does in it
	marked time.Time   // when that was
	long   bool        // the last of them stood there for longQueue
}

// writer is one goroutine of the writers. All but call and frame is protected by
// the writers' mu.
type writer struct {
	// call has capacity 1: the taker of an idle writer calls it once. Closed,
	// it ends the writer.
	call chan struct{}

	frame frame // its own

	load  int         // its weight while it is at work, and not taken for blocked
	place int         // in the list of counted writers, if it counts
	sub   *subscriber // whose turn it gives, or gave last
	begun time.Time   // that turn
}

// turns is a queue of subscribers, linked through them. A subscriber stands in
// one at most; see subscriber.want.
type turns struct {
	first, last *subscriber
}

// add appends a client.
func (q *turns) add(sub *subscriber) {
	q.append(turns{sub, sub})
}

// append moves the turns of another queue to the end of this one.
func (q *turns) append(other turns) {
	switch {
	case other.first == nil:
	case q.first == nil:
		*q = other
	default:
		q.last.following, q.last = other.first, other.last
	}
}

// take removes the first client and returns it; nil if there is none.
func (q *turns) take() *subscriber {
	sub := q.first
	if sub == nil {
		return nil
	}
	q.first, sub.following = sub.following, nil
	if q.first == nil {
		q.last = nil // which would keep a client that has left
	}
	return sub
}

// enter is called for every client that is to be served.
func (p *writers) enter() {
	p.clients.Add(1)
	p.limit.Store(int64(max(runtime.GOMAXPROCS(0)-1, 1))) // it may change
}

// leave is called for every client that will not be queued any more. With the
// last one the idle writers end, and the watch.
func (p *writers) leave() {
	if p.clients.Add(-1) > 0 {
		return
	}
	p.mu.Lock()
	if p.clients.Load() > 0 {
		p.mu.Unlock()
		return
	}
	idle := p.idle
	p.idle = nil
	if p.watch != nil {
		p.watch.Stop()
	}
	p.watch, p.watching, p.blocked, p.extra = nil, false, false, 0
	p.marker, p.long = nil, false
	p.mu.Unlock()
	for _, w := range idle {
		close(w.call)
	}
}

// push queues clients.
func (p *writers) push(q turns) {
	if q.first == nil {
		return
	}
	p.mu.Lock()
	p.queue.append(q)
	w, called := p.callLocked()
	p.mu.Unlock()
	if called {
		p.wake(w)
	}
}

// callLocked finds the writer that is to come to the queue, if one is needed
// and may come; nil is a new one. The caller wakes it once the lock is released.
func (p *writers) callLocked() (w *writer, called bool) {
	switch {
	case p.called || p.queue.first == nil:
		return nil, false
	case !p.roomLocked():
		p.watchLocked()
		return nil, false
	}
	p.called = true
	if end := len(p.idle) - 1; end >= 0 {
		w, p.idle[end] = p.idle[end], nil
		p.idle = p.idle[:end]
	}
	return w, true
}

// wake calls a writer; nil is a new one. The caller does not hold the lock.
func (p *writers) wake(w *writer) {
	if w == nil {
		go p.run(&writer{call: make(chan struct{}, 1)})
		return
	}
	w.call <- struct{}{}
}

// run gives clients their turns. It is the process's, and ends when there are
// idle writers enough, or no clients.
func (p *writers) run(w *writer) {
	for {
		p.work(w)
		if !p.park(w) {
			return
		}
	}
}

// work serves the queue until it is empty, or others do.
func (p *writers) work(w *writer) {
	p.mu.Lock()
	p.called = false
	p.mu.Unlock()
	var again *subscriber
	for now := time.Now(); ; {
		sub := p.next(w, again, now)
		if sub == nil {
			return
		}
		if sub.lastWoken {
			sub.lastWoken = false
			sub.client.hub.audience.windowHandedOut()
		}
		var more bool
		if now, more = sub.takeTurn(now, &w.frame); more {
			again = sub
		} else {
			again = nil
		}
	}
}

// next queues a client again, if there is one, and takes the first from the
// queue, unless there are writers enough without this one. It calls another
// writer if a client is left.
func (p *writers) next(w *writer, again *subscriber, now time.Time) (sub *subscriber) {
	p.mu.Lock()
	if again != nil {
		p.queue.add(again)
	} else if w.sub != nil && now.Sub(w.begun) < longTurn {
		w.sub.slow = false
	}
	p.uncountLocked(w)
	if p.roomLocked() {
		sub = p.queue.take()
	}
	switch {
	case p.queue.first == nil:
		p.marker, p.long = nil, false
	case sub != nil && sub == p.marker:
		p.marker, p.long = nil, now.Sub(p.marked) >= longQueue
	}
	w.sub, w.begun = sub, now
	if sub != nil && !sub.slow {
		p.countLocked(w)
	}
	other, called := p.callLocked()
	p.mu.Unlock()
	if called {
		p.wake(other)
	}
	return sub
}

// roomLocked reports whether one more writer may be at work.
func (p *writers) roomLocked() bool {
	limit := int(p.limit.Load()) + p.extra
	if p.long {
		limit++
	}
	return p.load < limit*multiplexedShare
}

// countLocked counts a writer whose turn begins as at work.
func (p *writers) countLocked(w *writer) {
	w.load, w.place = multiplexedShare, len(p.atWork)
	if w.sub.multiplexed {
		w.load = 1
	}
	p.load += w.load
	p.atWork = append(p.atWork, w)
}

// uncountLocked is called for a writer that is not at work, or does not count
// as such.
func (p *writers) uncountLocked(w *writer) {
	if w.load == 0 {
		return
	}
	p.load -= w.load
	w.load = 0
	end := len(p.atWork) - 1
	last := p.atWork[end]
	p.atWork[w.place], last.place, p.atWork[end] = last, w.place, nil
	p.atWork = p.atWork[:end]
}

// watchLocked has findBlocked called in a while.
func (p *writers) watchLocked() {
	switch {
	case p.watching:
		return
	case p.watch == nil:
		p.watch = time.AfterFunc(longTurn, p.findBlocked)
	default:
		p.watch.Reset(longTurn)
	}
	p.watching = true
}

// findBlocked takes writers for blocked whose turn is long, so that others may
// come.   The watch calls it. Where it finds some each time, it lets ever more
// come at once, since there may be as many blocked clients as clients. It also
// measures how long clients stand in the queue.
func (p *writers) findBlocked() {
	now := time.Now()
	p.mu.Lock()
	p.watching = false
	before := len(p.atWork)
	for i := before - 1; i >= 0; i-- { // uncounting moves only later ones
		if w := p.atWork[i]; now.Sub(w.begun) >= longTurn {
			w.sub.slow = true
			p.uncountLocked(w)
		}
	}
	blocked := p.queue.first != nil && len(p.atWork) < before
	switch {
	case !blocked:
		p.extra = 0
	case p.blocked:
		p.extra = 2*p.extra + 1
	}
	p.blocked = blocked
	switch {
	case p.marker == nil:
		p.marker, p.marked = p.queue.last, now
	case now.Sub(p.marked) >= longQueue:
		p.long = true
	}
	w, called := p.callLocked()
	if p.queue.first != nil {
		p.watchLocked()
	}
	p.mu.Unlock()
	if called {
		p.wake(w)
	}
}

// park has a writer wait until it is called. False: it is not needed.
func (p *writers) park(w *writer) bool {
	w.frame.release()
	p.mu.Lock()
	if len(p.idle) >= maxIdleWriters || p.clients.Load() == 0 {
		p.mu.Unlock()
		return false
	}
	p.idle = append(p.idle, w)
	p.mu.Unlock()
	_, called := <-w.call
	return called
}

// takeTurn serves the client for one turn. It returns when the turn ended, and
// whether there is more: then the caller is to queue it again.
func (s *subscriber) takeTurn(now time.Time, f *frame) (after time.Time, more bool) {
	s.turn.Store(turnTaken)
	after, more, last := s.client.turn(now, f)
	switch {
	case last:
		s.turn.Store(turnNone)
		s.client.out.over()
		return after, false
	case more || !s.turn.CompareAndSwap(turnTaken, turnIdle):
		s.turn.Store(turnQueued)
		return after, true
	}
	return after, false
}
