package ssefanin

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// provision provisions handlers of one configuration, and the app if it is
// given, without starting anything.
func provision(t *testing.T, app string, configs ...string) []*Handler {
	t.Helper()
	parent, err := caddy.ProvisionContext(&caddy.Config{Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(parent)
	t.Cleanup(cancel)
	if app != "" {
		if _, err := ctx.LoadModuleByID("sse_fanin", json.RawMessage(app)); err != nil {
			t.Fatal(err)
		}
	}
	var handlers []*Handler
	for _, config := range configs {
		config = strings.Replace(config, `"handler":"sse_fanin",`, "", 1) // as Caddy does
		val, err := ctx.LoadModuleByID("http.handlers.sse_fanin", json.RawMessage(config))
		if err != nil {
			t.Fatal(err)
		}
		handlers = append(handlers, val.(*Handler))
	}
	return handlers
}

// sourceKeys are the keys of a definition's sources.
func sourceKeys(def *definition) []string {
	var keys []string
	for _, u := range def.upstreams {
		keys = append(keys, u.key)
	}
	return keys
}

func TestIdentity(t *testing.T) {
	for _, test := range []struct {
		name        string
		more        string
		sameStream  bool
		sameSources bool
	}{
		{"nothing", ``, true, true},
		// how clients are served is no part of it
		{"start", `"start":"oldest"`, true, true},
		{"heartbeat", `"heartbeat":"1s"`, true, true},
		{"retry", `"retry":{"min":"1s"}`, true, true},
		{"slow", `"slow":"disconnect"`, true, true},
		{"write_timeout", `"write_timeout":"1s"`, true, true},
		{"max_clients", `"max_clients":5,"when_full":"retry"`, true, true},
		{"max_age", `"max_age":"1h"`, true, true},
		{"drain", `"drain":"1s"`, true, true},
		{"on_reload", `"on_reload":"drain"`, true, true},
		// a default that is given is still the default
		{"resume on", `"resume":"on"`, true, true},
		{"backoff by default", `"backoff":{"base":"1s","max":"1m"}`, true, true},
		{"idle_timeout off", `"idle_timeout":0`, true, true},
		{"max_event_size by default", `"max_event_size":1048576`, true, true},
		{"transport http", `"transport":{"protocol":"http"}`, true, true},
		{"transport null", `"transport":null`, true, true},
		{"header_up empty", `"header_up":{"set":{},"delete":[]}`, true, true},
		{"retain empty", `"retain":{}`, true, true},
		{"retain by default", `"retain":{"events":10000,"size":67108864,"age":0}`, true, true},
		{"ids stream", `"ids":"stream"`, true, true},
		// what the stream keeps makes another stream of the same sources
		{"retain events", `"retain":{"events":5}`, false, true},
		{"retain size", `"retain":{"size":33554432}`, false, true},
		{"retain age", `"retain":{"age":"1h"}`, false, true},
		{"ids none", `"ids":"none"`, false, true},
		// what makes a connection makes another source, and another stream
		{"resume off", `"resume":"off"`, false, false},
		{"resume with an id", `"resume":"4711"`, false, false},
		{"backoff base", `"backoff":{"base":"2s"}`, false, false},
		{"backoff max", `"backoff":{"max":"2m"}`, false, false},
		{"idle_timeout", `"idle_timeout":"1m"`, false, false},
		{"max_event_size", `"max_event_size":1000`, false, false},
		{"header_up", `"header_up":{"set":{"A":["b"]}}`, false, false},
		{"transport", `"transport":{"protocol":"http","dial_timeout":"1s"}`, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			handlers := provision(t, "", withUpstream(""), withUpstream(test.more))
			base, changed := handlers[0].def, handlers[1].def
			if same := base.key == changed.key; same != test.sameStream {
				t.Errorf("the same stream: %v", same)
			}
			if same := slices.Equal(sourceKeys(base), sourceKeys(changed)); same != test.sameSources {
				t.Errorf("the same source: %v", same)
			}
		})
	}
}

// Configurations of an upstream that mean the same are one source.
func TestSourceIdentity(t *testing.T) {
	setFeedEnv(t)
	urls := func(text string) string { return fmt.Sprintf(`{"urls":[%q]}`, text) }
	with := func(more string) string { return `{"urls":["https://a.example.com/events"],` + more + `}` }
	for _, test := range []struct {
		name string
		a, b string
		same bool
	}{
		{"case of scheme and host", urls("https://a.example.com/Events"), urls("HTTPS://A.Example.COM/Events"), true},
		{"case of the path", urls("https://a.example.com/events"), urls("https://a.example.com/Events"), false},
		{"default port", urls("https://a.example.com/events"), urls("https://a.example.com:443/events"), true},
		{"default port of http", urls("http://a.example.com/events"), urls("http://a.example.com:80/events"), true},
		{"another port", urls("https://a.example.com/events"), urls("https://a.example.com:80/events"), false},
		{"another scheme", urls("https://a.example.com:443/events"), urls("http://a.example.com:443/events"), false},
		{"no path", urls("https://a.example.com"), urls("https://a.example.com/"), true},
		{"fragment", urls("https://a.example.com/events"), urls("https://a.example.com/events#top"), true},
		{"query", urls("https://a.example.com/events"), urls("https://a.example.com/events?a=b"), false},
		{"user", urls("https://a.example.com/events"), urls("https://me@a.example.com/events"), false},
		{"password", urls("https://me:a@a.example.com/events"), urls("https://me:b@a.example.com/events"), false},
		{"IPv6 and default port", urls("http://[2001:DB8::1]/"), urls("http://[2001:db8::1]:80"), true},
		{"socket without a path", urls("unix//run/a.sock"), urls("unix//run/a.sock|/"), true},
		{"socket with another path", urls("unix//run/a.sock"), urls("unix//run/a.sock|/events"), false},
		{"another socket", urls("unix//run/a.sock"), urls("unix//run/b.sock"), false},
		{"placeholder and its value", urls("https://{env.FEED_HOST}/"), urls("https://host.example.com/"), false},
		{"the name", `{"name":"a","urls":["https://a.example.com"]}`, `{"name":"b","urls":["https://a.example.com"]}`, true},

		{"case of a header field", with(`"header_up":{"set":{"x-key":["1"]}}`), with(`"header_up":{"set":{"X-Key":["1"]}}`), true},
		{"case of an added field", with(`"header_up":{"add":{"x-key":["1"]}}`), with(`"header_up":{"add":{"X-Key":["1"]}}`), true},
		{"case of a replaced field", with(`"header_up":{"replace":{"accept":[{"search":"a","replace":"b"}]}}`), with(`"header_up":{"replace":{"Accept":[{"search":"a","replace":"b"}]}}`), true},
		{"order of deleted fields", with(`"header_up":{"delete":["a","b"]}`), with(`"header_up":{"delete":["B","A"]}`), true},
		{"value of a header field", with(`"header_up":{"set":{"X-Key":["1"]}}`), with(`"header_up":{"set":{"X-Key":["2"]}}`), false},
		{"case of a value", with(`"header_up":{"set":{"X-Key":["a"]}}`), with(`"header_up":{"set":{"X-Key":["A"]}}`), false},
		{"set and add", with(`"header_up":{"set":{"X-Key":["1"]}}`), with(`"header_up":{"add":{"X-Key":["1"]}}`), false},

		{"way of writing a duration", with(`"transport":{"protocol":"http","dial_timeout":"1s"}`), with(`"transport":{"dial_timeout":1000000000,"protocol":"http"}`), true},
		{"TLS as the URL has it", with(`"transport":{"protocol":"http","tls":{"server_name":"a"}}`), with(`"transport":{"protocol":"http","tls":{"server_name":"b"}}`), false},
		{"half a backoff", with(`"backoff":{"base":"5s"}`), with(`"backoff":{"base":"5s","max":"1m"}`), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			handlers := provision(t, "", asUpstream(test.a), asUpstream(test.b))
			a, b := sourceKeys(handlers[0].def), sourceKeys(handlers[1].def)
			if same := slices.Equal(a, b); same != test.same {
				t.Errorf("the same source: %v", same)
			}
		})
	}
}

