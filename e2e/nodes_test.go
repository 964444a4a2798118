package e2e

import (
	"testing"

	"github.com/chromedp/chromedp"
)

// nodesScript has the status page show a stream that nodes share, made of the
// snapshot that it has: nodes is how many there are, and what is changed of them.
const nodesScript = `
if (source) source.close();
lastAt = Date.now() + 1e9; // it does not become stale
nodesShown = (nodes, change, troubles) => {
	const data = structuredClone(snapshot), s = data.streams[0];
	const all = Array.from({ length: nodes }, (_, i) => ({ name: "caddy-" + (i + 1) + ".example.com", self: i === 0, version: "v0.2.0", writes: i === Math.min(1, nodes - 1), clients: 12 * i, max_lag: i % 3, head: 4711, behind: 0, heard: data.time }));
	s.log.store = { kind: "jetstream", state: nodes === 1 ? "writing" : "following", since: data.time - 60000, error: "", first: 1, last: 4711, events: 4711, writes: nodes === 1, writer: all[Math.min(1, nodes - 1)].name, term: 3, nodes: all };
	s.log.head = 4711;
	if (change) change(s, all);
	data.time += 1000;
	data.troubles = troubles || [];
	show(data);
	return true;
};
nodesShown(1)`

func TestStatusPageOfNodes(t *testing.T) {
	t.Parallel()
	s := servePrices(t)
	b := newTab(t)
	b.open(s.url("/status"))
	b.waitText("#verdict", "All 2 upstreams of 1 stream are up")
	b.wait(`document.querySelector("#stream-prices .clients:not([hidden])") !== null`)
	eval[bool](b, "var nodesShown; "+nodesScript)

	names := func() string {
		return eval[string](b, `[...document.querySelectorAll("#stream-prices .member h3 span:first-child")].map((e) => e.textContent.split(".")[0]).join(" ")`)
	}
	lines := func() string {
		return eval[string](b, `[...streams.get("prices").picture.lines.keys()].sort().join(" ")`)
	}
	is := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	is("one node", names(), "caddy-1")
	is("the lines of one node", lines(), "in kite in lark node caddy-1.example.com write")
	b.waitText("#stream-prices .badge.plain", "1 node, this one writes")
	b.accessible("one node")
	b.shoot("status-nodes-1")

	eval[bool](b, "nodesShown(3)")
	is("three nodes", names(), "caddy-1 caddy-2 caddy-3")
	is("the lines of three nodes", lines(), "in kite in lark node caddy-1.example.com node caddy-2.example.com node caddy-3.example.com write")
	b.waitText("#stream-prices .writer", "caddy-2.example.com")
	b.waitText("#stream-prices .badge.plain", "3 nodes, caddy-2.example.com writes")
	is("which one writes", eval[string](b, `[...document.querySelectorAll("#stream-prices .member")].map((e) => [...e.querySelectorAll(".badge:not([hidden])")].map((e) => e.textContent).join("+")).join()`), "this one,writes,")
	b.waitText("#stream-prices .member:nth-child(3)", "24 clients, largest lag 2 events")
	is("what the log is said to be", b.text("#stream-prices .hub .visually-hidden"), "the log, in jetstream, is following; written by caddy-2.example.com; 2 of 2 upstreams up; 3 nodes, 36 clients")
	is("counts of upstreams that another node receives", eval[string](b, `[...document.querySelectorAll("#stream-prices .source .rate:not([hidden])")].length + ""`), "0")
	b.accessible("three nodes")
	b.shoot("status-nodes-3")
	if admin := eval[bool](b, `streams.get("prices").admin.open = true, nodesShown(3)`); !admin {
		t.Error("the commands are not shown")
	}
	b.waitText("#stream-prices .commands", "/drain?nodes=all")
	eval[bool](b, `streams.get("prices").admin.open = false, true`)

	// more than fit, on a small screen and in the dark; one is behind, one of another version
	eval[bool](b, `nodesShown(8, (s, all) => { all[4].behind = 12000; all[6].version = "v0.1.0"; })`)
	is("eight nodes", names(), "caddy-1 caddy-2 caddy-3 caddy-4 caddy-5 caddy-6 caddy-7 caddy-8")
	b.waitText("#stream-prices .member:nth-child(5)", "12 s behind the log")
	b.waitText("#stream-prices .member:nth-child(7)", "v0.1.0")
	b.accessible("eight nodes")
	b.shoot("status-nodes-8")
	b.dark(true)
	b.do(chromedp.EmulateViewport(390, 844))
	if wide := eval[int](b, "document.documentElement.scrollWidth"); wide > 390 {
		t.Errorf("on a phone the page is %d pixels wide", wide)
	}
	b.shoot("status-nodes-8-phone")
	b.do(chromedp.EmulateViewport(900, 900))
	if wide := eval[int](b, "document.documentElement.scrollWidth"); wide > 900 {
		t.Errorf("on a tablet the page is %d pixels wide", wide)
	}
	b.shoot("status-nodes-8-tablet")
	b.do(chromedp.EmulateViewport(1280, 900))
	b.dark(false)
	eval[bool](b, "nodesShown(12)")
	b.waitText("#stream-prices .members .rest", "3 more nodes with")

	// nobody writes; this node is cut off
	eval[bool](b, `nodesShown(3, (s, all) => { all[1].writes = false; s.log.store.writer = ""; for (const u of s.upstreams) u.state = "idle"; },
		[{ stream: "prices", upstream: "", kind: "unwritten", level: "bad", what: "No node has written the log for 20 s", remedy: "Look.", commands: [] }])`)
	b.waitText("#verdict", "No node writes the log of prices")
	b.waitText("#stream-prices .writer", "nobody")
	is("the line from nobody", eval[string](b, `streams.get("prices").picture.lines.get("write").g.dataset.state`), "connecting")
	b.accessible("nobody writes")
	b.shoot("status-nodes-unwritten")
	eval[bool](b, `nodesShown(1, (s, all) => { all[0].writes = false; Object.assign(s.log.store, { state: "stalled", writer: "", writes: false }); for (const u of s.upstreams) u.state = "idle"; })`)
	b.waitText("#stream-prices .hub", "stalled")
	is("the line of a node that is cut off", eval[string](b, `streams.get("prices").picture.lines.get("node caddy-1.example.com").g.dataset.state`), "down")
	b.accessible("cut off")
	b.shoot("status-nodes-stalled")

	// without nodes it is as it was
	eval[bool](b, `nodesShown(1, (s) => { s.log.store = undefined; })`)
	is("without nodes", lines(), "in kite in lark out 0")
}
