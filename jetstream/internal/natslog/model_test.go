package natslog

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

var long = flag.Bool("long", false, "run the model with many more seeds")

const (
	// modelSeeds are as many as take some seconds; modelSeedsLong some minutes.
	modelSeeds     = 100
	modelSeedsLong = 5000

	modelNodes = 3
	modelSteps = 30
)

// TestModel has three nodes write and follow a log on a JetStream that is as bad
// as can be, and compares what each was handed. All of it happens in a bubble of
// synctest: what sleeps costs no time, and nothing depends on how fast the machine
// is.
func TestModel(t *testing.T) {
	t.Parallel()
	seeds := modelSeeds
	if *long {
		seeds = modelSeedsLong
	}
	const parts = 2
	for part := range parts {
		t.Run(strconv.Itoa(part), func(t *testing.T) {
			t.Parallel()
			for seed := part; seed < seeds; seed += parts {
				if problem := runModel(t, uint64(seed), ""); problem != nil {
					t.Fatalf("seed %d: %v", seed, problem)
				}
			}
		})
	}
}

// A model that finds nothing wrong without fences or chains is worth nothing.
func TestModelFindsWhatIsBroken(t *testing.T) {
	t.Parallel()
	for _, broken := range []string{"chain", "fence", "short fence"} {
		t.Run(broken, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(modelSeeds) {
				if problem := runModel(t, seed, broken); problem != nil {
					t.Logf("seed %d: %v", seed, problem)
					return
				}
			}
			t.Errorf("%d seeds pass without it", modelSeeds)
		})
	}
}

// runModel runs the model once and returns what is wrong.
func runModel(t *testing.T, seed uint64, broken string) (problem error) {
	synctest.Test(t, func(*testing.T) {
		m := &model{
			sim: newSim(seed, broken), rng: rand.New(rand.NewPCG(seed, 2)), given: make(map[place]string), began: time.Now(),
		}
		if problem = m.run(); problem != nil {
			problem = fmt.Errorf("%w\n%s", problem, strings.Join(m.traced, "\n"))
		}
	})
	return problem
}

// place is what a cursor names.
type place struct {
	epoch  string
	offset uint64
}

// model is a log with its nodes.
type model struct {
	sim   *sim
	parts sync.WaitGroup

	dicing sync.Mutex // protects rng
	rng    *rand.Rand

	mu      sync.Mutex // protects the fields below
	given   map[place]string
	problem error
	writing *modelNode // the newest that has begun to write
	nodes   []*modelNode
	opened  int

	began  time.Time // of the goroutine that runs the model
	traced []string
}

// modelNode is a node that follows, and writes whenever it can.
type modelNode struct {
	m     *model
	way   *simNode
	store *Store

	records []logstore.Record // as it knows the log; the model's mutex protects it
	epochs  []logstore.Epoch
}

func (m *model) fail(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.problem == nil {
		m.problem = fmt.Errorf(format, args...)
	}
}

