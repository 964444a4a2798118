package ssefanin

import (
	"sync"
	"sync/atomic"
	"time"
)

// clientWriters write to the clients of all streams of the process.
var clientWriters writers

// maxIdleWriters is how many writers wait for work at most, with a stack of
// some 16 KiB each: 4 MiB.
const maxIdleWriters = 256

// longTurn is what a turn takes only if the write blocked, or the processor
// was taken away.
const longTurn = time.Millisecond

// writers are the goroutines that write to clients, instead of one for each
// client: a client that has something to do stands in one queue, and the
// goroutine of its request only waits. A delivery so costs no switch of
// goroutines, and a waiting client no stack that has ever written.
//
// A writer may block in a write, so at no time does the queue depend on one
// writer: as long as somebody stands in it, another writer has been called
// (that is the invariant under mu), and runs as soon as the scheduler has
// nothing better to do, that is, at once when a write blocks or a processor is
// idle. So there are as many writers as processors and blocked writes, and a
// slow client has a goroutine, as it would have in any other server.
//
// Safe for concurrent use.
type writers struct {
	clients atomic.Int64 // connected; the idle writers end with the last

	mu     sync.Mutex // protects what follows
	queue  turns
	idle   []*writer // the one that came last is called first: its stack is in the cache
	called bool      // a writer is on its way to the queue
}

// writer is one goroutine of the writers.
type writer struct {
	// call has capacity 1: whoever takes an idle writer calls it once. Closed,
	// it ends the writer.
	call chan struct{}
}

// turns is a queue of subscribers, linked through them. A subscriber stands in
// one at most; see subscriber.want.
type turns struct {
	first, last *subscriber
}

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
func (p *writers) enter() { p.clients.Add(1) }

// leave is called for every client that will not be queued any more. With the
// last one the idle writers end.
func (p *writers) leave() {
	if p.clients.Add(-1) > 0 {
		return
	}
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
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

// callLocked finds the writer that is to come to the queue, if one is needed;
// nil is a new one. The caller wakes it once the lock is released.
func (p *writers) callLocked() (w *writer, called bool) {
	if p.called || p.queue.first == nil {
		return nil, false
	}
	p.called = true
	if end := len(p.idle) - 1; end >= 0 {
		w, p.idle[end] = p.idle[end], nil
		p.idle = p.idle[:end]
	}
	return w, true
}

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
		p.work()
		if !p.park(w) {
			return
		}
	}
}

// work serves the queue until it is empty, or another writer has taken over.
func (p *writers) work() {
	p.mu.Lock()
	p.called = false
	p.mu.Unlock()
	var again *subscriber
	for now, stay := time.Now(), true; ; {
		sub := p.next(again, stay)
		if sub == nil {
			return
		}
		if sub.lastWoken {
			sub.lastWoken = false
			sub.client.hub.windowHandedOut()
		}
		begun := now
		var more bool
		if now, more = sub.takeTurn(now); more {
			again = sub
		} else {
			again = nil
		}
		// If this one stayed after a long turn, when others went on, the
		// writers would become more with every time that the processor is
		// taken away.
		stay = now.Sub(begun) <= longTurn
	}
}

// next queues a client again, if there is one, and takes the first from the
// queue for a writer that stays. It calls another writer if somebody is left.
func (p *writers) next(again *subscriber, stay bool) (sub *subscriber) {
	p.mu.Lock()
	if again != nil {
		p.queue.add(again)
	}
	if stay {
		sub = p.queue.take()
	}
	w, called := p.callLocked()
	p.mu.Unlock()
	if called {
		p.wake(w)
	}
	return sub
}

// park has a writer wait until it is called. False: it is not needed.
func (p *writers) park(w *writer) bool {
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

// takeTurn has the client do what there is to do. It returns when that ended,
// and whether there is more: the caller is to queue it again.
func (s *subscriber) takeTurn(now time.Time) (after time.Time, more bool) {
	s.turn.Store(turnTaken)
	after, more, last := s.client.turn(now)
	switch {
	case last:
		s.turn.Store(turnNone)
		close(s.left)
		return after, false
	case more || !s.turn.CompareAndSwap(turnTaken, turnIdle):
		s.turn.Store(turnQueued)
		return after, true
	}
	return after, false
}
