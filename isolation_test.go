package ssefanin

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// An upstream that accepts and drops, in whatever way, is no hot loop, and is
// not given up either, whatever it says about when to come back.
func TestNoUpstreamIsAHotLoop(t *testing.T) {
	preface := func(retry string) *ssetest.Origin {
		o := newOrigin(t, ssetest.OriginConfig{Preface: []byte("retry: " + retry + "\n\n")})
		o.Inject(ssetest.Fault{Kind: ssetest.EndAtOnce})
		return o
	}
	origins := map[string]*ssetest.Origin{
		"closed":     faulty(t, ssetest.Fault{Kind: ssetest.CloseOnAccept}),
		"dropped":    faulty(t, ssetest.Fault{Kind: ssetest.Drop}),
		"ended":      faulty(t, ssetest.Fault{Kind: ssetest.EndAtOnce}),
		"500":        faulty(t, status(500, "Retry-After", "0")),
		"retry-0":    preface("0"),
		"retry-1":    preface("1"),
		"retry-huge": preface("1" + strings.Repeat("0", 26)),
		"retry-max":  preface("9223372036854775807"),
	}
	// 20 a second at the base, 5 at the maximum
	begin := time.Now() // they are dialled while the site is loaded
	serve(t, "", directive("/e", "backoff 50ms 200ms\n"+upstreams(origins)))
	eventually(t, 5*time.Second, "each is tried again and again", func() bool {
		for _, o := range origins {
			if o.Accepts() < 5 {
				return false
			}
		}
		return true
	})
	eventually(t, time.Second, "a second has passed", func() bool { return time.Since(begin) >= time.Second })
	for name, o := range origins {
		n, longest := o.Accepts(), int(time.Since(begin)/(50*time.Millisecond))+1
		if strings.HasPrefix(name, "retry") {
			longest = int(time.Since(begin)/(100*time.Millisecond)) + 2 // the floor, after a first one
		}
		if n > longest {
			t.Errorf("%s: %d attempts in %s", name, n, time.Since(begin))
		}
	}
}

// An upstream's own `retry:` is the shortest wait, within 100ms and the maximum.
func TestRetryOfTheUpstreamIsObeyed(t *testing.T) {
	want := make(map[string]float64) // seconds
	var upstreams strings.Builder
	for name, tc := range map[string]struct {
		preface, backoff string
		wait             float64
	}{
		"none":    {":\n\n", "1ms 5s", 0.001},
		"some":    {"retry: 300\n\n", "1ms 5s", 0.3},
		"zero":    {"retry: 0\n\n", "1ms 5s", 0.1},
		"huge":    {"retry: 1" + strings.Repeat("0", 26) + "\n\n", "1ms 5s", 5},
		"last":    {"retry: 9000\nretry: 300\n\n", "1ms 5s", 0.3},
		"cut":     {"data: x\nretry: 300\n", "1ms 5s", 0.3},
		"rubbish": {"retry: +300\nretry: 3e2\nretry:\n\n", "1ms 5s", 0.001},
		"maximum": {"retry: 300\n\n", "1ms 50ms", 0.05},
	} {
		o := newOrigin(t, ssetest.OriginConfig{Preface: []byte(tc.preface)})
		o.Inject(ssetest.Fault{Kind: ssetest.EndAtOnce})
		fmt.Fprintf(&upstreams, "upstream %s %s {\nbackoff %s\n}\n", name, o.URL(), tc.backoff)
		want[name] = tc.wait
	}
	log := newLogFile(t)
	serve(t, log.option(), directive("/e", upstreams.String()))
	for name, wait := range want {
		line := log.waitLine(name, "the first end", func(l logLine) bool { return l.Reason == "eof" })
		if line.RetryIn != wait { // the first one is not random
			t.Errorf("%s: the first wait is %gs, want %gs", name, line.RetryIn, wait)
		}
	}
}