func TestSourceIdentityOutlivesChangesOfTheEnvironment(t *testing.T) {
	config := asUpstream(`{"urls":["https://{env.FEED_HOST}/events"],"header_up":{"set":{"Authorization":["{env.FEED_TOKEN}"]}}}`)
	t.Setenv("FEED_HOST", "a.example.com")
	t.Setenv("FEED_TOKEN", "a")
	before := provision(t, "", config)[0]
	t.Setenv("FEED_HOST", "b.example.com")
	t.Setenv("FEED_TOKEN", "b")
	after := provision(t, "", config)[0]
	if !slices.Equal(sourceKeys(before.def), sourceKeys(after.def)) {
		t.Error("it is another source")
	}
}

// An option of the stream means the same as one of each upstream.
func TestSourceIdentityDoesNotDependOnWhereOptionsStand(t *testing.T) {
	const options = `"header_up":{"set":{"A":["b"]}},"transport":{"protocol":"http","dial_timeout":"1s"},"resume":"off","backoff":{"base":"2s"},"idle_timeout":"1m","max_event_size":1000`
	handlers := provision(t, "", withUpstream(options), asUpstream(`{"urls":["https://a.example.com/events"],`+options+`}`))
	if handlers[0].def.key != handlers[1].def.key {
		t.Error("they are two streams")
	}
}

