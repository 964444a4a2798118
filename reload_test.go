package ssefanin

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// epochOf is the epoch of the client's newest id.
func epochOf(t *testing.T, c *ssetest.Client) string {
	t.Helper()
	cursor, ok := eventlog.ParseCursor(c.LastEventID())
	if !ok {
		t.Errorf("the id %q is no cursor", c.LastEventID())
	}
	return cursor.Epoch
}

// wantUndisturbed checks that a client is on its first connection, and the
// upstream on its own.
func wantUndisturbed(t *testing.T, c *ssetest.Client, a *ssetest.Origin) {
	t.Helper()
	if conn := c.Connections()[0]; conn.End != ssetest.EndNone {
		t.Errorf("the client was disconnected: %+v", conn)
	}
	if n := a.TotalConnections(); n != 1 {
		t.Errorf("%d connections to the upstream, want 1", n)
	}
}

func TestReloadKeepsUnchangedStreams(t *testing.T) {
	for name, stream := range map[string]string{"unnamed": "", "named": "stream s\n"} {
		t.Run(name, func(t *testing.T) {
			a := plain(t)
			site := "sse_fanin /events {\n" + stream + "upstream " + a.URL() + "\n%s\n}\n%s"
			in := serve(t, "", fmt.Sprintf(site, "", ""))
			connected(t, a)
			c := in.openClient(ssetest.ClientConfig{})
			emitSeen(t, a, c, "one")
			epoch := epochOf(t, c)
			// what is for clients alone makes no other stream
			for i, settings := range []string{
				"", "heartbeat 1s", "retry 1s", "start oldest", "slow disconnect", "write_timeout 3s",
				"prime on", "max_clients 5 retry", "max_age 1h", "drain 1s", "on_reload keep", "",
			} {
				in.reload("", fmt.Sprintf(site, settings, fmt.Sprintf("respond /version %d", i)))
				emitSeen(t, a, c, fmt.Sprint("after ", i))
			}
			wantUndisturbed(t, c, a)
			if got := epochOf(t, c); got != epoch {
				t.Errorf("the epoch went from %s to %s", epoch, got)
			}
			again := in.openClient(ssetest.ClientConfig{LastEventID: waitData(t, c, "after 10").ID})
			emitSeen(t, a, again, "last")
			wantDatas(t, again, "after 11 last")
		})
	}
}

func TestReloadDrainsRemovedStream(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 100})
	in := serve(t, "", "sse_fanin /events "+a.URL()+" {\ndrain 2s\n}")
	v := ssetest.NewVerifier()
	var clients []*ssetest.Client
	for i := range 20 {
		clients = append(clients, in.openClient(ssetest.ClientConfig{Once: true, Track: v.Track(fmt.Sprint(i))}))
	}
	must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+1))
	in.reload("", "respond gone")
	reloaded, last := time.Now(), a.Last()
	var ends []time.Time
	for i, c := range clients {
		must(t, c.WaitDone(within(t, 5*time.Second)))
		conn := c.Connection()
		if conn.End != ssetest.EndClean || conn.Partial {
			t.Errorf("client %d: the end is not clean: %+v", i, conn)
		}
		ends = append(ends, conn.Ended)
		switch after := conn.Ended.Sub(reloaded); {
		case after > 10*time.Second: // it is exact with a synthetic clock
			t.Errorf("client %d was ended %s after the reload", i, after)
		case after >= time.Second:
			if e := c.Events(); !strings.Contains(e[len(e)-1].Data, fmt.Sprintf(`"n":%d`, last)) && conn.Events < 20 {
				t.Errorf("client %d got only %d events", i, conn.Events)
			}
		}
	}
	// The middle 18 of 20 lie within a quarter of the time once in ten million runs.
	slices.SortFunc(ends, time.Time.Compare)
	if took := ends[18].Sub(ends[1]); took < 500*time.Millisecond {
		t.Errorf("nearly all clients were ended within %s of 2s", took)
	}
	must(t, v.Err())
	must(t, a.WaitConnections(within(t, 5*time.Second), 0))
}