// trace notes what happens, for when something is wrong.
func (m *model) trace(format string, args ...any) {
	m.traced = append(m.traced, fmt.Sprintf("%s: ", time.Since(m.began).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

func (m *model) failed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.problem != nil
}

// open opens the log as another node, as soon as that is possible.
func (m *model) open() *modelNode {
	m.opened++
	n := &modelNode{m: m, way: m.sim.node("node-" + strconv.Itoa(m.opened))}
	o := Options{Stream: "model", Servers: []string{"sim"}, Lease: 2 * time.Second, Buffer: 4000, Node: n.way.name}
	_ = o.complete()
	for {
		store, err := open(context.Background(), o, n.way)
		if err == nil {
			n.store = store
			if m.sim.broken == "short fence" {
				store.fenceLength = 1
			}
			break
		}
		time.Sleep(time.Second) // of the bubble, as all of the model's
	}
	m.mu.Lock()
	m.nodes = append(m.nodes, n)
	m.mu.Unlock()
	m.parts.Go(func() { _ = n.store.Follow(context.Background(), 1, n.apply) })
	m.parts.Go(n.write)
	return n
}

// apply does what a user of the store does: it goes back where it is told to.
func (n *modelNode) apply(batch []logstore.Record) {
	m := n.m
	epochs := n.store.Epochs()
	m.mu.Lock()
	defer m.mu.Unlock()
	n.epochs = epochs
	for i := range batch {
		r := batch[i]
		if k := len(n.records); k > 0 && r.Offset != n.records[k-1].Offset+1 {
			if i > 0 && m.problem == nil {
				m.problem = fmt.Errorf("%s is handed offset %d after %d in a batch", n.way.name, r.Offset, n.records[k-1].Offset)
			}
			n.records = slices.DeleteFunc(n.records, func(old logstore.Record) bool { return old.Offset >= r.Offset })
		}
		n.records = append(n.records, r)
		if r.Fence() {
			continue
		}
		e, _ := logstore.EpochAt(n.epochs, r.Offset)
		at, text := place{e.ID, r.Offset}, string(r.Body)
		if before, ok := m.given[at]; ok && before != text && m.problem == nil {
			m.problem = fmt.Errorf("%s is handed %q at %v, which was %q", n.way.name, text, at, before)
		}
		m.given[at] = text
	}
}

// write is an upstream that resumes: whoever writes goes on with the number after
// the newest that is in the log.
func (n *modelNode) write() {
	for {
		term, err := n.store.Campaign(context.Background())
		if err != nil {
			return
		}
		latest, err := n.store.Latest(context.Background())
		if err != nil {
			return
		}
		next, _ := strconv.Atoi(latest["upstream"].ID)
		n.m.mu.Lock()
		n.m.writing = n
		n.m.mu.Unlock()
		keeps := time.Duration(n.m.dice(20)) * time.Second
		ends := time.Now().Add(keeps)
		for time.Now().Before(ends) && term.Err() == nil {
			next++
			r := &logstore.Record{Time: time.Now().UnixMilli(), Source: "upstream", ID: strconv.Itoa(next), Body: []byte("data: " + strconv.Itoa(next) + "\n\n")}
			for errors.Is(term.Append(r), logstore.ErrNoRoom) {
				if term.Wait(context.Background()) != nil {
					break
				}
			}
			time.Sleep(time.Duration(n.m.dice(200)) * time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		_ = term.Release(ctx)
		cancel()
	}
}

// kill ends a node as kill -9 does: nothing of it comes through any more.
func (m *model) kill(n *modelNode) {
	n.way.change(func() { n.way.dead = true })
	m.mu.Lock()
	m.nodes = slices.DeleteFunc(m.nodes, func(other *modelNode) bool { return other == n })
	m.mu.Unlock()
	m.parts.Go(func() { _ = n.store.Close() })
}

// run has things go wrong, then has nothing go wrong any more, and compares.
func (m *model) run() error {
	for range modelNodes {
		m.open()
	}
	for range modelSteps {
		m.misfortune()
		time.Sleep(time.Duration(m.dice(2500)) * time.Millisecond)
		if m.failed() {
			break
		}
	}
	m.heal()
	if !m.failed() {
		m.settle()
	}
	for _, n := range m.nodes {
		_ = n.store.Close()
	}
	m.parts.Wait()
	m.sim.parts.Wait()
	return m.problem
}

// pick returns a node, the writer more often than others.
func (m *model) pick() *modelNode {
	writer, other := m.dice(2) == 0, m.dice(modelNodes)
	m.mu.Lock()
	defer m.mu.Unlock()
	if writer && slices.Contains(m.nodes, m.writing) {
		return m.writing
	}
	return m.nodes[other]
}

// dice returns a random number below n.
func (m *model) dice(n int) int {
	m.dicing.Lock()
	defer m.dicing.Unlock()
	return m.rng.IntN(n)
}

// misfortune has one thing go wrong, or right again.
func (m *model) misfortune() {
	n := m.pick()
	w := n.way
	what := m.dice(14)
	m.trace("misfortune %d of %s", what, w.name)
	switch what {
	case 0:
		w.change(func() { w.cut = true })
	case 1, 2:
		w.change(func() { w.held = true })
	case 3:
		w.drop()
	case 4:
		w.change(func() { w.slow, w.faulty = time.Duration(1+m.dice(3000))*time.Millisecond, 0.3 })
	case 5:
		w.askOldLeader()
	case 6:
		m.kill(n)
		m.open()
	case 7:
		m.loseTail()
	case 8:
		if m.dice(3) == 0 {
			m.sim.delete()
		}
	case 9, 10, 11:
		m.heal()
	default:
	}
}

// loseTail loses what is committed, when everybody has had the time to hear how
// far the log goes: what nobody who is left knows, nobody can know the loss of.
func (m *model) loseTail() {
	m.heal()
	time.Sleep(6 * time.Second)
	m.sim.lose(m.dice(100))
	time.Sleep(6 * time.Second)
}

// heal has everything work again.
func (m *model) heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.nodes {
		w := n.way
		w.change(func() { w.cut, w.held, w.stale, w.slow, w.faulty = false, false, nil, 5*time.Millisecond, 0 })
	}
}

// settle waits until somebody writes and all nodes know the same.
func (m *model) settle() {
	m.sim.mu.Lock()
	goal := m.sim.lastLocked() + 50
	m.sim.mu.Unlock()
	deadline := time.Now().Add(3 * time.Minute)
	for ; ; time.Sleep(100 * time.Millisecond) {
		m.sim.mu.Lock()
		last := m.sim.lastLocked()
		m.sim.mu.Unlock()
		if last >= goal {
			break
		}
		if time.Now().After(deadline) {
			m.fail("nobody writes any more: the log ends with %d, %v", last, m.states())
			return
		}
	}
	for _, n := range m.nodes { // nobody writes now
		n.way.change(func() { n.way.held = true })
	}
	m.sim.mu.Lock()
	records, origin := m.sim.records, m.sim.origin
	m.sim.mu.Unlock()
	for _, n := range m.nodes {
		n.way.change(func() { n.way.held = false })
	}
	m.inOrder(records)
	for _, n := range m.nodes {
		for m.knows(n) < origin+uint64(len(records))-1 && time.Now().Before(deadline) {
			time.Sleep(100 * time.Millisecond)
		}
		m.same(n, records, origin)
	}
}

func (m *model) states() (all []string) {
	for _, n := range m.nodes {
		all = append(all, fmt.Sprintf("%s: %+v", n.way.name, n.store.Status()))
	}
	return all
}

func (m *model) knows(n *modelNode) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(n.records) == 0 {
		return 0
	}
	return n.records[len(n.records)-1].Offset
}

// inOrder fails unless the log has each number once, in order.
func (m *model) inOrder(records [][]byte) {
	before := 0
	for i, data := range records {
		r, err := logstore.DecodeRecord(data)
		if err != nil {
			m.fail("record %d: %v", i, err)
		}
		if r.Fence() {
			continue
		}
		number, _ := strconv.Atoi(r.ID)
		if before != 0 && number != before+1 || before == 0 && m.sim.origin == 1 && number != 1 {
			m.fail("the log has %d after %d: %s", number, before, describe(records[max(i-4, 0):min(i+4, len(records))]))
		}
		before = number
	}
}

// describe returns records for people.
func describe(records [][]byte) (text string) {
	for _, data := range records {
		r, _ := logstore.DecodeRecord(data)
		if r.Fence() {
			text += fmt.Sprintf("(term %d of %s in epoch %s) ", r.Term, r.Source, r.ID)
		} else {
			text += fmt.Sprintf("%s in term %d, ", r.ID, r.Term)
		}
	}
	return text
}

// same fails unless a node knows exactly these records, as far as it was handed
// any.
func (m *model) same(n *modelNode, records [][]byte, origin uint64) {
	m.mu.Lock()
	own := slices.Clone(n.records)
	m.mu.Unlock()
	next := origin
	for _, r := range own {
		if r.Offset < origin {
			continue
		}
		if r.Offset-origin >= uint64(len(records)) {
			break
		}
		data := records[r.Offset-origin]
		if r.Offset != next || string(r.AppendTo(nil)) != string(data) {
			m.fail("%s knows %d %q at offset %d, and the log has another record", n.way.name, r.Offset, r.Body, next)
			return
		}
		next++
	}
	if next < origin+uint64(len(records)) {
		m.fail("%s does not know offset %d of %d, %v", n.way.name, next, origin+uint64(len(records))-1, m.states())
	}
}
