package ssetest

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"
)

// sink is a response body whose bytes and end are under control. Only abort
// may be called from another goroutine than the handler's.
type sink interface {
	write(p []byte) error // buffered
	flush() error
	writeCut(p []byte, k int) error // announces p, sends its first k bytes
	finish() error                  // the clean end
	fail()                          // the end that is an error for the client
	abort()                         // unblocks write and flush for good
}

// wireSink writes HTTP/1.1 by hand on a hijacked connection.
type wireSink struct {
	conn    net.Conn
	buf     *bufio.Writer
	chunked bool
	split   int
	watched chan struct{} // closed when watch has ended
}

// openWire takes over the connection and, unless header is nil, writes a
// response head.
func openWire(c *originConn, w http.ResponseWriter, header http.Header, cfg OriginConfig) (*wireSink, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	s := &wireSink{
		conn:    conn,
		buf:     rw.Writer,
		chunked: cfg.Framing == Chunked,
		split:   cfg.Split,
		watched: make(chan struct{}),
	}
	go s.watch(c, rw.Reader)
	if !c.install(s) {
		s.close()
		return nil, net.ErrClosed
	}
	if header == nil {
		return s, nil
	}
	fmt.Fprint(s.buf, "HTTP/1.1 200 OK\r\n")
	_ = header.Write(s.buf)
	if s.chunked {
		fmt.Fprint(s.buf, "Transfer-Encoding: chunked\r\n")
	}
	fmt.Fprint(s.buf, "Connection: close\r\n\r\n")
	return s, nil
}

// install makes the sink known to abort; it is false when the connection was
// ended before.
func (c *originConn) install(s sink) bool {
	c.origin.mon.Lock()
	defer c.origin.mon.Unlock()
	c.sink = s
	return c.end == endNone
}

// watch reads what the client sends, which is nothing, to notice its end.
// openWire starts it; close waits for it.
func (s *wireSink) watch(c *originConn, r io.Reader) {
	defer close(s.watched)
	_, _ = io.Copy(io.Discard, r)
	c.gone()
}

func (s *wireSink) write(p []byte) error {
	if s.split <= 0 {
		return s.chunk(p, len(p))
	}
	for len(p) > 0 {
		k := min(s.split, len(p))
		if err := s.chunk(p[:k], k); err != nil {
			return err
		}
		if err := s.flush(); err != nil {
			return err
		}
		p = p[k:]
	}
	return nil
}

// chunk writes the first k bytes of a chunk p.
func (s *wireSink) chunk(p []byte, k int) error {
	if len(p) == 0 {
		return nil // a chunk of length 0 would be the end
	}
	if s.chunked {
		fmt.Fprintf(s.buf, "%x\r\n", len(p))
	}
	_, err := s.buf.Write(p[:k])
	if s.chunked && k == len(p) {
		_, err = s.buf.WriteString("\r\n")
	}
	return err
}

func (s *wireSink) flush() error { return s.buf.Flush() }

func (s *wireSink) writeCut(p []byte, k int) error {
	if err := s.chunk(p, k); err != nil {
		return err
	}
	return s.flush()
}

func (s *wireSink) finish() error {
	if s.chunked {
		if _, err := s.buf.WriteString("0\r\n\r\n"); err != nil {
			return err
		}
	}
	if err := s.flush(); err != nil {
		return err
	}
	return s.conn.Close() // with TLS: close_notify first
}

func (s *wireSink) fail() { s.abort() }

func (s *wireSink) abort() {
	if t, ok := s.conn.(*tls.Conn); ok {
		_ = t.NetConn().Close() // no close_notify
		return
	}
	_ = s.conn.Close()
}

// close ends the connection if nothing else has, and watch with it.
func (s *wireSink) close() {
	s.abort()
	<-s.watched
}

// h2Sink writes through net/http.
type h2Sink struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	split int

	mu     sync.Mutex // protects closed: the writer must not be used afterwards
	closed bool
}

func openH2(c *originConn, w http.ResponseWriter, header http.Header, cfg OriginConfig) *h2Sink {
	s := &h2Sink{w: w, rc: http.NewResponseController(w), split: cfg.Split}
	maps.Copy(w.Header(), header)
	if !c.install(s) {
		s.close()
		s.fail()
	}
	w.WriteHeader(http.StatusOK)
	return s
}

func (s *h2Sink) write(p []byte) error {
	if s.split <= 0 {
		_, err := s.w.Write(p)
		return err
	}
	for len(p) > 0 {
		k := min(s.split, len(p))
		if _, err := s.w.Write(p[:k]); err != nil {
			return err
		}
		if err := s.flush(); err != nil {
			return err
		}
		p = p[k:]
	}
	return nil
}

func (s *h2Sink) flush() error { return s.rc.Flush() }

func (s *h2Sink) writeCut(p []byte, k int) error {
	if _, err := s.w.Write(p[:k]); err != nil {
		return err
	}
	return s.flush()
}

// finish does nothing: the handler's return is END_STREAM.
func (s *h2Sink) finish() error { return nil }

// fail resets the stream.
func (s *h2Sink) fail() { panic(http.ErrAbortHandler) }

func (s *h2Sink) abort() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		_ = s.rc.SetWriteDeadline(time.Unix(1, 0))
	}
}

func (s *h2Sink) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}
