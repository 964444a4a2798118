package scenarios

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// An exit takes two seconds at most; a loaded machine gets three more. What goes
// wrong here goes wrong for ever, or for the ten seconds of a timeout.
const exitLimit = 5 * time.Second

// exitScene is a process with clients of all kinds, over all protocols.
type exitScene struct {
	t      *testing.T
	p      *process
	secure string // address of the site with TLS
	origin *ssetest.Origin
	flood  *ssetest.Origin // of the stream that some do not read

	reading map[string]*ssetest.Client // who must see a clean end
}

func (s *exitScene) global(streams string) string {
	return fmt.Sprintf("debug\ndefault_sni 127.0.0.1\nservers :%s {\nprotocols h1 h2c\n}\n%s", port(s.p.addr), streams)
}

// streams are the global options that define a stream which outlives its
// handlers.
func (s *exitScene) streams() string {
	return "sse_fanin {\nstream shared {\nupstream a " + s.origin.URL() + "\ndrain 24h\n}\n}"
}

// sites is a site on both addresses.
func (s *exitScene) sites(site string) string {
	files, err := certificate()
	must(s.t, err)
	return site + "\n}\nhttps://" + s.secure + " {\ntls " + files + "\n" + site
}

// everything is what the clients connect to.
func (s *exitScene) everything() string {
	url := s.origin.URL()
	return s.sites(strings.Join([]string{
		"sse_fanin /shared {\nstream shared\n}",
		directive("/own", "drain 24h", url),
		directive("/detached", "drain 24h\ndetach on", url),
		directive("/flood-detached", "drain 24h\nwrite_timeout 60s\ndetach on", s.flood.URL()),
		directive("/keyed", "drain 24h", "http://"+s.origin.Addr()+"/{query.user}"),
		directive("/demand", "connect on_demand 60s\ndrain 24h", url),
		directive("/flood", "drain 24h\nwrite_timeout 60s", s.flood.URL()),
		"sse_fanin_status /status",
	}, "\n"))
}

