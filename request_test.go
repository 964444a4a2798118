package ssefanin

import (
	"encoding/base64"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// plainHeader is the header of a request that nothing was configured for.
var plainHeader = http.Header{
	"Accept":          {"text/event-stream"},
	"Cache-Control":   {"no-cache"},
	"Accept-Encoding": {"identity"},
	"User-Agent":      {"caddy-sse-fanin"},
}

// with returns the plain header with other fields; no value removes one.
func with(field string, values ...string) http.Header {
	h := plainHeader.Clone()
	if len(values) == 0 {
		delete(h, field)
	} else {
		h[field] = values
	}
	return h
}

func checkHeader(t *testing.T, got ssetest.Request, want http.Header) {
	t.Helper()
	if !maps.EqualFunc(got.Header, want, slices.Equal) {
		t.Errorf("the request's header is\n%v\nwant\n%v", got.Header, want)
	}
}

func basicAuth(userinfo string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(userinfo))
}

func TestRequestToAnUpstream(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", directive("/e", quick, o.URL()+"?a=1&b=%20"))
	c := ssetest.StartClient(ssetest.ClientConfig{
		URL:         in.url("/e?token=of-a-client"),
		LastEventID: "of-a-client",
		Header: http.Header{
			"Cookie":          {"of=a-client"},
			"Authorization":   {"Bearer of-a-client"},
			"Accept-Language": {"of-a-client"},
			"X-Forwarded-For": {"192.0.2.1"},
			"User-Agent":      {"of-a-client"},
		},
	})
	t.Cleanup(c.Close)
	must(t, c.WaitOpen(within(t, 5*time.Second), 1))
	first := request(t, o, 1)
	checkHeader(t, first, plainHeader)
	if first.Method != http.MethodGet || first.Path != "/events" || first.Query != "a=1&b=%20" || first.Host != o.Addr() || first.Proto != "HTTP/1.1" {
		t.Errorf("the request is %+v", first)
	}
	checkHeader(t, reconnect(t, o), plainHeader)
	connected(t, o)
	o.Emit("", "x")
	_, err := c.WaitEvent(within(t, 5*time.Second), func(e ssetest.Event) bool { return e.Data == "x" })
	must(t, err)
	checkHeader(t, reconnect(t, o), with("Last-Event-Id", "1"))
}

func TestHeaderUp(t *testing.T) {
	t.Setenv("SSE_FANIN_TEST", "from the environment")
	for name, tc := range map[string]struct {
		options string
		want    http.Header
		host    string
	}{
		"set":              {options: "header_up X-A one", want: with("X-A", "one")},
		"set over ours":    {options: "header_up User-Agent me", want: with("User-Agent", "me")},
		"add":              {options: "header_up +X-A one\nheader_up +x-a two", want: with("X-A", "one", "two")},
		"delete":           {options: "header_up -Cache-Control", want: with("Cache-Control")},
		"delete agent":     {options: "header_up -User-Agent", want: with("User-Agent")},
		"delete encoding":  {options: "header_up -Accept-Encoding", want: with("Accept-Encoding")},
		"replace":          {options: "header_up Accept ^text/ application/", want: with("Accept", "application/event-stream")},
		"host":             {options: "header_up Host example.com", want: plainHeader, host: "example.com"},
		"upstream":         {options: "header_up X-Up {upstream_hostport}", want: with("X-Up", "ADDR")},
		"host of upstream": {options: "header_up Host {upstream_hostport}", want: plainHeader, host: "ADDR"},
		"environment":      {options: "header_up X-A {env.SSE_FANIN_TEST}", want: with("X-A", "from the environment")},
		"upstream's own":   {options: "header_up X-A stream\nupstream URL {\nheader_up X-A upstream\n}", want: with("X-A", "upstream")},
		"both":             {options: "header_up +X-A stream\nupstream URL {\nheader_up +X-A upstream\n}", want: with("X-A", "stream", "upstream")},
		"user info":        {options: "upstream http://me:p%40ss%3A@ADDR/events", want: with("Authorization", basicAuth("me:p@ss:"))},
		"user only":        {options: "upstream http://me@ADDR/events", want: with("Authorization", basicAuth("me:"))},
		"over user info":   {options: "upstream http://me:pass@ADDR/events {\nheader_up Authorization \"Bearer x\"\n}", want: with("Authorization", "Bearer x")},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{})
			fill := strings.NewReplacer("ADDR", o.Addr(), "URL", o.URL()).Replace
			text := fill(tc.options)
			if !strings.Contains(text, "upstream http") {
				text += "\nupstream " + o.URL()
			}
			serve(t, "", directive("/e", text))
			got := request(t, o, 1)
			want := tc.want.Clone()
			for field, values := range want {
				for i := range values {
					want[field][i] = fill(values[i])
				}
			}
			checkHeader(t, got, want)
			if host := fill(tc.host); host != "" && got.Host != host {
				t.Errorf("Host is %s, want %s", got.Host, host)
			}
		})
	}
}

