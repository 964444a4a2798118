package ssetest

import (
	"net"
	"testing"
)

// Addresses that nobody listens on yet are not given twice, and no other process
// can be given them.
func TestFreeAddrsDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for range 3 * blockSize {
		addr, err := FreeAddr()
		must(t, err)
		if seen[addr] {
			t.Fatalf("%s was given twice", addr)
		}
		seen[addr] = true
	}
	ports.mu.Lock()
	defer ports.mu.Unlock()
	for _, block := range ports.blocks {
		if ln, err := net.Listen("tcp", block.Addr().String()); err == nil {
			ln.Close()
			t.Errorf("another process can have the block that begins with %s", block.Addr())
		}
	}
}
