package ssetest

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// RawConfig describes a Raw client. Only URL is required.
type RawConfig struct {
	// Where to connect; with Socket its host is only the Host header.
	URL string

	// Path of a unix socket to connect to instead.
	Socket string

	// More request header fields.
	Header http.Header

	// For https; without it certificates are not verified.
	TLS *tls.Config

	// Bytes read per second; negative reads nothing, not even the response
	// head. Default: 0, as fast as they come.
	BytesPerSecond int

	// Size of the kernel's receive buffer, so that a server notices sooner
	// that nobody reads. A few KiB make reading very slow too, whatever the
	// rate. Default: the system's.
	ReceiveBuffer int
}

// maxRawKept is how many of the first bytes a Raw keeps: heads and the
// beginning of a stream are looked at, not more.
const maxRawKept = 64 << 10

// Raw is an HTTP/1.1 client that sends one GET and reads at the given rate or
// never. Its methods are safe for concurrent use.
type Raw struct {
	conn net.Conn

	mon   monitor // protects the fields below
	rate  int
	count int64
	kept  []byte
	err   error // why reading ended

	closing sync.Once
	quit    chan struct{}
	reading sync.WaitGroup // the goroutine read
}

// DialRaw connects and sends the request.
func DialRaw(ctx context.Context, cfg RawConfig) (*Raw, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("parsing URL: %w", err)
	}
	conn, err := dialRaw(ctx, u, cfg)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", u.Host, err)
	}
	var head bytes.Buffer
	fmt.Fprintf(&head, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: text/event-stream\r\n", u.RequestURI(), u.Host)
	_ = cfg.Header.Write(&head)
	head.WriteString("\r\n")
	if _, err := conn.Write(head.Bytes()); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("sending the request: %w", err)
	}
	r := &Raw{conn: conn, rate: cfg.BytesPerSecond, quit: make(chan struct{})}
	r.reading.Add(1)
	go r.read()
	return r, nil
}

func dialRaw(ctx context.Context, u *url.URL, cfg RawConfig) (net.Conn, error) {
	network, address := "tcp", u.Host
	switch {
	case cfg.Socket != "":
		network, address = "unix", cfg.Socket
	case u.Port() == "" && u.Scheme == "https":
		address = net.JoinHostPort(u.Hostname(), "443")
	case u.Port() == "":
		address = net.JoinHostPort(u.Hostname(), "80")
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if b, ok := conn.(interface{ SetReadBuffer(int) error }); ok && cfg.ReceiveBuffer > 0 {
		_ = b.SetReadBuffer(cfg.ReceiveBuffer)
	}
	if u.Scheme != "https" {
		return conn, nil
	}
	config := cfg.TLS
	if config == nil {
		config = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // a test's server, a certificate of its own
	}
	config = config.Clone()
	config.ServerName = u.Hostname()
	config.NextProtos = []string{"http/1.1"}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}

// read takes bytes at the rate until the connection ends. DialRaw starts it;
// Close waits for it.
func (r *Raw) read() {
	defer r.reading.Done()
	buf := make([]byte, 16<<10)
	for {
		r.mon.Lock()
		rate, changed := r.rate, r.mon.changedLocked()
		r.mon.Unlock()
		if rate < 0 {
			select {
			case <-changed:
				continue
			case <-r.quit:
				return
			}
		}
		piece := buf
		if rate > 0 {
			piece = buf[:max(min(len(buf), rate/20), 1)]
		}
		n, err := r.conn.Read(piece)

		r.mon.Lock()
		r.count += int64(n)
		r.kept = append(r.kept, piece[:min(n, maxRawKept-len(r.kept))]...)
		r.err = err
		r.mon.signalLocked()
		r.mon.Unlock()
		if err != nil {
			return
		}
		if rate > 0 {
			timer := time.NewTimer(time.Duration(n) * time.Second / time.Duration(rate))
			select {
			case <-timer.C:
			case <-r.quit:
				timer.Stop()
				return
			}
		}
	}
}

// SetRate changes the bytes read per second: negative is never, 0 as fast as
// they come. A read that has begun is finished first.
func (r *Raw) SetRate(bytesPerSecond int) {
	r.mon.Lock()
	defer r.mon.Unlock()
	r.rate = bytesPerSecond
	r.mon.signalLocked()
}

// BytesRead is the number of bytes so far, response head included.
func (r *Raw) BytesRead() int64 {
	r.mon.Lock()
	defer r.mon.Unlock()
	return r.count
}

// Bytes returns the first 64 KiB of what was read, response head included and
// chunks as they came.
func (r *Raw) Bytes() []byte {
	r.mon.Lock()
	defer r.mon.Unlock()
	return bytes.Clone(r.kept)
}

// WaitBytes waits until n bytes have been read.
func (r *Raw) WaitBytes(ctx context.Context, n int64) error {
	if err := r.mon.wait(ctx, func() bool { return r.count >= n || r.err != nil }); err != nil {
		return fmt.Errorf("waiting for %d bytes, have %d: %w", n, r.BytesRead(), err)
	}
	if have := r.BytesRead(); have < n {
		return fmt.Errorf("connection ended after %d bytes, not %d: %w", have, n, r.ended())
	}
	return nil
}

// WaitEnd waits until the server has ended the connection, which only a
// reading client can notice. It returns nil for an end, else the error of the
// break.
func (r *Raw) WaitEnd(ctx context.Context) error {
	if err := r.mon.wait(ctx, func() bool { return r.err != nil }); err != nil {
		return fmt.Errorf("waiting for the end: %w", err)
	}
	if err := r.ended(); err != io.EOF {
		return err
	}
	return nil
}

func (r *Raw) ended() error {
	r.mon.Lock()
	defer r.mon.Unlock()
	return r.err
}

// Close closes the connection and waits.
func (r *Raw) Close() {
	r.closing.Do(func() {
		close(r.quit)
		_ = r.conn.Close()
	})
	r.reading.Wait()
}
