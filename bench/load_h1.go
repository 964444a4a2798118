package main

import (
	"bytes"
	"fmt"
	"net"
	"time"
)

// bufferSize is the bytes that a connection reads at once: as much as a server
// has ready for it, but little where there are many.
func (l *load) bufferSize() int {
	if len(l.conns) > 2000 {
		return 4 << 10
	}
	return 32 << 10
}

// runHTTP1 is run over a connection of its own, with the little of HTTP/1.1
// that is needed.
func (c *loadConn) runHTTP1(head func()) error {
	conn, err := net.DialTimeout("tcp", c.load.cfg.Addr, connectTimeout)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(connectTimeout))
	request := "GET " + c.stream.Path + " HTTP/1.1\r\nHost: " + c.load.cfg.Addr + "\r\nAccept: text/event-stream\r\n\r\n"
	if _, err := conn.Write([]byte(request)); err != nil {
		return fmt.Errorf("sending the request: %w", err)
	}
	buf := make([]byte, c.load.bufferSize())
	body, chunked, err := readHead(conn, buf)
	if err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Time{})
	if chunked {
		c.mu.Lock()
		c.chunks = newDechunker()
		c.mu.Unlock()
	}
	head()

	defer c.end()
	for {
		c.shard.bytes.Add(uint64(len(body)))
		if err := c.feed(body); err != nil {
			return nil
		}
		n, err := conn.Read(buf)
		if err != nil {
			return nil
		}
		body = buf[:n]
	}
}

// readHead reads the head of a response into buf and returns what came after
// it, and whether that is chunked.
func readHead(conn net.Conn, buf []byte) (body []byte, chunked bool, err error) {
	n := 0
	for {
		k, err := conn.Read(buf[n:])
		if err != nil {
			return nil, false, fmt.Errorf("reading the response's head: %w", err)
		}
		n += k
		if end := bytes.Index(buf[:n], []byte("\r\n\r\n")); end >= 0 {
			head := bytes.ToLower(buf[:end])
			if !bytes.HasPrefix(head, []byte("http/1.1 200")) || !bytes.Contains(head, []byte("text/event-stream")) {
				status, _, _ := bytes.Cut(buf[:end], []byte("\r\n"))
				return nil, false, fmt.Errorf("%w: %s", errNoEventStream, status)
			}
			return buf[end+4 : n], bytes.Contains(head, []byte("transfer-encoding: chunked")), nil
		}
		if n == len(buf) {
			return nil, false, fmt.Errorf("%w: its head has more than %d bytes", errNoEventStream, n)
		}
	}
}
