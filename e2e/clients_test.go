package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// clientExamples are the blocks of docs/clients.md that the tests here run, by
// heading and language.
var clientExamples = []string{
	"Browsers js",
	"Typed events and the envelope js",
	"State and gaps js",
	"Last values caddyfile",
	"Last values js",
	"Sleeping laptops and frozen tabs js",
	"In a page html", // these three in libraryexamples_test.go
	"With React js",
	"With htmx html",
	"React js",
	"htmx html",
	"fetch js",
	"Go go",
	"Python python",
	"curl sh",
	"Cookies caddyfile",
	"A token in the query caddyfile",
	"Other origins caddyfile", // two of them in cors_test.go
	"Other origins caddyfile",
	"Other origins caddyfile",
}

// TestClientExamples has every block of the page stand in the list above.
func TestClientExamples(t *testing.T) {
	t.Parallel()
	var found []string
	for _, e := range examples(t, "clients.md") {
		found = append(found, e.section+" "+e.language)
	}
	if got, want := strings.Join(found, "\n"), strings.Join(clientExamples, "\n"); got != want {
		t.Errorf("the page has\n%s\nbut the tests run\n%s", got, want)
	}
}

// clientExample returns the one block of docs/clients.md under a heading.
func clientExample(t *testing.T, section, language string) string {
	t.Helper()
	return takeExample(t, "clients.md", section, language, 0)
}

