package ssefanin

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// subscribers is the number of clients of all streams.
func subscribers() int {
	n := 0
	for _, h := range liveHubs.list() {
		n += h.audience.snapshot().connected
	}
	return n
}

func waitSubscribers(t *testing.T, n int) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprintf("the streams have %d clients", n), func() bool { return subscribers() == n })
}

// serveSocket is serve on a unix socket, whose path it returns: its buffers
// are small, so that one sees soon what a client does not take.
func serveSocket(t *testing.T, site string) (*instance, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	return serve(t, "", "bind unix/"+socket+"\n"+site), socket
}

// blockable is a client that stops reading at its first event.
type blockable struct {
	*ssetest.Client
	release func() // lets it read on
}

func (in *instance) blockable(cfg ssetest.ClientConfig) *blockable {
	in.t.Helper()
	gate := make(chan struct{})
	once := new(sync.Once)
	release := func() { once.Do(func() { close(gate) }) }
	cfg.OnEvent = func(ssetest.Event) { <-gate }
	cfg.Record = 1 << 20
	c := &blockable{Client: in.client(cfg), release: release}
	in.t.Cleanup(release) // before Close
	return c
}

// flood emits n numbered events, never more at once than the reader keeps up
// with.
func flood(t *testing.T, o *ssetest.Origin, reader *ssetest.Client, n int) {
	t.Helper()
	must(t, o.Flood(within(t, time.Minute), reader, n))
}

// overtake has a client overtaken by what a site retains. It returns the
// client, which still does not read, and what judges it.
func overtake(t *testing.T, slow string) (*ssetest.Origin, *blockable, *ssetest.Verifier) {
	t.Helper()
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Pad: 8000})
	in, socket := serveSocket(t, "sse_fanin /events "+a.URL()+" {\nretain {\nevents 50\n}\nwrite_timeout 30s\nslow "+slow+"\n}")
	v := ssetest.NewVerifier(ssetest.AllowGaps())
	c := in.blockable(ssetest.ClientConfig{Socket: socket, Track: v.Track("slow")})
	in.waitOpen(c.Client)
	reader := in.openClient(ssetest.ClientConfig{Socket: socket})
	connected(t, a)
	flood(t, a, reader, 300) // 2.4 MB, the socket takes a few hundred KB
	return a, c, v
}

func TestOvertakenClientIsToldAndGoesOn(t *testing.T) {
	a, c, v := overtake(t, "skip")
	c.release()
	must(t, v.WaitSeen(within(t, 10*time.Second), "a", a.Last()))
	must(t, v.Err())
	counts := v.Report().Counts
	// one, or more if it was overtaken again before its socket was full
	if counts.Gaps == 0 || counts.GapMissed == 0 || counts.GapMissed != counts.Announced || counts.Repeated != 0 {
		t.Errorf("want gaps that tell what is missing: %s", v.Report())
	}
	gaps := gapsOf(t, c.Client)
	if g := gaps[0]; g.Reason != "expired" || g.Resumed == nil || *g.Resumed != g.event.ID {
		t.Errorf("got gap %s", g.event.Data)
	}
	if n := c.Connection().Events; c.Ends(ssetest.EndClean) > 0 || n < 50 {
		t.Errorf("the connection has ended: %+v", c.Connection())
	}
}

func TestOvertakenClientIsDisconnected(t *testing.T) {
	a, c, v := overtake(t, "disconnect")
	c.release()
	must(t, c.WaitEnd(within(t, 10*time.Second), ssetest.EndClean, 1))
	if first := c.Connections()[0]; first.Partial {
		t.Errorf("it ended within an event: %+v", first)
	}
	// it comes back and learns what it has missed
	must(t, v.WaitSeen(within(t, 10*time.Second), "a", a.Last()))
	must(t, v.Err())
	if counts := v.Report().Counts; counts.Gaps != 1 || counts.GapMissed != counts.Announced || counts.Announced == 0 {
		t.Errorf("want one gap that tells what is missing: %s", v.Report())
	}
}

func TestClientThatTakesNothingIsDisconnected(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Pad: 8000})
	in, socket := serveSocket(t, "sse_fanin /events "+a.URL()+" {\nwrite_timeout 1s\nheartbeat off\n}") // the reader may have to wait for a processor
	v := ssetest.NewVerifier()
	reader := in.openClient(ssetest.ClientConfig{Socket: socket, Track: v.Track("reader")})
	connected(t, a)
	raw, err := ssetest.DialRaw(within(t, 5*time.Second), ssetest.RawConfig{URL: in.url("/events"), Socket: socket, BytesPerSecond: -1})
	must(t, err)
	defer raw.Close()
	waitSubscribers(t, 2)
	flood(t, a, reader, 200)
	waitSubscribers(t, 1)
	flood(t, a, reader, 20)
	must(t, v.Err())
	if n := reader.Ends(ssetest.EndClean) + reader.Ends(ssetest.EndError); n > 0 {
		t.Errorf("the other client was disconnected: %+v", reader.Connections())
	}
}

