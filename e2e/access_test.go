package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// newBouncer starts a service that lets requests in, as the examples ask one to,
// and returns its address.
func newBouncer(t *testing.T, valid func(r *http.Request) bool) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/check" || !valid(r) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// A siteExample is a Caddyfile of docs/clients.md.
type siteExample struct {
	section      string
	auth, origin string // what stands in for those of the page
	more         string // directives
}

// start runs Caddy with the example.
func (e siteExample) start(t *testing.T) (url string, output *ssetest.LogBuffer) {
	t.Helper()
	addr := freeAddr(t)
	text := replaceAll(t, takeExample(t, "clients.md", e.section, "caddyfile", 0),
		"example.com {", "http://"+addr+" {\n"+e.more,
		"localhost:9091", e.auth,
		"https://prices.example.net/events", e.origin)
	options := "admin off\npersist_config off\nauto_https off\n"
	if rest, has := strings.CutPrefix(text, "{\n"); has {
		text = "{\n" + options + rest
	} else {
		text = "{\n" + options + "}\n" + text
	}
	file := filepath.Join(t.TempDir(), "Caddyfile")
	writeFile(t, file, text)
	output, _ = run(t, "caddy", "run", "--config", file, "--adapter", "caddyfile")
	listening(t, addr)
	return "http://" + addr, output
}

// signJWT returns a token (RFC 7519) that expires.
func signJWT(key []byte, expires time.Time) string {
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(fmt.Appendf(nil, `{"sub":"alice","exp":%d}`, expires.Unix()))
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(signed))
	return signed + "." + encode(mac.Sum(nil))
}

// validJWT reports whether a token is one that signJWT signed with the key, and
// has not expired.
func validJWT(key []byte, token string) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Expires int64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(text, &claims) != nil {
		return false
	}
	expires := time.Unix(claims.Expires, 0)
	return hmac.Equal([]byte(token), []byte(signJWT(key, expires))) && time.Now().Before(expires)
}

// TestCookieExample has EventSource be let in by its cookie, and refused
// without.
func TestCookieExample(t *testing.T) {
	t.Parallel()
	needBrowser(t)
	o := typedOrigin(t, "price")
	key := []byte("known to those who sign and to those who check")
	auth := newBouncer(t, func(r *http.Request) bool {
		cookie, err := r.Cookie("session")
		return err == nil && validJWT(key, cookie.Value)
	})
	html := examplePage(t, script(`
const load = () => seen.loads++;
`+replaceAll(t, clientExample(t, "Browsers", "js"), "5000", "100")))
	url, _ := siteExample{section: "Cookies", auth: auth, origin: o.URL(), more: html}.start(t)
	b := newTab(t)
	b.forgive()
	b.open(url + "/page.html")
	b.wait("events.readyState === EventSource.CLOSED")
	expired := signJWT(key, time.Now().Add(-time.Hour))
	if status, _, err := fetchWith(url+"/events", http.Header{"Cookie": {"session=" + expired}}); status != http.StatusUnauthorized {
		t.Errorf("an expired token: %d %v", status, err)
	}
	eval[bool](b, fmt.Sprintf("document.cookie = 'session=%s'; true", signJWT(key, time.Now().Add(time.Hour))))
	b.wait("events.readyState === EventSource.OPEN")
	waitConnected(t, 1, o)
	o.EmitNumbered(3)
	b.settle(o)
}

// TestTokenExample checks that the token lets in, and that no log has it.
func TestTokenExample(t *testing.T) {
	t.Parallel()
	const secret = "eyJhbGciOiJIUzI1NiJ9"
	o := newOrigin(t, "a")
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Forwarded-Uri") != "/events?token="+secret {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(auth.Close)
	url, output := siteExample{section: "A token in the query", auth: strings.TrimPrefix(auth.URL, "http://"), origin: o.URL()}.start(t)
	url += "/events?token=" + secret
	c := startClient(t, ssetest.ClientConfig{URL: url})
	waitConnected(t, 1, o)
	within(t, func(ctx context.Context) error { return c.WaitOpen(ctx, 1) })
	o.EmitNumbered(1)
	within(t, func(ctx context.Context) error { return c.WaitCount(ctx, 1) })
	c.Close()
	wrong := strings.Replace(url, secret, "wrong", 1)
	if status, _, err := fetch(wrong); status != http.StatusUnauthorized {
		t.Errorf("a wrong token: %d %v", status, err)
	}
	auth.Close()
	if status, _, err := fetch(url); status != http.StatusBadGateway {
		t.Errorf("without the service: %d %v", status, err)
	}
	eventually(t, step, "the requests are logged, and the error", func() bool {
		return strings.Count(output.String(), "token=REDACTED") >= 4
	})
	if strings.Contains(output.String(), secret) {
		t.Error("the token stands in a log")
	}
}

// TestSeveralOrigins has a page of one's own use the stream, and another not.
func TestSeveralOrigins(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, "a")
	mine, other := newServer(t, wires[0], ""), newServer(t, wires[0], "")
	site := replaceAll(t, takeExample(t, "clients.md", "Other origins", "caddyfile", 2),
		"events.example.com {\n", "", `https://(www|app)\.example\.com`, "http://("+strings.ReplaceAll(mine.addr, ".", `\.`)+"|nothing)",
		"https://prices.example.net/events", o.URL()+" {\nstart oldest\nmax_age 1s\nretry 100ms 200ms\n}")
	s := newServer(t, wires[0], strings.TrimSuffix(site, "}\n"))
	waitConnected(t, 1, o)
	for _, client := range []string{"EventSource", "fetch"} {
		query := "/elsewhere.html?credentials&client=" + client + "&url=" + s.url("/events")
		b := newTab(t)
		b.open(mine.url(query))
		b.wait("seen.opens >= 1")
		o.SetRate(50)
		b.wait("seen.opens >= 3")
		b.settle(o)
		b = newTab(t)
		b.forgive()
		b.open(other.url(query))
		b.wait("seen.errors >= 1")
		if n := eval[int](b, "seen.opens"); n != 0 {
			t.Errorf("%s of another origin opened the stream", client)
		}
		b.open("about:blank") // its refusals are in the console
		b.mu.Lock()
		b.wrong = nil
		b.mu.Unlock()
	}
}
