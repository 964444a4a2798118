package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

func TestStatusPage(t *testing.T) {
	t.Parallel()
	overWires(t, func(t *testing.T, w wire) {
		a, c := newOrigin(t, "a"), newOrigin(t, "b")
		s := newServer(t, w, fmt.Sprintf(`sse_fanin /events {
			stream   prices
			upstream kite %s
			upstream lark %s
			backoff  200ms 1s
			start    oldest
		}
		sse_fanin_status /status`, a.URL(), c.URL()))
		viewer := newTab(t)
		viewer.open(s.url("/events.html"))
		viewer.wait("seen.opens == 1")
		a.SetRate(20)
		c.SetRate(5)

		b := newTab(t)
		b.open(s.url("/status"))
		b.protocol(w.alpn)
		b.waitText("#verdict", "All 2 upstreams of 1 stream are up")
		b.waitText("#link", "live")
		b.waitText("#sumclients", "1")
		b.wait(`parseFloat(document.querySelector("#sumin").textContent) > 10`)
		b.wait(`document.querySelectorAll("#streams .stream").length === 1`)
		b.shoot("status-" + w.name)

		a.Stop()
		b.waitText("#verdict", "1 of 2 upstreams of 1 stream is down")
		b.waitText("#problems", "kite")
		b.waitText("#streams .badge", "1 of 2 up")
		if title := eval[string](b, "document.title"); title != "1 down · sse_fanin status" {
			t.Errorf("the title is %q", title)
		}
		b.dark(true)
		b.shoot("status-down-dark-" + w.name)
		b.do(chromedp.EmulateViewport(390, 844))
		if wide := eval[int](b, "document.documentElement.scrollWidth"); wide > 390 {
			t.Errorf("on a phone the page is %d pixels wide", wide)
		}
		b.shoot("status-down-phone-" + w.name)

		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		b.waitText("#verdict", "All 2 upstreams of 1 stream are up")
		b.wait("document.title === 'sse_fanin status'")
		viewer.settle(a, c)
	})
}

func TestStatusPageOfManyStreams(t *testing.T) {
	t.Parallel()
	a := newOrigin(t, "a")
	a.SetRate(10)
	var many strings.Builder
	for i := range 12 {
		fmt.Fprintf(&many, "upstream u%d %s?u=%d\n", i+1, a.URL(), i)
	}
	s := newServer(t, wires[0], fmt.Sprintf(`sse_fanin /10 {
		stream shard-10
		upstream a %[1]s
	}
	sse_fanin /1 {
		stream shard-1
		upstream a %[1]s
	}
	sse_fanin /2 {
		stream shard-2
		upstream a %[1]s
	}
	sse_fanin /users {
		stream users
		upstream own %[1]s?user={query.user}
	}
	sse_fanin /zeta {
		stream zeta
		upstream dead http://127.0.0.1:1/events
		%[2]s
	}
	sse_fanin_status /status`, a.URL(), many.String()))
	b := newTab(t)
	b.open(s.url("/status"))
	b.waitText("#verdict", "1 of 16 upstreams of 4 streams is down") // the keyed one has as many as it has keys
	b.wait(`[...document.querySelectorAll("#streams .name")].map((e) => e.textContent).join(" ") === "zeta shard-1 shard-2 shard-10 users"`)
	b.wait(`document.querySelectorAll("#streams .open").length === 2`)
	b.waitText("#problems .commands", "/sse_fanin/streams/zeta/upstreams/dead/reconnect")

	b.waitText("#stream-zeta .rest button", "4 more upstreams")
	b.wait(`document.querySelectorAll("#stream-zeta .source").length === 9`)
	b.click("#stream-zeta .rest button")
	b.wait(`document.querySelectorAll("#stream-zeta .source").length === 13`)

	// the plots are there with the server's first points, and have names
	b.wait(`/: now /.test(document.querySelector("#stream-zeta .plot .area").getAttribute("aria-label"))`)
	b.wait(`[...document.querySelectorAll("[role=img]")].every((e) => e.getAttribute("aria-label"))`)
	b.wait(`document.querySelectorAll("#stream-shard-1 .plot canvas").length === 8`)

	b.do(chromedp.SendKeys("#filter", "SHARD-1"))
	b.wait(`[...document.querySelectorAll("#streams .stream:not([hidden]) .name")].map((e) => e.textContent).join(" ") === "shard-1 shard-10"`)
	b.click("#stream-shard-10 .toggle")
	b.wait(`document.querySelectorAll("#stream-shard-10 .plot canvas").length === 8`)
	b.shoot("status-many")
	if wide := eval[int](b, "document.documentElement.scrollWidth"); wide > 1280 {
		t.Errorf("the page is %d pixels wide", wide)
	}
}

