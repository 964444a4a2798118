package ssetest

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Framing is how an HTTP/1.1 response body of an Origin is delimited.
type Framing int

const (
	// Chunked sends every event as one chunk. A cut connection is an error for
	// the reader, an ended one is not. The default.
	Chunked Framing = iota
	// UntilClose sends the body as it is; the end of the connection ends it. A
	// reader cannot distinguish a cut from an end.
	UntilClose
)

// OriginConfig describes an Origin. The zero value is a plain HTTP/1.1 server
// on a loopback port that emits nothing on its own.
type OriginConfig struct {
	// Value of "source" in the data of numbered events. Default: origin.
	Source string

	// Numbered events per second. Default: 0, only manual events.
	Rate float64

	// Event types of numbered events, taken in turn; "" is an unnamed event.
	// Default: unnamed.
	Types []string

	// Bytes of padding in the data of numbered events. Default: 0, no "pad".
	Pad int

	// Events kept for replay. Default: 100000.
	History int

	// Line ending of events. Default: "\n".
	Newline string

	// Sends a "retry:" field at the start of every connection. Default: none.
	Retry time.Duration

	// Raw bytes at the start of every response body, before anything else.
	Preface []byte

	// Response header fields; they replace the default ones (Content-Type:
	// text/event-stream, Cache-Control: no-cache).
	Header http.Header

	// Body framing on HTTP/1.1. Default: Chunked.
	Framing Framing

	// Most bytes per write and chunk, so that events arrive in pieces.
	// Default: 0, every event in one piece.
	Split int

	// Path of a unix socket to listen on. Default: a loopback TCP port.
	Socket string

	// Address to listen on. Default: FreeAddr's.
	Address string

	// Serve TLS with a self-signed certificate, see CAPEM.
	TLS bool

	// Speak HTTP/2 too: by ALPN with TLS, else h2c with prior knowledge.
	HTTP2 bool
}

const defaultHistory = 100_000

// Origin is a scriptable upstream. All its connections see one sequence of
// events, which goes on while no client is connected and while it is stopped.
// Every path is served. Its methods are safe for concurrent use.
type Origin struct {
	cfg  OriginConfig
	cert *certificate // nil without TLS
	pad  []byte       // of the data of numbered events

	mon      monitor // protects everything up to the next blank line
	listener net.Listener
	server   *http.Server
	network  string
	address  string
	closed   bool
	log      history
	rate     rateState
	fault    *Fault
	stalled  bool
	cutEvery uint64
	resume   Resume
	overlap  int
	ids      func(n uint64) string
	conns    map[*originConn]struct{}
	requests []Request
	total    int // requests ever
	accepts  int // transport connections ever
	overruns uint64

	rateChanged chan struct{} // capacity 1: a pending change covers later ones
	quit        chan struct{}
	emitting    sync.WaitGroup // the goroutine emit
	serving     sync.WaitGroup // the goroutine serve and all handlers
	switching   sync.Mutex     // one Start, Stop or Close at a time
}

// NewOrigin listens and begins to emit.
func NewOrigin(cfg OriginConfig) (*Origin, error) {
	if cfg.Source == "" {
		cfg.Source = "origin"
	}
	if cfg.History <= 0 {
		cfg.History = defaultHistory
	}
	if cfg.Newline == "" {
		cfg.Newline = "\n"
	}
	if cfg.Address == "" && cfg.Socket == "" {
		addr, err := FreeAddr() // nobody takes it between Stop and Start
		if err != nil {
			return nil, err
		}
		cfg.Address = addr
	}
	o := &Origin{
		cfg:         cfg,
		pad:         bytes.Repeat([]byte("x"), cfg.Pad),
		network:     "tcp",
		address:     cfg.Address,
		log:         history{max: cfg.History},
		conns:       make(map[*originConn]struct{}),
		rateChanged: make(chan struct{}, 1),
		quit:        make(chan struct{}),
	}
	if cfg.Socket != "" {
		o.network, o.address = "unix", cfg.Socket
	}
	if cfg.TLS {
		cert, err := newCertificate()
		if err != nil {
			return nil, fmt.Errorf("generating certificate: %w", err)
		}
		o.cert = cert
	}
	if err := o.Start(); err != nil {
		return nil, err
	}
	o.rate.set(cfg.Rate)
	o.emitting.Add(1)
	go o.emit()
	return o, nil
}

