package chaos

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// protocol is how clients speak.
type protocol int

const (
	http10 protocol = iota
	http11
	http11Body // with a Content-Length, and a body that never comes
	h2c
	http11TLS
	http2TLS
	http3TLS
	protocols
)

func (p protocol) String() string {
	return [...]string{"HTTP/1.0", "HTTP/1.1", "HTTP/1.1 with a body", "h2c", "HTTP/1.1 TLS", "HTTP/2", "HTTP/3"}[p]
}

// site is the one that the protocol is spoken with.
func (p protocol) site() int {
	if p >= http11TLS {
		return 1
	}
	return 0
}

var insecure = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // a certificate of the test's own

// connect returns a transport of its own, and what closes it.
func (p protocol) connect() (http.RoundTripper, func()) {
	switch p {
	case http10:
		return &rawTransport{version: "HTTP/1.0"}, func() {}
	case http11Body:
		return &rawTransport{version: "HTTP/1.1", header: "Content-Length: 5\r\n"}, func() {}
	case http3TLS:
		t := &http3.Transport{TLSClientConfig: insecure.Clone()}
		return t, func() { _ = t.Close() }
	default:
		t := p.tcp()
		return t, t.CloseIdleConnections
	}
}

func (p protocol) tcp() *http.Transport {
	t := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: insecure.Clone(), DisableCompression: true}
	switch p {
	case h2c:
		t.Protocols.SetUnencryptedHTTP2(true)
	case http2TLS:
		t.Protocols.SetHTTP2(true)
	default:
		t.Protocols.SetHTTP1(true)
	}
	return t
}

// url is the address of a path for the protocol.
func (p *process) url(proto protocol, path string) string {
	if proto.site() == 1 {
		return "https://" + p.secure + path
	}
	return "http://" + p.plain + path
}

// rawTransport sends one request on a connection of its own.
type rawTransport struct {
	version, header string
}

func (t *rawTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	conn, err := new(net.Dialer).DialContext(req.Context(), "tcp", req.URL.Host)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(req.Context(), func() { conn.Close() })
	fmt.Fprintf(conn, "GET %s %s\r\nHost: %s\r\n%s", req.URL.RequestURI(), t.version, req.URL.Host, t.header)
	_ = req.Header.Write(conn)
	_, err = io.WriteString(conn, "\r\n")
	var resp *http.Response
	if err == nil {
		resp, err = http.ReadResponse(bufio.NewReader(conn), req)
	}
	if err != nil {
		stop()
		conn.Close()
		return nil, err
	}
	resp.Body = &rawBody{resp.Body, conn, stop}
	return resp, nil
}

// rawBody closes the connection with the body.
type rawBody struct {
	io.Reader
	conn net.Conn
	stop func() bool
}

func (b *rawBody) Close() error {
	b.stop()
	return b.conn.Close()
}

// headTimeout is how long an answer may take: it comes at once, but for the
// machine.
const headTimeout = 20 * time.Second

var errNoHead = errors.New("no answer")

// watchedTransport tells a watch of each request, and bounds the wait for the
// head of the response.
type watchedTransport struct {
	http.RoundTripper
	watch *watch
}

func (t *watchedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.watch.connecting(req.Header.Get("Last-Event-ID"))
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(headTimeout, func() { cancel(errNoHead) })
	resp, err := t.RoundTripper.RoundTrip(req.WithContext(ctx))
	timer.Stop()
	switch {
	case context.Cause(ctx) == errNoHead && req.Context().Err() == nil:
		t.watch.noHead()
	case err != nil:
		t.watch.note("fails: %v", err)
	default:
		t.watch.note("is answered %s", resp.Status)
		if resp.StatusCode != http.StatusOK { // read, see drawClient
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
			_ = resp.Body.Close()
			resp.Body = io.NopCloser(bytes.NewReader(body))
		}
	}
	return resp, err
}

func (w *watch) noHead() {
	w.judge.mu.Lock()
	ending := w.judge.ending
	w.judge.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !ending {
		w.violateLocked("no answer within %s", headTimeout)
	}
}

// client is a client of a stream that reads, resumes and is judged.
type client struct {
	*ssetest.Client
	watch *watch
	proto protocol
	user  string
	slow  bool

	closed atomic.Bool
	close  func() // ends it and its connection
}

// drawClient draws a client of a stream and starts it. plain draws one that
// reads everything.
func (r *round) drawClient(s *stream, plain bool) *client {
	rnd := r.rnd
	c := &client{proto: protocol(rnd.IntN(int(protocols)))}
	if c.proto == http11Body && (without("bodies") || !s.stays) {
		c.proto = http11 // where nobody serves the path, net/http waits for the body, for ever
	}
	w := &watch{judge: r.judge, stream: s, begun: r.begun}
	c.watch = w
	query := make(url.Values)
	if s.keyed {
		c.user = pick(rnd, "ann", "bob", "cleo")
		query.Set("user", c.user)
	}
	if plain {
		c.proto = pick(rnd, http11, http2TLS, h2c)
	} else if s.filters && chance(rnd, 2) {
		u := s.upstreams[rnd.IntN(len(s.upstreams))]
		if chance(rnd, 2) {
			w.filter.source = u.name
			query.Set("source", u.name)
		}
		if w.filter.source == "" || chance(rnd, 2) {
			w.filter.typ = u.finalType(pick(rnd, eventTypes...))
			query.Set("type", w.filter.typ)
		}
	}
	w.name = fmt.Sprintf("client %d of %s%s (%s)", len(r.clients), s.path(), query, c.proto)
	transport, closeTransport := c.proto.connect()
	cfg := ssetest.ClientConfig{
		URL:      r.process.url(c.proto, s.path()+"?"+query.Encode()),
		HTTP:     &http.Client{Transport: &watchedTransport{transport, w}},
		MaxDelay: time.Duration(10+rnd.IntN(300)) * time.Millisecond,
		Record:   -1,
		Stubborn: true,
		OnEvent:  w.event,
	}
	// A client that keeps its HTTP/3 connection with a response that it does not
	// read holds up Caddy's exit without a grace_period.
	if !plain && c.proto != http3TLS && chance(rnd, 5) {
		c.slow = true
		cfg.BytesPerSecond = pick(rnd, 2000, 20_000, 100_000)
	}
	c.Client = ssetest.StartClient(cfg)
	c.close = sync.OnceFunc(func() {
		c.closed.Store(true)
		c.Close()
		closeTransport()
	})
	r.clients = append(r.clients, c)
	return c
}

