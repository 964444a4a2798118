package ssefanin

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
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
	speak func()
}

func newLateClient(t *testing.T, secure bool, addr string) *lateClient {
	t.Helper()
	first, err := new(net.Dialer).DialContext(within(t, 10*time.Second), "tcp", addr)
	must(t, err)
	t.Cleanup(func() { first.Close() })
	spoken := make(chan struct{})
	c := &lateClient{speak: sync.OnceFunc(func() { close(spoken) })}
	t.Cleanup(c.speak)
	conns := make(chan net.Conn, 1)
	conns <- &lateConn{first, spoken}
	transport := &http.Transport{
		Protocols:       new(http.Protocols),
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // a certificate of the test's own
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			select {
			case conn := <-conns:
				return conn, nil
			default:
				return new(net.Dialer).DialContext(ctx, network, addr)
			}
		},
	}
	transport.Protocols.SetHTTP2(secure)
	transport.Protocols.SetUnencryptedHTTP2(!secure)
	t.Cleanup(transport.CloseIdleConnections)
	c.Client = &http.Client{Transport: transport}
	return c
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
	times := 0
	eventually(t, 20*time.Second, "the earlier server shuts down", func() bool {
		times++
		if strings.Count(stacks(), "net/http.(*Server).Shutdown(") != n {
			times = 0
		}
		return times == 10
	})
}

// The HTTP/2 server asks the connections that it knows to end when it shuts
// down. One that has been accepted but has not said anything is not among them:
// it would hold up the shutdown as long as its client keeps it.
func TestConnectionOvertakenByAReloadEnds(t *testing.T) {
	for name, secure := range secured {
		for _, path := range []string{"/version", "/events"} {
			t.Run(name+" "+path, func(t *testing.T) {
				url := plain(t).URL()
				site := func(version string) string {
					return "sse_fanin /events " + url + " {\ndrain 1ms\n}\nrespond /version " + version
				}
				in := serveHTTP2(t, secure, "", site("old"))
				late, global := overtakeConnection(t, in, secure, "", site("new"))
				if path == "/version" {
					if got := answer(t, late.Client, in.url(path)); got != "old" {
						t.Fatalf("the connection was not overtaken: %q", got)
					}
				} else {
					c := in.openClient(ssetest.ClientConfig{URL: path, HTTP: late.Client, Once: true})
					eventually(t, 10*time.Second, "the client is told to use another connection", func() bool {
						return answer(t, late.Client, in.url("/version")) == "new"
					})
					if conn := c.Connection(); conn.End != ssetest.EndNone {
						t.Errorf("the stream has ended: %+v", conn)
					}
					in.reload(global, "respond /version newest")
					must(t, c.WaitEnd(within(t, 10*time.Second), ssetest.EndClean, 1))
				}
				waitShutdowns(t, 0)
			})
		}
	}
}

// An exit waits for the servers that have nothing of ours, too.
func TestConnectionOvertakenAtAServerWithoutStreamsEnds(t *testing.T) {
	stream := "sse_fanin {\nstream s " + plain(t).URL() + "\n}"
	for name, secure := range secured {
		for _, beside := range []string{"a site", "no site"} {
			t.Run(name+" beside "+beside, func(t *testing.T) {
				other := ""
				if beside == "a site" {
					other = "\n}\nhttp://" + freeAddr(t) + " {\nsse_fanin s"
					if secure {
						files, err := certificate()
						must(t, err)
						other = "\ntls " + files + strings.Replace(other, "http:", "https:", 1)
					}
				}
				in := serveHTTP2(t, secure, stream, "respond /version old"+other)
				late, _ := overtakeConnection(t, in, secure, stream, "respond /version new"+other)
				if got := answer(t, late.Client, in.url("/version")); got != "old" {
					t.Fatalf("the connection was not overtaken: %q", got)
				}
				waitShutdowns(t, 0)
			})
		}
	}
}

// Where requests of others keep coming, the connection has no pause to be ended in.
func TestConnectionOvertakenThatStaysBusyEnds(t *testing.T) {
	stream := "sse_fanin {\nstream s " + plain(t).URL() + "\n}"
	for name, secure := range secured {
		t.Run(name, func(t *testing.T) {
			in := serveHTTP2(t, secure, stream, "respond /version old")
			late, _ := overtakeConnection(t, in, secure, stream, "respond /version new")
			if got := answer(t, late.Client, in.url("/version")); got != "old" {
				t.Fatalf("the connection was not overtaken: %q", got)
			}
			eventually(t, 20*time.Second, "the client uses another connection", func() bool {
				resp, err := late.Get(in.url("/version")) //nolint:noctx // our own address
				if err != nil {
					return false // the connection was closed under this one
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				return err == nil && string(body) == "new"
			})
			waitShutdowns(t, 0)
		})
	}
}

// overtakeConnection loads a configuration while a connection to a site that
// answers /version has been accepted and has not said anything. It returns the
// connection's client and the global options of what runs.
func overtakeConnection(t *testing.T, in *instance, secure bool, global, site string) (*lateClient, string) {
	t.Helper()
	late := newLateClient(t, secure, in.addr)
	next := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // a certificate of the test's own
		DisableKeepAlives: true,
	}}
	answer(t, next, in.url("/version")) // connections are accepted one after the other
	if !secure {
		global += "\nservers {\nprotocols h1 h2c\n}"
	}
	in.reload(global, site)
	waitShutdowns(t, 1)
	late.speak()
	return late, global
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
