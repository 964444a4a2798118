package ssefanin

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// client starts a client of the instance that the test's end closes; without
// a URL it asks for /events.
func (in *instance) client(cfg ssetest.ClientConfig) *ssetest.Client {
	in.t.Helper()
	if cfg.URL == "" {
		cfg.URL = "/events"
	}
	cfg.URL = in.url(cfg.URL)
	c := ssetest.StartClient(cfg)
	in.t.Cleanup(c.Close)
	return c
}

// openClient is client, for one whose connection is answered.
func (in *instance) openClient(cfg ssetest.ClientConfig) *ssetest.Client {
	in.t.Helper()
	c := in.client(cfg)
	in.waitOpen(c)
	return c
}

// waitOpen waits until the client's newest connection is answered: the first
// may have been refused, in the middle of a reload.
func (in *instance) waitOpen(c *ssetest.Client) {
	in.t.Helper()
	eventually(in.t, 10*time.Second, "the client is answered", func() bool { return c.Connection().Status != 0 })
}

// do sends a request without a body and returns the response, whose body the
// test's end closes.
func (in *instance) do(method, path string) *http.Response {
	in.t.Helper()
	return in.request(method, path, nil)
}

// connected waits until the origins have a connection each.
func connected(t *testing.T, origins ...*ssetest.Origin) {
	t.Helper()
	for _, o := range origins {
		must(t, o.WaitConnections(within(t, 5*time.Second), 1))
	}
}

// plain is an origin that sends what the test tells it to.
func plain(t *testing.T) *ssetest.Origin {
	t.Helper()
	return newOrigin(t, ssetest.OriginConfig{})
}

// waitData waits for the event with this data.
func waitData(t *testing.T, c *ssetest.Client, data string) ssetest.Event {
	t.Helper()
	e, err := c.WaitEvent(within(t, 5*time.Second), func(e ssetest.Event) bool { return e.Data == data })
	if err != nil {
		t.Fatalf("event %q: %v", data, err)
	}
	return e
}

// datas returns the data of the client's events, control events aside.
func datas(c *ssetest.Client) string {
	var all []string
	for _, e := range c.Events() {
		if !strings.HasPrefix(e.Type, controlPrefix) {
			all = append(all, e.Data)
		}
	}
	return strings.Join(all, " ")
}

func wantDatas(t *testing.T, c *ssetest.Client, want string) {
	t.Helper()
	if got := datas(c); got != want {
		t.Errorf("got events %q, want %q", got, want)
	}
}

// emitSeen emits events and waits until the client has them.
func emitSeen(t *testing.T, o *ssetest.Origin, c *ssetest.Client, data ...string) {
	t.Helper()
	for _, d := range data {
		o.Emit("", d)
		waitData(t, c, d)
	}
}

func TestResponseHeader(t *testing.T) {
	in := serve(t, "", "sse_fanin /events "+plain(t).URL())
	resp := in.do(http.MethodGet, "/events")
	if resp.StatusCode != http.StatusOK {
		t.Errorf("got %s", resp.Status)
	}
	for field, want := range map[string]string{
		"Content-Type":      "text/event-stream",
		"Cache-Control":     "no-store, no-transform",
		"X-Accel-Buffering": "no",
		"Content-Length":    "",
		"Content-Encoding":  "",
	} {
		if got := resp.Header.Get(field); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
}

func TestResponseBeginsBeforeAnyEvent(t *testing.T) {
	down := plain(t)
	down.Stop()
	in := serve(t, "", "sse_fanin /events "+down.URL()+" {\nretry 3s 4s\n}")
	c := in.openClient(ssetest.ClientConfig{})
	must(t, c.WaitComments(within(t, 5*time.Second), 1))
	if took := c.Connection().TimeToHeaders; took > 10*time.Second {
		t.Errorf("the header took %s", took)
	}
	if d, ok := c.Retry(); !ok || d < 3*time.Second || d > 4*time.Second {
		t.Errorf("retry is %s (%v), want 3s to 4s", d, ok)
	}
	if c.Count() != 0 {
		t.Errorf("got events: %v", c.Events())
	}
}

func TestHeadHasHeaderOnly(t *testing.T) {
	in := serve(t, "", "sse_fanin /events "+plain(t).URL())
	resp := in.do(http.MethodHead, "/events")
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || len(body) != 0 || err != nil {
		t.Errorf("got %s, type %q, body %q, %v", resp.Status, resp.Header.Get("Content-Type"), body, err)
	}
}

func TestOtherMethodsAreRefused(t *testing.T) {
	in := serve(t, "", "sse_fanin /events "+plain(t).URL())
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, "BREW"} {
		resp := in.do(method, "/events")
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD, OPTIONS" {
			t.Errorf("%s: got %s, Allow %q", method, resp.Status, resp.Header.Get("Allow"))
		}
	}
}

