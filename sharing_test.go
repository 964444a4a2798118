package ssefanin

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// connectedOnce waits until every origin has a connection, and checks that it
// stays the only one. Sources are dialled when a configuration starts, so that
// one too many would come at once, too.
func connectedOnce(t *testing.T, origins ...*ssetest.Origin) {
	t.Helper()
	connected(t, origins...)
	stays(t, 50*time.Millisecond, "every origin has one connection", func() bool {
		for _, o := range origins {
			if o.TotalConnections() != 1 {
				return false
			}
		}
		return true
	})
}

func TestStreamsShareUpstreams(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a"})
	b := newOrigin(t, ssetest.OriginConfig{Source: "b"})
	c := newOrigin(t, ssetest.OriginConfig{Source: "c"})
	in := serve(t, "", fmt.Sprintf("sse_fanin /ab %s %s\nsse_fanin /ac %s %s", a.URL(), b.URL(), a.URL(), c.URL()))
	connectedOnce(t, a, b, c)
	ab, ac := follow(t, in, "/ab"), follow(t, in, "/ac")
	a.Emit("", "from a")
	receives(t, ab, "from a")
	receives(t, ac, "from a")
	b.Emit("", "from b")
	c.Emit("", "from c")
	receives(t, ab, "from a", "from b")
	receives(t, ac, "from a", "from c")
}

func TestEqualStreamsAreOne(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a"})
	other := &instance{t: t, scheme: "http", addr: freeAddr(t)}
	handler := "sse_fanin /e " + a.URL() + "\n"
	in := serve(t, "", handler+"sse_fanin /again "+a.URL()+"\n"+nextSite(other.addr)+handler)
	connectedOnce(t, a)
	first, again, elsewhere := follow(t, in, "/e"), follow(t, in, "/again"), follow(t, other, "/e")
	a.Emit("", "x")
	for _, c := range []*ssetest.Client{first, again, elsewhere} {
		receives(t, c, "x")
	}
	// one stream: the cursors are the same
	if id := first.LastEventID(); id == "" || id != again.LastEventID() || id != elsewhere.LastEventID() {
		t.Errorf("ids differ: %q %q %q", id, again.LastEventID(), elsewhere.LastEventID())
	}
}

func TestUpstreamsInAnotherOrderAreShared(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a"})
	b := newOrigin(t, ssetest.OriginConfig{Source: "b"})
	in := serve(t, "", fmt.Sprintf("sse_fanin /ab %s %s\nsse_fanin /ba %s %s", a.URL(), b.URL(), b.URL(), a.URL()))
	connectedOnce(t, a, b)
	ab, ba := follow(t, in, "/ab"), follow(t, in, "/ba")
	a.Emit("", "x")
	receives(t, ab, "x")
	receives(t, ba, "x")
}

// What does not change the connection does not make another one.
func TestSameConnectionInOtherWords(t *testing.T) {
	const port = "PORT"
	const local = "http://localhost:" + port
	for name, tc := range map[string][2]string{
		"case of the host":   {directive("/1", "", local+"/e"), directive("/2", "", "http://LocalHost:"+port+"/e")},
		"case of the scheme": {directive("/1", "", local+"/e"), directive("/2", "", "HTTP://localhost:"+port+"/e")},
		"no path":            {directive("/1", "", local), directive("/2", "", local+"/")},
		"fragment":           {directive("/1", "", local+"/e"), directive("/2", "", local+"/e#there")},
		"defaults":           {directive("/1", "", local+"/e"), directive("/2", "resume on\nbackoff 1s 1m\nidle_timeout off\nmax_event_size 1MiB\ntransport http", local+"/e")},
		"units":              {directive("/1", "backoff 1000ms 60s\nmax_event_size 1KiB", local+"/e"), directive("/2", "backoff 1s 1m\nmax_event_size 1024", local+"/e")},
		"another stream":     {directive("/1", "", local+"/e"), directive("/2", "ids none\nretain {\nevents 5\n}", local+"/e")},
		"client settings":    {directive("/1", "", local+"/e"), directive("/2", "heartbeat 1s\nstart oldest\nslow disconnect", local+"/e")},
		"case of a header":   {directive("/1", "header_up x-token 1", local+"/e"), directive("/2", "header_up X-Token 1", local+"/e")},
		"deleted headers":    {directive("/1", "header_up -accept\nheader_up -cache-control", local+"/e"), directive("/2", "header_up -Cache-Control\nheader_up -Accept", local+"/e")},
		"replaced headers":   {directive("/1", "header_up accept text other", local+"/e"), directive("/2", "header_up Accept text other", local+"/e")},
		"order of headers":   {directive("/1", "header_up A 1\nheader_up B 2", local+"/e"), directive("/2", "header_up B 2\nheader_up A 1", local+"/e")},
		"whose option":       {directive("/1", "header_up A 1\n"+quick, local+"/e"), directive("/2", "upstream "+local+"/e {\nheader_up A 1\n"+quick+"\n}")},
		"order of transport": {directive("/1", "transport http {\ndial_timeout 3s\nkeepalive off\n}", local+"/e"), directive("/2", "transport http {\nkeepalive off\ndial_timeout 3000ms\n}", local+"/e")},
	} {
		t.Run(name, func(t *testing.T) {
			// its own: one that the case before has left may come late
			a := plain(t)
			serve(t, "", strings.ReplaceAll(tc[0]+tc[1], port, strings.TrimPrefix(a.Addr(), "127.0.0.1:")))
			connectedOnce(t, a)
		})
	}
}