func TestSecretsAreReadAtEveryDial(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	file := filepath.Join(t.TempDir(), "token")
	rotate := func(value string) {
		must(t, os.WriteFile(file, []byte(value+"\n"), 0o600))
		t.Setenv("SSE_FANIN_TOKEN", value)
	}
	rotate("first")
	serve(t, "", directive("/e", quick+"\nheader_up Authorization \"Bearer {file."+file+"}\"\nheader_up X-Env {env.SSE_FANIN_TOKEN}", o.URL()))
	check := func(r ssetest.Request, value string) {
		t.Helper()
		if got := r.Header.Get("Authorization"); got != "Bearer "+value {
			t.Errorf("Authorization is %q, want %q", got, "Bearer "+value)
		}
		if got := r.Header.Get("X-Env"); got != value {
			t.Errorf("X-Env is %q, want %q", got, value)
		}
	}
	check(request(t, o, 1), "first")
	connected(t, o)
	rotate("second")
	check(reconnect(t, o), "second")
}

func TestResumeSetting(t *testing.T) {
	for name, tc := range map[string]struct {
		setting       string
		first, second string
		events        []string
	}{
		"default": {"", "", "3", []string{"three", "four"}},
		"on":      {"resume on", "", "3", []string{"three", "four"}},
		"off":     {"resume off", "", "", []string{"three", "four"}},
		"an id":   {"resume 1", "1", "3", []string{"two", "three", "four"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{})
			o.Emit("", "one")
			o.Emit("", "two")
			in := serve(t, "", directive("/e", quick+"\nstart oldest\n"+tc.setting, o.URL()))
			connected(t, o)
			o.Emit("", "three")
			c := follow(t, in, "/e")
			receives(t, c, tc.events[:len(tc.events)-1]...)
			reconnect(t, o)
			connected(t, o)
			if got := o.LastEventIDs(); !slices.Equal(got, []string{tc.first, tc.second}) {
				t.Errorf("asked for %q, want %q", got, []string{tc.first, tc.second})
			}
			o.Emit("", "four")
			receives(t, c, tc.events...)
		})
	}
}

func TestUnixSocketUpstream(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{Socket: filepath.Join(t.TempDir(), "s")})
	in := serve(t, "", directive("/e", quick+"\nheader_up X-Up {upstream_hostport}", "unix/"+o.Addr()+"|/some/events?x=1"))
	c := follow(t, in, "/e")
	got := request(t, o, 1)
	checkHeader(t, got, with("X-Up", "unix/"+o.Addr()))
	if got.Path != "/some/events" || got.Query != "x=1" || got.Host != "localhost" {
		t.Errorf("the request is %+v", got)
	}
	connected(t, o)
	o.Emit("", "one")
	receives(t, c, "one")
	if id, _ := reconnect(t, o).LastEventID(); id != "1" {
		t.Errorf("reconnected with id %q, want 1", id)
	}
}

func TestProtocolsToUpstreams(t *testing.T) {
	for name, tc := range map[string]struct {
		origin    ssetest.OriginConfig
		transport string
		want      string
	}{
		"h1 over TLS": {ssetest.OriginConfig{TLS: true}, "tls_trust_pool file CA", "HTTP/1.1"},
		"h2":          {ssetest.OriginConfig{TLS: true, HTTP2: true}, "tls_trust_pool file CA", "HTTP/2.0"},
		"h2c":         {ssetest.OriginConfig{HTTP2: true}, "versions h2c", "HTTP/2.0"},
		"h1 though h2 is there": {
			ssetest.OriginConfig{TLS: true, HTTP2: true},
			"tls_trust_pool file CA\nversions 1.1", "HTTP/1.1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			tc.origin.Rate = 500
			o := newOrigin(t, tc.origin)
			ca := filepath.Join(t.TempDir(), "ca.pem")
			must(t, os.WriteFile(ca, o.CAPEM(), 0o600))
			in := serve(t, "", directive("/e", quick+"\ntransport http {\n"+strings.ReplaceAll(tc.transport, "CA", ca)+"\n}", o.URL()))
			_, v := followNumbered(t, in, "/e")
			if got := request(t, o, 1); got.Proto != tc.want {
				t.Errorf("the request came by %s, want %s", got.Proto, tc.want)
			}
			must(t, v.WaitSeen(within(t, 5*time.Second), o.Source(), 5))
			for range 3 {
				reconnect(t, o)
				must(t, v.WaitSeen(within(t, 5*time.Second), o.Source(), o.Last()+5))
			}
			settle(t, v, o)
		})
	}
}