func TestReloadThatChangesAnUnnamedStreamDrainsIt(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events "+a.URL()+" {\ndrain 1ms\n}")
	connected(t, a)
	c := in.openClient(ssetest.ClientConfig{})
	emitSeen(t, a, c, "one")
	in.reload("", "sse_fanin /events "+a.URL()+" {\ndrain 1ms\nretain {\nevents 7\n}\n}")
	must(t, c.WaitEnd(within(t, 5*time.Second), ssetest.EndClean, 1))
	must(t, c.WaitOpen(within(t, 5*time.Second), 2))
	emitSeen(t, a, c, "two")
	if n := a.TotalConnections(); n != 1 {
		t.Errorf("%d connections to the upstream, which both streams share", n)
	}
	if gaps := gapsOf(t, c); len(gaps) != 1 || gaps[0].Reason != "unknown" {
		t.Errorf("got gaps %v, want one, unknown", gaps)
	}
}

func TestOnReloadDrain(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 200})
	site := "sse_fanin /keep {\nstream s\nupstream " + a.URL() + "\n}\nsse_fanin /events s {\non_reload drain\ndrain 200ms\n}\nrespond /version %d"
	in := serve(t, "", fmt.Sprintf(site, 1))
	v := ssetest.NewVerifier()
	kept := in.openClient(ssetest.ClientConfig{URL: "/keep", Track: v.Track("kept")})
	drained := in.openClient(ssetest.ClientConfig{Track: v.Track("drained"), MaxDelay: time.Millisecond})
	must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+1))
	for i := range 3 {
		in.reload("", fmt.Sprintf(site, 2+i))
		must(t, drained.WaitEnd(within(t, 5*time.Second), ssetest.EndClean, i+1))
		must(t, drained.WaitOpen(within(t, 5*time.Second), i+2))
	}
	settle(t, v, a)
	wantUndisturbed(t, kept, a)
	if n := drained.Ends(ssetest.EndError); n > 0 {
		t.Errorf("%d connections broke", n)
	}
}

func TestConfigurationThatFailsChangesNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	a, b := plain(t), plain(t)
	in := serve(t, "", "sse_fanin /events {\nstream s\nupstream a "+a.URL()+"\n}")
	connected(t, a)
	c := in.openClient(ssetest.ClientConfig{})
	emitSeen(t, a, c, "one", "two")
	epoch := epochOf(t, c)
	// the stream loses its upstream and nearly all it retains, its clients are drained
	changed := "sse_fanin /events {\nstream s\nupstream b " + b.URL() + "\nretain {\nevents 1\n}\non_reload drain\ndrain 1ms\n%s\n}\nsse_fanin /new " + b.URL() + "\n"
	other := fmt.Sprintf(changed, "")
	for name, text := range map[string]string{
		"port in use":          in.caddyfile("", other) + "http://" + taken.Addr().String() + " {\nrespond x\n}",
		"ids, port in use":     in.caddyfile("", fmt.Sprintf(changed, "ids none")) + "http://" + taken.Addr().String() + " {\nrespond x\n}",
		"unset environment":    in.caddyfile("", other+"sse_fanin /x http://{env.SSE_FANIN_UNSET}/"),
		"undefined stream":     in.caddyfile("", other+"sse_fanin /x undefined"),
		"two definitions":      in.caddyfile("sse_fanin {\nstream s "+b.URL()+"\n}", other),
		"module that fails":    in.caddyfile("", other+"root /x /\ntemplates {\nmime\n}\nreverse_proxy /p {\ndynamic srv\n}"),
		"file that is not":     in.caddyfile("", other+"tls /nonexistent.pem /nonexistent.key"),
		"unknown subdirective": in.caddyfile("", other+"sse_fanin /x "+b.URL()+" {\nunknown\n}"),
	} {
		t.Run(name, func(t *testing.T) {
			for i := range 3 { // Caddy starts apps in any order
				if err := load(t, text); err == nil {
					t.Fatal("it loads")
				}
				emitSeen(t, a, c, fmt.Sprint(name, i))
			}
			must(t, b.WaitConnections(within(t, 5*time.Second), 0))
			again := in.openClient(ssetest.ClientConfig{LastEventID: waitData(t, c, "one").ID})
			defer again.Close()
			waitData(t, again, fmt.Sprint(name, 2))
			if gaps := gapsOf(t, again); len(gaps) > 0 || epochOf(t, again) != epoch {
				t.Errorf("the log is not what it was: %v, epoch %s and %s", gaps, epochOf(t, again), epoch)
			}
		})
	}
	wantUndisturbed(t, c, a)
	if n := len(liveHubs.list()); n != 1 {
		t.Errorf("%d streams, want 1", n)
	}
}

