package ssefanin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func init() {
	caddy.RegisterModule(new(eventRecorder))
}

// eventRecorder is an event handler that writes down what it is told.
type eventRecorder struct {
	Block bool `json:"block,omitempty"` // until its configuration ends
}

var recorded struct {
	mu      sync.Mutex // protects what follows
	events  []string
	blocked int
}

func (*eventRecorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.test_recorder", New: func() caddy.Module { return new(eventRecorder) }}
}

func (h *eventRecorder) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	h.Block = d.NextArg()
	return nil
}

func (h *eventRecorder) Handle(ctx context.Context, e caddy.Event) error {
	text := e.Name()
	for _, name := range []string{"stream", "upstream", "reason", "error", "clients", "missed"} {
		if v, ok := e.Data[name]; ok {
			text += fmt.Sprint(" ", name, "=", v)
		}
	}
	recorded.mu.Lock()
	recorded.events = append(recorded.events, text)
	recorded.blocked++
	recorded.mu.Unlock()
	if h.Block {
		<-ctx.Done()
	}
	return nil
}

// recordEvents returns global options that have events recorded, and what was
// since.
func recordEvents(t *testing.T) (global string, events func() []string) {
	t.Helper()
	recorded.mu.Lock()
	recorded.events = nil
	recorded.mu.Unlock()
	events = func() []string {
		recorded.mu.Lock()
		defer recorded.mu.Unlock()
		return slices.Clone(recorded.events)
	}
	return "events {\non upstream_up test_recorder\non upstream_down test_recorder\non gap test_recorder\non log_stalled test_recorder\non log_recovered test_recorder\non took_over test_recorder\non resigned test_recorder\n}", events
}