func TestUntrustedUpstreamIsNotAsked(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{TLS: true})
	log := newLogFile(t)
	serve(t, log.option(), directive("/e", quick+"\nupstream tls "+o.URL()))
	line := log.waitLine("tls", "the failure", func(l logLine) bool { return l.Reason == "certificate" })
	if !strings.Contains(line.Error, "certificate") {
		t.Errorf("the logged error is %q", line.Error)
	}
	if n := o.TotalConnections(); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// Neither credentials nor queries nor the data of events are written to the
// log or into errors, however much goes wrong.
func TestNothingSecretIsLogged(t *testing.T) {
	const secret = "s3kr3t"
	t.Setenv("SSE_FANIN_TOKEN", secret)
	file := filepath.Join(t.TempDir(), "token")
	must(t, os.WriteFile(file, []byte(secret), 0o600))
	o, other := newOrigin(t, ssetest.OriginConfig{}), newOrigin(t, ssetest.OriginConfig{})
	log := newLogFile(t)
	site := directive("/e", quick+`
		max_event_size 1KiB
		header_up X-Env   {env.SSE_FANIN_TOKEN}
		header_up X-File  {file.`+file+`}
		upstream u http://user:`+secret+`@`+o.Addr()+`/e?token=`+secret+`#`+secret)
	in := serve(t, log.option(), site)
	c := follow(t, in, "/e")
	seen := func(what string, match func(logLine) bool) {
		t.Helper()
		log.waitLine("u", what, match)
	}
	connected(t, o)
	if got := request(t, o, 1); !strings.Contains(got.Query, secret) || got.Header.Get("X-File") != secret {
		t.Fatalf("the secrets were not sent: %+v", got)
	}
	o.Emit(secret, secret)
	receives(t, c, secret)
	o.Emit("", strings.Repeat(secret, 1000))
	seen("a skipped event", func(l logLine) bool { return strings.Contains(l.Msg, "max_event_size") })
	o.Raw([]byte("id: \x01" + secret + "\ndata: x\n\n"))
	receives(t, c, secret, "x")
	reconnect(t, o)
	seen("an id that cannot be sent", func(l logLine) bool { return strings.Contains(l.Msg, "id cannot be sent") })
	for _, status := range []int{500, 503} {
		o.RespondWith(status, http.Header{"X-Detail": {secret}}, secret)
		o.CutConnections()
		seen("a status", func(l logLine) bool { return l.Status == status })
	}
	o.Inject(ssetest.Fault{Kind: ssetest.Wire, Body: []byte("HTTP/1.1 200 OK\r\nContent-Length: x" + strings.Repeat("z", 1000) + "\r\n\r\n")})
	seen("a broken response", func(l logLine) bool { return strings.Contains(l.Error, "Content-Length") })
	o.Redirect(302, "http://user:"+secret+"@"+other.Addr()+"/elsewhere?token="+secret+"#"+secret)
	other.RespondWith(401, nil, secret)
	seen("a refusal after a redirect", func(l logLine) bool { return strings.Contains(l.URL, other.Addr()) })

	err := in.tryReload(log.option(), directive("/e", "", "http://user:"+secret+"@host:99999/e?token="+secret))
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("the error of a bad URL is %v", err)
	}
	t.Setenv("SSE_FANIN_URL", "http://user:"+secret+"@host:99999/e?token="+secret)
	err = in.tryReload(log.option(), directive("/e", "", "{env.SSE_FANIN_URL}"))
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("the error of a bad URL from the environment is %v", err)
	}
	c.Close()
	in.reload(log.option(), "respond ok")
	for line := range strings.Lines(string(log.bytes())) {
		if strings.Contains(line, "http.auto_https") {
			continue // at DEBUG, Caddy writes the configuration itself
		}
		if strings.Contains(line, secret) {
			t.Errorf("logged: %s", line)
		}
	}
}
