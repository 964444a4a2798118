package natslog

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// beatEvery is how often a node says that it is there.
	beatEvery = 2 * time.Second

	// forgetAfter is after how long without a word a node is regarded as gone.
	forgetAfter = 4 * beatEvery

	// tellEvery bounds how often what is told anew is sent.
	tellEvery = 100 * time.Millisecond

	// maxPeers bounds the nodes that are known.
	maxPeers = 256
)

// The kinds of what nodes say to each other.
const (
	sayBeat = "beat" // it is there
	sayTold = "told" // with what it tells
	sayBye  = "bye"  // its store was closed
	sayFree = "free" // it writes no more
)

// saying is what a node says: this in JSON, a line feed, and what it tells.
type saying struct {
	Kind     string
	Node     string
	Instance string
	Version  uint64 // of what it tells; rises
	Head     uint64 // the newest offset that it knows
}

// The first byte of a question to one node.
const (
	askTold     = 't' // what it tells
	askQuestion = 'q' // the question follows
)

// The first byte of an answer.
const answered = 'a' // the answer follows; an empty one says that there is none

// peer is what is known of another node.
type peer struct {
	instance string
	version  uint64
	told     []byte
	has      uint64 // the version of told
	asking   bool
	head     uint64
	heard    time.Time
}

// peers are the other nodes that have the log open, as far as they are heard of.
type peers struct {
	store *Store
	wake  chan struct{} // there is something to tell; capacity 1, as one wake-up is enough

	answering sync.Mutex // protects answer, one at a time
	answer    func([]byte) []byte

	mu      sync.Mutex // protects the fields below
	nodes   map[string]*peer
	told    []byte
	version uint64
	own     uint64 // the head that was said last
	fence   fence  // the newest
	wrote   string // the node of it, empty once it writes no more
}

func (p *peers) init(s *Store) {
	p.store, p.wake, p.nodes = s, make(chan struct{}, 1), make(map[string]*peer)
}

// Tell implements logstore.Shared.
func (s *Store) Tell(told []byte) {
	if len(told) > logstore.MaxTold {
		return
	}
	p := &s.peers
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = bytes.Clone(told)
	p.version++
	nudge(p.wake)
}

// Peers implements logstore.Shared.
func (s *Store) Peers() []logstore.Peer {
	p := &s.peers
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetLocked()
	all := make([]logstore.Peer, 0, len(p.nodes))
	for name, n := range p.nodes {
		all = append(all, logstore.Peer{Node: name, Told: n.told, Heard: n.heard})
	}
	slices.SortFunc(all, func(a, b logstore.Peer) int { return strings.Compare(a.Node, b.Node) })
	return all
}

// forgetLocked forgets nodes that are not heard of any more.
func (p *peers) forgetLocked() {
	for name, n := range p.nodes {
		if time.Since(n.heard) > forgetAfter {
			delete(p.nodes, name)
		}
	}
}

// Ask implements logstore.Shared.
func (s *Store) Ask(ctx context.Context, node string, question []byte) ([]byte, error) {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	p, err := s.eng.ask(ctx, node, append([]byte{askQuestion}, question...))
	if over := s.over(ctx); over != nil {
		return nil, over
	}
	if err != nil {
		return nil, err
	}
	if len(p) == 0 || p[0] != answered {
		return nil, logstore.ErrNoAnswer
	}
	return p[1:], nil
}

// Answer implements logstore.Shared.
func (s *Store) Answer(answer func(question []byte) []byte) {
	p := &s.peers
	p.answering.Lock()
	defer p.answering.Unlock()
	p.answer = answer
}

// asked answers a question of another node. The engine calls it.
func (s *Store) asked(question []byte) []byte {
	p := &s.peers
	switch {
	case len(question) == 0:
		return nil
	case question[0] == askTold:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.sayLocked(sayTold, p.told)
	case question[0] != askQuestion:
		return nil
	}
	p.answering.Lock()
	defer p.answering.Unlock()
	if p.answer == nil {
		return nil
	}
	return append([]byte{answered}, p.answer(question[1:])...)
}

// sayLocked returns what this node is to say. The head in it is as of the last
// beat.
func (p *peers) sayLocked(kind string, told []byte) []byte {
	head, err := json.Marshal(saying{kind, p.store.o.Node, p.store.instance, p.version, p.own})
	if err != nil {
		return nil // it cannot
	}
	return append(append(head, '\n'), told...)
}

// run says that this node is there, and what it tells. The store owns it; it ends
// with the store.
func (p *peers) run() {
	p.say(sayBeat)
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			p.say(sayBeat)
		case <-p.wake:
			p.say(sayTold)
			if !p.store.pause(tellEvery) {
				return
			}
		case <-p.store.ctx.Done():
			return
		}
	}
}

func (p *peers) say(kind string) {
	p.store.mu.Lock()
	head := p.store.log.head
	p.store.mu.Unlock()
	p.mu.Lock()
	p.own = head
	var told []byte
	if kind == sayTold {
		told = p.told
	}
	text := p.sayLocked(kind, told)
	p.mu.Unlock()
	p.store.eng.say(text)
}

// free says that this node writes no more.
func (p *peers) free() {
	p.ceased(p.store.o.Node)
	p.say(sayFree)
}

// leave says that this node is gone.
func (p *peers) leave() { p.say(sayBye) }

// said takes into account what another node says. The engine calls it.
func (s *Store) said(text []byte) {
	p := &s.peers
	line, told, _ := bytes.Cut(text, []byte{'\n'})
	var heard saying
	if json.Unmarshal(line, &heard) != nil || heard.Node == "" || heard.Instance == s.instance {
		return
	}
	if heard.Kind == sayBye || heard.Kind == sayFree {
		p.ceased(heard.Node)
		nudge(s.freed)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetLocked()
	n := p.nodes[heard.Node]
	switch {
	case heard.Kind == sayBye:
		delete(p.nodes, heard.Node)
		return
	case n == nil && len(p.nodes) >= maxPeers:
		return
	case n == nil || n.instance != heard.Instance:
		n = &peer{instance: heard.Instance}
		p.nodes[heard.Node] = n
	}
	n.heard, n.head = time.Now(), heard.Head
	n.version = max(n.version, heard.Version)
	if heard.Kind == sayTold && heard.Version >= n.has {
		n.told, n.has = bytes.Clone(told), heard.Version
	}
	if n.has < n.version && !n.asking {
		n.asking = true
		go p.fetch(heard.Node, n)
	}
}

// fetch asks a node for what it tells. said starts it; it ends after a while. Close
// does not wait for it, since it calls nobody.
func (p *peers) fetch(node string, n *peer) {
	ctx, cancel := context.WithTimeout(p.store.ctx, requestTimeout)
	defer cancel()
	text, err := p.store.eng.ask(ctx, node, []byte{askTold})
	p.mu.Lock()
	n.asking = false
	p.mu.Unlock()
	if err == nil && p.store.ctx.Err() == nil {
		p.store.said(text)
	}
}

// head returns the highest offset that another node knows.
func (p *peers) head() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetLocked()
	var most uint64
	for _, n := range p.nodes {
		most = max(most, n.head)
	}
	return most
}

// noteFence notes who writes by the newest fence.
func (p *peers) noteFence(f fence) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f != p.fence {
		p.fence, p.wrote = f, f.node
	}
}

// noteWriter notes who writes by the lease; empty: nobody does.
func (p *peers) noteWriter(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wrote = node
}

// ceased notes that a node writes no more.
func (p *peers) ceased(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wrote == node {
		p.wrote = ""
	}
}

// writer returns the node that writes, as far as that is known.
func (p *peers) writer() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wrote
}
