package ssefanin

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// takenKind is a kind of connection that can be taken over.
type takenKind struct {
	global string // options
	bind   string // to a unix socket in this directory, if not empty
	before string // the request
	tls    bool
}

var takenKinds = map[string]takenKind{
	"tcp":            {},
	"tls":            {tls: true},
	"unix":           {bind: "s"},
	"PROXY protocol": {global: "listener_wrappers {\nproxy_protocol\n}", before: "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n"},
	"h1 alone":       {global: "protocols h1"},
	"h1 alone, tls":  {global: "protocols h1", tls: true},
}

// takenScene is a site that is served over one kind of connection.
type takenScene struct {
	t    *testing.T
	kind takenKind
	in   *instance
	a    *ssetest.Origin
	bind string
}

// takenModes are the settings under which a connection is taken over.
var takenModes = []string{"detach off", "detach on"}

// eachTakenKind runs a test for each kind of connection, in both modes.
func eachTakenKind(t *testing.T, test func(s *takenScene)) {
	t.Helper()
	noneTaken(t) // of the tests before
	for name, kind := range takenKinds {
		for _, mode := range takenModes {
			t.Run(name+", "+mode, func(t *testing.T) {
				s := &takenScene{t: t, kind: kind, a: plain(t)}
				start := serve
				if kind.tls {
					start = serveTLS
				}
				if kind.bind != "" {
					s.bind = filepath.Join(t.TempDir(), kind.bind)
				}
				s.in = start(t, s.global(), s.site("sse_fanin /events "+s.a.URL()+" {\nheartbeat off\ndrain 1ms\n"+mode+"\n}"))
				test(s)
			})
		}
	}
}

func (s *takenScene) global() string { return "servers {\n" + s.kind.global + "\n}" }

func (s *takenScene) site(text string) string {
	if s.bind != "" {
		return "bind unix/" + s.bind + "\n" + text
	}
	return text
}

// reload takes the stream away, so that it ends.
func (s *takenScene) reload() {
	s.t.Helper()
	s.in.reload(s.global(), s.site("respond gone"))
}

// open begins a stream, and waits until the connection has been taken over. What
// is to follow the request is sent with it.
func (s *takenScene) open(following string) *rawRequest {
	s.t.Helper()
	before := takenClients.Load()
	network, addr := "tcp", s.in.addr
	if s.bind != "" {
		network, addr = "unix", s.bind
	}
	conn, err := net.Dial(network, addr)
	must(s.t, err)
	s.t.Cleanup(func() { conn.Close() })
	must(s.t, conn.SetDeadline(time.Now().Add(2*patience)))
	fmt.Fprint(conn, s.kind.before)
	if s.kind.tls {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a certificate of the test's own
	}
	fmt.Fprintf(conn, "GET /events HTTP/1.1\r\nHost: %s\r\n\r\n%s", s.in.addr, following)
	q := &rawRequest{t: s.t, conn: conn, r: bufio.NewReader(conn)}
	q.resp, err = http.ReadResponse(q.r, nil)
	must(s.t, err)
	q.until(": sse_fanin")
	eventually(s.t, 10*time.Second, "the connection is taken over", func() bool { return takenClients.Load() == before+1 })
	return q
}

// endsCleanly waits for the end of a stream, and of its connection.
func (q *rawRequest) endsCleanly() {
	q.t.Helper()
	q.streamEnds()
	q.closed()
}

// streamEnds waits for the end of a stream.
func (q *rawRequest) streamEnds() {
	q.t.Helper()
	if _, err := io.Copy(io.Discard, q.lines()); err != nil {
		q.t.Errorf("the end is not clean: %v", err)
	}
}

func noneTaken(t *testing.T) {
	t.Helper()
	eventually(t, 10*time.Second, "no taken connection is left", func() bool { return takenClients.Load() == 0 })
}