// prelude is what the examples take for granted: it counts the origin's events
// as the other pages here do.
const prelude = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>example</title>
<link rel="icon" href="data:,">
<script>
const seen = { opens: 0, errors: 0, loads: 0, types: {}, shown: [], sources: {} };
const count = (data) => {
	const { source, n } = JSON.parse(data);
	const s = seen.sources[source] ||= { count: 0, last: 0, lost: 0, repeated: 0 };
	s.count++;
	if (n <= s.last) {
		s.repeated++;
		return;
	}
	s.lost += n - s.last - 1;
	s.last = n;
};
const show = (type, data) => {
	seen.types[type] = (seen.types[type] ?? 0) + 1;
	if (typeof data === "string" && data.startsWith('{"source"')) count(data);
	else seen.shown.push(String(data));
};
</script>
`

// examplePage returns a directive that serves a page at /page.html, whose text
// follows the prelude.
func examplePage(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "page.html"), prelude+text)
	return fmt.Sprintf("handle /page.html {\n\troot %s\n\tfile_server\n}\n", dir)
}

func script(text string) string { return "<script>\n" + text + "\n</script>\n" }

func typedOrigin(t *testing.T, types ...string) *ssetest.Origin {
	t.Helper()
	o, err := ssetest.NewOrigin(ssetest.OriginConfig{Source: "a", Types: types})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// TestBrowserExample has the page come back after a 503, before its first event
// and after some.
func TestBrowserExample(t *testing.T) {
	t.Parallel()
	overWires(t, func(t *testing.T, w wire) {
		o := typedOrigin(t, "", "price")
		html := examplePage(t, script("const load = () => seen.loads++;\n"+
			replaceAll(t, clientExample(t, "Browsers", "js"), "5000", "100")))
		stream := "stream s\nstart oldest\nretry 100ms 200ms\ndrain 50ms\non_reload drain\n"
		live := html + "sse_fanin /events " + o.URL() + " {\n" + stream + "}\n"
		refused := html + "sse_fanin /elsewhere " + o.URL() + " {\n" + stream + "}\nrespond /events 503\n"
		s := newServer(t, w, refused)
		b := newTab(t)
		b.forgive()
		b.open(s.url("/page.html"))
		b.wait("events.readyState === EventSource.CLOSED")
		s.reload(live)
		b.wait("events.readyState === EventSource.OPEN")
		waitConnected(t, 1, o)
		o.EmitNumbered(20)
		b.wait("seen.types.price === 10 && seen.types.message === 10")
		s.reload(refused)
		b.wait("events.readyState === EventSource.CLOSED")
		o.EmitNumbered(20)
		s.reload(live)
		b.settle(o)
		if n := eval[int](b, "seen.loads"); n != 0 {
			t.Errorf("%d gaps", n)
		}
	})
}

// TestLastValuesExample has a page begin with the present values, which are no longer
// retained as events.
func TestLastValuesExample(t *testing.T) {
	t.Parallel()
	o := typedOrigin(t, "price")
	site := replaceAll(t, clientExample(t, "Last values", "caddyfile"), "example.com {\n", "",
		"https://prices.example.net/events", o.URL(), "start last_value\n\t}\n}", "start last_value\nretain {\nevents 1\n}\n}")
	s := newServer(t, wires[0], examplePage(t, script(clientExample(t, "Last values", "js")))+site)
	waitConnected(t, 1, o)
	prices := func(symbol string, price int) {
		o.Emit("price", fmt.Sprintf(`{"symbol":"%s","price":%d}`, symbol, price))
	}
	for price, symbol := range []string{"A", "B", "A", "C"} {
		prices(symbol, price)
	}
	b := newTab(t)
	b.open(s.url("/page.html"))
	b.wait(`prices.get("A") === 2 && prices.get("B") === 1 && prices.get("C") === 3`)
	prices("B", 4)
	b.wait(`prices.get("B") === 4`)
}

// TestSleepExamples has the machine sleep, as the page sees it, and the tab
// freeze.
func TestSleepExamples(t *testing.T) {
	t.Parallel()
	o, err := ssetest.NewOrigin(ssetest.OriginConfig{Source: "a", Pad: 2000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	html := examplePage(t, script("const load = () => seen.loads++;\n"+clientExample(t, "Browsers", "js")+
		replaceAll(t, clientExample(t, "Sleeping laptops and frozen tabs", "js"), "5_000", "100")))
	s := newServer(t, wires[0], html+"sse_fanin /events "+o.URL()+" {\nstream s\nwrite_timeout 1s\nretry 100ms 200ms\nheartbeat 200ms\n}")
	b := newTab(t)
	b.open(s.url("/page.html"))
	b.wait("events.readyState === EventSource.OPEN")
	waitConnected(t, 1, o)
	o.EmitNumbered(10)
	b.settle(o)

	eval[bool](b, "globalThis.old = events; const now = Date.now; Date.now = () => now() + 60_000; true")
	b.wait("events !== old && events.readyState === EventSource.OPEN")
	o.EmitNumbered(10)
	b.settle(o)
	eval[bool](b, "globalThis.old = events; dispatchEvent(new Event('online')); true")
	b.wait("events !== old && events.readyState === EventSource.OPEN")
	o.EmitNumbered(10)
	b.settle(o)

	b.forgive() // the connection breaks
	b.lifecycle("frozen")
	o.EmitNumbered(9000) // 20 MB, within the retained 10,000
	s.waitClients("s", 0)
	b.lifecycle("active")
	b.settle(o)
	if n := eval[int](b, "seen.loads"); n != 0 {
		t.Errorf("%d gaps", n)
	}
}

// TestEnvelopeExample reads typed events out of their envelopes.
func TestEnvelopeExample(t *testing.T) {
	t.Parallel()
	o := typedOrigin(t, "", "price", "done")
	html := examplePage(t, script(`const events = new EventSource("/events");`+clientExample(t, "Typed events and the envelope", "js")))
	s := newServer(t, wires[0], html+"sse_fanin /events {\nupstream builds "+o.URL()+
		" {\nevents done\nprefix build.\n}\nupstream prices "+o.URL()+" {\nevents price message\n}\nenvelope json\nstart oldest\n}")
	b := newTab(t)
	b.open(s.url("/page.html"))
	waitConnected(t, 1, o)
	o.EmitNumbered(3)
	b.wait("seen.shown.length === 3")
	got := eval[string](b, "seen.shown.map((s) => s.replace(/ at [-0-9T:.]+Z$/, '')).sort().join()")
	if want := "1 from prices,2 from prices,3 from builds"; got != want {
		t.Errorf("the page shows %q, want %q", got, want)
	}
	if got := eval[string](b, "Object.keys(seen.types).sort().join()"); got != "build.done,message,price" {
		t.Errorf("types %q", got)
	}
}

// TestStateExample has the page fetch the state while events come, at the
// beginning and after a gap.
func TestStateExample(t *testing.T) {
	t.Parallel()
	o := typedOrigin(t, "price")
	release := make(chan struct{})
	state := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		_, _ = w.Write([]byte("[]"))
	}))
	t.Cleanup(state.Close)
	html := examplePage(t, script(`
const order = [];
const replace = () => order.push("state");
const apply = (data) => order.push(JSON.parse(data).n);
const events = new EventSource("/events?lastEventId=of-another-log");
let gaps = 0;
events.addEventListener("fanin.gap", () => gaps++);
`+clientExample(t, "State and gaps", "js")))
	s := newServer(t, wires[0], html+"reverse_proxy /prices.json "+strings.TrimPrefix(state.URL, "http://")+"\nsse_fanin /events "+o.URL())
	b := newTab(t)
	b.open(s.url("/page.html"))
	b.wait("gaps === 1")
	waitConnected(t, 1, o)
	o.EmitNumbered(3)
	b.wait("waiting.length === 3")
	close(release)
	b.wait("waiting === null")
	o.EmitNumbered(1)
	b.wait("order.length === 5")
	if got := eval[string](b, "order.join()"); got != "state,1,2,3,4" {
		t.Errorf("the page had %s", got)
	}
}

// TestReactExample has the component get each event over one connection.
func TestReactExample(t *testing.T) {
	t.Parallel()
	o := typedOrigin(t, "price", "order")
	html := examplePage(t, `<script src="/react/react.production.min.js"></script>