func TestStreamIdentity(t *testing.T) {
	setFeedEnv(t)
	const a, b = `{"urls":["https://a.example.com/events"]}`, `{"urls":["https://b.example.com/events"]}`
	for _, test := range []struct {
		name string
		a, b string
		same bool
	}{
		{"order of upstreams", asUpstream(a + "," + b), asUpstream(b + "," + a), true},
		{"fewer upstreams", asUpstream(a + "," + b), asUpstream(a), false},
		{"default name", asUpstream(a), asUpstream(`{"name":"a.example.com-events","urls":["https://a.example.com/events"]}`), true},
		{"another name", asUpstream(a), asUpstream(`{"name":"a","urls":["https://a.example.com/events"]}`), false},
		{"another way to write the URL", asUpstream(`{"urls":["https://a.example.com"]}`), asUpstream(`{"urls":["HTTPS://A.example.com:443/"]}`), true},
		{"a name for one of them", withUpstream(""), withUpstream(`"stream":"prices"`), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			handlers := provision(t, "", test.a, test.b)
			if same := handlers[0].def.key == handlers[1].def.key; same != test.same {
				t.Errorf("the same stream: %v", same)
			}
		})
	}
}

func TestNamedStreamIsItsName(t *testing.T) {
	before := provision(t, "", withUpstream(`"stream":"prices"`))[0]
	after := provision(t, "", `{"handler":"sse_fanin","stream":"prices","ids":"none","upstreams":[{"urls":["https://other.example.com"]}]}`)[0]
	if before.def.key != after.def.key || before.def.hub != after.def.hub {
		t.Error("another configuration made it another stream")
	}
	if before.def.label != "prices" {
		t.Errorf("it is labelled %q", before.def.label)
	}
}

func TestUnnamedStreamIsLabelledByItsIdentity(t *testing.T) {
	def := provision(t, "", withUpstream(""))[0].def
	if len(def.label) != 8 || !strings.HasPrefix(def.digest, def.label) {
		t.Errorf("label %q of %s", def.label, def.digest)
	}
}

