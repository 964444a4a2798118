package ssefanin

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// lateClient is a client of HTTP/2 whose first connection is accepted at once
// and begins to speak when it is let.
type lateClient struct {
	*http.Client
	in    *instance
	speak func()
}

func newLateClient(t *testing.T, in *instance) *lateClient {
	t.Helper()
	first, err := new(net.Dialer).DialContext(within(t, 10*time.Second), "tcp", in.addr)
	must(t, err)
	t.Cleanup(func() { first.Close() })
	spoken := make(chan struct{})
	c := &lateClient{in: in, speak: sync.OnceFunc(func() { close(spoken) })}
	t.Cleanup(c.speak)
	conns := make(chan net.Conn, 1)
	conns <- &lateConn{first, spoken}
	c.Client = http2Client(t, in.scheme == "https")
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		select {
		case conn := <-conns:
			return conn, nil
		default:
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
	}
	return c
}

// version is which of the configurations answers.
func (c *lateClient) version(t *testing.T) string {
	t.Helper()
	return answer(t, c.Client, c.in.url("/version"))
}

func (c *lateClient) wantOvertaken(t *testing.T) {
	t.Helper()
	if got := c.version(t); got != "old" {
		t.Fatalf("the connection to %s was not overtaken: %q", c.in.url(""), got)
	}
}

type lateConn struct {
	net.Conn
	spoken chan struct{}
}

func (c *lateConn) Write(p []byte) (int, error) {
	<-c.spoken
	return c.Conn.Write(p)
}

// answer is what a site says.
func answer(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	resp, err := client.Get(url) //nolint:gosec,noctx // our own address
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(body)
}

// waitShutdowns waits until n servers wait for the end of their connections,
// and have told those that they knew.
func waitShutdowns(t *testing.T, n int) {
	t.Helper()
	lasts(t, "the earlier server shuts down", func() bool { return strings.Count(stacks(), "net/http.(*Server).Shutdown(") == n })
}

// lasts waits until a condition has been met for a tenth of a second.
func lasts(t *testing.T, what string, ok func() bool) {
	t.Helper()
	var since time.Time
	eventually(t, 20*time.Second, what, func() bool {
		switch {
		case !ok():
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		}
		return !since.IsZero() && time.Since(since) >= 100*time.Millisecond
	})
}

// The HTTP/2 server asks the connections that it knows to end when it shuts
// down. One that has been accepted but has not said anything is not among them:
// it would hold up the shutdown as long as its client keeps it.
func TestConnectionOvertakenByAReloadEnds(t *testing.T) {
	url := plain(t).URL()
	site := func(version string) string {
		return "sse_fanin /events " + url + " {\ndrain 1ms\n}\nrespond /version " + version
	}
	s := serveEverywhere(t, site("old"), nil)
	for _, c := range overtakeConnections(t, s, func() { s.reload(site("new")) }) {
		c.wantOvertaken(t)
	}
	waitShutdowns(t, 0)
}

// Where the connection has a stream, the client is asked to use another one for
// what it requests next.
func TestStreamOfAConnectionOvertakenByAReloadGoesOn(t *testing.T) {
	url := plain(t).URL()
	site := func(version string) string {
		return "sse_fanin /events " + url + " {\ndrain 1ms\n}\nrespond /version " + version
	}
	s := serveEverywhere(t, site("old"), nil)
	late := overtakeConnections(t, s, func() { s.reload(site("new")) })
	var streams []*ssetest.Client
	for _, c := range late {
		stream := c.in.openClient(ssetest.ClientConfig{HTTP: c.Client, Once: true})
		eventually(t, 10*time.Second, "the client is told to use another connection", func() bool { return c.version(t) == "new" })
		streams = append(streams, stream)
	}
	for _, stream := range streams {
		if conn := stream.Connection(); conn.End != ssetest.EndNone {
			t.Errorf("the stream has ended: %+v", conn)
		}
	}
	s.reload("respond /version newest")
	for _, stream := range streams {
		must(t, stream.WaitEnd(within(t, 10*time.Second), ssetest.EndClean, 1))
	}
	waitShutdowns(t, 0)
}