// One source may do what it likes: the events of another come in time, and no
// client notices.
func TestBadUpstreamsDelayNobody(t *testing.T) {
	faults := map[string]ssetest.Fault{
		"closed":  {Kind: ssetest.CloseOnAccept},
		"dropped": {Kind: ssetest.Drop},
		"hanging": {Kind: ssetest.Hang},
		"ended":   {Kind: ssetest.EndAtOnce},
		"endless": {Kind: ssetest.Endless, BytesPerSecond: 5 << 20},
		"comment": {Kind: ssetest.Endless, Body: []byte(": "), BytesPerSecond: 5 << 20},
		"204":     status(204, "X-None", ""),
		"302":     times(0, 302, "/again"),
		"401":     status(401, "X-None", ""),
		"429":     status(429, "Retry-After", "1"),
		"500":     status(500, "X-None", ""),
		"type":    status(200, "Content-Type", "text/html"),
		"wire":    {Kind: ssetest.Wire, Body: []byte("no HTTP\r\n\r\n")},
		"silent":  {Kind: ssetest.Wire, Body: []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"), Hold: true},
	}
	origins := make(map[string]*ssetest.Origin)
	for name, fault := range faults {
		origins[name] = faulty(t, fault)
	}
	large := newOrigin(t, ssetest.OriginConfig{Rate: 100, Pad: 8 << 10})
	origins["large"] = large
	good := newOrigin(t, ssetest.OriginConfig{Source: "good", Rate: 200})
	in := serve(t, "", directive("/e", quick+"\nmax_event_size 4KiB\nidle_timeout 1s\n"+upstreams(origins)+"\nupstream good "+good.URL()))
	v := ssetest.NewVerifier()
	var mu sync.Mutex // protects worst
	var worst time.Duration
	c := ssetest.StartClient(ssetest.ClientConfig{URL: in.url("/e"), Track: v.Track("client"), OnEvent: func(e ssetest.Event) {
		if at, ok := sentAt(e.Data); ok {
			mu.Lock()
			defer mu.Unlock()
			worst = max(worst, e.Time.Sub(at))
		}
	}})
	t.Cleanup(c.Close)
	must(t, c.WaitOpen(within(t, 5*time.Second), 1))
	must(t, c.WaitCount(within(t, 10*time.Second), 300))
	settle(t, v, good)
	mu.Lock()
	defer mu.Unlock()
	if worst > 900*time.Millisecond { // the machine may be busy; a wait for another source is longer
		t.Errorf("an event took %s", worst)
	}
	if n := good.TotalConnections(); n != 1 {
		t.Errorf("%d connections to the good origin", n)
	}
	if n := c.Ends(ssetest.EndClean) + c.Ends(ssetest.EndError); n != 0 {
		t.Errorf("the client was ended %d times", n)
	}
	for name, o := range origins {
		if o.Accepts() == 0 {
			t.Errorf("%s was never dialled", name)
		}
	}
}

// Lines and events without end cost a bounded amount of memory.
func TestEndlessUpstreamsCostLittleMemory(t *testing.T) {
	const each = 24 << 20
	var sent [5]atomic.Int64
	var upstreams strings.Builder
	for i, prefix := range []string{"data: ", "id: ", "event: ", ": ", ""} {
		o := newOrigin(t, ssetest.OriginConfig{})
		o.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			line := []byte(strings.Repeat("x", 32<<10))
			if prefix == "" { // an event of endless lines
				line = []byte(strings.Repeat("data: x\n", 4<<10))
			}
			_, _ = w.Write([]byte(prefix))
			for sent[i].Load() < each && r.Context().Err() == nil {
				n, _ := w.Write(line)
				sent[i].Add(int64(n))
			}
			<-r.Context().Done()
		}))
		fmt.Fprintf(&upstreams, "upstream u%d %s\n", i, o.URL())
	}
	good := newOrigin(t, ssetest.OriginConfig{Source: "good", Rate: 200})
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	in := serve(t, "", directive("/e", "max_event_size 64KiB\n"+upstreams.String()+"upstream good "+good.URL()))
	_, v := followNumbered(t, in, "/e")
	eventually(t, 20*time.Second, "everything is read", func() bool {
		for i := range sent {
			if sent[i].Load() < each {
				return false
			}
		}
		return true
	})
	settle(t, v, good)
	// five buffers of 64 KiB, some of 32 KiB, and what Caddy needs for a site
	if grown := heap() - before; grown > 10<<20 {
		t.Errorf("the heap grew by %d KiB while %d MiB were read", grown>>10, 5*each>>20)
	}
}

