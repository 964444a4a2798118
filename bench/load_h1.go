package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"time"
)

// headSize bounds the head of a response, in bytes.
const headSize = 4 << 10

// openHTTP1 connects over a connection of its own and hands it to the poller.
func (c *loadConn) openHTTP1(p *poller) error {
	conn, err := c.load.dialer().Dial("tcp", c.load.cfg.Addr)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer conn.Close()
	if err := c.requestHTTP1(conn); err != nil {
		return err
	}
	return p.take(conn.(*net.TCPConn), c)
}

// openTLS does so over TLS, and reads in a goroutine.
func (c *loadConn) openTLS() error {
	dialer := &countingDialer{load: c.load, shard: c.shard}
	below, err := dialer.dial(context.Background(), "tcp", "")
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	conn := tls.Client(below, clientTLS)
	if err := c.requestHTTP1(conn); err != nil {
		_ = conn.Close()
		return err
	}
	_ = conn.SetDeadline(time.Time{})
	go c.read(conn)
	return nil
}

// requestHTTP1 requests the stream, with the little of HTTP/1.1 that is needed, and
// leaves a deadline.
func (c *loadConn) requestHTTP1(conn net.Conn) error {
	_ = conn.SetDeadline(time.Now().Add(connectTimeout))
	request := "GET " + c.stream.Path + " HTTP/1.1\r\nHost: " + c.load.cfg.Addr + "\r\nAccept: text/event-stream\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return fmt.Errorf("sending the request: %w", err)
	}
	body, chunked, err := readHead(conn, make([]byte, headSize))
	if err != nil {
		return err
	}
	if chunked {
		c.chunks = newDechunker()
	}
	return c.feed(body)
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
