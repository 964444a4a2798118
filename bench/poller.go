package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
)

const (
	// pollEvents is how many connections are read after one wait at most.
	pollEvents = 256

	// pollBuffer is the bytes that are read from a connection at once.
	pollBuffer = 64 << 10
)

// pollers is how many threads read the connections: half of the machine, as
// the server has the other half. Fewer threads find more to read each time.
func pollers() int { return max(runtime.NumCPU()/2, 1) }

// poller reads many connections with one thread: one wait for all that have
// something, then one read each. A goroutine for each connection would cost
// the machine more: a second read that finds nothing and a change of goroutine
// for each event, and a stack.
type poller struct {
	epoll int

	mu    sync.Mutex // protects conns
	conns map[int32]*loadConn
}

// newPoller starts a poller that lives as long as the process.
func newPoller() (*poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making a poller: %w", err)
	}
	p := &poller{epoll: fd, conns: make(map[int32]*loadConn)}
	go p.run()
	return p, nil
}

// take reads a connection from now on. It replaces conn, which is closed.
func (p *poller) take(conn *net.TCPConn, c *loadConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(old uintptr) { fd, dupErr = syscall.Dup(int(old)) }); err != nil {
		return err
	}
	if dupErr != nil {
		return fmt.Errorf("taking the connection over: %w", dupErr)
	}
	// With its own descriptor gone, the runtime waits for the connection no more.
	if err := conn.Close(); err != nil {
		return err
	}
	p.mu.Lock()
	p.conns[int32(fd)] = c
	p.mu.Unlock()
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLRDHUP, Fd: int32(fd)}
	if err := syscall.EpollCtl(p.epoll, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("taking the connection over: %w", err)
	}
	return nil
}

// run reads what there is; newPoller starts it.
func (p *poller) run() {
	var (
		ready = make([]syscall.EpollEvent, pollEvents)
		conns = make([]*loadConn, pollEvents)
		buf   = make([]byte, pollBuffer)
	)
	for {
		n, err := syscall.EpollWait(p.epoll, ready, -1)
		if errors.Is(err, syscall.EINTR) {
			continue
		} else if err != nil {
			return
		}
		p.mu.Lock()
		for i := range n {
			conns[i] = p.conns[ready[i].Fd]
		}
		p.mu.Unlock()
		for i := range n {
			p.read(int(ready[i].Fd), conns[i], buf)
		}
	}
}

// read reads a connection once; if there is more, the next wait says so.
func (p *poller) read(fd int, c *loadConn, buf []byte) {
	n, err := syscall.Read(fd, buf)
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) {
		return
	}
	switch {
	case err != nil:
	case n == 0:
		err = io.EOF
	default:
		c.shard.bytes.Add(uint64(n))
		if err = c.feed(buf[:n]); err == nil {
			return
		}
	}
	p.mu.Lock()
	delete(p.conns, int32(fd))
	p.mu.Unlock()
	_ = syscall.Close(fd) // which takes it off the poller too
	c.end(err)
}
