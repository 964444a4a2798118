package ssefanin

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// The protocols that clients speak. What else a site has to be like for them
// is in serveEverywhere.
var protocols = map[string]struct {
	proto  string
	tls    bool
	client func(t *testing.T) *http.Client
}{
	"h1":     {"HTTP/1.1", false, func(t *testing.T) *http.Client { return tcpClient(t, (*http.Protocols).SetHTTP1) }},
	"h2c":    {"HTTP/2.0", false, func(t *testing.T) *http.Client { return tcpClient(t, (*http.Protocols).SetUnencryptedHTTP2) }},
	"h1 TLS": {"HTTP/1.1", true, func(t *testing.T) *http.Client { return tcpClient(t, (*http.Protocols).SetHTTP1) }},
	"h2":     {"HTTP/2.0", true, func(t *testing.T) *http.Client { return tcpClient(t, (*http.Protocols).SetHTTP2) }},
	"h3":     {"HTTP/3.0", true, quicClient},
}

func tcpClient(t *testing.T, set func(*http.Protocols, bool)) *http.Client {
	t.Helper()
	client := ssetest.HTTPClient(set)
	t.Cleanup(client.CloseIdleConnections)
	return client
}

func quicClient(t *testing.T) *http.Client {
	t.Helper()
	transport := &http3.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // a certificate of the test's own
	t.Cleanup(func() { _ = transport.Close() })
	return &http.Client{Transport: transport}
}

// sites are the instances of one site that together speak all protocols.
// Caddy's configuration is global: one file holds both.
type sites struct {
	t        *testing.T
	tcp, tls *instance
}

// serveEverywhere serves a site without TLS, for HTTP/1.1 and h2c, and with
// it, for HTTP/1.1, 2 and 3.
func serveEverywhere(t *testing.T, servers, site string) *sites {
	t.Helper()
	s := &sites{
		t:   t,
		tcp: &instance{t: t, scheme: "http", addr: freeAddr(t)},
		tls: &instance{t: t, scheme: "https", addr: freeAddr(t)},
	}
	t.Cleanup(s.tcp.stop)
	s.reload(servers, site)
	return s
}

// reload loads another configuration; servers stands among the options of
// both servers.
func (s *sites) reload(servers, site string) {
	s.t.Helper()
	global := fmt.Sprintf("servers 127.0.0.1:%s {\nprotocols h1 h2c\n%s\n}\nservers {\n%s\n}", port(s.tcp.addr), servers, servers)
	text := s.tls.caddyfile(global, site) + fmt.Sprintf("%s {\nbind 127.0.0.1\n%s\n}\n", s.tcp.url(""), site)
	must(s.t, load(s.t, text))
	s.tcp.awaitTakeover()
	s.tls.awaitTakeover()
}