// handlersOf returns the module's handlers of the configuration that runs.
func handlersOf(t *testing.T) []*Handler {
	t.Helper()
	val, err := caddy.ActiveContext().AppIfConfigured("http")
	must(t, err)
	var all []*Handler
	var walk func(routes caddyhttp.RouteList)
	walk = func(routes caddyhttp.RouteList) {
		for _, route := range routes {
			for _, h := range route.Handlers {
				switch h := h.(type) {
				case *Handler:
					all = append(all, h)
				case *caddyhttp.Subroute:
					walk(h.Routes)
				}
			}
		}
	}
	for _, server := range val.(*caddyhttp.App).Servers {
		walk(server.Routes)
	}
	return all
}

func TestRequestThatReachesAHandlerOfThePast(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events "+a.URL()+" {\nretry 3s 3s\nmax_clients 1\n}")
	old := handlersOf(t)
	in.reload("", "respond gone")
	w := httptest.NewRecorder()
	err := old[0].ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/events", nil), nil)
	if err != nil || w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/event-stream" || w.Body.String() != "retry: 3000\n" {
		t.Errorf("got %v, %d, %v, %q", err, w.Code, w.Header(), w.Body)
	}
}

// A handler of an earlier configuration goes on serving a stream that the
// newer one has too.
func TestRequestThatReachesAHandlerOfAnEarlierConfiguration(t *testing.T) {
	a := plain(t)
	site := "sse_fanin /events " + a.URL() + " {\nmax_age 50ms\nprime on\n}\nrespond /version %d"
	in := serve(t, "", fmt.Sprintf(site, 1))
	old := handlersOf(t)
	in.reload("", fmt.Sprintf(site, 2))
	w := httptest.NewRecorder()
	err := old[0].ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/events", nil), nil)
	if err != nil || w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "\nid: ") {
		t.Errorf("got %v, %d, %q", err, w.Code, w.Body)
	}
}

func TestStreamThatComesBackWhileItDrains(t *testing.T) {
	a := plain(t)
	site := "sse_fanin /events {\nstream s\nupstream " + a.URL() + "\ndrain 24h\n}"
	in := serve(t, "", site)
	connected(t, a)
	old := in.openClient(ssetest.ClientConfig{Once: true})
	emitSeen(t, a, old, "one")
	in.reload("", "respond gone")
	in.reload("", site)
	fresh := in.openClient(ssetest.ClientConfig{})
	emitSeen(t, a, fresh, "two")
	waitData(t, old, "two")
	if n := a.TotalConnections(); n != 1 {
		t.Errorf("%d connections to the upstream, want 1", n)
	}
	if epochOf(t, old) == epochOf(t, fresh) {
		t.Error("both streams have one epoch")
	}
	old.Close()
	emitSeen(t, a, fresh, "three")
	eventually(t, 5*time.Second, "the first stream is released", func() bool {
		return len(liveHubs.list()) == 1
	})
	if n := a.TotalConnections(); n != 1 {
		t.Errorf("%d connections to the upstream, want 1", n)
	}
}

