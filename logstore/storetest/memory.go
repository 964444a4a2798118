package storetest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// Memory is a log in memory that several nodes share: a fake for those who use
// a store, which can be slow, stand still, and take the writer's term away. What
// it hands over it overwrites once it may, so that a user who keeps it is found
// out. It outlives the stores that Open returns. Make it with NewMemory.
//
// All methods are safe for concurrent use, and it works in a bubble of
// testing/synctest.
type Memory struct {
	mu      sync.Mutex // protects everything, the nodes' and terms' fields too
	cond    sync.Cond  // on mu: something has changed
	first   uint64     // offset of the oldest record
	records []logstore.Record
	bytes   int64
	sources logstore.Sources
	epochs  []logstore.Epoch
	bounds  logstore.Bounds
	number  uint64      // of the newest term
	writer  *memoryTerm // whose records may still be committed; nil if nobody writes
	delay   time.Duration
	stalls  int
	since   time.Time // of the newest stall
	buffer  int64
	nodes   []*memoryNode // that are open
	kept    map[string][]byte
	keeps   int // how often something was kept
}

// memoryBuffer bounds what a node may have appended that is not committed, in
// bytes as stored.
const memoryBuffer = 1 << 20

// memoryGrace is how long Close waits for what cannot be committed.
const memoryGrace = 50 * time.Millisecond

// NewMemory returns an empty log.
func NewMemory() *Memory {
	m := &Memory{first: 1, epochs: []logstore.Epoch{{ID: logstore.NewEpochID(), First: 1}}, buffer: memoryBuffer}
	m.cond.L = &m.mu
	return m
}

// SetDelay has every commit take so long from now on.
func (m *Memory) SetDelay(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.delay = d
}

// SetBuffer changes how many bytes, as stored, a node may have appended that
// are not committed. The default is 1 MiB.
func (m *Memory) SetBuffer(size int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.buffer = size
	m.cond.Broadcast()
}

// Stall keeps the store from committing anything until the function that it
// returns is called. Several stalls end with the last one.
func (m *Memory) Stall() (resume func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stalls++
	m.since = time.Now()
	m.cond.Broadcast()
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.stalls--
		m.since = time.Now()
		m.cond.Broadcast()
	})
}

var errDeposed = errors.New("another node took over")

// Depose ends the writer's term, as if another node had taken over and died:
// what is not committed never will be. Without a writer it does nothing.
func (m *Memory) Depose() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.writer != nil {
		m.number++
		m.writer.dropLocked(errDeposed)
	}
}

// Lose takes the newest records away and begins an epoch, as a store does that
// has been restored from a backup. No node may have the log open.
func (m *Memory) Lose(records int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := max(len(m.records)-records, 0)
	for _, r := range m.records[n:] {
		m.bytes -= stored(&r)
	}
	m.records = slices.Clip(m.records[:n])
	next := m.nextLocked()
	m.sources.Cut(next)
	for i := range m.records {
		m.sources.Note(&m.records[i])
	}
	m.epochs = slices.DeleteFunc(m.epochs, func(e logstore.Epoch) bool { return e.First > next })
	m.epochs = append(m.epochs, logstore.Epoch{ID: logstore.NewEpochID(), First: next})
}

// stored is what a record takes in this store, in bytes.
func stored(r *logstore.Record) int64 {
	return int64(len(r.Body) + len(r.Source) + len(r.Type) + len(r.ID) + 32)
}

func (m *Memory) nextLocked() uint64 { return m.first + uint64(len(m.records)) }

func (m *Memory) broadcast() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cond.Broadcast()
}

// commitLocked adds records, and evicts what the bounds do not allow.
func (m *Memory) commitLocked(records []logstore.Record) {
	for _, r := range records {
		r.Offset = m.nextLocked()
		if n := len(m.records); n > 0 {
			r.Time = max(r.Time, m.records[n-1].Time)
		}
		m.records = append(m.records, r)
		m.sources.Note(&r)
		m.bytes += stored(&r)
	}
	m.evictLocked()
	m.cond.Broadcast()
}

func (m *Memory) evictLocked() {
	b, n := m.bounds, 0
	for ; n < len(m.records)-1; n++ {
		over := b.Bytes > 0 && m.bytes > b.Bytes ||
			b.Events > 0 && uint64(len(m.records)-n) > b.Events ||
			b.Age > 0 && time.Since(time.UnixMilli(m.records[n].Time)) > b.Age
		if !over {
			break
		}
		m.bytes -= stored(&m.records[n])
	}
	m.records = m.records[n:]
	m.first += uint64(n)
}

// copyLocked returns copies of the records from an offset on, about size bytes
// of bodies.
func (m *Memory) copyLocked(from uint64, size int) []logstore.Record {
	var records []logstore.Record
	for _, r := range m.records[from-m.first:] {
		if size <= 0 && len(records) > 0 {
			break
		}
		r.Body = bytes.Clone(r.Body)
		records = append(records, r)
		size -= len(r.Body)
	}
	return records
}

// Open returns the log as one node has it. No two nodes that are open have the
// same name.
func (m *Memory) Open(name string) logstore.Shared {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := &memoryNode{log: m, name: name, since: time.Now(), talk: memoryTalk{answering: make(chan struct{}, 1)}}
	m.nodes = append(m.nodes, n)
	return n
}

// memoryNode is one node's view of the log.
type memoryNode struct {
	log  *Memory
	name string

	following bool
	applied   uint64 // offset of the newest record that Follow has applied
	running   int    // Follow and terms that have not ended
	terms     uint64
	closed    bool
	since     time.Time
	talk      memoryTalk
}