// Start listens again, on the same address, after Stop.
func (o *Origin) Start() error {
	o.switching.Lock()
	defer o.switching.Unlock()

	o.mon.Lock()
	defer o.mon.Unlock()
	if o.closed {
		return net.ErrClosed
	}
	if o.server != nil {
		return nil
	}
	ln, err := listen(o.network, o.address)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", o.address, err)
	}
	o.listener = ln
	o.address = ln.Addr().String()
	o.server = &http.Server{
		Handler:   http.HandlerFunc(o.handle),
		ErrorLog:  log.New(io.Discard, "", 0),
		Protocols: new(http.Protocols),
	}
	o.server.Protocols.SetHTTP1(true)
	if o.cfg.HTTP2 {
		o.server.Protocols.SetHTTP2(o.cfg.TLS)
		o.server.Protocols.SetUnencryptedHTTP2(!o.cfg.TLS)
	}
	if o.cert != nil {
		o.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{o.cert.pair}}
	}
	o.serving.Add(1)
	go o.serve(o.server, &originListener{Listener: ln, origin: o})
	o.mon.signalLocked()
	return nil
}

// Stop closes the listener and every connection at once: from now on
// connections are refused. It returns when all handlers have ended. Events go
// on and can be resumed after Start.
func (o *Origin) Stop() {
	o.switching.Lock()
	defer o.switching.Unlock()

	o.mon.Lock()
	server := o.server
	o.server, o.listener = nil, nil
	conns := o.openLocked()
	for _, c := range conns {
		c.endLocked(endCut)
	}
	o.mon.signalLocked()
	o.mon.Unlock()

	if server != nil {
		_ = server.Close()
	}
	for _, c := range conns {
		c.abort()
	}
	o.serving.Wait()
}

// Close stops the origin for good and waits for all its goroutines.
func (o *Origin) Close() {
	o.mon.Lock()
	first := !o.closed
	o.closed = true
	o.mon.Unlock()
	if first {
		close(o.quit)
	}
	o.Stop()
	o.emitting.Wait()
}

// serve accepts connections until the server is closed. Start starts it; Stop
// waits for it.
func (o *Origin) serve(server *http.Server, ln net.Listener) {
	defer o.serving.Done()
	if server.TLSConfig != nil {
		_ = server.ServeTLS(ln, "", "")
		return
	}
	_ = server.Serve(ln)
}

// Addr is the address listened on: host:port or the path of the socket.
func (o *Origin) Addr() string {
	o.mon.Lock()
	defer o.mon.Unlock()
	return o.address
}

// URL is an address of the origin as the Caddyfile writes it:
// http(s)://127.0.0.1:port/events or unix//path|/events.
func (o *Origin) URL() string {
	switch {
	case o.cfg.Socket != "":
		return "unix/" + o.cfg.Socket + "|/events"
	case o.cfg.TLS:
		return "https://" + o.Addr() + "/events"
	default:
		return "http://" + o.Addr() + "/events"
	}
}

// URLs are the addresses of several origins, as a Caddyfile lists them.
func URLs(origins []*Origin) string {
	all := make([]string, len(origins))
	for i, o := range origins {
		all[i] = o.URL()
	}
	return strings.Join(all, " ")
}

// Source is the "source" in the data of its numbered events.
func (o *Origin) Source() string { return o.cfg.Source }

// CAPEM is the certificate to trust, in PEM; nil without TLS.
func (o *Origin) CAPEM() []byte {
	if o.cert == nil {
		return nil
	}
	return o.cert.pem
}

// TLSClientConfig trusts the origin's certificate; nil without TLS.
func (o *Origin) TLSClientConfig() *tls.Config {
	if o.cert == nil {
		return nil
	}
	return &tls.Config{RootCAs: o.cert.pool}
}

// openLocked returns the connections being served.
func (o *Origin) openLocked() []*originConn {
	conns := make([]*originConn, 0, len(o.conns))
	for c := range o.conns {
		conns = append(conns, c)
	}
	return conns
}

// originListener counts connections and closes them at once on
// CloseOnAccept.
type originListener struct {
	net.Listener
	origin *Origin
}

func (l *originListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		o := l.origin
		o.mon.Lock()
		o.accepts++
		refuse := o.takeFaultLocked(true) != nil
		o.mon.signalLocked()
		o.mon.Unlock()
		if !refuse {
			return c, nil
		}
		_ = c.Close()
	}
}

// WaitConnections waits until exactly n connections are being served.
// Connections that were asked to end, or got a whole answer, count no more: a
// wait for the next one is not over with the last one.
func (o *Origin) WaitConnections(ctx context.Context, n int) error {
	if err := o.mon.wait(ctx, func() bool { return o.servingLocked() == n }); err != nil {
		return fmt.Errorf("origin %s: waiting for %d connections, have %d: %w", o.cfg.Source, n, o.Connections(), err)
	}
	return nil
}

// WaitRequests waits until at least n requests have been received in total.
func (o *Origin) WaitRequests(ctx context.Context, n int) error {
	if err := o.mon.wait(ctx, func() bool { return o.total >= n }); err != nil {
		return fmt.Errorf("origin %s: waiting for %d requests, have %d: %w", o.cfg.Source, n, o.TotalConnections(), err)
	}
	return nil
}