// A configuration that cannot be loaded changes nothing.
func TestFailedReloadChangesNothing(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = busy.Close() })
	missing := filepath.Join(t.TempDir(), "missing.pem")
	for name, broken := range map[string]struct{ options, rest string }{
		"trust pool is missing": {options: "transport http {\ntls_trust_pool file " + missing + "\n}"},
		"address in use":        {rest: "}\nhttp://" + busy.Addr().String() + " {\nrespond no\n"},
		"later handler":         {rest: "sse_fanin /undefined nowhere"},
		"certificate":           {rest: "}\nhttps://127.0.0.1:1 {\ntls " + missing + " " + missing + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 500})
			b := newOrigin(t, ssetest.OriginConfig{Source: "b"})
			upstream := func(name, options string, o *ssetest.Origin) string {
				return "upstream " + name + " " + o.URL() + " {\n" + options + "\n}\n"
			}
			in := serve(t, "", directive("/e", "stream s\n"+quick+"\n"+upstream("a", "header_up X-Token 1", a)))
			c, v := followNumbered(t, in, "/e")
			must(t, v.WaitSeen(within(t, 5*time.Second), "a", 5))
			id, _, _ := strings.Cut(c.LastEventID(), "-")
			for try := range 4 { // apps start in any order
				secure := newOrigin(t, ssetest.OriginConfig{TLS: true})
				options := ""
				if broken.options != "" {
					options = upstream("tls", broken.options, secure)
				}
				join := fmt.Sprintf("%s\nheader_up X-Try %d", quick, try)
				// another header, an upstream that leaves, one that joins, other ids
				err := in.tryReload("", directive("/e", "stream s\nids none\n"+quick+"\n"+upstream("a", "header_up X-Token 2", a)+
					upstream("b", join, b)+options)+directive("/other", "upstream "+b.URL()+" {\n"+join+"\n}")+broken.rest)
				if err == nil {
					t.Fatal("the configuration was loaded")
				}
				if strings.Contains(err.Error(), "unrecognized") {
					t.Fatal(err)
				}
				must(t, b.WaitConnections(within(t, 5*time.Second), 0))
			}
			// A request may reach b well after it was given up.
			dialled := make(map[string]int)
			for _, r := range b.Requests() {
				dialled[r.Header.Get("X-Try")]++
			}
			for try, n := range dialled {
				if n > 1 {
					t.Errorf("the new upstream was dialled %d times in try %s", n, try)
				}
			}
			must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+1))
			if n := a.TotalConnections(); n != 1 {
				t.Errorf("%d connections to the upstream, want 1", n)
			}
			// what the old configuration supplies is still good
			if r := reconnect(t, a); r.Header.Get("X-Token") != "1" {
				t.Errorf("the next request has token %q", r.Header.Get("X-Token"))
			}
			must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+1))
			settle(t, v, a)
			if n := c.Ends(ssetest.EndClean) + c.Ends(ssetest.EndError); n != 0 {
				t.Errorf("the client was ended %d times", n)
			}
			if now, _, _ := strings.Cut(c.LastEventID(), "-"); now != id {
				t.Errorf("the epoch was %s and is %s", id, now)
			}
			second := follow(t, in, "/e")
			a.Emit("", "for both")
			waitData(t, c, "for both")
			waitData(t, second, "for both")
		})
	}
}

// A file that is not there yet costs its upstream nothing but the header.
func TestMissingSecretFileCostsNoOtherUpstream(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	a, b := plain(t), plain(t)
	in := serve(t, "", directive("/e", quick+"\nupstream a "+a.URL()+" {\nheader_up Authorization {file."+file+"}\n}\nupstream b "+b.URL()))
	c := follow(t, in, "/e")
	connected(t, a, b)
	b.Emit("", "one")
	receives(t, c, "one")
	must(t, os.WriteFile(file, []byte("there"), 0o600))
	if got := reconnect(t, a).Header.Get("Authorization"); got != "there" {
		t.Errorf("Authorization is %q", got)
	}
}

// A connection that brought something new starts the backoff again, however
// short it was; one that brought only what was there before does not.
func TestNewEventStartsTheBackoffAgain(t *testing.T) {
	var sent atomic.Int64
	serving := func(id func() int64) *ssetest.Origin {
		o := plain(t)
		o.Handle(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprintf(w, "id: %d\ndata: x\n\n", id())
		}))
		return o
	}
	fresh := serving(func() int64 { return sent.Add(1) })
	repeating := serving(func() int64 { return 1 })
	log := newLogFile(t)
	serve(t, log.option(), directive("/e", "backoff 5ms 1s\nupstream fresh "+fresh.URL()+"\nupstream repeating "+repeating.URL()))
	waits := func(upstream string) (all []float64) {
		for _, l := range log.lines(upstream) {
			if l.Reason == "eof" {
				all = append(all, l.RetryIn)
			}
		}
		return all
	}
	eventually(t, 20*time.Second, "both have been connected often", func() bool {
		return len(waits("fresh")) >= 10 && len(waits("repeating")) >= 8
	})
	if got := slices.Max(waits("fresh")); got != 0.005 {
		t.Errorf("the longest wait after new events is %gs, want 0.005s", got)
	}
	if got := slices.Max(waits("repeating")); got <= 0.010 {
		t.Errorf("the longest wait after repeats is %gs, want more", got)
	}
}
