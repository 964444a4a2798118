package e2e

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// seen is what the page testdata/events.html has counted.
type seen struct {
	Opens   int               `json:"opens"`
	Errors  int               `json:"errors"`
	Gaps    []string          `json:"gaps"`
	Sources map[string]source `json:"sources"`
}

type source struct {
	Count    uint64 `json:"count"`
	Last     uint64 `json:"last"`
	Lost     uint64 `json:"lost"`
	Repeated uint64 `json:"repeated"`
}

func (b *tab) seen() seen {
	b.t.Helper()
	return eval[seen](b, "seen")
}

// settle lets the origins send no more and checks that the page gets every
// event of theirs, once.
func (b *tab) settle(origins ...*ssetest.Origin) {
	b.t.Helper()
	for _, o := range origins {
		o.SetRate(0)
	}
	for _, o := range origins {
		var got source
		eventually(b.t, step, "the last event of "+o.Source(), func() bool {
			got = b.seen().Sources[o.Source()]
			return got.Last >= o.Last()
		})
		if want := (source{Count: o.Last(), Last: o.Last()}); got != want || want.Last == 0 {
			b.t.Errorf("of %s the page got %+v, want %+v", o.Source(), got, want)
		}
	}
}

// waitConnected waits until an origin has n connections.
func waitConnected(t *testing.T, n int, origins ...*ssetest.Origin) {
	t.Helper()
	for _, o := range origins {
		eventually(t, step, fmt.Sprintf("%d connections to %s", n, o.Source()), func() bool { return o.Connections() == n })
	}
}

// TestEventSourceResumes has the browser's own EventSource come back after
// each way that its connection may end.
func TestEventSourceResumes(t *testing.T) {
	t.Parallel()
	const at = 50 // events a second and origin
	for _, test := range []struct {
		name     string
		settings string
		gaps     []string
		cut      func(t *testing.T, s *server, b *tab, site string, origins []*ssetest.Origin)
	}{
		{
			name:     "max_age",
			settings: "max_age 1s\nretry 100ms 200ms",
			cut: func(_ *testing.T, _ *server, b *tab, _ string, _ []*ssetest.Origin) {
				b.wait("seen.opens >= 4")
			},
		},
		{
			name:     "on_reload drain",
			settings: "on_reload drain\ndrain 100ms\nretry 100ms 200ms",
			cut: func(_ *testing.T, s *server, b *tab, site string, _ []*ssetest.Origin) {
				for i := range 3 {
					s.reload(fmt.Sprintf("%s\nrespond /version %d", site, i))
					b.wait(fmt.Sprintf("seen.opens == %d", i+2))
				}
			},
		},
		{
			name:     "drained by the admin API",
			settings: "drain 100ms\nretry 100ms 200ms",
			cut: func(_ *testing.T, s *server, b *tab, _ string, _ []*ssetest.Origin) {
				for i := range 3 {
					s.post("/sse_fanin/streams/s/drain", "", "")
					b.wait(fmt.Sprintf("seen.opens == %d", i+2))
				}
			},
		},
		{
			// the stream that comes is another one: there is a gap, through
			// which nothing falls while the origins are silent; had the page
			// asked for it before it has come, it would have given up
			name:     "removed and added",
			settings: "drain 50ms\nretry 8s 9s",
			gaps:     []string{"unknown"},
			cut: func(t *testing.T, s *server, b *tab, site string, origins []*ssetest.Origin) {
				b.settle(origins...)
				s.reload("")
				b.wait("seen.errors == 1 && events.readyState === EventSource.CONNECTING")
				waitConnected(t, 0, origins...)
				s.reload(site)
				waitConnected(t, 1, origins...)
				for _, o := range origins {
					o.EmitNumbered(10)
				}
				b.wait("seen.opens == 2")
			},
		},
		{
			name:     "Caddy restarted",
			settings: "retry 100ms 200ms",
			gaps:     []string{"unknown"},
			cut: func(t *testing.T, s *server, b *tab, site string, origins []*ssetest.Origin) {
				b.settle(origins...)
				b.forgive()
				s.stop()
				b.wait("seen.errors >= 2") // the connection, and another attempt
				waitConnected(t, 0, origins...)
				s.start(site)
				waitConnected(t, 1, origins...)
				for _, o := range origins {
					o.EmitNumbered(10)
				}
				b.wait("seen.opens == 2")
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			overWires(t, func(t *testing.T, w wire) {
				origins := []*ssetest.Origin{newOrigin(t, "a"), newOrigin(t, "b")}
				site := fmt.Sprintf("sse_fanin /events %s %s {\nstream s\nstart oldest\nbackoff 50ms 200ms\n%s\n}",
					origins[0].URL(), origins[1].URL(), test.settings)
				s := newServer(t, w, site)
				b := newTab(t)
				b.open(s.url("/events.html"))
				b.protocol(w.alpn)
				b.wait("seen.opens >= 1")
				waitConnected(t, 1, origins...)
				for _, o := range origins {
					o.SetRate(at)
				}
				b.wait("seen.sources.a?.count > 5 && seen.sources.b?.count > 5")
				test.cut(t, s, b, site, origins)
				for _, o := range origins {
					o.SetRate(at)
				}
				before := b.seen()
				b.wait(fmt.Sprintf("seen.sources.a.count > %d", before.Sources["a"].Count+5))
				b.settle(origins...)
				got := b.seen()
				if !slices.Equal(got.Gaps, test.gaps) {
					t.Errorf("gaps %q, want %q", got.Gaps, test.gaps)
				}
				t.Logf("%d events over %d connections", got.Sources["a"].Count+got.Sources["b"].Count, got.Opens)
			})
		})
	}
}

// TestTabsShareTheUpstreams opens more tabs than HTTP/1.1 would let a browser
// have connections to one server.
func TestTabsShareTheUpstreams(t *testing.T) {
	t.Parallel()
	const tabs = 7
	a, c := newOrigin(t, "a"), newOrigin(t, "b")
	s := newServer(t, wires[1], fmt.Sprintf("sse_fanin /events %s %s {\nstart oldest\n}", a.URL(), c.URL()))
	first := newTab(t)
	all := []*tab{first}
	for len(all) < tabs {
		all = append(all, first.sibling())
	}
	for _, b := range all {
		b.open(s.url("/events.html"))
		b.protocol("h2")
	}
	for _, b := range all {
		b.wait("seen.opens == 1")
	}
	waitConnected(t, 1, a, c)
	a.EmitNumbered(50)
	c.EmitNumbered(50)
	for _, b := range all {
		b.settle(a, c)
		if got := b.seen(); got.Opens != 1 || got.Errors != 0 {
			t.Errorf("a tab was disconnected: %+v", got)
		}
	}
	for _, o := range []*ssetest.Origin{a, c} {
		if n := o.TotalConnections(); n != 1 {
			t.Errorf("origin %s saw %d connections for %d tabs, want 1", o.Source(), n, tabs)
		}
	}
}