// All that waits may take longer than the write timeout, a write may not.
func TestSlowClientIsNotDisconnected(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Pad: 1000})
	in, socket := serveSocket(t, "sse_fanin /events "+a.URL()+" {\nwrite_timeout 1s\nstart oldest\n}")
	reader := in.openClient(ssetest.ClientConfig{Socket: socket})
	connected(t, a)
	flood(t, a, reader, 1500)
	begun := time.Now()
	c := in.openClient(ssetest.ClientConfig{Socket: socket, BytesPerSecond: 1 << 20, Once: true})
	must(t, c.WaitCount(within(t, 10*time.Second), 1500))
	if took := time.Since(begun); took <= time.Second {
		t.Fatalf("it took only %s", took)
	}
	if c.Connection().End != ssetest.EndNone {
		t.Errorf("it was disconnected: %+v", c.Connection())
	}
}

func TestMaxAgeEndsCleanlyAndTheClientComesBack(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 200})
	in := serve(t, "", "sse_fanin /events "+a.URL()+" {\nmax_age 200ms\nheartbeat 150ms\n}")
	v := ssetest.NewVerifier()
	c := in.client(ssetest.ClientConfig{Track: v.Track("c"), MaxDelay: time.Millisecond})
	must(t, c.WaitEnd(within(t, 10*time.Second), ssetest.EndClean, 4))
	must(t, v.Err())
	if n := c.Ends(ssetest.EndError); n > 0 {
		t.Errorf("%d connections broke", n)
	}
	for _, conn := range c.Connections()[:4] {
		if age := conn.Ended.Sub(conn.Started); age < 150*time.Millisecond {
			t.Errorf("ended after %s, want 160ms to 200ms", age)
		}
	}
}

func TestFullStreamRejects(t *testing.T) {
	a := plain(t)
	in := serve(t, "sse_fanin {\nstream s "+a.URL()+" {\nmax_clients 2\n}\n}", "sse_fanin /a s\nsse_fanin /b s")
	one := in.openClient(ssetest.ClientConfig{URL: "/a"})
	two := in.openClient(ssetest.ClientConfig{URL: "/b"})
	connected(t, a)
	waitSubscribers(t, 2)
	for _, path := range []string{"/a", "/b"} {
		resp := in.do(http.MethodGet, path)
		seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
		if resp.StatusCode != http.StatusServiceUnavailable || err != nil || seconds < 1 {
			t.Errorf("%s: got %s, Retry-After %q", path, resp.Status, resp.Header.Get("Retry-After"))
		}
	}
	emitSeen(t, a, one, "still there")
	waitData(t, two, "still there")
	two.Close()
	waitSubscribers(t, 1)
	three := in.openClient(ssetest.ClientConfig{URL: "/b"})
	emitSeen(t, a, three, "let in")
}

func TestFullStreamTellsToRetry(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events "+a.URL()+" {\nmax_clients 1 retry\n}")
	one := in.openClient(ssetest.ClientConfig{})
	connected(t, a)
	waitSubscribers(t, 1)
	waits := make(map[string]bool)
	for range 10 {
		resp := in.do(http.MethodGet, "/events")
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		ms, ok := strings.CutPrefix(strings.TrimSpace(string(body)), "retry: ")
		n, err := strconv.Atoi(ms)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || !ok || err != nil || n < 30_000 {
			t.Errorf("got %s, type %q, body %q", resp.Status, resp.Header.Get("Content-Type"), body)
		}
		waits[ms] = true
	}
	if len(waits) < 5 {
		t.Errorf("10 clients were told %d different waits", len(waits))
	}
	emitSeen(t, a, one, "still there")
}

func TestLimitCountsClientsOfEarlierConfigurations(t *testing.T) {
	a := plain(t)
	site := "sse_fanin /events " + a.URL() + " {\nmax_clients %d\n}"
	in := serve(t, "", fmt.Sprintf(site, 2))
	for range 2 {
		in.openClient(ssetest.ClientConfig{})
	}
	connected(t, a)
	waitSubscribers(t, 2)
	in.reload("", fmt.Sprintf(site, 1))
	if resp := in.do(http.MethodGet, "/events"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got %s", resp.Status)
	}
	if n := subscribers(); n != 2 {
		t.Errorf("%d clients are left of 2 when the limit was lowered", n)
	}
}