<script src="/react/react-dom.production.min.js"></script>
<script type="importmap">{ "imports": { "react": "/react/react.js", "react-dom/client": "/react/client.js" } }</script>
<div id="root"></div>
<script type="module">
import { createRoot } from "react-dom/client";
`+clientExample(t, "React", "js")+`
globalThis.root = createRoot(document.querySelector("#root"));
root.render(createElement(Prices));
</script>`)
	s := newServer(t, wires[0], html+"sse_fanin /events "+o.URL()+" {\nstream s\n}")
	b := newTab(t)
	b.open(s.url("/page.html"))
	b.wait("document.querySelector('ul.live') !== null")
	waitConnected(t, 1, o)
	for i := range 3 { // each in a rendering of its own
		o.EmitNumbered(2)
		b.wait(fmt.Sprintf("document.querySelectorAll('li').length === %d", i+1))
	}
	if got := eval[string](b, "[...document.querySelectorAll('li')].map((e) => e.textContent).join()"); got != "1,3,5" {
		t.Errorf("the list is %q", got)
	}
	if n := eval[int](b, "performance.getEntriesByType('resource').filter((e) => e.name.endsWith('/events')).length"); n > 1 {
		t.Errorf("%d connections", n)
	}
	s.waitClients("s", 1)
	eval[bool](b, "root.unmount(); true")
	s.waitClients("s", 0)
}

// TestHtmxExample has htmx swap an event's data in, and fetch what it says.
func TestHtmxExample(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, "a")
	html := examplePage(t, `<script src="/htmx/htmx.min.js"></script>
<script src="/htmx/sse.min.js"></script>
`+clientExample(t, "htmx", "html"))
	s := newServer(t, wires[0], html+"respond /orders `<b class=order>{time.now.unix_ms}</b>`\nsse_fanin /events "+o.URL()+" {\nstream s\n}")
	showsNewsAndOrders(t, s, o)
}

// showsNewsAndOrders opens the page of an example with htmx: news are put into it,
// newest first, and an order has a part of it loaded anew.
func showsNewsAndOrders(t *testing.T, s *server, o *ssetest.Origin) {
	t.Helper()
	b := newTab(t)
	b.open(s.url("/page.html"))
	s.waitClients("s", 1)
	waitConnected(t, 1, o)
	b.wait("document.querySelector('.order') !== null")
	o.Emit("news", "<p>first</p>")
	o.Emit("news", "<p>second</p>")
	b.wait("document.querySelectorAll('#news p').length === 2")
	if got := b.text("#news p"); got != "second" {
		t.Errorf("the first of the news is %q", got)
	}
	before := b.text(".order")
	o.Emit("order", "4711")
	b.wait(fmt.Sprintf("document.querySelector('.order')?.textContent > %q", before))
}

// TestFetchExample has the page come back with a new token each time, until it
// is refused.
func TestFetchExample(t *testing.T) {
	t.Parallel()
	o := typedOrigin(t, "", "price")
	used := make(map[string]bool)
	auth := newBouncer(t, func(r *http.Request) bool {
		token := r.Header.Get("Authorization") // Caddy asks for one client's, one after the other
		ok := strings.HasPrefix(token, "Bearer fresh-") && !used[token]
		used[token] = true
		return ok
	})
	html := examplePage(t, `<script type="importmap">
{ "imports": { "@microsoft/fetch-event-source": "/fetch-event-source/index.js",
	"/fetch-event-source/fetch": "/fetch-event-source/fetch.js", "/fetch-event-source/parse": "/fetch-event-source/parse.js" } }
</script>
<script type="module">
let tokens = 0;
globalThis.stale = false;
const token = async () => stale ? "stale" : "fresh-" + ++seen.opens;
const load = () => seen.loads++;
`+clientExample(t, "fetch", "js")+"</script>")
	s := newServer(t, wires[0], html+"forward_auth /events "+auth+" {\nuri /check\n}\nsse_fanin /events "+o.URL()+
		" {\nstream s\nmax_age 500ms\nretry 50ms 100ms\nstart oldest\n}")
	b := newTab(t)
	b.open(s.url("/page.html"))
	waitConnected(t, 1, o)
	o.SetRate(50)
	b.wait("seen.opens >= 4 && seen.types.price > 1")
	b.settle(o)
	if n := eval[int](b, "seen.types[''] ?? 0"); n != 0 {
		t.Errorf("%d empty messages", n)
	}
	b.forgive()
	eval[bool](b, "stale = true")
	b.wait("seen.types.refused === 1 && seen.shown.at(-1) === '401'")
}
