package storetest

import (
	"bytes"
	"context"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// Keep implements logstore.Keeper.
func (n *memoryNode) Keep(ctx context.Context, name string, kept []byte) error {
	m := n.log
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := n.overLocked(ctx); err != nil {
		return err
	}
	if m.kept == nil {
		m.kept = make(map[string][]byte)
	}
	m.kept[name] = append([]byte{}, kept...)
	m.keeps++
	return nil
}

// Kept implements logstore.Keeper.
func (n *memoryNode) Kept(ctx context.Context, name string) ([]byte, error) {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	return bytes.Clone(n.log.kept[name]), n.overLocked(ctx)
}

// Keeps returns how often something was kept besides the log.
func (m *Memory) Keeps() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.keeps
}

// Interface guards
var _ logstore.Keeper = (*memoryNode)(nil)