// Nothing else tells an operator that a reload made a stream another one.
func TestReloadThatEndsClientsOfAnUnnamedStreamIsLogged(t *testing.T) {
	const line = "a stream that has no name"
	for _, test := range []struct {
		name          string
		before, after string
		path          string
		want          int
	}{
		{"changed", "sse_fanin /events URL", "sse_fanin /events URL {\nids none\n}", "/events", 1},
		{"removed", "sse_fanin /events URL", "respond gone", "/events", 1},
		{"keyed", "sse_fanin /events URL/{query.user}", "sse_fanin /events URL/v2/{query.user}", "/events?user=ann", 1},
		{"client settings", "sse_fanin /events URL", "sse_fanin /events URL {\nheartbeat 5s\n}", "/events", 0},
		{"named", "sse_fanin /events URL {\nstream s\n}", "respond gone", "/events", 0},
		{"without clients", "sse_fanin /events URL", "respond gone", "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{})
			log := newTestLog(t)
			// as the docs have it to see those of the module only
			global := strings.Replace(log.global(), "log {", "log sse {\ninclude sse_fanin http.handlers.sse_fanin", 1)
			with := func(site string) string { return strings.ReplaceAll(site, "URL", "http://"+o.Addr()) }
			in := serve(t, global, with(test.before))
			if test.path != "" {
				for range 3 {
					c := in.openClient(ssetest.ClientConfig{URL: test.path})
					must(t, c.WaitOpen(within(t, 10*time.Second), 1))
				}
			}
			if lines := log.lines(line); len(lines) > 0 {
				t.Errorf("before the reload: %s", lines)
			}
			in.reload(global, with(test.after))
			lines := log.lines(line)
			if len(lines) != test.want {
				t.Fatalf("got %d lines, want %d: %s", len(lines), test.want, lines)
			}
			if len(lines) == 1 && (!strings.Contains(lines[0], `"level":"warn"`) || !strings.Contains(lines[0], `"clients":3`) || !strings.Contains(lines[0], "'stream <name>'")) {
				t.Errorf("got %s", lines[0])
			}
		})
	}
}

// An upstream that answers with an error leaves its connection idle.
func TestReloadClosesIdleConnections(t *testing.T) {
	var open atomic.Int32
	answered := make(chan struct{}, 1)
	origin := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		select {
		case answered <- struct{}{}:
		default:
		}
	}))
	origin.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		default:
		}
	}
	origin.Start()
	defer origin.Close()
	in := serve(t, "", "sse_fanin /e "+origin.URL)
	<-answered
	in.reload("", "respond gone")
	eventually(t, 10*time.Second, "the connection is closed", func() bool { return open.Load() == 0 })
}

// The connection that takes the place of one which is configured differently goes on
// where that was, whatever the policy.
func TestReloadThatChangesTheRequestLosesNothing(t *testing.T) {
	for _, policies := range [][]string{{policyFailover}, {policyMirror}, {policyFailover, policyMirror, policyMirror}} {
		for _, log := range []string{"", "log file {\ndir %s\n}\n"} {
			t.Run(fmt.Sprint(policies, log), func(t *testing.T) {
				a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 2000})
				if log != "" {
					log = fmt.Sprintf(log, t.TempDir())
				}
				site := func(n int) string {
					return directive("/events", fmt.Sprintf("stream s\n%s\n%supstream a %s %s?again {\npolicy %s\nheader_up X-Try %d\n}", quick, log, a.URL(), a.URL(), policies[n%len(policies)], n))
				}
				in := serve(t, "", site(0))
				_, v := followNumbered(t, in, "/events")
				must(t, v.WaitSeen(within(t, 5*time.Second), "a", 50))
				for n := range 5 {
					in.reload("", site(n+1))
					if n%2 == 0 { // others follow at once
						must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+100))
					}
				}
				settle(t, v, a)
			})
		}
	}
}

// Two streams that share a connection change it at once, and again before the next one
// has an answer.
func TestStreamsThatShareAConnectionLoseNothing(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 500})
	site := func(n int) string {
		var text string
		for _, name := range []string{"s", "t"} {
			text += directive("/"+name, fmt.Sprintf("stream %s\n%s\nupstream a %s {\nheader_up X-Try %d\n}", name, quick, a.URL(), n)) + "\n"
		}
		return text
	}
	in := serve(t, "", site(0))
	v := ssetest.NewVerifier()
	for _, name := range []string{"s", "t"} {
		c := ssetest.StartClient(ssetest.ClientConfig{URL: in.url("/" + name), Track: v.Track(name)})
		t.Cleanup(c.Close)
		must(t, c.WaitOpen(within(t, 5*time.Second), 1))
	}
	must(t, v.WaitSeen(within(t, 5*time.Second), "a", 20))
	a.RespondWith(503, nil, "")
	for n := range 3 {
		asked := len(a.Requests())
		in.reload("", site(n+1))
		must(t, a.WaitRequests(within(t, 5*time.Second), asked+1))
	}
	a.Clear()
	must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+100))
	a.SetRate(0)
	must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()))
	if sum := v.Report(); sum.Lost > 0 || sum.OutOfOrder > 0 {
		t.Error(v.Err())
	}
}