// open connects a client that is not judged, and returns what closes it.
func (r *round) open(rnd *rand.Rand, s *stream) (what string, closer func()) {
	path := s.path() + "?user=" + pick(rnd, "ann", "bob", fmt.Sprint("u", rnd.IntN(1000)))
	if chance(rnd, 6) {
		path = "/status"
	}
	switch kind := rnd.IntN(5); kind {
	case 0, 1:
		proto := pick(rnd, http11, http11TLS)
		raw, err := ssetest.DialRaw(r.ctx, ssetest.RawConfig{
			URL: r.process.url(proto, path), BytesPerSecond: pick(rnd, -1, -1, 500), ReceiveBuffer: 4 << 10,
		})
		if err != nil {
			return fmt.Sprintf("blocked client of %s: %v", path, err), nil
		}
		return fmt.Sprintf("blocked client of %s (%s)", path, proto), raw.Close
	case 2, 3:
		if without("frozen") {
			return "", nil
		}
		return r.openFrozen(pick(rnd, h2c, http2TLS), path, 1+rnd.IntN(5))
	default:
		proto := pick(rnd, http11, h2c, http2TLS)
		transport, closeTransport := proto.connect()
		c := ssetest.StartClient(ssetest.ClientConfig{
			URL: r.process.url(proto, path), HTTP: &http.Client{Transport: transport}, BytesPerSecond: -1, Record: -1, Stubborn: true,
		})
		return fmt.Sprintf("client of %s (%s) that reads the head only", path, proto), func() {
			c.Close()
			closeTransport()
		}
	}
}

// openFrozen opens streams on one HTTP/2 connection whose socket is not read
// any more once they are open, as a frozen tab's.
func (r *round) openFrozen(proto protocol, path string, streams int) (what string, closer func()) {
	gate := &gate{closed: make(chan struct{})}
	t := proto.tcp()
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		gate.add(conn)
		return &gatedConn{conn, gate}, nil
	}
	t.DialContext = dial
	ctx, cancel := context.WithCancel(r.ctx)
	var bodies []io.Closer
	for range streams {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, r.process.url(proto, path), nil)
		req.Header.Set("Accept", "text/event-stream")
		timer := time.AfterFunc(headTimeout, cancel)
		resp, err := t.RoundTrip(req)
		timer.Stop()
		if err != nil {
			break
		}
		bodies = append(bodies, resp.Body)
		r.reading.Go(func() { _, _ = io.Copy(io.Discard, resp.Body) })
	}
	gate.shut()
	return fmt.Sprintf("%d frozen streams of %s (%s)", len(bodies), path, proto), func() {
		gate.close() // first: no stream is reset on a connection that is not read
		cancel()
		for _, b := range bodies {
			_ = b.Close()
		}
		t.CloseIdleConnections()
	}
}

// gate stops the reads of connections, until it is closed, and they with it.
type gate struct {
	mu     sync.Mutex // protects isShut and conns
	isShut bool
	conns  []net.Conn
	closed chan struct{}
}

func (g *gate) add(conn net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns = append(g.conns, conn)
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, conn := range g.conns {
		_ = conn.Close()
	}
	close(g.closed)
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isShut = true
}

// gatedConn is a connection whose reads a gate can stop.
type gatedConn struct {
	net.Conn
	gate *gate
}

func (c *gatedConn) Read(p []byte) (int, error) {
	c.gate.mu.Lock()
	shut := c.gate.isShut
	c.gate.mu.Unlock()
	if shut {
		<-c.gate.closed
	}
	return c.Conn.Read(p)
}

// hurry opens and leaves streams at once, for as many keys.
func (r *round) hurry(rnd *rand.Rand, s *stream, n int) string {
	t := http2TLS.tcp()
	defer t.CloseIdleConnections()
	var leaving sync.WaitGroup
	for i := range n {
		path := fmt.Sprintf("%s?user=h%d-%d", s.path(), rnd.IntN(50), i)
		stay := time.Duration(rnd.IntN(100)) * time.Millisecond
		leaving.Go(func() {
			ctx, cancel := context.WithTimeout(r.ctx, headTimeout)
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, r.process.url(http2TLS, path), nil)
			resp, err := t.RoundTrip(req)
			if err != nil {
				return
			}
			_ = ssetest.Await(stay, "", func() bool { return false })
			_ = resp.Body.Close()
		})
	}
	leaving.Wait()
	return fmt.Sprintf("%d clients of %s come and go", n, s.path())
}