func startExitScene(t *testing.T) *exitScene {
	t.Helper()
	s := &exitScene{t: t, secure: freeAddr(t), reading: make(map[string]*ssetest.Client)}
	s.origin, s.flood = newOrigin(t, ssetest.OriginConfig{}), newOrigin(t, ssetest.OriginConfig{Source: "flood", Pad: 32 << 10})
	s.p = prepareProcess(t)
	s.p.run(s.global(s.streams()), s.everything())
	for name, proto := range protocols {
		for _, path := range []string{"/shared", "/own", "/detached", "/keyed?user=" + port(s.secure), "/demand", "/status"} {
			if path == "/status" && proto.tls { // their viewers hear of it in the same way
				continue
			}
			s.reading[name+" "+path] = s.client(path, proto.tls, ssetest.ClientConfig{HTTP: proto.client(t)})
		}
	}
	for name, c := range s.reading {
		if err := c.WaitOpen(within(t, 20*time.Second), 1); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return s
}

func (s *exitScene) client(path string, secure bool, cfg ssetest.ClientConfig) *ssetest.Client {
	s.t.Helper()
	cfg.URL = s.p.url(path)
	if secure {
		cfg.URL = "https://" + s.secure + path
	}
	cfg.Header, cfg.Once = http.Header{"Accept": {"text/event-stream"}}, true
	c := ssetest.StartClient(cfg)
	s.t.Cleanup(c.Close)
	return c
}

// block adds clients that do not read: their sockets, and, over HTTP/2, one
// stream of a connection that is read otherwise. A frozen connection has a
// viewer of the status, too.
func (s *exitScene) block() {
	t := s.t
	t.Helper()
	reader := s.client("/flood", false, ssetest.ClientConfig{})
	s.reading["reader of the flood"] = reader
	must(t, reader.WaitOpen(within(t, 10*time.Second), 1))
	for _, url := range []string{
		s.p.url("/flood"), "https://" + s.secure + "/flood",
		s.p.url("/flood-detached"), "https://" + s.secure + "/flood-detached",
	} {
		raw, err := ssetest.DialRaw(within(t, 10*time.Second), ssetest.RawConfig{URL: url, BytesPerSecond: -1, ReceiveBuffer: 4 << 10})
		must(t, err)
		t.Cleanup(raw.Close)
	}
	f := ssetest.NewFreezer()
	for secure, http2 := range map[bool]func(*testing.T) *http.Client{false: protocols["h2c"].client, true: protocols["h2"].client} {
		shared := f.Client(secure)
		t.Cleanup(shared.CloseIdleConnections)
		for _, path := range []string{"/flood", "/flood", "/own", "/status"} {
			must(t, s.client(path, secure, ssetest.ClientConfig{HTTP: shared}).WaitOpen(within(t, 10*time.Second), 1))
		}
		gate := make(chan struct{})
		c := s.client("/flood", secure, ssetest.ClientConfig{HTTP: http2(t), OnEvent: func(ssetest.Event) { <-gate }})
		t.Cleanup(func() { close(gate) }) // before it is closed
		must(t, c.WaitOpen(within(t, 10*time.Second), 1))
	}
	t.Cleanup(f.Thaw) // likewise
	must(t, s.flood.WaitConnections(within(t, 10*time.Second), 1))
	f.Freeze()
	must(t, s.flood.Flood(within(t, time.Minute), reader, 400)) // 13 MB, more than windows and buffers take
}

// The process ends its clients whatever it runs when it is told to exit, and
// wherever the clients are.
func TestExitOfAnyConfiguration(t *testing.T) { //nolint:tparallel // its cases load one machine, or share one process
	besideOthers(t)
	configurations := []struct {
		name string
		load func(s *exitScene) // after the clients have come
		once bool               // enough without -long
	}{
		{"the same", func(*exitScene) {}, false},
		{"the same, loaded again", func(s *exitScene) { s.p.reload(s.global(s.streams()), s.everything()+"\nrespond /x y") }, false},
		{"another stream", func(s *exitScene) { s.p.reload(s.global(""), s.sites(directive("/own", "retry 7s", s.origin.URL()))) }, false},
		{"another server", func(s *exitScene) { s.p.reload(s.global(s.streams()), "sse_fanin /shared {\nstream shared\n}") }, false},
		{"streams without a handler", func(s *exitScene) { s.p.reload(s.global(s.streams()), s.sites("respond hello")) }, true},
		{"a status page only", func(s *exitScene) { s.p.reload(s.global(""), s.sites("sse_fanin_status /status")) }, false},
		{"none of ours", func(s *exitScene) { s.p.reload(s.global(""), s.sites("respond hello")) }, true},
	}
	for i, tc := range configurations {
		for _, signal := range []bool{true, false} {
			if !*long && (!tc.once || signal != (i%2 == 0)) {
				continue
			}
			name := map[bool]string{true: " by SIGTERM", false: " by caddy stop"}[signal]
			t.Run(tc.name+name, func(t *testing.T) {
				s := startExitScene(t)
				s.block()
				tc.load(s)
				took := s.p.exit(signal, exitLimit)
				t.Logf("exited after %s", took)
				for name, c := range s.reading {
					if err := c.WaitDone(within(t, 10*time.Second)); err != nil || c.Connection().End != ssetest.EndClean {
						t.Errorf("%s: the end is not clean: %v; %+v", name, err, c.Connection())
					}
				}
			})
		}
	}
}

// No server waits for a connection that was taken over, so many of them are the
// first to be cut.
func TestExitEndsManyClientsCleanly(t *testing.T) { //nolint:tparallel // its cases load one machine
	besideOthers(t)
	clients := 300
	if *long {
		clients = 2000
	}
	for _, mode := range []string{"detach off", "detach on"} {
		t.Run(mode, func(t *testing.T) {
			a := newOrigin(t, ssetest.OriginConfig{})
			file := filepath.Join(t.TempDir(), "access.log")
			p := startProcess(t, "", "log {\noutput file "+file+"\nformat json\n}\n"+directive("/events", mode, a.URL()))
			fleet := ssetest.StartFleet(ssetest.FleetConfig{Clients: clients, Client: ssetest.ClientConfig{URL: p.url("/events"), Once: true}})
			t.Cleanup(fleet.Close)
			must(t, fleet.WaitOpen(within(t, time.Minute)))
			t.Logf("exited after %s", p.exit(true, exitLimit))
			for i, c := range fleet.Clients {
				if err := c.WaitDone(within(t, 10*time.Second)); err != nil || c.Connection().End != ssetest.EndClean {
					t.Fatalf("client %d: the end is not clean: %v; %+v", i, err, c.Connection())
				}
			}
			text, err := os.ReadFile(file)
			must(t, err)
			if n := strings.Count(string(text), `"sse_end":"exit"`); n != clients || strings.Count(string(text), "\n") != n {
				t.Errorf("of %d clients, the access log has %d lines, %d of them of the exit", clients, strings.Count(string(text), "\n"), n)
			}
		})
	}
}

func TestStatusStreamEndsOnExit(t *testing.T) {
	besideOthers(t)
	a := newOrigin(t, ssetest.OriginConfig{})
	p := startProcess(t, "", "sse_fanin /events "+a.URL()+"\nsse_fanin_status /status")
	viewer := func(bytesPerSecond int) *ssetest.Client {
		c := ssetest.StartClient(ssetest.ClientConfig{URL: p.url("/status"), BytesPerSecond: bytesPerSecond, Once: true})
		t.Cleanup(c.Close)
		must(t, c.WaitOpen(within(t, 10*time.Second), 1))
		return c
	}
	reads := viewer(0)
	must(t, reads.WaitCount(within(t, 10*time.Second), 1))
	viewer(-1) // is not read any further
	if took := p.terminate(10 * time.Second); took > exitLimit {
		t.Errorf("the exit took %s", took)
	}
	must(t, reads.WaitDone(within(t, 5*time.Second)))
	if conn := reads.Connection(); conn.End != ssetest.EndClean {
		t.Errorf("the end is not clean: %+v", conn)
	}
}
