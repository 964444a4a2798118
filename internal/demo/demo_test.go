package demo

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func newDemo(t *testing.T) *Demo {
	t.Helper()
	d, err := New("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestNewRefusesTakenAddress(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d, err := New(ln.Addr().String())
	if err == nil {
		d.Close()
		t.Fatal("got a demo on an address that is taken")
	}
	if !strings.Contains(err.Error(), ln.Addr().String()) {
		t.Errorf("%q does not name the address", err)
	}
}

func TestNewRefusesBadAddress(t *testing.T) {
	if d, err := New("8080"); err == nil {
		d.Close()
		t.Fatal("got a demo on an address without a port")
	}
}

func TestURL(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:8080": "http://127.0.0.1:8080/",
		"localhost:8080": "http://localhost:8080/",
		":8080":          "http://localhost:8080/",
		"0.0.0.0:8080":   "http://localhost:8080/",
		"[::]:8080":      "http://localhost:8080/",
		"[::1]:8080":     "http://[::1]:8080/",
	} {
		if got := (&Demo{listen: listen}).URL(); got != want {
			t.Errorf("URL on %s is %s, want %s", listen, got, want)
		}
	}
}

// TestConfig decodes the configuration as strictly as Caddy does.
func TestConfig(t *testing.T) {
	d := newDemo(t)
	raw, err := d.Config()
	if err != nil {
		t.Fatal(err)
	}
	var config caddy.Config
	if err := caddy.StrictUnmarshalJSON(raw, &config); err != nil {
		t.Fatal(err)
	}
	if !config.Admin.Disabled {
		t.Error("the admin endpoint is not disabled")
	}
	if p := config.Admin.Config.Persist; p == nil || *p {
		t.Error("the configuration would be written to disk")
	}
	var app caddyhttp.App
	if err := caddy.StrictUnmarshalJSON(config.AppsRaw["http"], &app); err != nil {
		t.Fatal(err)
	}
	server := app.Servers["demo"]
	if !server.AutoHTTPS.Disabled {
		t.Error("automatic HTTPS is not disabled")
	}
	if want := []string{strings.TrimSuffix(strings.TrimPrefix(d.URL(), "http://"), "/")}; !slices.Equal(server.Listen, want) {
		t.Errorf("listens on %v, want %v", server.Listen, want)
	}

	var handler struct {
		Handler   string
		Upstreams []struct {
			Name string
			URLs []string
		}
	}
	if err := json.Unmarshal(server.Routes[0].HandlersRaw[0], &handler); err != nil {
		t.Fatal(err)
	}
	if handler.Handler != "sse_fanin" || len(handler.Upstreams) != len(d.origins) {
		t.Fatalf("the first handler is %+v", handler)
	}
	for i, o := range d.origins {
		u := handler.Upstreams[i]
		if u.Name != o.Name() || !slices.Equal(u.URLs, []string{"http://" + o.Address() + "/events"}) {
			t.Errorf("upstream %d is %+v, want origin %s at %s", i, u, o.Name(), o.Address())
		}
	}
}

func TestSwitches(t *testing.T) {
	d := newDemo(t)
	h := d.Handler()
	// do asks and returns whether the ticker runs.
	do := func(method, path string, want int) bool {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if w.Code != want {
			t.Fatalf("%s %s: status %d, want %d: %s", method, path, w.Code, want, w.Body)
		}
		var state struct{ Origins []OriginState }
		if want == http.StatusOK {
			if err := json.Unmarshal(w.Body.Bytes(), &state); err != nil {
				t.Fatal(err)
			}
			return state.Origins[0].Running
		}
		return false
	}
	if !do("GET", "/demo/state", http.StatusOK) {
		t.Error("the ticker does not run at the start")
	}
	if do("POST", "/demo/origins/ticker/stop", http.StatusOK) {
		t.Error("the ticker runs after stop")
	}
	if !do("POST", "/demo/origins/ticker/start", http.StatusOK) {
		t.Error("the ticker does not run after start")
	}
	do("POST", "/demo/origins/nobody/stop", http.StatusNotFound)
	do("POST", "/demo/origins/ticker/explode", http.StatusNotFound)
	do("GET", "/demo/origins/ticker/stop", http.StatusMethodNotAllowed)
}

func TestStartSaysThatThePortIsGone(t *testing.T) {
	d := newDemo(t)
	o := d.origins[0]
	if err := o.Stop(); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", o.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	w := httptest.NewRecorder()
	d.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/demo/origins/ticker/start", nil))
	if w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), o.Address()) {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestSwitchesRefuseOtherSites(t *testing.T) {
	d := newDemo(t)
	r := httptest.NewRequest("POST", "/demo/origins/ticker/stop", nil)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	w := httptest.NewRecorder()
	d.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusForbidden || !d.origins[0].State().Running {
		t.Errorf("another site's request got %d", w.Code)
	}
}

// TestPageIsAlone checks that the page loads nothing from elsewhere, not even
// its icon.
func TestPageIsAlone(t *testing.T) {
	w := httptest.NewRecorder()
	new(Demo).Handler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != http.StatusOK || w.Header().Get("Content-Security-Policy") == "" {
		t.Fatalf("got %d with %v", w.Code, w.Header())
	}
	body := bytes.ReplaceAll(w.Body.Bytes(), []byte("http://www.w3.org/2000/svg"), nil)
	if m := regexp.MustCompile(`(?:https?:)?//[a-z][\w.-]*\.\w+`).Find(body); m != nil {
		t.Errorf("the page mentions %s", m)
	}
	if !bytes.Contains(body, []byte(`<link rel="icon" href="data:`)) {
		t.Error("the page has no icon of its own")
	}
}