func wantEvents(t *testing.T, events func() []string, want ...string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !slices.Equal(events(), want) && time.Now().Before(deadline); {
		<-time.After(5 * time.Millisecond)
	}
	if got := events(); !slices.Equal(got, want) {
		t.Fatalf("the handlers were told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestEventsOfUpstreams(t *testing.T) {
	global, events := recordEvents(t)
	a := plain(t)
	a.RespondWith(500, nil, "")
	serve(t, global, directive("/e", hasty+"\nstream s\nupstream u "+a.URL()))
	// one that never was up is down; further failures are nothing new
	must(t, a.WaitRequests(within(t, 5*time.Second), 5))
	wantEvents(t, events, "upstream_down stream=s upstream=u reason=status error=500")
	a.Clear()
	wantEvents(t, events, "upstream_down stream=s upstream=u reason=status error=500", "upstream_up stream=s upstream=u")
	a.EndConnections()
	wantEvents(t, events, "upstream_down stream=s upstream=u reason=status error=500", "upstream_up stream=s upstream=u",
		"upstream_down stream=s upstream=u reason=eof error=", "upstream_up stream=s upstream=u")
}

// Each stream that shares an upstream has its own events.
func TestEventsOfASharedUpstream(t *testing.T) {
	global, events := recordEvents(t)
	a := plain(t)
	serve(t, global, directive("/e", "stream one\nupstream u "+a.URL())+directive("/f", "stream two\nupstream v "+a.URL()))
	eventually(t, 5*time.Second, "both were told", func() bool { return len(events()) == 2 })
	got := events()
	slices.Sort(got)
	if want := []string{"upstream_up stream=one upstream=u", "upstream_up stream=two upstream=v"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// What is hung up on purpose is not down.
func TestNoEventWhenNobodyWantsAnUpstream(t *testing.T) {
	global, events := recordEvents(t)
	a := plain(t)
	in := serve(t, global, directive("/e", "connect on_demand 1ms\nstream s\nupstream u "+a.URL()))
	for i := range 2 {
		c := follow(t, in, "/e")
		connected(t, a)
		emitSeen(t, a, c, fmt.Sprint("event ", i)) // a connection is up for its origin before it is up here
		c.Close()
		must(t, a.WaitConnections(within(t, 5*time.Second), 0))
	}
	becomes(t, "s", "it is idle", func(st streamStatus) bool { return st.Upstreams[0].State == phaseIdle })
	reconnectless := []string{"upstream_up stream=s upstream=u"}
	wantEvents(t, events, reconnectless...)
	stays(t, 30*time.Millisecond, "there is no other event", func() bool { return slices.Equal(events(), reconnectless) })
}

func TestEventsOfGaps(t *testing.T) {
	global, events := recordEvents(t)
	a := plain(t)
	in := serve(t, global, directive("/e", "stream s\nretain {\nevents 1\n}\nupstream u "+a.URL()))
	c := follow(t, in, "/e")
	connected(t, a)
	wantEvents(t, events, "upstream_up stream=s upstream=u")
	emitSeen(t, a, c, "one")
	id := c.LastEventID()
	emitSeen(t, a, c, "two", "three", "four")
	in.openClient(ssetest.ClientConfig{URL: "/e", LastEventID: id})
	wantEvents(t, events, "upstream_up stream=s upstream=u", "gap stream=s reason=expired clients=1 missed=2")
}

// The handlers are those of the configuration that is in use.
func TestEventsAfterAReload(t *testing.T) {
	global, events := recordEvents(t)
	a := plain(t)
	site := directive("/e", hasty+"\nstream s\nupstream u "+a.URL())
	in := serve(t, "", site)
	becomes(t, "s", "it is up", func(st streamStatus) bool { return st.Upstreams[0].State == phaseUp })
	eventually(t, 5*time.Second, "the first configuration has told of it", func() bool {
		announcements.mu.Lock()
		defer announcements.mu.Unlock()
		return len(announcements.waiting) == 0
	})
	in.reload(global, site)
	a.EndConnections()
	wantEvents(t, events, "upstream_down stream=s upstream=u reason=eof error=", "upstream_up stream=s upstream=u")
	in.reload("", site)
	a.EndConnections()
	must(t, a.WaitConnections(within(t, 5*time.Second), 1))
	stays(t, 30*time.Millisecond, "handlers of the earlier configuration are told nothing", func() bool { return len(events()) == 2 })
}

// What happens while the last configuration stops is nothing to the next one's
// handlers.
func TestEventsOfAStoppedConfiguration(t *testing.T) {
	a := plain(t)
	a.RespondWith(200, http.Header{"Content-Type": {"text/event-stream"}}, "") // and its end
	var upstreams strings.Builder
	for i := range 64 {
		fmt.Fprintf(&upstreams, "\nupstream u%d %s?%[1]d", i, a.URL())
	}
	for range 5 {
		before := a.TotalConnections()
		in := serve(t, "", directive("/e", "backoff 1ms 2ms"+upstreams.String()))
		must(t, a.WaitRequests(within(t, 10*time.Second), before+100))
		in.stop()
		announcements.mu.Lock()
		waiting := announcements.waiting
		announcements.mu.Unlock()
		if len(waiting) > 0 {
			t.Fatalf("%d events are left for later, the first is %+v", len(waiting), *waiting[0])
		}
	}
}

// A handler that does not return holds up no upstream, no client and no
// reload, and what is waiting is bounded.
func TestEventHandlerThatBlocks(t *testing.T) {
	global, events := recordEvents(t)
	a := plain(t)
	site := directive("/e", hasty+"\nstream s\nupstream u "+a.URL())
	in := serve(t, "events {\non upstream_up test_recorder block\n}", site)
	connected(t, a)
	eventually(t, 5*time.Second, "the handler is called", func() bool { return len(events()) == 1 })
	c := follow(t, in, "/e")
	emitSeen(t, a, c, "one")
	for i := range 2 * maxAnnouncements {
		announce(&announcement{name: eventUp, stream: fmt.Sprint(i)})
		announceGap("s", gapUnknown, 1)
	}
	announcements.mu.Lock()
	waiting, dropped := len(announcements.waiting), announcements.dropped
	announcements.mu.Unlock()
	if waiting > maxAnnouncements || dropped == 0 {
		t.Errorf("%d wait, %d were dropped", waiting, dropped)
	}
	emitSeen(t, a, c, "two")
	begun := time.Now()
	in.reload(global, site)
	if took := time.Since(begun); took > 10*lastWord {
		t.Errorf("the reload took %s", took)
	}
	// the next configuration is told what waits, gaps as one
	eventually(t, 5*time.Second, "the gaps are told", func() bool {
		return slices.Contains(events(), fmt.Sprintf("gap stream=s reason=unknown clients=%d missed=%[1]d", 2*maxAnnouncements))
	})
}

func TestAccessLogTellsWhatWasSent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.log")
	a := plain(t)
	in := serve(t, "", "log {\noutput file "+file+"\nformat json\n}\nsse_fanin /e "+a.URL()+" {\nstart oldest\n}")
	connected(t, a)
	c := follow(t, in, "/e")
	emitSeen(t, a, c, "one")
	last := in.openClient(ssetest.ClientConfig{URL: "/e", LastEventID: "nonsense"})
	waitData(t, last, "one")
	emitSeen(t, a, last, "two")
	last.Close()
	var line struct {
		Events   int    `json:"sse_events"`
		Bytes    int    `json:"sse_bytes"`
		Replayed int    `json:"sse_replayed"`
		Gaps     int    `json:"sse_gaps"`
		End      string `json:"sse_end"`
		Size     int    `json:"size"`
		Status   int    `json:"status"`

		Header http.Header `json:"resp_headers"`
	}
	eventually(t, 5*time.Second, "there is a line", func() bool {
		text, _ := os.ReadFile(file)
		return json.Unmarshal(text, &line) == nil
	})
	if line.Status != http.StatusOK || line.Events != 2 || line.Replayed != 1 || line.Gaps != 1 || line.End != "client" || line.Bytes != line.Size || line.Header["Transfer-Encoding"] != nil {
		t.Errorf("got %+v", line)
	}
}
