package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
)

// recipe returns the site of the Caddyfile that follows a text in docs/clients.md,
// without its address.
func recipe(t *testing.T, after string) string {
	t.Helper()
	page, err := os.ReadFile("../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), after)
	_, rest, begun := strings.Cut(rest, "```caddyfile\nevents.example.com {\n")
	site, _, ended := strings.Cut(rest, "\n}\n```")
	if !found || !begun || !ended {
		t.Fatalf("there is no Caddyfile after %q in docs/clients.md", after)
	}
	return site
}

// TestPageOfAnotherOriginResumes has a page use the stream of another origin, as
// docs/clients.md says, with the two clients that pages use. EventSource needs no
// preflight to resume, fetch does.
func TestPageOfAnotherOriginResumes(t *testing.T) {
	t.Parallel()
	const sent = 50 // events a second
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cookie, err := r.Cookie("session"); err != nil || cookie.Value != "1" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(auth.Close)
	for name, after := range map[string]string{
		"without credentials": "**Pages of another origin**",
		"with credentials":    "**With credentials**",
	} {
		site := recipe(t, after)
		for _, client := range []string{"EventSource", "fetch"} {
			t.Run(client+" "+name, func(t *testing.T) {
				t.Parallel()
				overWires(t, func(t *testing.T, w wire) {
					o := newOrigin(t, "a")
					page := newServer(t, w, "")
					site := strings.NewReplacer(
						"https://www.example.com", page.url(""),
						"auth.example.com", strings.TrimPrefix(auth.URL, "http://"),
						"https://prices.example.net/events", o.URL()+" {\nstart oldest\nmax_age 1s\nretry 100ms 200ms\nheartbeat 20ms\n}",
					).Replace(site)
					s := newServer(t, w, site)
					query := url.Values{"client": {client}, "url": {s.url("/events")}}
					if name == "with credentials" {
						query.Set("credentials", "")
					}
					b := newTab(t)
					b.open(page.url("/elsewhere.html?" + query.Encode()))
					b.wait("seen.opens >= 1")
					waitConnected(t, 1, o)
					o.SetRate(sent)
					b.wait("seen.opens >= 4")
					b.settle(o)
					quiet := eval[int](b, "seen.opens")
					b.wait(fmt.Sprintf("seen.opens >= %d", quiet+2)) // heartbeats alone meanwhile
					if n := eval[int](b, "seen.empty"); n != 0 {
						t.Errorf("%d messages that nobody sent", n)
					}
					if got := b.seen(); len(got.Gaps) != 0 {
						t.Errorf("gaps %q", got.Gaps)
					}
				})
			})
		}
	}
}
