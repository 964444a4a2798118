package main

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// withSleepers is a cluster whose nodes do nothing.
func withSleepers(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{
		nats:     []*natsNode{{process: sleeper(t)}},
		caddys:   []*caddyNode{{process: sleeper(t)}},
		balancer: sleeper(t),
		client:   new(http.Client),
	}
	c.nats[0].name, c.caddys[0].name, c.balancer.name = "nats-1", "caddy-1", "balancer"
	for _, p := range c.processes() {
		must(t, p.start())
		t.Cleanup(func() { must(t, p.kill()) })
	}
	return c
}

func TestButtons(t *testing.T) {
	c := withSleepers(t)
	h := c.handler()
	for _, test := range []struct {
		name, method, path string
		header             http.Header
		host               string
		want               int
		running            bool // is caddy-1 afterwards
	}{
		{name: "another site", method: "POST", path: "caddy-1/kill", header: http.Header{"Sec-Fetch-Site": {"cross-site"}}, want: http.StatusForbidden, running: true},
		{name: "another origin", method: "POST", path: "caddy-1/kill", header: http.Header{"Origin": {"http://127.0.0.1:9999"}}, want: http.StatusForbidden, running: true},
		{name: "a name that leads here", method: "POST", path: "caddy-1/kill", host: "rebound.example:8080", want: http.StatusForbidden, running: true},
		{name: "a name without a port", method: "POST", path: "caddy-1/kill", host: "rebound.example", want: http.StatusForbidden, running: true},
		{name: "GET", method: "GET", path: "caddy-1/kill", want: http.StatusMethodNotAllowed, running: true},
		{name: "no node", method: "POST", path: "caddy-7/kill", want: http.StatusNotFound, running: true},
		{name: "the balancer", method: "POST", path: "balancer/kill", want: http.StatusNotFound, running: true},
		{name: "no button", method: "POST", path: "caddy-1/explode", want: http.StatusNotFound, running: true},
		{name: "kill", method: "POST", path: "caddy-1/kill", header: http.Header{"Origin": {"http://127.0.0.1:8080"}}, want: http.StatusOK},
		{name: "start", method: "POST", path: "caddy-1/start", host: "localhost:8080", want: http.StatusOK, running: true},
		{name: "by IPv6", method: "POST", path: "caddy-1/kill", host: "[::1]", want: http.StatusOK},
	} {
		r := httptest.NewRequestWithContext(t.Context(), test.method, "http://127.0.0.1:8080/cluster/nodes/"+test.path, nil)
		maps.Copy(r.Header, test.header)
		if test.host != "" {
			r.Host = test.host
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if running := c.caddys[0].running(); w.Code != test.want || running != test.running {
			t.Errorf("%s: got %d, want %d; caddy-1 runs: %t: %s", test.name, w.Code, test.want, running, w.Body)
		}
		if !c.nats[0].running() || !c.balancer.running() {
			t.Errorf("%s: another process has ended", test.name)
		}
	}
}

// The page loads nothing from elsewhere, and has what all pages share.
func TestPageIsAlone(t *testing.T) {
	w := httptest.NewRecorder()
	new(cluster).handler().ServeHTTP(w, httptest.NewRequest("GET", "http://127.0.0.1:8080/", nil))
	if w.Code != http.StatusOK || w.Header().Get("Content-Security-Policy") == "" {
		t.Fatalf("got %d with %v", w.Code, w.Header())
	}
	body := strings.ReplaceAll(w.Body.String(), "http://www.w3.org/2000/svg", "")
	if m := regexp.MustCompile(`(?:https?:)?//[a-z][\w.-]*\.\w+`).FindString(body); m != "" {
		t.Errorf("the page mentions %s", m)
	}
	for _, part := range []string{"--card:", "function check(d)"} {
		if !strings.Contains(body, part) {
			t.Errorf("the page has no %q", part)
		}
	}
}

func TestOnlyLoopback(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "localhost:0", "[::1]:0"} {
		if got, err := loopbackAddress(listen); err != nil && !strings.HasPrefix(listen, "[") || err == nil && strings.HasSuffix(got, ":0") {
			t.Errorf("%s: %s, %v", listen, got, err)
		}
	}
	for _, listen := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.com:80", "8080"} {
		if got, err := loopbackAddress(listen); err == nil {
			t.Errorf("%s is taken for %s", listen, got)
		}
	}
}

func TestFreeAddressesDiffer(t *testing.T) {
	all, err := freeAddresses(20)
	must(t, err)
	seen := make(map[string]bool)
	for _, address := range all {
		seen[address] = true
	}
	if len(seen) != 20 {
		t.Errorf("%d of 20 differ", len(seen))
	}
}

// The Caddyfiles are valid, for the Caddy that is built, and formatted.
func TestCaddyfiles(t *testing.T) {
	caddy := builtPrograms(t).caddy
	env := append(os.Environ(),
		"HOME="+t.TempDir(), "BIND=127.0.0.1", "PORT=8080", "NODE=caddy-1", "NATS_URLS=nats://a:4222,nats://b:4222", "NATS_PASSWORD=p",
		"TICKER_URL=http://127.0.0.1:9001/events", "BUILDS_URL=http://127.0.0.1:9002/events",
		"CADDY_1=127.0.0.1:8081", "CADDY_2=127.0.0.1:8082", "CADDY_3=127.0.0.1:8083", "PAGE=127.0.0.1:8084",
	)
	for file, text := range map[string][]byte{"node.Caddyfile": nodeCaddyfile, "balancer.Caddyfile": balancerCaddyfile} {
		validate := exec.CommandContext(t.Context(), caddy, "validate", "--adapter", "caddyfile", "--config", file)
		validate.Env = env
		if output, err := validate.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", file, err, output)
		}
		if formatted, err := exec.CommandContext(t.Context(), caddy, "fmt", file).Output(); err != nil || string(formatted) != string(text) {
			t.Errorf("%s is not formatted: %v; caddy fmt gives\n%s", file, err, formatted)
		}
	}
}
