package ssefanin

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// protocol is one that clients speak.
type protocol struct {
	proto  string
	tls    bool
	client func(t *testing.T) *http.Client
}

// What else a site has to be like for them is in serveEverywhere.
var protocols = map[string]protocol{
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

// sites are the instances of one site that together speak all protocols, once
// for each variant of the servers' options. Caddy's configuration is global: one
// file holds them all.
type sites struct {
	t        *testing.T
	variants []siteVariant
}

type siteVariant struct {
	name     string
	options  string // of both servers
	tcp, tls *instance
}

// serveEverywhere serves a site without TLS, for HTTP/1.1 and h2c, and with it,
// for HTTP/1.1, 2 and 3, by servers with each of the options, by name. None at
// all are one variant without a name.
func serveEverywhere(t *testing.T, site string, options map[string]string) *sites {
	t.Helper()
	s := newSites(t, options)
	s.reload(site)
	return s
}

// newSites returns sites that have their addresses, but are not served.
func newSites(t *testing.T, options map[string]string) *sites {
	t.Helper()
	if options == nil {
		options = map[string]string{"": ""}
	}
	s := &sites{t: t}
	for name, text := range options {
		s.variants = append(s.variants, siteVariant{
			name: name, options: text,
			tcp: &instance{t: t, scheme: "http", addr: freeAddr(t)},
			tls: &instance{t: t, scheme: "https", addr: freeAddr(t)},
		})
	}
	t.Cleanup(s.variants[0].tcp.stop)
	return s
}

// reload loads another site.
func (s *sites) reload(site string) {
	s.t.Helper()
	s.reloadBeside("", site, "")
}

// reloadBeside is reload with more global options, and with sites on other
// addresses.
func (s *sites) reloadBeside(global, site, others string) {
	s.t.Helper()
	text := others
	for _, v := range s.variants {
		global += fmt.Sprintf("\nservers 127.0.0.1:%s {\nprotocols h1 h2c\n%s\n}\nservers 127.0.0.1:%s {\n%s\n}", port(v.tcp.addr), v.options, port(v.tls.addr), v.options)
		text += v.tcp.block("bind 127.0.0.1\n"+site) + v.tls.block("bind 127.0.0.1\n"+site)
	}
	must(s.t, load(s.t, "{\n"+global+tlsOptions+"\n}\n"+text))
	for _, v := range s.variants {
		v.tcp.awaitTakeover()
		v.tls.awaitTakeover()
	}
}

// each calls a function for every protocol of every variant, with a name for
// both and the instance that speaks it.
func (s *sites) each(f func(name string, p protocol, in *instance)) {
	for _, v := range s.variants {
		for name, p := range protocols {
			in := v.tcp
			if p.tls {
				in = v.tls
			}
			if v.name != "" {
				name += " " + v.name
			}
			f(name, p, in)
		}
	}
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
	s.each(func(name string, p protocol, in *instance) {
		cfg.HTTP = p.client(s.t)
		all[name] = in.client(cfg)
	})
	s.each(func(name string, p protocol, _ *instance) {
		if err := all[name].WaitOpen(within(s.t, 10*time.Second), 1); err != nil {
			s.t.Fatalf("%s: %v", name, err)
		}
		if conn := all[name].Connection(); conn.Proto != p.proto {
			s.t.Fatalf("%s: the answer is %s: %+v", name, conn.Proto, conn)
		}
	})
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

// idleWriter are the servers' options with and without the writer whose
// deadlines are shared with the stream's.
var idleWriter = map[string]string{
	"with Caddy's idle timeout": "",
	"without":                   "timeouts {\nwrite_idle -1s\n}",
	"with a minimum rate":       "timeouts {\nwrite_idle 300ms 1000000\n}",
}

// A deadline left armed resets an idle HTTP/2 stream, and makes the end of an
// HTTP/1.1 response fail.
func TestIdleStreamsOutliveTheWriteTimeout(t *testing.T) {
	a := plain(t)
	s := serveEverywhere(t, "sse_fanin /events "+a.URL()+" {\nwrite_timeout 1s\nheartbeat off\ndrain 10ms\n}", idleWriter)
	clients := s.clients(ssetest.ClientConfig{Once: true})
	connected(t, a)
	s.emitAll(a, clients, "at once")
	s.idle(clients, 1500*time.Millisecond)
	s.emitAll(a, clients, "after a while")
	s.idle(clients, 1500*time.Millisecond)
	s.reload("respond gone")
	s.wantCleanEnds(clients)
}

func TestReloadKeepsStreamsOfAllProtocols(t *testing.T) {
	a := plain(t)
	site := "sse_fanin /events " + a.URL() + " {\nwrite_timeout 1s\nheartbeat off\n}\nrespond /version %d"
	s := serveEverywhere(t, fmt.Sprintf(site, 1), nil)
	clients := s.clients(ssetest.ClientConfig{Once: true})
	connected(t, a)
	for i := range 2 {
		s.reload(fmt.Sprintf(site, 2+i))
		s.emitAll(a, clients, fmt.Sprint("after ", i))
		s.idle(clients, 1200*time.Millisecond)
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
	s := serveEverywhere(t, "sse_fanin /events "+plain(t).URL()+" {\nwrite_timeout 1s\nheartbeat off\nmax_age 1800ms\n}", idleWriter)
	s.wantCleanEnds(s.clients(ssetest.ClientConfig{Once: true}))
}

// A server's own write timeout cannot be lifted: the stream ends before it.
func TestStreamsEndBeforeTheServersWriteTimeout(t *testing.T) {
	const timeout = 800 * time.Millisecond
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 100})
	s := serveEverywhere(t, "sse_fanin /events "+a.URL(), map[string]string{
		"with Caddy's idle timeout": fmt.Sprintf("timeouts {\nwrite %s\n}", timeout),
		"without":                   fmt.Sprintf("timeouts {\nwrite %s\nwrite_idle -1s\n}", timeout),
	})
	v := ssetest.NewVerifier()
	clients := make(map[string]*ssetest.Client)
	s.each(func(name string, p protocol, in *instance) {
		clients[name] = in.client(ssetest.ClientConfig{
			HTTP: p.client(t), Track: v.Track(name), MaxDelay: time.Millisecond,
		})
	})
	for name, c := range clients {
		// Where the machine is busy for the last quarter of the time, an end comes
		// too late to be clean.
		if err := c.WaitEnd(within(t, 10*time.Second), ssetest.EndClean, 2); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !slices.ContainsFunc(c.Connections(), func(conn ssetest.Connection) bool {
			return conn.End == ssetest.EndClean && conn.Events >= 10 && conn.Ended.Sub(conn.Started) >= timeout/4
		}) {
			t.Errorf("%s: its connections were of little use: %+v", name, c.Connections())
		}
	}
	settle(t, v, a)
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
	in := serveTLS(t, "log {\noutput file "+logged+"\nlevel DEBUG\n}", "sse_fanin /events "+a.URL()+" {\nwrite_timeout 1s\n}")
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