func TestTakenConnections(t *testing.T) {
	eachTakenKind(t, func(s *takenScene) {
		leaves, stays, talks := s.open(""), s.open(""), s.open("GET / HTTP/1.1\r\nHost: a\r\n\r\n"+strings.Repeat("x", 64<<10))
		halves := s.open("")
		connected(s.t, s.a)
		s.a.Emit("", "one")
		for _, q := range []*rawRequest{leaves, stays, talks, halves} {
			q.until("data: one")
		}
		leaves.conn.Close()
		waitSubscribers(s.t, 3)
		must(s.t, halves.conn.(interface{ CloseWrite() error }).CloseWrite())
		waitSubscribers(s.t, 2)
		halves.endsCleanly()
		for range 2 { // what it goes on to say is of no interest
			fmt.Fprint(talks.conn, "more")
			fmt.Fprint(stays.conn, "more")
		}
		s.a.Emit("", "two")
		stays.until("data: two")
		talks.until("data: two")
		s.reload()
		for _, q := range []*rawRequest{stays, talks} {
			q.streamEnds()
			q.conn.Close() // for which the server waits a moment, since something came
		}
		noneTaken(s.t)
	})
}

func TestClientThatHasTalkedIsNoticedToLeave(t *testing.T) {
	eachTakenKind(t, func(s *takenScene) {
		q := s.open("GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
		fmt.Fprint(q.conn, "and more")
		q.conn.Close()
		waitSubscribers(s.t, 0)
		// The count is to go up with the next one, and with nothing else down.
		noneTaken(s.t)
		q = s.open(strings.Repeat("x", maxUnwanted)) // from here on only the end counts
		q.conn.Close()
		waitSubscribers(s.t, 0)
		noneTaken(s.t)
	})
}

// A connection is taken over only if nothing that Caddy has in between would do
// something with the stream.
func TestWhatIsTakenOver(t *testing.T) {
	allows := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer allows.Close()
	noneTaken(t) // of the tests before
	for name, test := range map[string]struct {
		global, beside  string // the route with the stream
		route           string // before the stream
		version, fields string // of the request, 1.1 if empty
		taken           bool
	}{
		"nothing between":       {taken: true},
		"access log, metrics":   {global: "metrics", beside: "log {\noutput discard\n}", taken: true},
		"a header set late":     {route: "header >X-Late yes", taken: true},
		"encode":                {route: "encode", fields: "Accept-Encoding: gzip\r\n", taken: true},
		"forward_auth":          {route: "forward_auth " + allows.Listener.Addr().String() + " {\nuri /\n}", taken: true},
		"tracing":               {route: "tracing", taken: true},
		"no idle writer":        {global: "servers {\ntimeouts {\nwrite_idle -1s\n}\n}"},
		"a minimum rate":        {global: "servers {\ntimeouts {\nwrite_idle 1m 1000000\n}\n}", taken: true},
		"encode, forced":        {route: "encode\nheader >Cache-Control no-cache", fields: "Accept-Encoding: gzip\r\n"},
		"HTTP/1.0":              {version: "HTTP/1.0"},
		"a body":                {fields: "Content-Length: 1\r\n"},
		"a body that may come":  {fields: "Transfer-Encoding: chunked\r\n"},
		"a closed connection":   {fields: "Connection: close\r\n", taken: true},
		"a header of its own":   {route: "header >Content-Encoding mine"},
		"a transfer of its own": {route: "header >Transfer-Encoding identity"},
	} {
		t.Run(name, func(t *testing.T) {
			a := plain(t)
			in := serve(t, test.global, test.beside+"\nroute {\n"+test.route+"\nsse_fanin /events "+a.URL()+" {\ndrain 1ms\n}\n}")
			version := test.version
			if version == "" {
				version = "HTTP/1.1"
			}
			q := in.send("GET /events "+version, test.fields+"\r\n")
			connected(t, a)
			waitSubscribers(t, 1)
			a.Emit("", "hello")
			if q.resp.Header.Get("Content-Encoding") != "gzip" {
				q.until("data: hello")
			}
			if got := takenClients.Load() == 1; got != test.taken {
				t.Errorf("taken over: %t", got)
			}
			if test.taken && !q.resp.Close {
				t.Error("the client is not told that the connection will end")
			}
			if late := q.resp.Header.Get("X-Late"); strings.Contains(test.route, "X-Late") != (late == "yes") {
				t.Errorf("the header set late is %q", late)
			}
			in.reload(test.global, "respond gone")
			q.streamEnds()
			noneTaken(t)
		})
	}
}

// What swallows or keeps back the stream goes on to do so.
func TestKeptBackStreamsAreNotTakenOver(t *testing.T) {
	noneTaken(t) // of the tests before
	for name, test := range map[string]struct{ route, body string }{
		"intercept": {"intercept {\n@ok status 200\nhandle_response @ok {\nrespond replaced\n}\n}", "replaced"},
		"templates": {"templates {\nmime text/event-stream\n}", "retry: 3000\n: sse_fanin\n"},
	} {
		t.Run(name, func(t *testing.T) {
			in := serve(t, "", "route {\n"+test.route+"\nsse_fanin /events "+plain(t).URL()+" {\nretry 3s\nmax_age 100ms\n}\n}")
			resp := in.do(http.MethodGet, "/events")
			body, err := io.ReadAll(resp.Body)
			if err != nil || string(body) != test.body {
				t.Errorf("got %q, %v", body, err)
			}
			if n := takenClients.Load(); n != 0 {
				t.Errorf("%d connections are taken over", n)
			}
		})
	}
}

// blockRecorder is a response that looks like what net/http writes.
func blockRecorder() (*firstBlock, *httptest.ResponseRecorder) {
	out := httptest.NewRecorder()
	return &firstBlock{ResponseWriter: out}, out
}

func TestFirstBlock(t *testing.T) {
	block := []byte("retry: 1\n: sse_fanin\n")
	for name, test := range map[string]struct {
		write func(f *firstBlock, rc *http.ResponseController)
		want  bool
	}{
		"as it is": {func(f *firstBlock, rc *http.ResponseController) {
			f.WriteHeader(http.StatusOK)
			_, _ = f.Write(block)
			_ = rc.Flush()
		}, true},
		"in pieces": {func(f *firstBlock, rc *http.ResponseController) {
			f.WriteHeader(http.StatusEarlyHints)
			f.WriteHeader(http.StatusOK)
			_, _ = f.Write(block[:5])
			_ = rc.Flush()
			_, _ = f.Write(block[5:])
			_ = rc.Flush()
		}, true},
		"not flushed": {func(f *firstBlock, _ *http.ResponseController) {
			f.WriteHeader(http.StatusOK)
			_, _ = f.Write(block)
		}, false},
		"flushed too early": {func(f *firstBlock, rc *http.ResponseController) {
			f.WriteHeader(http.StatusOK)
			_, _ = f.Write(block[:5])
			_ = rc.Flush()
			_, _ = f.Write(block[5:])
		}, false},
		"with another status": {func(f *firstBlock, rc *http.ResponseController) {
			f.WriteHeader(http.StatusAccepted)
			_, _ = f.Write(block)
			_ = rc.Flush()
		}, false},
		"not to its end": {func(f *firstBlock, rc *http.ResponseController) {
			f.WriteHeader(http.StatusOK)
			_, _ = f.Write(block[:5])
			_ = rc.Flush()
		}, false},
		"and more": {func(f *firstBlock, rc *http.ResponseController) {
			f.WriteHeader(http.StatusOK)
			_, _ = f.Write(append(bytes.Clone(block), "more"...))
			_ = rc.Flush()
		}, false},
		"another text": {func(f *firstBlock, rc *http.ResponseController) {
			f.WriteHeader(http.StatusOK)
			_, _ = f.Write(bytes.ToUpper(block))
			_ = rc.Flush()
		}, false},
		"with a length": {func(f *firstBlock, rc *http.ResponseController) {
			f.Header().Set("Content-Length", "21")
			f.WriteHeader(http.StatusOK)
			_, _ = f.Write(block)
			_ = rc.Flush()
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := blockRecorder()
			f.expect(block)
			test.write(f, http.NewResponseController(f))
			if f.arrived() != test.want {
				t.Errorf("arrived: %t", !test.want)
			}
		})
	}
}

// What is written to the response once the connection is taken gets nowhere, and
// is no reason to panic.
func TestResponseOfATakenConnection(t *testing.T) {
	f, out := blockRecorder()
	f.taken = true
	f.WriteHeader(http.StatusTeapot)
	if _, err := f.Write([]byte("late")); err != http.ErrHijacked { //nolint:errorlint // exactly this one
		t.Errorf("a write: %v", err)
	}
	if err := http.NewResponseController(f).Flush(); err != http.ErrHijacked { //nolint:errorlint // likewise
		t.Errorf("a flush: %v", err)
	}
	counts := &countingWriter{ResponseWriter: f}
	f.account(counts, 3*maxWrite+5)
	if counts.bytes != 3*maxWrite+5 || out.Body.Len() > 0 || out.Code != http.StatusOK {
		t.Errorf("%d bytes counted, status %d and %d bytes written", counts.bytes, out.Code, out.Body.Len())
	}
}

// What was written of a piece before its write failed has been sent, without the
// chunk's own bytes.
func TestPieceThatIsWrittenInPart(t *testing.T) {
	const piece = "data: hello\n\n" // d, CR and LF before it
	for n, want := range map[int]uint64{0: 0, 2: 0, 3: 0, 5: 2, 16: 13, 18: 13} {
		o := takenConn{conn: brokenConn{after: n}}
		if err := o.write(&frame{}, []byte(piece), false); err == nil || !o.broken {
			t.Fatalf("the write failed as %v", err)
		}
		if o.part != want || o.bytes != want {
			t.Errorf("%d bytes of the chunk are %d of the piece, %d in all, want %d", n, o.part, o.bytes, want)
		}
	}
}

// brokenConn fails after so many bytes.
type brokenConn struct {
	net.Conn
	after int
}

func (c brokenConn) Write([]byte) (int, error) { return c.after, io.ErrClosedPipe }

type countingWriter struct {
	http.ResponseWriter
	bytes int
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.bytes += n
	return n, err
}

// TLS would wait five seconds for a last word to be written that nobody takes.
func TestEndOverTLSIsBounded(t *testing.T) {
	files, err := certificate()
	must(t, err)
	certFile, keyFile, _ := strings.Cut(files, " ")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	theirs, ours := net.Pipe() // which has no buffer
	defer theirs.Close()
	client := tls.Client(theirs, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a certificate of the test's own
	conn := tls.Server(ours, &tls.Config{Certificates: []tls.Certificate{pair}, SessionTicketsDisabled: true})
	shaken := make(chan error, 1) // of the goroutine
	go func() { shaken <- client.Handshake() }()
	must(t, conn.Handshake())
	must(t, <-shaken)

	begun := time.Now()
	o := &takenConn{conn: conn}
	o.close(true, begun.Add(50*time.Millisecond))
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("it took %s", took)
	}
}

// Caddy's metrics have the size of a stream that went past them.
func TestSizeOfATakenStreamInMetrics(t *testing.T) {
	in := serve(t, "metrics", "metrics /metrics\nsse_fanin /events "+plain(t).URL()+" {\nheartbeat 5ms\nmax_age 200ms\n}")
	q := in.send("GET /events HTTP/1.1", "\r\n")
	body, err := io.ReadAll(q.resp.Body)
	must(t, err)
	noneTaken(t) // so its handlers have returned
	metrics, err := io.ReadAll(in.do(http.MethodGet, "/metrics").Body)
	must(t, err)
	sums := regexp.MustCompile(`(?m)^caddy_http_response_size_bytes_sum\{.*code="200".*\} (\d+)$`).FindAllSubmatch(metrics, -1)
	if len(sums) != 1 || string(sums[0][1]) != strconv.Itoa(len(body)) {
		t.Errorf("got %q, want %d bytes", sums, len(body))
	}
}
