package ssefanin

import (
	"net"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestCommandListen(t *testing.T) {
	for text, want := range map[string]struct{ listen, host, url string }{
		":8080":                   {":8080", "", "http://localhost:8080"},
		":80":                     {":80", "", "http://localhost"},
		"0.0.0.0:8080":            {"0.0.0.0:8080", "", "http://localhost:8080"},
		"127.0.0.1:8080":          {"127.0.0.1:8080", "", "http://127.0.0.1:8080"},
		"127.0.0.1":               {"127.0.0.1:80", "", "http://127.0.0.1"},
		"[::1]:8080":              {"[::1]:8080", "", "http://[::1]:8080"},
		"[::1]":                   {"[::1]:80", "", "http://[::1]"},
		"localhost:8080":          {"localhost:8080", "", "http://localhost:8080"},
		"https://localhost":       {"localhost:443", "localhost", "https://localhost"},
		"example.com":             {":443", "example.com", "https://example.com"},
		"example.com:8443":        {":8443", "example.com", "https://example.com:8443"},
		"example.com:80":          {":80", "example.com", "http://example.com"},
		"http://example.com:8080": {":8080", "example.com", "http://example.com:8080"},
	} {
		s, err := parseListen(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if s.listen != want.listen || s.host != want.host || s.url() != want.url {
			t.Errorf("%s: got %+v, %s, want %+v", text, s, s.url(), want)
		}
		c := command{site: s, path: "/events", root: ".", status: "/status", upstreams: []*Upstream{{URLs: []string{"http://127.0.0.1:1/"}}}}
		config := c.config()
		if got := strings.Contains(string(config.AppsRaw["http"]), `"automatic_https":{"disable":true}`); got != (s.scheme == "http") {
			t.Errorf("%s: automatic HTTPS disabled is %t", text, got)
		}
		if err := caddy.Validate(config); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestCommandUpstreamArgument(t *testing.T) {
	for arg, want := range map[string][2]string{
		"http://a/events":                           {"", "http://a/events"},
		"http://a/events?x=y":                       {"", "http://a/events?x=y"},
		"http://a?x=y":                              {"", "http://a?x=y"},
		"http://u:p=q@a/":                           {"", "http://u:p=q@a/"},
		"a-1=http://a/events?x=y":                   {"a-1", "http://a/events?x=y"},
		"unix//run/a.sock|/events?x=y":              {"", "unix//run/a.sock|/events?x=y"},
		"a=unix//run/a.sock|/events":                {"a", "unix//run/a.sock|/events"},
		"a={env.FEED_URL}":                          {"a", "{env.FEED_URL}"},
		"{env.FEED_URL}?x=y":                        {"", "{env.FEED_URL}?x=y"},
		"a=http://a/{http.request.uri.query.x}?y=z": {"a", "http://a/{http.request.uri.query.x}?y=z"},
		"a=http://a/{query.x}?y={header.Y}":         {"a", "http://a/{http.request.uri.query.x}?y={http.request.header.Y}"},
		"my.app=http://a/":                          {"my.app", "http://a/"},
	} {
		up, err := parseUpstreamArgument(arg)
		if err != nil {
			t.Errorf("%s: %v", arg, err)
		}
		if up.Name != want[0] || up.URLs[0] != want[1] {
			t.Errorf("%s: got %s, %s", arg, up.Name, up.URLs[0])
		}
	}
}

func TestCommandAnnouncesARequestThatIsAnswered(t *testing.T) {
	for text, want := range map[string]string{
		"http://a/events": "curl -N http://localhost:8080/events\n",
		"http://a/{query.user}?room={query.room}&x=y":   "curl -N 'http://localhost:8080/events?room=…&user=…'\n",
		"http://a/{http.request.uri.query.room}/events": "curl -N 'http://localhost:8080/events?room=…'\n",
	} {
		up, err := parseUpstreamArgument(text)
		must(t, err)
		site, err := parseListen(":8080")
		must(t, err)
		var out strings.Builder
		(&command{site: site, path: "/events", upstreams: []*Upstream{up}}).announce(&out)
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s: got %s, want %s", text, out.String(), want)
		}
	}
}

func TestCommandOnABusyPort(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	site, err := parseListen(ln.Addr().String())
	must(t, err)
	if err := site.reserve(); err == nil || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("got %v", err)
	}
}
