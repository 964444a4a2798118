package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// libraryFile returns a directive that serves the client library as it is shipped.
func libraryFile(t *testing.T) string {
	t.Helper()
	client, err := filepath.Abs("../client")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("handle /sse-fanin-client.js {\n\troot %s\n\tfile_server\n}\n", client)
}

// librarySite returns a site with the client library and a stream of the origins.
func librarySite(t *testing.T, settings string, origins ...*ssetest.Origin) string {
	t.Helper()
	site := libraryFile(t) + "sse_fanin /events"
	for _, o := range origins {
		site += " " + o.URL()
	}
	return site + " {\nstream s\nretry 100ms 200ms\n" + settings + "\n}"
}

// libraryTabs opens tabs of one profile that share a stream, once they do: more
// than HTTP/1.1 would let a browser have connections to one server.
func libraryTabs(t *testing.T, s *server, query string) []*tab {
	t.Helper()
	const tabs = 8
	first := newTab(t) // the profile is gone when it is closed
	var all []*tab
	for len(all) < tabs {
		b := first.sibling()
		b.open(s.url("/library.html" + query))
		b.wait("globalThis.stream?.state === 'open'")
		all = append(all, b)
	}
	s.waitClients("s", 1)
	return all
}

// close closes the tab.
func (b *tab) close() {
	b.t.Helper()
	if err := chromedp.Cancel(b.ctx); err != nil {
		b.t.Fatal(err)
	}
}

// lifecycle has the browser freeze the tab, or go on with it.
func (b *tab) lifecycle(state page.SetWebLifecycleStateState) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, page.SetWebLifecycleState, page.SetWebLifecycleStateParams{State: state})
		return err
	}))
}

// settleAll checks that each tab gets every event, once, and that they share one
// connection afterwards.
func settleAll(t *testing.T, s *server, tabs []*tab, origins ...*ssetest.Origin) {
	t.Helper()
	for _, b := range tabs {
		b.settle(origins...)
		if gaps := b.seen().Gaps; len(gaps) != 0 {
			t.Errorf("gaps %q", gaps)
		}
	}
	s.waitClients("s", 1)
}

// TestLibraryTabsShareOneConnection has the tabs lose the one that leads them,
// while events come: it is closed, frozen, or hangs.
func TestLibraryTabsShareOneConnection(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		query string
		lose  func(b *tab)
		back  func(b *tab, release func()) // nil: it is gone for good
	}{
		{name: "closed", lose: (*tab).close},
		{
			name: "frozen",
			lose: func(b *tab) { b.lifecycle("frozen") },
			back: func(b *tab, _ func()) { b.lifecycle("active") },
		},
		{
			// it still answers the others, but can neither read nor connect
			name: "frozen without notice", query: "?silent",
			lose: func(b *tab) { b.lifecycle("frozen") },
			back: func(b *tab, _ func()) { b.lifecycle("active") },
		},
		{
			// it keeps its lock
			name: "hangs",
			lose: func(b *tab) {
				eval[float64](b, `setTimeout(() => {
					const request = new XMLHttpRequest();
					request.open("GET", "/hang", false);
					request.send();
				})`)
			},
			back: func(_ *tab, release func()) { release() },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, c := newOrigin(t, "a"), newOrigin(t, "b")
			hang, release := context.WithCancel(t.Context())
			defer release()
			slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang.Done() }))
			t.Cleanup(slow.Close)
			s := newServer(t, wires[0], librarySite(t, "heartbeat 500ms", a, c)+"\nreverse_proxy /hang "+slow.Listener.Addr().String())
			waitConnected(t, 1, a, c)
			tabs := libraryTabs(t, s, test.query)
			a.EmitNumbered(100)
			c.EmitNumbered(100)
			settleAll(t, s, tabs, a, c)

			a.SetRate(50)
			c.SetRate(50)
			leader, others := tabs[0], tabs[1:]
			leader.forgive() // its connection may break
			before := others[0].seen().Sources["a"].Count
			others[0].wait(fmt.Sprintf("seen.sources.a.count > %d", before+5))
			test.lose(leader)
			others[0].wait(fmt.Sprintf("seen.sources.a.count > %d", before+100))
			if test.back != nil {
				test.back(leader, release)
				others = tabs
			}
			settleAll(t, s, others, a, c)
		})
	}
}

// TestLibraryKeepsPosition reloads the tab that leads and one that follows, while
// events come.
func TestLibraryKeepsPosition(t *testing.T) {
	t.Parallel()
	overWires(t, func(t *testing.T, w wire) {
		o := newOrigin(t, "a")
		s := newServer(t, w, librarySite(t, "", o))
		waitConnected(t, 1, o)
		first := newTab(t)
		tabs := []*tab{first, first.sibling(), first.sibling()}
		for _, b := range tabs {
			b.open(s.url("/library.html"))
			b.wait("globalThis.stream?.state === 'open' && stream.lastEventId !== ''")
			b.forgive() // a reload breaks connections
		}
		first.protocol(w.alpn) // the others have the page from the cache
		o.SetRate(100)
		for i := range 6 {
			b := tabs[i%2]
			b.wait("seen.sources.a?.count > 5")
			b.do(chromedp.Reload())
			b.wait(fmt.Sprintf("globalThis.seen?.loads === %d", i/2+2))
		}
		settleAll(t, s, tabs, o)
	})
}
