package main

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// loadConn is one stream of one client.
type loadConn struct {
	load   *load
	shard  *shard
	stream loadStream

	mu     sync.Mutex // protects what follows; held while a read is parsed
	v      *verifier
	chunks *dechunker // nil: the stream has no such framing
	ended  bool
	clean  bool // the response came to its end before the connection did

	now      int64  // receipt of what is being parsed, in Unix ns
	events   uint64 // of this read
	complete uint64 // highest number that all clients have since this read
}

// dialer dials the server as is configured.
func (l *load) dialer() *net.Dialer {
	d := &net.Dialer{Timeout: connectTimeout}
	if l.cfg.From != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(l.cfg.From)}
	}
	return d
}

// feed takes what was read at once. With HTTP/1.1 that is what was on the wire,
// with HTTP/2 others count that. An error is the end of the response.
func (c *loadConn) feed(p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = time.Now().UnixNano()
	c.events, c.complete = 0, 0
	var err error
	if c.chunks != nil {
		err = c.chunks.feed(p, c.v)
	} else {
		c.v.feed(p)
	}
	if c.events > 0 {
		c.shard.events.Add(c.events)
		c.shard.newest.Store(c.now)
	}
	if c.complete > 0 {
		c.load.progress.report(c.complete)
	}
	return err
}

// got takes an event from the verifier.
func (c *loadConn) got(_ int, seq uint64, at int64) {
	c.events++
	c.shard.latency.add(time.Duration(c.now - at))
	if p := c.load.progress; p != nil && p.count(seq) {
		c.complete = seq
	}
}

// end notes that the connection has ended, which no server may do while events are
// sent. err is the error of reading it, or of feed.
func (c *loadConn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.clean = errors.Is(err, errLastChunk) || c.chunks == nil && errors.Is(err, io.EOF)
}

// howEnded counts the connection.
func (c *loadConn) howEnded() ends {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.ended:
		return ends{Open: 1}
	case c.clean:
		return ends{Clean: 1}
	default:
		return ends{Cut: 1}
	}
}

// read reads to the end of a stream for which a goroutine is needed, and which ends
// it.
func (c *loadConn) read(body io.ReadCloser) {
	defer body.Close()
	buf := make([]byte, c.load.bufferSize())
	for {
		n, err := body.Read(buf)
		if malformed := c.feed(buf[:n]); malformed != nil {
			err = malformed
		}
		if err != nil {
			c.end(err)
			return
		}
	}
}

// bufferSize is the bytes that a stream reads at once: as much as a server has
// ready for it, but little where there are many.
func (l *load) bufferSize() int {
	if len(l.conns) > 2000 {
		return 4 << 10
	}
	return 32 << 10
}