// A browser asks before a page of another origin may resume; load balancers ask
// whether the server is there.
func TestOptionsAreAnswered(t *testing.T) {
	in := serve(t, "", "header Access-Control-Allow-Headers Last-Event-ID\nsse_fanin /events "+plain(t).URL()+"\nsse_fanin_status /status")
	for _, path := range []string{"/events", "/status", "/status?ready"} {
		resp := in.do(http.MethodOptions, path)
		if resp.StatusCode != http.StatusNoContent || resp.Header.Get("Allow") != "GET, HEAD, OPTIONS" || resp.Header.Get("Access-Control-Allow-Headers") != "Last-Event-ID" {
			t.Errorf("OPTIONS %s: got %s, %v", path, resp.Status, resp.Header)
		}
	}
}

func TestClientHasAPositionBeforeItsFirstEvent(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events "+a.URL()+" {\nprime on\n}")
	other := in.openClient(ssetest.ClientConfig{})
	connected(t, a)
	c := in.openClient(ssetest.ClientConfig{Once: true})
	eventually(t, 5*time.Second, "the client has an id", func() bool { return c.LastEventID() != "" })
	if _, ok := eventlog.ParseCursor(c.LastEventID()); !ok {
		t.Errorf("the id %q is no cursor", c.LastEventID())
	}
	if c.Count() != 0 {
		t.Errorf("the id came with an event: %v", c.Events())
	}
	c.Disconnect()
	must(t, c.WaitDone(within(t, 5*time.Second)))
	emitSeen(t, a, other, "one", "two")
	again := in.openClient(ssetest.ClientConfig{LastEventID: c.LastEventID()})
	emitSeen(t, a, again, "three")
	wantDatas(t, again, "one two three")
}

func TestRetryIsDrawnPerClient(t *testing.T) {
	in := serve(t, "", "sse_fanin /events "+plain(t).URL()+" {\nretry 1s 9s\n}")
	drawn := make(map[time.Duration]bool)
	for range 20 {
		c := in.openClient(ssetest.ClientConfig{})
		must(t, c.WaitComments(within(t, 5*time.Second), 1))
		d, _ := c.Retry()
		if d < time.Second || d > 9*time.Second {
			t.Errorf("retry is %s, want 1s to 9s", d)
		}
		drawn[d] = true
	}
	if len(drawn) < 10 {
		t.Errorf("20 clients were told %d different values", len(drawn))
	}
}

func TestTypesPassUnchanged(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events "+a.URL())
	c := in.openClient(ssetest.ClientConfig{})
	connected(t, a)
	for typ, want := range map[string]string{
		"":          "message",
		"price":     "price",
		"fanin.gap": "upstream.fanin.gap",
		"fanin":     "fanin",
	} {
		a.Emit(typ, "of "+want)
		if e := waitData(t, c, "of "+want); e.Type != want {
			t.Errorf("type %q came as %q, want %q", typ, e.Type, want)
		}
	}
}

