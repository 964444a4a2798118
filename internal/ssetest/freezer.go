package ssetest

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// Freezer makes clients of HTTP/2 with windows that nothing fills, whose one
// connection can be frozen, as a browser's is when its tab is: the socket is
// not read any more. Its methods are safe for concurrent use.
type Freezer struct {
	frozen chan struct{} // closed by Freeze
	thawed chan struct{} // closed by Thaw

	freezing, thawing sync.Once
}

// NewFreezer returns a Freezer whose clients read. Thaw has to be called.
func NewFreezer() *Freezer {
	return &Freezer{frozen: make(chan struct{}), thawed: make(chan struct{})}
}

// Freeze stops all connections from being read, for good or until Thaw.
func (f *Freezer) Freeze() { f.freezing.Do(func() { close(f.frozen) }) }

// Thaw lets all connections be read from now on, whether or not Freeze was
// called.
func (f *Freezer) Thaw() { f.thawing.Do(func() { close(f.thawed) }) }

// Client returns a client with one connection for all its requests, over TLS or
// not. Its idle connections are the caller's to close.
func (f *Freezer) Client(secure bool) *http.Client {
	transport := newTransport()
	transport.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerConnection: 1 << 30, MaxReceiveBufferPerStream: 1 << 30}
	transport.DialContext = f.dial
	if secure {
		transport.Protocols.SetHTTP2(true)
	} else {
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Client{Transport: transport}
}

func (f *Freezer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	_ = conn.(*net.TCPConn).SetReadBuffer(16 << 10) // so that it is full soon
	return &frozenConn{Conn: conn, freezer: f}, nil
}

type frozenConn struct {
	net.Conn
	freezer *Freezer
}

func (c *frozenConn) Read(p []byte) (int, error) {
	select {
	case <-c.freezer.frozen:
		<-c.freezer.thawed
	default:
	}
	return c.Conn.Read(p)
}
