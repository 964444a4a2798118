package e2e

import (
	"fmt"
	"testing"
)

// TestLibraryExample has two tabs take events apart by type and source, over one
// connection.
func TestLibraryExample(t *testing.T) {
	t.Parallel()
	prices, builds := typedOrigin(t, "price"), typedOrigin(t, "done")
	html := examplePage(t, "<script>const load = () => seen.loads++;</script>\n"+clientExample(t, "In a page", "html"))
	s := newServer(t, wires[0], html+libraryFile(t)+"sse_fanin /events {\nstream s\nupstream nyse "+prices.URL()+
		"\nupstream ci-1 "+builds.URL()+" {\nprefix build.\n}\nupstream cd-1 "+builds.URL()+
		" {\nprefix build.\n}\nenvelope json\nsource_events on\n}")
	first := newTab(t)
	tabs := []*tab{first, first.sibling()}
	for _, b := range tabs {
		b.open(s.url("/page.html"))
		b.wait("seen.shown.includes('open')")
		for _, name := range []string{"nyse", "ci-1", "cd-1"} {
			b.wait(fmt.Sprintf("seen.shown.includes('%s is up')", name))
		}
	}
	s.waitClients("s", 1)
	prices.EmitNumbered(2)
	builds.EmitNumbered(2)
	for _, b := range tabs {
		b.wait("seen.types.price === 2 && seen.types['build.done'] === 2")
		b.wait("seen.shown.includes('1') && seen.shown.includes('2 from ci-1')")
		if n := eval[int](b, "seen.shown.filter((s) => s.includes('from')).length + seen.loads"); n != 2 {
			t.Errorf("%d builds and gaps, want 2", n)
		}
	}
}

// TestLibraryReactExample has the component get each event, and know the state.
func TestLibraryReactExample(t *testing.T) {
	t.Parallel()
	o := typedOrigin(t, "price", "order")
	html := examplePage(t, `<script src="/react/react.production.min.js"></script>
<script src="/react/react-dom.production.min.js"></script>
<script type="importmap">{ "imports": { "react": "/react/react.js", "react-dom/client": "/react/client.js",
	"sse-fanin-client": "/sse-fanin-client.js" } }</script>
<div id="root"></div>
<script type="module">
import { createRoot } from "react-dom/client";
`+clientExample(t, "With React", "js")+`
globalThis.root = createRoot(document.querySelector("#root"));
root.render(createElement(Prices));
</script>`)
	s := newServer(t, wires[0], html+libraryFile(t)+"sse_fanin /events "+o.URL()+" {\nstream s\n}")
	b := newTab(t)
	b.open(s.url("/page.html"))
	b.wait("document.querySelector('ul.open') !== null")
	waitConnected(t, 1, o)
	for i := range 3 { // each in a rendering of its own
		o.EmitNumbered(2)
		b.wait(fmt.Sprintf("document.querySelectorAll('li').length === %d", i+1))
	}
	if got := eval[string](b, "[...document.querySelectorAll('li')].map((e) => e.textContent).join()"); got != "1,3,5" {
		t.Errorf("the list is %q", got)
	}
	s.waitClients("s", 1)
}

// TestLibraryHtmxExample has htmx swap an event's data in, and fetch what it says.
func TestLibraryHtmxExample(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, "a")
	html := examplePage(t, `<script src="/htmx/htmx.min.js"></script>
`+clientExample(t, "With htmx", "html"))
	s := newServer(t, wires[0], html+libraryFile(t)+
		"respond /orders `<b class=order>{time.now.unix_ms}</b>`\nsse_fanin /events "+o.URL()+" {\nstream s\n}")
	showsNewsAndOrders(t, s, o)
}