// overLocked returns why nothing is to be waited for any more.
func (n *memoryNode) overLocked(ctx context.Context) error {
	if n.closed {
		return logstore.ErrClosed
	}
	return ctx.Err()
}

// Follow implements logstore.Store.
func (n *memoryNode) Follow(ctx context.Context, from uint64, apply func(batch []logstore.Record)) error {
	m := n.log
	stop := context.AfterFunc(ctx, m.broadcast)
	defer stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := n.overLocked(ctx); err != nil {
		return err
	}
	if n.following {
		return errors.New("storetest: Follow is running already")
	}
	n.following, n.applied = true, max(from, 1)-1
	n.running++
	defer func() {
		n.following = false
		n.running--
		m.cond.Broadcast()
	}()
	for {
		if err := n.overLocked(ctx); err != nil {
			return err
		}
		n.applied = max(n.applied, m.first-1)
		if n.applied+1 >= m.nextLocked() {
			m.cond.Wait()
			continue
		}
		batch := m.copyLocked(n.applied+1, 1<<20)
		last := batch[len(batch)-1].Offset
		m.mu.Unlock()
		apply(batch)
		for i := range batch {
			for k := range batch[i].Body {
				batch[i].Body[k] = '?'
			}
			batch[i] = logstore.Record{}
		}
		m.mu.Lock()
		n.applied = last
		m.cond.Broadcast()
	}
}

// Read implements logstore.Store.
func (n *memoryNode) Read(ctx context.Context, from uint64, size int) ([]logstore.Record, error) {
	m := n.log
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case n.overLocked(ctx) != nil:
		return nil, n.overLocked(ctx)
	case from < m.first:
		return nil, logstore.ErrEvicted
	case from >= m.nextLocked():
		return nil, nil
	}
	return m.copyLocked(from, size), nil
}

// Since implements logstore.Store.
func (n *memoryNode) Since(ctx context.Context, t int64) (uint64, error) {
	m := n.log
	m.mu.Lock()
	defer m.mu.Unlock()
	i := sort.Search(len(m.records), func(i int) bool { return m.records[i].Time >= t })
	return m.first + uint64(i), n.overLocked(ctx)
}

// Back implements logstore.Store.
func (n *memoryNode) Back(ctx context.Context, size int64) (uint64, error) {
	m := n.log
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.nextLocked()
	for at > m.first {
		size -= stored(&m.records[at-1-m.first])
		if size < 0 && at < m.nextLocked() {
			break
		}
		at--
	}
	return at, n.overLocked(ctx)
}

// Latest implements logstore.Store.
func (n *memoryNode) Latest(ctx context.Context) (map[string]logstore.Latest, error) {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	if err := n.overLocked(ctx); err != nil {
		return nil, err
	}
	return n.log.sources.All(), nil
}

// Campaign implements logstore.Store.
func (n *memoryNode) Campaign(ctx context.Context) (logstore.Term, error) {
	m := n.log
	stop := context.AfterFunc(ctx, m.broadcast)
	defer stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if err := n.overLocked(ctx); err != nil {
			return nil, err
		}
		if m.writer == nil && (!n.following || n.applied+1 >= m.nextLocked()) {
			break
		}
		m.cond.Wait()
	}
	m.number++
	n.terms++
	n.running++
	t := &memoryTerm{node: n, number: m.number, done: make(chan struct{})}
	m.writer = t
	n.since = time.Now()
	go t.run()
	return t, nil
}

// Epochs implements logstore.Store.
func (n *memoryNode) Epochs() []logstore.Epoch {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	return slices.Clone(n.log.epochs)
}

// SetBounds implements logstore.Store.
func (n *memoryNode) SetBounds(b logstore.Bounds) {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	n.log.bounds = b
	n.log.evictLocked()
}

// Status implements logstore.Store.
func (n *memoryNode) Status() logstore.Status {
	m := n.log
	m.mu.Lock()
	defer m.mu.Unlock()
	st := logstore.Status{
		State: logstore.Following, Since: n.since,
		First: m.first, Last: m.nextLocked() - 1, Bytes: m.bytes,
		Term: m.number, Takeovers: n.terms,
	}
	if len(m.records) > 0 {
		st.Oldest, st.Newest = m.records[0].Time, m.records[len(m.records)-1].Time
	}
	if t := m.writer; t != nil {
		st.Writer = t.node.name
		if t.node == n {
			st.State = logstore.Writing
			st.Buffered = len(t.pending)
			for i := range t.pending {
				st.BufferedBytes += int64(len(t.pending[i].Body))
			}
		}
	}
	if m.stalls > 0 {
		st.State, st.Since, st.Err = logstore.Stalled, m.since, errors.New("the store stands still")
	}
	if n.closed {
		st.State, st.Since = logstore.Closed, n.since
	}
	return st
}

// Close implements logstore.Store.
func (n *memoryNode) Close() error {
	m := n.log
	m.mu.Lock()
	defer m.mu.Unlock()
	if !n.closed {
		n.closed, n.since = true, time.Now()
		m.nodes = slices.DeleteFunc(m.nodes, func(other *memoryNode) bool { return other == n })
		if t := m.writer; t != nil && t.node == n {
			t.endLocked(logstore.ErrClosed)
			late := time.AfterFunc(memoryGrace+m.delay, func() {
				m.mu.Lock()
				defer m.mu.Unlock()
				t.dropLocked(logstore.ErrClosed)
			})
			defer late.Stop()
		}
		m.cond.Broadcast()
	}
	for n.running > 0 {
		m.cond.Wait()
	}
	return nil
}
