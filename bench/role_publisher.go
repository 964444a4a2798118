package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"time"
)

// publisherConfig says what to read and where to post it.
type publisherConfig struct {
	Origins []string // URLs
	Addr    string
	Path    string
}

// publisherRole feeds a server that does not read the origin itself: it posts
// each event, one after the other over one connection, so that the order
// stays. Command: start.
func publisherRole(c *commands) error {
	handle(c, "start", func(cfg publisherConfig) (none, error) {
		conn, err := net.Dial("tcp", cfg.Addr)
		if err != nil {
			return none{}, fmt.Errorf("connecting to the server: %w", err)
		}
		p := &poster{cfg: cfg, conn: conn, answers: bufio.NewReader(conn)}
		return none{}, followAll(cfg.Origins, func(events [][]byte) {
			for _, event := range events {
				_, data := originFields(event)
				if err := p.post(data); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1) // the clients will be found behind
				}
			}
		})
	})
	return c.serve()
}

// poster posts over one connection that stays. Not safe for concurrent use.
type poster struct {
	cfg     publisherConfig
	conn    net.Conn
	answers *bufio.Reader
	request []byte
}

// post sends a message and waits until it was taken. It has the little of
// HTTP/1.1 that is needed, since the feeder's CPU counts.
func (p *poster) post(message []byte) error {
	p.request = append(p.request[:0], "POST "+p.cfg.Path+" HTTP/1.1\r\nHost: "+p.cfg.Addr+"\r\nContent-Length: "...)
	p.request = strconv.AppendInt(p.request, int64(len(message)), 10)
	p.request = append(p.request, "\r\n\r\n"...)
	p.request = append(p.request, message...)
	_ = p.conn.SetDeadline(time.Now().Add(stallTimeout))
	if _, err := p.conn.Write(p.request); err != nil {
		return fmt.Errorf("posting: %w", err)
	}
	if err := p.readAnswer(); err != nil {
		return fmt.Errorf("posting: %w", err)
	}
	return nil
}

var errNotTaken = errors.New("the server has not taken the message")

func (p *poster) readAnswer() error {
	lines := textproto.Reader{R: p.answers}
	status, err := lines.ReadLineBytes()
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 2")) {
		return fmt.Errorf("%w: %s", errNotTaken, status)
	}
	size := 0
	for {
		line, err := lines.ReadLineBytes()
		if err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := strings.Cut(string(line), ":")
		if strings.EqualFold(name, "Content-Length") {
			if size, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return fmt.Errorf("reading the answer: %w", err)
			}
		}
	}
	if _, err := p.answers.Discard(size); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return nil
}
