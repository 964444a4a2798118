package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

const (
	// segmentSize is how many bytes of a fanout's stream lie together, and so
	// the most that is written at once.
	segmentSize = 256 << 10

	// retryInterval is how long a fanout leaves sockets alone that take nothing
	// at the moment.
	retryInterval = time.Millisecond
)

// fanout writes one stream of bytes to many sockets: for each event one plain
// write to each socket, without waiting. A socket that takes nothing keeps its
// position and gets everything that it has missed in one write. Nothing in
// user space that does the same does less, so this is the origin's way, which
// has to be cheap, and the floor that servers are compared with. Safe for
// concurrent use.
type fanout struct {
	chunked bool // frame every append as an HTTP chunk

	mu      sync.Mutex // protects what follows, and orders the writes
	tail    *segment
	clients []*fanoutClient
	blocked int         // clients that are behind
	retry   *time.Timer // runs while there are any
}

// segment is a part of the stream. Clients that are behind keep the segments
// that they still need.
type segment struct {
	buf  []byte
	next *segment
}

// fanoutClient is one socket and its position. Its fields are the fanout's.
type fanoutClient struct {
	conn net.Conn
	raw  int // file descriptor of conn, which stays open as long as the client is listed
	seg  *segment
	off  int
	gone bool
	late bool // something is left to write
}

func newFanout(chunked bool) *fanout {
	f := &fanout{chunked: chunked, tail: &segment{buf: make([]byte, 0, segmentSize)}}
	f.retry = time.AfterFunc(time.Hour, f.writeLate)
	f.retry.Stop()
	return f
}

// publish appends events and writes them to all clients.
func (f *fanout) publish(events []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.appendLocked(events)
	for _, c := range f.clients {
		f.writeLocked(c)
	}
	f.dropGoneLocked()
}

func (f *fanout) appendLocked(events []byte) {
	const framing = 16 // bytes at most: 8 digits and two line ends
	if len(f.tail.buf)+len(events)+framing > cap(f.tail.buf) {
		f.tail.next = &segment{buf: make([]byte, 0, max(segmentSize, len(events)+framing))}
		f.tail = f.tail.next
	}
	if f.chunked {
		f.tail.buf = appendHex(f.tail.buf, len(events))
		f.tail.buf = append(f.tail.buf, "\r\n"...)
	}
	f.tail.buf = append(f.tail.buf, events...)
	if f.chunked {
		f.tail.buf = append(f.tail.buf, "\r\n"...)
	}
}

func appendHex(dst []byte, n int) []byte {
	const digits = "0123456789abcdef"
	shift := 28
	for shift > 0 && n>>shift == 0 {
		shift -= 4
	}
	for ; shift >= 0; shift -= 4 {
		dst = append(dst, digits[n>>shift&15])
	}
	return dst
}

// writeLocked writes what a client has not got, as much as its socket takes.
func (f *fanout) writeLocked(c *fanoutClient) {
	late := false
	for !c.gone {
		if c.off == len(c.seg.buf) {
			if c.seg.next == nil {
				break
			}
			c.seg, c.off = c.seg.next, 0
			continue
		}
		n, err := syscall.Write(c.raw, c.seg.buf[c.off:])
		if errors.Is(err, syscall.EINTR) {
			continue
		} else if errors.Is(err, syscall.EAGAIN) {
			late = true
			break
		} else if err != nil {
			c.gone = true
			break
		}
		c.off += n
	}
	if late == c.late {
		return
	}
	c.late = late
	if late {
		if f.blocked++; f.blocked == 1 {
			f.retry.Reset(retryInterval)
		}
	} else {
		f.blocked--
	}
}

// writeLate tries again with those that are behind; the timer calls it.
func (f *fanout) writeLate() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.clients {
		if c.late {
			f.writeLocked(c)
		}
	}
	if f.blocked > 0 {
		f.retry.Reset(retryInterval)
	}
}

// dropGoneLocked closes and forgets the clients that have left.
func (f *fanout) dropGoneLocked() {
	kept := f.clients[:0]
	for _, c := range f.clients {
		if !c.gone {
			kept = append(kept, c)
			continue
		}
		if c.late {
			f.blocked--
		}
		_ = c.conn.Close()
	}
	clear(f.clients[len(kept):])
	f.clients = kept
}

// connections returns how many clients there are.
func (f *fanout) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.clients)
}

// attach sends a client the head of a response and, from then on, the stream.
func (f *fanout) attach(conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	c := &fanoutClient{conn: conn}
	if err := raw.Control(func(fd uintptr) { c.raw = int(fd) }); err != nil {
		return err
	}
	head := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
	if f.chunked {
		head += "Transfer-Encoding: chunked\r\n\r\n"
	} else {
		head += "Connection: close\r\n\r\n"
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := io.WriteString(conn, head); err != nil {
		return err
	}
	c.seg, c.off = f.tail, len(f.tail.buf)
	f.clients = append(f.clients, c)
	go f.watch(c)
	return nil
}

// watch notices that a client has left. attach starts it; it ends with the
// connection, which is then closed.
func (f *fanout) watch(c *fanoutClient) {
	var p [1]byte
	for {
		if _, err := c.conn.Read(p[:]); err != nil {
			break
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c.gone = true
	f.dropGoneLocked()
}

// serveFanout accepts connections and attaches each to the fanout that choose
// returns for its request; nil is a 404. It runs as long as the listener.
func serveFanout(l net.Listener, choose func(*http.Request) *fanout) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go attachRequest(conn.(*net.TCPConn), choose)
	}
}

// attachRequest reads the request of one connection. serveFanout starts it; it
// ends with the request.
func attachRequest(conn *net.TCPConn, choose func(*http.Request) *fanout) {
	req, err := http.ReadRequest(bufio.NewReaderSize(conn, 1<<10))
	if err == nil {
		if f := choose(req); f == nil {
			_, err = io.WriteString(conn, "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			_ = conn.Close()
		} else {
			err = f.attach(conn)
		}
	}
	if err != nil {
		_ = conn.Close()
	}
}
