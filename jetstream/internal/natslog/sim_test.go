package natslog

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// sim is JetStream as the protocol has to expect it: answers are late, come in
// another order or never; what was asked for happens all the same, or later; an
// old leader answers with what was; committed records are lost. It runs in a
// bubble of testing/synctest.
type sim struct {
	mu      sync.Mutex // protects everything, the nodes' fields too
	cond    sync.Cond
	rng     *rand.Rand
	exists  bool
	id      string
	origin  uint64
	records [][]byte // from origin on; nothing is evicted
	keys    map[string]simValue
	rev     uint64
	nodes   map[*simNode]struct{}
	broken  string         // what does not work, for tests of the test
	parts   sync.WaitGroup // what is on its way
}

type simValue struct {
	value []byte
	rev   uint64
}

func newSim(seed uint64, broken string) *sim {
	s := &sim{rng: rand.New(rand.NewPCG(seed, 1)), keys: make(map[string]simValue), nodes: make(map[*simNode]struct{}), broken: broken}
	s.cond.L = &s.mu
	return s
}

func (s *sim) lastLocked() uint64 { return s.origin + uint64(len(s.records)) - 1 }

// lose takes the newest records away, as a power cut does.
func (s *sim) lose(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = s.records[:max(len(s.records)-n, 0)]
}

// delete removes the stream.
func (s *sim) delete() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exists, s.records = false, nil
	s.cond.Broadcast()
}

// simNode is one node's way to sim.
type simNode struct {
	*sim
	name string

	cut     bool          // nothing comes through
	held    bool          // what is sent waits, as does what comes back
	dead    bool          // cut for ever
	slow    time.Duration // the longest delay
	faulty  float64       // the share of calls of which something is lost
	stale   *simView      // what an old leader answers; nil if it is not asked
	gone    int           // rises when the connection is lost: what was on its way is lost
	queue   []func()      // publications on their way
	said    func([]byte)
	answer  func([]byte) []byte
	closed  bool
	working bool
}

// simView is what an old leader knows.
type simView struct {
	last uint64
	keys map[string]simValue
}

func (s *sim) node(name string) *simNode {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := &simNode{sim: s, name: name, slow: 5 * time.Millisecond}
	s.nodes[n] = struct{}{}
	return n
}

// change changes how a node gets through.
func (n *simNode) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	n.cond.Broadcast()
}

func (n *simNode) drop() { n.change(func() { n.gone++ }) }

// askOldLeader has a node ask a leader that learns of nothing from now on.
func (n *simNode) askOldLeader() {
	n.change(func() {
		n.stale = &simView{n.lastLocked(), maps.Clone(n.keys)}
	})
}

var errSim = errors.New("no answer")

// pass is the way of something to the other side, or back. False: it is lost.
func (n *simNode) pass(ctx context.Context) bool {
	n.mu.Lock()
	delay := time.Duration(n.rng.Int64N(int64(n.slow) + 1))
	lost := n.rng.Float64() < n.faulty/2
	gone := n.gone
	n.mu.Unlock()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	stop := context.AfterFunc(ctx, func() { n.change(func() {}) })
	defer stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.held && ctx.Err() == nil && !n.dead {
		n.cond.Wait()
	}
	return !lost && !n.cut && !n.dead && n.gone == gone && ctx.Err() == nil
}

// call does something on the other side.
func (n *simNode) call(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if !n.pass(ctx) {
		<-ctx.Done()
		return errSim
	}
	n.mu.Lock()
	err := f()
	n.mu.Unlock()
	if !n.pass(ctx) {
		<-ctx.Done()
		return errSim
	}
	return err
}

func (n *simNode) info(ctx context.Context) (in streamInfo, err error) {
	err = n.call(ctx, func() error {
		if !n.exists {
			return errNoStream
		}
		last := n.lastLocked()
		if n.stale != nil {
			last = max(min(last, n.stale.last), n.origin-1)
		}
		in = streamInfo{n.id, n.origin, n.origin, last, int64(len(n.records))}
		return nil
	})
	return in, err
}

func (n *simNode) create(ctx context.Context, incarnation string, first uint64) error {
	return n.call(ctx, func() error {
		if !n.exists {
			n.exists, n.id, n.origin, n.records = true, incarnation, first, nil
		}
		return nil
	})
}

func (n *simNode) setBounds(context.Context, logstore.Bounds) error { return nil }

func (n *simNode) record(ctx context.Context, seq uint64) (m message, err error) {
	err = n.call(ctx, func() error {
		switch {
		case !n.exists:
			return errNoStream
		case seq < n.origin || seq > n.lastLocked() || n.stale != nil && seq > n.stale.last:
			return errNoRecord
		}
		m = message{seq, n.records[seq-n.origin]}
		return nil
	})
	return m, err
}

func (n *simNode) read(ctx context.Context, from uint64, count, _ int) (found []message, err error) {
	err = n.call(ctx, func() error {
		if !n.exists {
			return errNoStream
		}
		last := n.lastLocked()
		if n.rng.IntN(4) == 0 { // a replica that is behind
			last -= min(last, uint64(n.rng.IntN(20)))
		}
		for seq := max(from, n.origin); seq <= last && len(found) < count; seq++ {
			found = append(found, message{seq, n.records[seq-n.origin]})
		}
		return nil
	})
	return found, err
}