func port(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// clients starts a client of every protocol and waits until each is answered
// in its protocol.
func (s *sites) clients(cfg ssetest.ClientConfig) map[string]*ssetest.Client {
	s.t.Helper()
	all := make(map[string]*ssetest.Client)
	for name, p := range protocols {
		cfg.HTTP = p.client(s.t)
		in := s.tcp
		if p.tls {
			in = s.tls
		}
		all[name] = in.client(cfg)
	}
	for name, c := range all {
		if err := c.WaitOpen(within(s.t, 10*time.Second), 1); err != nil {
			s.t.Fatalf("%s: %v", name, err)
		}
		if conn := c.Connection(); conn.Proto != protocols[name].proto {
			s.t.Fatalf("%s: the answer is %s: %+v", name, conn.Proto, conn)
		}
	}
	return all
}

// emitAll emits an event and waits until every client has it, on its first
// connection.
func (s *sites) emitAll(a *ssetest.Origin, clients map[string]*ssetest.Client, data string) {
	s.t.Helper()
	a.Emit("", data)
	for name, c := range clients {
		if _, err := c.WaitEvent(within(s.t, 5*time.Second), func(e ssetest.Event) bool { return e.Data == data }); err != nil {
			s.t.Errorf("%s: event %q: %v; %+v", name, data, err, c.Connections()[0])
		}
	}
}

// idle lets time pass in which nothing is sent to the clients; none may end.
func (s *sites) idle(clients map[string]*ssetest.Client, d time.Duration) {
	s.t.Helper()
	run(s.t, d, 20*time.Millisecond, func() error {
		for name, c := range clients {
			if conn := c.Connections()[0]; conn.End != ssetest.EndNone {
				return fmt.Errorf("%s: ended while idle: %+v", name, conn)
			}
		}
		return nil
	})
}

func (s *sites) wantCleanEnds(clients map[string]*ssetest.Client) {
	s.t.Helper()
	for name, c := range clients {
		if err := c.WaitDone(within(s.t, 5*time.Second)); err != nil {
			s.t.Errorf("%s: %v", name, err)
		}
		if conn := c.Connections()[0]; conn.End != ssetest.EndClean {
			s.t.Errorf("%s: the end is not clean: %+v", name, conn)
		}
	}
}

// idleWriter are the server's options with and without the writer whose
// deadlines are shared with the stream's.
var idleWriter = map[string]string{
	"with Caddy's idle timeout": "",
	"without":                   "timeouts {\nwrite_idle -1s\n}",
}

// A deadline left armed resets an idle HTTP/2 stream, and makes the end of an
// HTTP/1.1 response fail.
func TestIdleStreamsOutliveTheWriteTimeout(t *testing.T) {
	for name, servers := range idleWriter {
		t.Run(name, func(t *testing.T) {
			a := plain(t)
			s := serveEverywhere(t, servers, "sse_fanin /events "+a.URL()+" {\nwrite_timeout 300ms\nheartbeat off\ndrain 10ms\n}")
			clients := s.clients(ssetest.ClientConfig{Once: true})
			connected(t, a)
			s.emitAll(a, clients, "at once")
			s.idle(clients, 600*time.Millisecond)
			s.emitAll(a, clients, "after a while")
			s.idle(clients, 600*time.Millisecond)
			s.reload(servers, "respond gone")
			s.wantCleanEnds(clients)
		})
	}
}

func TestReloadKeepsStreamsOfAllProtocols(t *testing.T) {
	a := plain(t)
	site := "sse_fanin /events " + a.URL() + " {\nwrite_timeout 300ms\nheartbeat off\n}\nrespond /version %d"
	s := serveEverywhere(t, "", fmt.Sprintf(site, 1))
	clients := s.clients(ssetest.ClientConfig{Once: true})
	connected(t, a)
	for i := range 2 {
		s.reload("", fmt.Sprintf(site, 2+i))
		s.emitAll(a, clients, fmt.Sprint("after ", i))
		s.idle(clients, 500*time.Millisecond)
		s.emitAll(a, clients, fmt.Sprint("later than ", i))
	}
	for name, c := range clients {
		c.Close()
		if n := c.Ends(ssetest.EndSelf); n != 1 {
			t.Errorf("%s: was disconnected: %+v", name, c.Connection())
		}
	}
}

func TestMaxAgeEndsIdleStreamsCleanly(t *testing.T) {
	for name, servers := range idleWriter {
		t.Run(name, func(t *testing.T) {
			s := serveEverywhere(t, servers, "sse_fanin /events "+plain(t).URL()+" {\nwrite_timeout 300ms\nheartbeat off\nmax_age 800ms\n}")
			s.wantCleanEnds(s.clients(ssetest.ClientConfig{Once: true}))
		})
	}
}

// A server's own write timeout cannot be lifted: the stream ends before it.
func TestStreamsEndBeforeTheServersWriteTimeout(t *testing.T) {
	for _, timeout := range []time.Duration{800 * time.Millisecond, 2 * time.Second} {
		t.Run(timeout.String(), func(t *testing.T) {
			a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 100})
			s := serveEverywhere(t, fmt.Sprintf("timeouts {\nwrite %s\n}", timeout), "sse_fanin /events "+a.URL())
			v := ssetest.NewVerifier()
			var clients []*ssetest.Client
			for name, p := range protocols {
				in := s.tcp
				if p.tls {
					in = s.tls
				}
				clients = append(clients, in.client(ssetest.ClientConfig{
					HTTP: p.client(t), Track: v.Track(name), MaxDelay: time.Millisecond,
				}))
			}
			for _, c := range clients {
				must(t, c.WaitOpen(within(t, 10*time.Second), 3))
				if n := c.Ends(ssetest.EndClean); n < 2 {
					t.Errorf("the ends are not clean: %+v", c.Connections()[0])
				}
				if conn := c.Connections()[1]; conn.Events < 10 || conn.Ended.Sub(conn.Started) < timeout/4 {
					t.Errorf("the connection was of little use: %+v", conn)
				}
			}
			settle(t, v, a)
		})
	}
}

func TestManyStreamsOfOneConnection(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 50})
	in := serveTLS(t, "", "sse_fanin /events "+a.URL())
	shared := tcpClient(t, (*http.Protocols).SetHTTP2)
	v := ssetest.NewVerifier()
	fleet := ssetest.StartFleet(ssetest.FleetConfig{
		Clients:  100,
		Client:   ssetest.ClientConfig{URL: in.url("/events"), HTTP: shared},
		Verifier: v,
	})
	defer fleet.Close()
	must(t, fleet.WaitOpen(within(t, 10*time.Second)))
	must(t, v.WaitSeen(within(t, 10*time.Second), "a", a.Last()+20))
	settle(t, v, a)
	must(t, fleet.ErrIfEnded())
}

// The client's window for one stream is full; the others of the same
// connection must not notice.
func TestStreamNobodyReadsIsReset(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Pad: 32 << 10})
	logged := filepath.Join(t.TempDir(), "log")
	in := serveTLS(t, "log {\noutput file "+logged+"\nlevel DEBUG\n}", "sse_fanin /events "+a.URL()+" {\nwrite_timeout 200ms\n}")
	shared := tcpClient(t, (*http.Protocols).SetHTTP2)
	v := ssetest.NewVerifier()
	reader := in.openClient(ssetest.ClientConfig{HTTP: shared, Track: v.Track("reader")})
	blocked := in.blockable(ssetest.ClientConfig{HTTP: shared, Once: true})
	in.waitOpen(blocked.Client)
	connected(t, a)
	waitSubscribers(t, 2)
	flood(t, a, reader, 200) // 6.4 MB, the window is 4 MB
	waitSubscribers(t, 1)
	flood(t, a, reader, 20)
	must(t, v.Err())
	if conn := reader.Connections()[0]; conn.End != ssetest.EndNone {
		t.Errorf("the other stream was disconnected: %+v", conn)
	}
	eventually(t, 5*time.Second, "the reason is logged", func() bool {
		text, _ := os.ReadFile(logged)
		return bytes.Contains(text, []byte(`"reason":"timeout"`))
	})
	blocked.release()
	must(t, blocked.WaitEnd(within(t, 5*time.Second), ssetest.EndError, 1))
}