// An exit waits for the servers that have nothing of ours, too.
func TestConnectionOvertakenAtAServerWithoutStreamsEnds(t *testing.T) {
	stream := "sse_fanin {\nstream s " + plain(t).URL() + "\n}"
	for name, others := range map[string]string{
		"beside a site":  "http://" + freeAddr(t) + " {\nsse_fanin s\n}\n",
		"beside no site": "",
	} {
		t.Run(name, func(t *testing.T) {
			s := newSites(t, nil)
			s.reloadBeside(stream, "respond /version old", others)
			for _, c := range overtakeConnections(t, s, func() { s.reloadBeside(stream, "respond /version new", others) }) {
				c.wantOvertaken(t)
			}
			waitShutdowns(t, 0)
		})
	}
}

// Where requests of others keep coming, the connection has no pause to be ended in.
func TestConnectionOvertakenThatStaysBusyEnds(t *testing.T) {
	stream := "sse_fanin {\nstream s " + plain(t).URL() + "\n}"
	s := newSites(t, nil)
	s.reloadBeside(stream, "respond /version old", "")
	late := overtakeConnections(t, s, func() { s.reloadBeside(stream, "respond /version new", "") })
	for _, c := range late {
		c.wantOvertaken(t)
	}
	eventually(t, 20*time.Second, "the clients use other connections", func() bool {
		late = slices.DeleteFunc(late, func(c *lateClient) bool {
			resp, err := c.Get(c.in.url("/version")) //nolint:noctx // our own address
			if err != nil {
				return false // the connection was closed under this one
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return err == nil && string(body) == "new"
		})
		return len(late) == 0
	})
	waitShutdowns(t, 0)
}

// overtakeConnections loads a configuration while a connection to each of the
// sites' servers has been accepted and has not said anything. The sites answer
// /version. It returns the connections' clients.
func overtakeConnections(t *testing.T, s *sites, reload func()) []*lateClient {
	t.Helper()
	next := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // a certificate of the test's own
		DisableKeepAlives: true,
	}}
	var late []*lateClient
	for _, in := range []*instance{s.variants[0].tcp, s.variants[0].tls} {
		late = append(late, newLateClient(t, in))
		answer(t, next, in.url("/version")) // connections are accepted one after the other
	}
	reload()
	waitShutdowns(t, len(late))
	for _, c := range late {
		c.speak()
	}
	return late
}

// Nothing is kept of connections that have ended, or are no longer the server's.
func TestAcceptedConnectionsAreForgotten(t *testing.T) {
	s := new(acceptedConnections)
	open := func() (n int) {
		s.open.Range(func(_, _ any) bool { n++; return true })
		return n
	}
	hijacked := make(chan net.Conn, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hijack" {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
			}
			hijacked <- conn
		}
	}))
	server.Config.ConnContext, server.Config.ConnState = s.opened, s.changed
	server.Start()
	defer server.Close()
	client := &http.Client{Transport: new(http.Transport)}
	for range 3 {
		answer(t, client, server.URL)
	}
	if n := open(); n != 1 {
		t.Errorf("%d connections are open", n)
	}
	client.CloseIdleConnections()
	eventually(t, 10*time.Second, "the connection is forgotten", func() bool { return open() == 0 })

	conn, err := new(net.Dialer).DialContext(within(t, 10*time.Second), "tcp", server.Listener.Addr().String())
	must(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /hijack HTTP/1.1\r\nHost: h\r\n\r\n")
	must(t, err)
	theirs := <-hijacked
	defer theirs.Close()
	eventually(t, 10*time.Second, "the hijacked connection is forgotten", func() bool { return open() == 0 })
}

// strangeConn cannot be compared.
type strangeConn struct {
	net.Conn
	_ []byte
}

func TestConnectionThatCannotBeCompared(t *testing.T) {
	s := new(acceptedConnections)
	conn := strangeConn{}
	if c, ok := s.opened(t.Context(), conn).Value(connectionKey{}).(*clientConnection); !ok || c.conn == nil {
		t.Error("its requests do not know it")
	}
	s.changed(conn, http.StateIdle)
	s.changed(conn, http.StateClosed)
}