func (n *simNode) follow(ctx context.Context, from uint64, handle func([]message) error) error {
	if err := n.call(ctx, func() error { return nil }); err != nil {
		return err
	}
	n.mu.Lock()
	gone, id := n.gone, n.id
	n.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { n.change(func() {}) })
	defer stop()
	for {
		n.mu.Lock()
		for ctx.Err() == nil && n.gone == gone && n.exists && n.id == id && !n.cut && !n.dead && n.lastLocked() < from {
			n.cond.Wait()
		}
		n.mu.Unlock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var batch []message
		if !n.pass(ctx) {
			timer := time.NewTimer(3 * heartbeat)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
			return errSim
		}
		n.mu.Lock()
		ended := n.gone != gone || !n.exists || n.id != id
		if !ended {
			most := 1 + n.rng.IntN(30)
			for seq := max(from, n.origin); seq <= n.lastLocked() && len(batch) < most; seq++ {
				batch = append(batch, message{seq, n.records[seq-n.origin]})
			}
		}
		n.mu.Unlock()
		if ended {
			return errInterrupted
		}
		if len(batch) == 0 {
			continue
		}
		if err := handle(batch); err != nil {
			return err
		}
		from = batch[len(batch)-1].seq + 1
	}
}

// publish puts a record behind those that are on their way.
func (n *simNode) publish(expected uint64, records [][]byte, done func(error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	gone := n.gone
	n.queue = append(n.queue, func() {
		n.mu.Lock()
		if n.gone != gone || n.cut || n.dead {
			n.mu.Unlock()
			return
		}
		err := n.appendLocked(expected, records)
		n.mu.Unlock()
		n.parts.Go(func() { // answers overtake each other
			if n.pass(context.Background()) {
				done(err)
			}
		})
	})
	if !n.working {
		n.working = true
		n.parts.Go(n.work)
	}
}

// work has publications arrive one after the other.
func (n *simNode) work() {
	for {
		n.mu.Lock()
		if len(n.queue) == 0 {
			n.working = false
			n.mu.Unlock()
			return
		}
		next := n.queue[0]
		n.queue = n.queue[1:]
		late := n.rng.IntN(20) == 0
		n.mu.Unlock()
		if late {
			n.pass(context.Background()) // even if it is lost, order stays
		}
		n.mu.Lock()
		for n.held && !n.dead {
			n.cond.Wait()
		}
		n.mu.Unlock()
		next()
	}
}

// appendLocked appends records if what is expected is there.
func (n *simNode) appendLocked(expected uint64, records [][]byte) error {
	if !n.exists {
		return errSim
	}
	ok := expected == n.lastLocked()
	r, _ := logstore.DecodeRecord(records[0])
	switch n.broken {
	case "chain": // events are appended whatever comes before them
		ok = ok || !r.Fence()
	case "fence": // a fence stops nobody
		for seq := max(expected+1, n.origin); !ok && seq <= n.lastLocked(); seq++ {
			behind, _ := logstore.DecodeRecord(n.records[seq-n.origin])
			if !behind.Fence() {
				break
			}
			ok = seq == n.lastLocked()
		}
	}
	if !ok {
		return errRefused
	}
	n.records = append(n.records, records...)
	n.cond.Broadcast()
	return nil
}

// makeBucket implements engine. The keys are always there.
func (n *simNode) makeBucket(context.Context) (made bool, err error) { return false, nil }

func (n *simNode) load(ctx context.Context, key string) (value []byte, rev uint64, err error) {
	err = n.call(ctx, func() error {
		v := n.keys[key]
		if n.stale != nil {
			v = n.stale.keys[key]
		}
		value, rev = v.value, v.rev
		return nil
	})
	return value, rev, err
}

func (n *simNode) save(ctx context.Context, key string, value []byte, rev uint64) (now uint64, err error) {
	err = n.call(ctx, func() error {
		if n.keys[key].rev != rev {
			return errRefused
		}
		n.rev++
		n.keys[key] = simValue{value, n.rev}
		now = n.rev
		return nil
	})
	return now, err
}

func (n *simNode) say(p []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut || n.held || n.dead {
		return
	}
	for other := range n.nodes {
		if other != n && other.said != nil && !other.closed && !other.cut && !other.held {
			n.parts.Go(func() { other.said(p) })
		}
	}
}

func (n *simNode) ask(ctx context.Context, node string, question []byte) (p []byte, err error) {
	var answer func([]byte) []byte
	err = n.call(ctx, func() error {
		for other := range n.nodes {
			if other.name == node && !other.closed {
				answer = other.answer
			}
		}
		return nil
	})
	if err != nil || answer == nil {
		return nil, logstore.ErrNoAnswer
	}
	return answer(question), nil
}

func (n *simNode) listen(_ string, said func([]byte), answer func([]byte) []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.said, n.answer = said, answer
	return nil
}

func (n *simNode) denied() error { return nil }

func (n *simNode) maxRecord() int { return 1 << 20 }

func (n *simNode) state() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut || n.dead {
		return errSim
	}
	return nil
}

func (n *simNode) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed, n.dead = true, true
	delete(n.nodes, n)
	n.cond.Broadcast()
}