func TestErrorPageIsNotAppended(t *testing.T) {
	a := plain(t)
	in := serve(t, "", `handle_errors {
		respond "error page"
	}
	sse_fanin /events `+a.URL()+` {
		max_age 100ms
	}`)
	resp := in.do(http.MethodGet, "/events")
	body, err := io.ReadAll(resp.Body)
	if err != nil || strings.Contains(string(body), "error page") {
		t.Errorf("got %q, %v", body, err)
	}
	// and it is there for what is an error
	resp = in.do(http.MethodPost, "/events")
	if body, _ = io.ReadAll(resp.Body); string(body) != "error page" {
		t.Errorf("got %q for a POST", body)
	}
}

func TestAccessLogHasALineAtTheEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.log")
	a := plain(t)
	in := serve(t, "", "log {\noutput file "+file+"\nformat json\n}\nsse_fanin /events "+a.URL())
	c := in.openClient(ssetest.ClientConfig{Once: true})
	connected(t, a)
	emitSeen(t, a, c, "logged?")
	if text, _ := os.ReadFile(file); len(text) > 0 {
		t.Errorf("logged before the end: %s", text)
	}
	c.Disconnect()
	var line struct {
		Status   int
		Size     int
		Duration float64
		Request  struct{ URI string }
	}
	eventually(t, 5*time.Second, "there is a line", func() bool {
		text, _ := os.ReadFile(file)
		return json.Unmarshal(text, &line) == nil
	})
	if line.Status != http.StatusOK || line.Request.URI != "/events" || line.Size < len("logged?") {
		t.Errorf("got %+v", line)
	}
}

func TestNothingIsCompressed(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "encode gzip zstd\nsse_fanin /events "+a.URL())
	c := in.openClient(ssetest.ClientConfig{Header: http.Header{"Accept-Encoding": {"gzip, zstd"}}})
	connected(t, a)
	if got := c.Connection().Header.Get("Content-Encoding"); got != "" {
		t.Errorf("the stream is encoded as %q", got)
	}
	emitSeen(t, a, c, "one", strings.Repeat("two", 1000)) // each at once, not in a block with the next
}

func TestHandlersShareAStreamAndServeItDifferently(t *testing.T) {
	a := plain(t)
	in := serve(t, `sse_fanin {
		stream s `+a.URL()+` {
			retry     7s 7s
			start     oldest
			heartbeat off
		}
	}`, `sse_fanin /defaults s
	sse_fanin /own s {
		retry     8s 8s
		start     1
		heartbeat 50ms
	}`)
	connected(t, a)
	first := in.openClient(ssetest.ClientConfig{URL: "/defaults"})
	emitSeen(t, a, first, "one", "two")
	defaults := in.openClient(ssetest.ClientConfig{URL: "/defaults"})
	own := in.openClient(ssetest.ClientConfig{URL: "/own"})
	must(t, own.WaitComments(within(t, 5*time.Second), 4))
	waitData(t, defaults, "two")
	wantDatas(t, defaults, "one two")
	wantDatas(t, own, "two")
	for c, want := range map[*ssetest.Client]time.Duration{defaults: 7 * time.Second, own: 8 * time.Second} {
		if d, _ := c.Retry(); d != want {
			t.Errorf("retry is %s, want %s", d, want)
		}
	}
	if n := defaults.Comments(); n != 1 {
		t.Errorf("%d comments with the heartbeat off, want the first one only", n)
	}
	if n := a.TotalConnections(); n != 1 {
		t.Errorf("%d connections to the upstream, want 1", n)
	}
}

func TestGlobalStreamConnectsWithoutAHandler(t *testing.T) {
	a := plain(t)
	serve(t, "sse_fanin {\nstream s "+a.URL()+"\n}", "respond hi")
	connected(t, a)
}

func TestNameMayBeDefinedInALaterSite(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "respond nothing")
	for range 5 { // the order in which Caddy provisions sites is random
		must(t, load(t, in.caddyfile("", "sse_fanin /events s")+"http://"+freeAddr(t)+" {\nsse_fanin {\nstream s\nupstream "+a.URL()+"\n}\n}"))
		c := in.openClient(ssetest.ClientConfig{})
		connected(t, a)
		emitSeen(t, a, c, "hello")
		c.Close()
	}
}
