package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"time"
)

// resumeConfig describes clients that come back one after the other.
type resumeConfig struct {
	Addr    string
	Path    string
	Clients int
	Events  uint64 // that the stream retains, numbered from 1
	Back    uint64 // how many of the newest of them the clients come back to
	Payload int    // bytes of an event's data
}

// resumeReport is how long the clients waited, counted from the request.
type resumeReport struct {
	FirstByte, FirstEvent quantiles
	Faults                faults // clients that did not go on where they were
}

// resume connects clients with positions at random places of a stream that
// nothing is added to.
func resume(cfg resumeConfig) (resumeReport, error) {
	var (
		firstByte, firstEvent histogram
		report                resumeReport
	)
	// A browser without a position is told one at once: the newest.
	buf := make([]byte, 64<<10) // one for all: garbage to collect would count as waiting
	head, _, _, err := resumeOne(cfg, "", buf)
	if err != nil {
		return report, err
	}
	epoch, tail, ok := bytes.Cut(head.id, []byte{'-'})
	_, stamp, ok2 := bytes.Cut(tail, []byte{'-'})
	if !ok || !ok2 {
		return report, fmt.Errorf("the id %q is no position", head.id)
	}
	for range cfg.Clients {
		after := cfg.Events - 2 - rand.N(cfg.Back)
		v, byteAfter, eventAfter, err := resumeOne(cfg, string(epoch)+"-"+strconv.FormatUint(after, 10)+"-"+string(stamp), buf)
		if err != nil {
			return report, err
		}
		report.Faults.add(v.faults)
		switch {
		case v.first <= after:
			report.Faults.Doubled++
		case v.first > after+1:
			report.Faults.Lost++
		}
		firstByte.add(byteAfter)
		firstEvent.add(eventAfter)
	}
	var d, e distribution
	d.plus(&firstByte)
	e.plus(&firstEvent)
	report.FirstByte, report.FirstEvent = d.quantiles(), e.quantiles()
	return report, nil
}

// resumeVerifier notes the first event.
type resumeVerifier struct {
	*verifier
	first uint64
}

// resumeOne connects one client and reads to its first event, or to the id
// that it is given if it has no position.
func resumeOne(cfg resumeConfig, position string, buf []byte) (v resumeVerifier, byteAfter, eventAfter time.Duration, err error) {
	v = resumeVerifier{verifier: newVerifier(1, cfg.Payload)}
	v.anyNext, v.keepID = true, true
	v.got = func(_ int, seq uint64, _ int64) {
		if v.first == 0 {
			v.first = seq
		}
	}
	conn, err := net.Dial("tcp", cfg.Addr)
	if err != nil {
		return v, 0, 0, fmt.Errorf("connecting: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(connectTimeout))
	request := "GET " + cfg.Path + " HTTP/1.1\r\nHost: " + cfg.Addr + "\r\nAccept: text/event-stream\r\n"
	if position == "" { // as a browser's EventSource
		request += "Cache-Control: no-cache\r\nSec-Fetch-Mode: cors\r\n"
	} else {
		request += "Last-Event-ID: " + position + "\r\n"
	}
	began := time.Now()
	if _, err := conn.Write([]byte(request + "\r\n")); err != nil {
		return v, 0, 0, fmt.Errorf("sending the request: %w", err)
	}
	timed := &firstReadConn{Conn: conn}
	body, chunked, err := readHead(timed, buf)
	if err != nil {
		return v, 0, 0, err
	}
	byteAfter = timed.first.Sub(began)
	chunks := newDechunker()
	for {
		if chunked {
			if err := chunks.feed(body, v.verifier); err != nil {
				return v, 0, 0, fmt.Errorf("reading the stream: %w", err)
			}
		} else {
			v.feed(body)
		}
		if v.first > 0 || position == "" && len(v.id) > 0 {
			return v, byteAfter, time.Since(began), nil
		}
		n, err := conn.Read(buf)
		if err != nil {
			return v, 0, 0, fmt.Errorf("reading the stream: %w", err)
		}
		body = buf[:n]
	}
}

// firstReadConn notes when the first bytes came.
type firstReadConn struct {
	net.Conn
	first time.Time
}

func (c *firstReadConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.first.IsZero() {
		c.first = time.Now()
	}
	return n, err
}