// TestConsoleIsWatched shows that the other tests would see what they exclude.
func TestConsoleIsWatched(t *testing.T) {
	t.Parallel()
	s := newServer(t, wires[0], `header /wrong.html Content-Security-Policy "default-src 'none'; img-src data:; script-src 'nonce-x'"`)
	b := newTab(t)
	b.open(s.url("/wrong.html"))
	for _, want := range []string{"an error of the page's own", "an exception", "Content Security Policy"} {
		eventually(t, step, want, func() bool {
			return slices.ContainsFunc(b.console(), func(line string) bool { return strings.Contains(line, want) })
		})
	}
	b.mu.Lock()
	b.wrong = nil
	b.mu.Unlock()
}

func TestStatusPageOfALog(t *testing.T) {
	t.Parallel()
	a := newOrigin(t, "a")
	dir := t.TempDir()
	blocked := filepath.Join(dir, "broken")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil { // where its folder should be
		t.Fatal(err)
	}
	stream := func(name string) string {
		return fmt.Sprintf(`sse_fanin /%[1]s {
			stream   %[1]s
			upstream a %[2]s?stream=%[1]s
			log file {
				dir %[3]s
			}
			retain {
				events 0
				size 1GiB
				age 24h
			}
		}
		`, name, a.URL(), dir)
	}
	s := newServer(t, wires[0], stream("prices")+stream("broken")+`sse_fanin /plain {
			stream plain
			upstream a `+a.URL()+`
		}
		sse_fanin_status /status`)
	a.SetRate(50)

	b := newTab(t)
	b.open(s.url("/status"))
	b.waitText("#verdict", "The log of broken cannot be written")
	b.waitText("#problems .badge", "log")
	b.waitText("#problems .remedy", "There is a file where the directory should be.")
	b.waitText("#problems .commands", "ls -ld "+blocked)
	for name, kept := range map[string]string{"broken": "in files: stalled", "prices": "in files: writing, "} {
		b.wait(`document.querySelector("#stream-` + name + `") !== null`)
		eval[bool](b, `streams.get("`+name+`").open(true) ?? true`)
		b.waitText("#stream-"+name+" .facts small:not([hidden])", kept)
	}
	b.wait(`/^in files: writing, [0-9.,]+[kM]? events, [0-9.]+ [KMG]iB, newest [0-9.]+ [KMG]iB in memory/.test(document.querySelector("#stream-prices .facts small").textContent)`)
	eval[bool](b, `streams.get("plain").open(true) ?? true`)
	b.wait(`document.querySelector("#stream-plain .facts small").hidden`)
	rows := func(stream string) string {
		return eval[string](b, `[...document.querySelectorAll("#stream-`+stream+` .fill-row")].filter((e) => !e.hidden).map((e) => e.firstChild.textContent).join(" ")`)
	}
	if got := rows("prices"); got != "stored memory age" {
		t.Errorf("with a log, the bars are %q", got)
	}
	if got := rows("plain"); got != "events memory" {
		t.Errorf("without one, the bars are %q", got)
	}
	b.waitText("#stream-broken .source", "connected when the log can be written")
	b.do(chromedp.EmulateViewport(1280, 2600))
	b.shoot("status-log")
	b.dark(true)
	b.do(chromedp.EmulateViewport(390, 844))
	if wide := eval[int](b, "document.documentElement.scrollWidth"); wide > 390 {
		t.Errorf("on a phone the page is %d pixels wide", wide)
	}
	b.shoot("status-log-phone")

	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	b.waitText("#stream-broken .facts small", "in files: writing")
	b.waitText("#verdict", "All 3 upstreams of 3 streams are up")
}