func TestDefaultUpstreamNames(t *testing.T) {
	setFeedEnv(t)
	for _, test := range []struct {
		name string
		urls []string
		want []string
	}{
		{"host and path", []string{"https://a.example.com/v1/events"}, []string{"a.example.com-v1-events"}},
		{"host only", []string{"https://a.example.com"}, []string{"a.example.com"}},
		{"root", []string{"https://a.example.com/"}, []string{"a.example.com"}},
		{"port", []string{"https://a.example.com:8443/events"}, []string{"a.example.com-8443-events"}},
		{"default port", []string{"https://a.example.com:443/events"}, []string{"a.example.com-events"}},
		{"upper case", []string{"https://A.Example.com/Events"}, []string{"a.example.com-Events"}},
		{"no user, no query, no fragment", []string{"https://me:s3cret@a.example.com/events?token=s3cret#top"}, []string{"a.example.com-events"}},
		{"other characters", []string{"https://a.example.com/ä/b~c/%20"}, []string{"a.example.com--C3-A4-b-c--20"}},
		{"IPv6", []string{"http://[2001:db8::1]:8080/events"}, []string{"-2001-db8--1--8080-events"}},
		{"equal ones are numbered", []string{"https://a.example.com/e", "https://a.example.com/e?b", "https://a.example.com/e?c"}, []string{"a.example.com-e", "a.example.com-e-2", "a.example.com-e-3"}},
		{"numbers that are taken", []string{"https://a.example.com/e-2", "https://a.example.com/e", "https://a.example.com/e?b"}, []string{"a.example.com-e-2", "a.example.com-e", "a.example.com-e-3"}},
		{"socket", []string{"unix//run/feed.sock"}, []string{"run-feed.sock"}},
		{"socket and path", []string{"unix//run/feed.sock|/events?token=s3cret"}, []string{"run-feed.sock-events"}},
		{"placeholder of the host", []string{"https://{env.FEED_HOST}/events?token={env.FEED_TOKEN}"}, []string{"host.example.com-events"}},
		{"placeholder of the path", []string{"https://a.example.com/{env.FEED_TOKEN}/events"}, []string{"a.example.com--env.FEED_TOKEN--events"}},
		{"placeholder of the password", []string{"https://me:{env.FEED_TOKEN}@a.example.com/events"}, []string{"a.example.com-events"}},
		{"placeholder of the query of the root", []string{"https://a.example.com?next=/{env.FEED_TOKEN}"}, []string{"a.example.com"}},
		{"placeholder of all", []string{"{env.FEED_URL}"}, []string{"url.example.com-events"}},
		{"long", []string{"https://a.example.com/" + strings.Repeat("x", 500)}, []string{"a.example.com-" + strings.Repeat("x", 106)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var upstreams []string
			for _, u := range test.urls {
				upstreams = append(upstreams, fmt.Sprintf(`{"urls":[%q]}`, u))
			}
			var got []string
			for _, u := range provision(t, "", asUpstream(strings.Join(upstreams, ",")))[0].def.upstreams {
				got = append(got, u.name)
				if err := checkName("upstream", u.name); err != nil {
					t.Error(err)
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// A given name is never taken away by a default one that comes first.
func TestGivenNamesComeBeforeDefaultOnes(t *testing.T) {
	def := provision(t, "", asUpstream(`{"urls":["https://a.example.com/e"]},{"name":"a.example.com-e","urls":["https://b.example.com"]}`))[0].def
	if got := []string{def.upstreams[0].name, def.upstreams[1].name}; !slices.Equal(got, []string{"a.example.com-e-2", "a.example.com-e"}) {
		t.Errorf("got %q", got)
	}
}

// The handler's settings come before those of the global stream, and those
// before the defaults.
func TestClientSettingsAreLayered(t *testing.T) {
	const app = `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com/events"]}],
		"start":"oldest","heartbeat":"1s","retry":{"min":"3s"},"slow":"disconnect","write_timeout":"1s",
		"max_clients":5,"when_full":"retry","max_age":"1h","drain":"1s","on_reload":"drain"}}}`
	own := clientSettings{
		start: startOldest, heartbeat: time.Second, retryMin: 3 * time.Second, retryMax: 5 * time.Second,
		slow: slowDisconnect, writeTimeout: time.Second, maxClients: 5, whenFull: fullRetry,
		maxAge: time.Hour, drain: time.Second, onReload: reloadDrain,
	}
	with := func(change func(*clientSettings)) clientSettings {
		s := own
		change(&s)
		return s
	}
	for _, test := range []struct {
		name, more string
		want       clientSettings
	}{
		{"nothing", ``, own},
		{"start", `,"start":7`, with(func(s *clientSettings) { s.start = "7" })},
		{"heartbeat off", `,"heartbeat":0`, with(func(s *clientSettings) { s.heartbeat = 0 })},
		{"retry as a whole", `,"retry":{"max":"1s"}`, with(func(s *clientSettings) { s.retryMin, s.retryMax = time.Second, time.Second })},
		{"slow", `,"slow":"skip"`, with(func(s *clientSettings) { s.slow = slowSkip })},
		{"write_timeout", `,"write_timeout":"2s"`, with(func(s *clientSettings) { s.writeTimeout = 2 * time.Second })},
		{"max_clients as a whole", `,"max_clients":7`, with(func(s *clientSettings) { s.maxClients, s.whenFull = 7, fullReject })},
		{"max_clients off", `,"max_clients":0`, with(func(s *clientSettings) { s.maxClients, s.whenFull = 0, fullReject })},
		{"max_age off", `,"max_age":0`, with(func(s *clientSettings) { s.maxAge = 0 })},
		{"drain at once", `,"drain":0`, with(func(s *clientSettings) { s.drain = 0 })},
		{"on_reload", `,"on_reload":"keep"`, with(func(s *clientSettings) { s.onReload = reloadKeep })},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := provision(t, app, `{"stream":"prices"`+test.more+`}`)[0]
			if !reflect.DeepEqual(*h.settings, test.want) {
				t.Errorf("got %+v, want %+v", *h.settings, test.want)
			}
		})
	}
}

// The settings of a handler that defines a stream are its own: another one
// that names the stream has the defaults.
func TestClientSettingsOfADefiningHandlerAreItsOwn(t *testing.T) {
	handlers := provision(t, "", withUpstream(`"stream":"prices","heartbeat":"1s"`), `{"stream":"prices"}`)
	if got := handlers[0].settings.heartbeat; got != time.Second {
		t.Errorf("its heartbeat is %s", got)
	}
	if got := handlers[1].settings.heartbeat; got != defaultHeartbeat {
		t.Errorf("the other's heartbeat is %s", got)
	}
}

// A longer minimum moves the default maximum.
func TestRetryMinimumAboveTheDefaultMaximum(t *testing.T) {
	s := provision(t, "", withUpstream(`"retry":{"min":"1m"}`))[0].settings
	if s.retryMin != time.Minute || s.retryMax != time.Minute {
		t.Errorf("got %s to %s", s.retryMin, s.retryMax)
	}
}

// A longer base moves the default maximum.
func TestBackoffBaseAboveTheDefaultMaximum(t *testing.T) {
	spec := provision(t, "", withUpstream(`"backoff":{"base":"5m"}`))[0].def.upstreams[0].spec
	if spec.BackoffBase != 5*time.Minute || spec.BackoffMax != 5*time.Minute {
		t.Errorf("got %s to %s", spec.BackoffBase, spec.BackoffMax)
	}
}

// An upstream's options come before the stream's, and those before the
// defaults; of header_up, both apply.
func TestUpstreamOptionsAreLayered(t *testing.T) {
	def := provision(t, "", `{"upstreams":[
		{"name":"plain","urls":["https://a.example.com"]},
		{"name":"own","urls":["https://b.example.com"],"header_up":{"set":{"B":["b"]}},"transport":{"protocol":"http","dial_timeout":"2s"},
			"resume":"on","backoff":{"base":"4s"},"idle_timeout":0,"max_event_size":2000}],
		"header_up":{"set":{"A":["a"]}},"transport":{"protocol":"http","dial_timeout":"1s"},
		"resume":"off","backoff":{"base":"3s","max":"9s"},"idle_timeout":"1m","max_event_size":1000}`)[0].def
	plain, own := def.upstreams[0], def.upstreams[1]
	if s := plain.spec; s.Resume != resumeOff || s.BackoffBase != 3*time.Second || s.BackoffMax != 9*time.Second ||
		s.IdleTimeout != time.Minute || s.MaxEventSize != 1000 || len(s.headerOps) != 1 {
		t.Errorf("plain: got %+v", s)
	}
	if s := own.spec; s.Resume != resumeOn || s.BackoffBase != 4*time.Second || s.BackoffMax != time.Minute ||
		s.IdleTimeout != 0 || s.MaxEventSize != 2000 || len(s.headerOps) != 2 || s.headerOps[0].Set.Get("A") != "a" {
		t.Errorf("own: got %+v", s)
	}
	if got := time.Duration(plain.env.transport.DialTimeout); got != time.Second {
		t.Errorf("plain: dial_timeout %s", got)
	}
	if got := time.Duration(own.env.transport.DialTimeout); got != 2*time.Second {
		t.Errorf("own: dial_timeout %s", got)
	}
}