func TestDefaultPortIsTheSameUpstream(t *testing.T) {
	for _, tc := range [][]string{
		{"http://example.com/e", "http://example.com:80/e", "HTTP://EXAMPLE.com:80/e"},
		{"https://example.com/", "https://example.com:443", "https://example.com"},
		{"http://[::1]/e", "http://[::1]:80/e"},
	} {
		for _, text := range tc[1:] {
			if got, want := canonicalURL(text), canonicalURL(tc[0]); got != want {
				t.Errorf("%s is %s, and %s is %s", text, got, tc[0], want)
			}
		}
	}
	for _, text := range []string{"http://example.com:443/e", "https://example.com/e", "http://example.com/E", "http://u@example.com/e", "http://example.com/e?"} {
		if canonicalURL(text) == canonicalURL("http://example.com/e") {
			t.Errorf("%s counts as http://example.com/e", text)
		}
	}
}

// What changes the connection makes another one.
func TestOtherConnectionsAreNotShared(t *testing.T) {
	for name, tc := range map[string][2]string{
		"header":          {"header_up X-Token 1", "header_up X-Token 2"},
		"header and none": {"header_up X-Token 1", ""},
		"header's case":   {"header_up X-Token a", "header_up X-Token A"},
		"set and add":     {"header_up X-Token 1", "header_up +X-Token 1"},
		"placeholder":     {"header_up X-Token {env.ONE}", "header_up X-Token {env.TWO}"},
		"resume":          {"resume off", ""},
		"backoff":         {quick, "backoff 10ms 60ms"},
		"idle_timeout":    {"idle_timeout 1h", ""},
		"max_event_size":  {"max_event_size 1KiB", ""},
		"transport":       {"transport http {\ndial_timeout 7s\n}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := plain(t)
			in := serve(t, "", directive("/1", tc[0], a.URL())+directive("/2", tc[1], a.URL()))
			must(t, a.WaitConnections(within(t, 5*time.Second), 2))
			one, two := follow(t, in, "/1"), follow(t, in, "/2")
			a.Emit("", name)
			receives(t, one, name)
			receives(t, two, name)
		})
	}
	for name, path := range map[string]string{"path": "/other", "query": "/events?x=1"} {
		t.Run(name, func(t *testing.T) {
			a := plain(t)
			serve(t, "", directive("/1", "", a.URL())+directive("/2", "", "http://"+a.Addr()+path))
			must(t, a.WaitConnections(within(t, 5*time.Second), 2))
		})
	}
}

// A connection lives as long as a stream wants it.
func TestSharedUpstreamOutlivesOneOfItsStreams(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a"})
	one, two := directive("/1", "ids none", a.URL()), directive("/2", "drain 10ms", a.URL())
	in := serve(t, "", one)
	connected(t, a)
	in.reload("", one+two)
	in.reload("", two)
	c := follow(t, in, "/2")
	a.Emit("", "x")
	receives(t, c, "x")
	if n := a.TotalConnections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	in.reload("", "respond ok")
	must(t, a.WaitConnections(within(t, 5*time.Second), 0))
}

// overlapping returns the global options and the end of a site with which the
// configurations before and after a reload are both in use for a moment: a
// site that is removed is shut down late.
func overlapping(t *testing.T) (global string, extra func() string) {
	n := 0
	return "shutdown_delay 60ms", func() string {
		n++
		if n%2 == 0 {
			return ""
		}
		return nextSite(freeAddr(t)) + "respond ok\n"
	}
}

// A reload that only renames an upstream of a stream leaves the connection
// alone, and nothing comes twice while both configurations are in use.
func TestRenamedUpstreamKeepsItsConnection(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 500})
	global, extra := overlapping(t)
	site := func(n int) string {
		return directive("/e", fmt.Sprintf("stream s\n%s\nupstream name-%d %s", quick, n, a.URL())) + extra()
	}
	in := serve(t, global, site(0))
	_, v := followNumbered(t, in, "/e")
	must(t, v.WaitSeen(within(t, 5*time.Second), "a", 5))
	for n := range 8 {
		in.reload(global, site(n+1))
		must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+1))
	}
	settle(t, v, a)
	if n := a.TotalConnections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// Names derived from URLs that differ only in the query depend on the order:
// when the first goes, the second takes its name, and back.
func TestUpstreamThatTakesTheNameOfAnotherLosesNothing(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 500})
	b := plain(t)
	global, extra := overlapping(t)
	site := func(both bool) string {
		first, second := "\nupstream name "+b.URL(), "\nupstream name-2 "+a.URL()
		if !both {
			first, second = "", "\nupstream name "+a.URL()
		}
		return directive("/e", "stream s\n"+quick+first+second) + extra()
	}
	in := serve(t, global, site(true))
	_, v := followNumbered(t, in, "/e")
	must(t, v.WaitSeen(within(t, 5*time.Second), "a", 5))
	for n := range 6 {
		in.reload(global, site(n%2 == 1))
		must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+1))
		must(t, b.WaitConnections(within(t, 5*time.Second), n%2))
	}
	settle(t, v, a)
	if n := a.TotalConnections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestSwappedUpstreamsLoseNothing(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 500})
	b := newOrigin(t, ssetest.OriginConfig{Source: "b", Rate: 500})
	urls := []string{a.URL(), b.URL()}
	global, extra := overlapping(t)
	site := func() string {
		return directive("/e", "stream s\n"+quick+"\nupstream one "+urls[0]+"\nupstream two "+urls[1]) + extra()
	}
	in := serve(t, global, site())
	_, v := followNumbered(t, in, "/e")
	must(t, v.WaitSeen(within(t, 5*time.Second), "a", 5))
	for range 4 {
		slices.Reverse(urls)
		in.reload(global, site())
		must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+1))
		must(t, v.WaitSeen(within(t, 5*time.Second), "b", b.Last()+1))
	}
	settle(t, v, a, b)
}
