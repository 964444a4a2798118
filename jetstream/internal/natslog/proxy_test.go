package natslog

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy stands between a node and its server, and can stop what goes to the
// server, as if the node or the network had stopped.
type proxy struct {
	listener net.Listener
	server   string
	done     sync.WaitGroup

	mu      sync.Mutex // protects the fields below
	cond    sync.Cond
	stopped bool
	closed  bool
	conns   map[net.Conn]struct{}
}

func startProxy(t testing.TB, server string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, server: server, conns: make(map[net.Conn]struct{})}
	p.cond.L = &p.mu
	p.done.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) address() string { return p.listener.Addr().String() }

// stop holds everything up until goOn.
func (p *proxy) stop() { p.set(true) }

func (p *proxy) goOn() { p.set(false) }

func (p *proxy) set(stopped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = stopped
	p.cond.Broadcast()
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.cond.Broadcast()
	p.mu.Unlock()
	p.cut()
	p.done.Wait()
}

// accept takes connections until close.
func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.done.Go(func() { p.carry(client, server) })
		p.done.Go(func() { p.carry(server, client) })
	}
}

// carry copies from one connection to the other until one of them ends.
func (p *proxy) carry(from, to net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && p.pass() {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if err != io.EOF {
				return
			}
			return
		}
	}
}

// pass waits while everything is held up. False: the proxy was closed.
func (p *proxy) pass() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.stopped && !p.closed {
		p.cond.Wait()
	}
	return !p.closed
}
