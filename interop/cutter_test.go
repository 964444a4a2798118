package interop

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// What a connection through a cutter gets before it is cut: the head and the first
// event fit into the least, some kilobytes' worth of events into the most.
const (
	leastBytes = 2000
	mostBytes  = 8000
)

// A cutter stands between a client and a server. From begin to stop, it cuts every
// connection after some bytes, wherever that is: mostly in the middle of an event.
type cutter struct {
	listener net.Listener
	server   string
	tasks    sync.WaitGroup // accept, and what passes bytes on

	mu     sync.Mutex // protects the fields below
	on     bool       // coming connections are cut
	closed bool
	conns  map[net.Conn]struct{}
	cuts   int
}

// startCutter listens until the test ends.
func startCutter(t *testing.T, server string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c := &cutter{listener: l, server: server, conns: make(map[net.Conn]struct{})}
	c.tasks.Go(c.accept)
	t.Cleanup(c.close)
	return c
}

func (c *cutter) addr() string { return c.listener.Addr().String() }

// count is how many connections have been cut.
func (c *cutter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cuts
}

// begin cuts the connections that there are, and those that come.
func (c *cutter) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = true
	c.endLocked()
}

// stop cuts no more. A connection that is to be cut is, once more.
func (c *cutter) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = false
}

func (c *cutter) endLocked() {
	for conn := range c.conns {
		_ = conn.Close()
	}
}

func (c *cutter) close() {
	_ = c.listener.Close()
	c.mu.Lock()
	c.closed = true
	c.endLocked()
	c.mu.Unlock()
	c.tasks.Wait()
}

// accept takes connections until close.
func (c *cutter) accept() {
	for {
		client, err := c.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", c.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		c.mu.Lock()
		c.conns[client], c.conns[server] = struct{}{}, struct{}{}
		if c.closed { // close has not seen them
			_ = client.Close()
			_ = server.Close()
		}
		cut := c.on
		c.mu.Unlock()
		c.tasks.Go(func() { c.pass(server, client) })
		c.tasks.Go(func() { c.answer(client, server, cut) })
	}
}

// pass passes on what the client sends. accept starts it; the end of either
// connection ends it.
func (c *cutter) pass(server, client net.Conn) {
	_, _ = io.Copy(server, client)
	_ = server.Close()
}

// answer passes on what the server sends, until it has been enough. Then the
// client's connection is closed or, every other time, reset. accept starts it; the
// end of either connection ends it.
func (c *cutter) answer(client, server net.Conn, cut bool) {
	var from io.Reader = server
	limit := int64(leastBytes + rand.N(mostBytes-leastBytes))
	if cut {
		from = io.LimitReader(server, limit)
	}
	n, _ := io.Copy(client, from)
	c.mu.Lock()
	if cut && n == limit {
		c.cuts++
		if c.cuts%2 == 0 {
			_ = client.(*net.TCPConn).SetLinger(0)
		}
	}
	delete(c.conns, client)
	delete(c.conns, server)
	c.mu.Unlock()
	_ = server.Close()
	_ = client.Close()
}
