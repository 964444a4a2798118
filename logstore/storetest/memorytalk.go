package storetest

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// memoryTalk is what a node says to the others. The log's mutex protects it, but
// for answering.
type memoryTalk struct {
	told      []byte
	answer    func([]byte) []byte
	answering chan struct{} // capacity 1: has a token while a question is answered
}

// Node implements logstore.Shared.
func (n *memoryNode) Node() string { return n.name }

// Tell implements logstore.Shared.
func (n *memoryNode) Tell(told []byte) {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	if len(told) <= logstore.MaxTold {
		n.talk.told = bytes.Clone(told)
	}
}

// Peers implements logstore.Shared.
func (n *memoryNode) Peers() []logstore.Peer {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	peers := make([]logstore.Peer, 0, len(n.log.nodes))
	for _, other := range n.log.nodes {
		if other != n {
			peers = append(peers, logstore.Peer{Node: other.name, Told: other.talk.told, Heard: time.Now()})
		}
	}
	slices.SortFunc(peers, func(a, b logstore.Peer) int { return strings.Compare(a.Node, b.Node) })
	return peers
}

// Answer implements logstore.Shared.
func (n *memoryNode) Answer(answer func(question []byte) []byte) {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	n.talk.answer = answer
}

// Ask implements logstore.Shared.
func (n *memoryNode) Ask(ctx context.Context, node string, question []byte) ([]byte, error) {
	m := n.log
	m.mu.Lock()
	err := n.overLocked(ctx)
	i := slices.IndexFunc(m.nodes, func(other *memoryNode) bool { return other.name == node && other != n })
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if i < 0 {
		return nil, logstore.ErrNoAnswer
	}
	answers := make(chan []byte, 1) // so that the one who answers never waits
	go m.answerFor(node, bytes.Clone(question), answers)
	select {
	case answer, ok := <-answers:
		if !ok {
			return nil, logstore.ErrNoAnswer
		}
		return answer, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// answerFor has a node answer a question. Ask starts it; it ends with the answer,
// and Close waits for it.
func (m *Memory) answerFor(node string, question []byte, answers chan<- []byte) {
	defer close(answers)
	m.mu.Lock()
	i := slices.IndexFunc(m.nodes, func(n *memoryNode) bool { return n.name == node })
	if i < 0 || m.nodes[i].talk.answer == nil {
		m.mu.Unlock()
		return
	}
	n := m.nodes[i]
	n.running++
	answer := n.talk.answer
	m.mu.Unlock()
	n.talk.answering <- struct{}{}
	answers <- bytes.Clone(answer(question))
	<-n.talk.answering
	m.mu.Lock()
	defer m.mu.Unlock()
	n.running--
	m.cond.Broadcast()
}

// Interface guards
var _ logstore.Shared = (*memoryNode)(nil)
