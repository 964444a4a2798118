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
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
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
			for _, u := range provision(t, "", asUpstream(strings.Join(upstreams, ",")))[0].service.def.upstreams {
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

// With `merge`, each URL is a source of its own.
func TestNamesOfMergedURLs(t *testing.T) {
	setFeedEnv(t)
	for _, test := range []struct {
		name      string
		upstreams string
		want      []string // names
		upstream  []string // whose sources they are
	}{
		{
			"named", `{"name":"a","policy":"merge","urls":["https://x.example.com/e","http://y.example.com/e","https://z.example.com:8443"]}`,
			[]string{"a-x.example.com-443", "a-y.example.com-80", "a-z.example.com-8443"},
			[]string{"a", "a", "a"},
		},
		{
			"one URL", `{"name":"a","policy":"merge","urls":["https://x.example.com/e"]}`,
			[]string{"a-x.example.com-443"},
			[]string{"a"},
		},
		{
			"by default", `{"policy":"merge","urls":["https://x.example.com/e","https://y.example.com/f"]}`,
			[]string{"x.example.com-e-x.example.com-443", "x.example.com-e-y.example.com-443"},
			[]string{"x.example.com-e", "x.example.com-e"},
		},
		{
			"the same host", `{"name":"a","policy":"merge","urls":["https://x.example.com/e","https://x.example.com/f"]}`,
			[]string{"a-x.example.com-443", "a-x.example.com-443-2"},
			[]string{"a", "a"},
		},
		{
			"placeholder of the host", `{"name":"a","policy":"merge","urls":["https://{env.FEED_HOST}/e","https://x.example.com/{env.FEED_TOKEN}"]}`,
			[]string{"a-host.example.com-443", "a-x.example.com-443"},
			[]string{"a", "a"},
		},
		{
			"socket", `{"name":"a","policy":"merge","urls":["unix//run/x.sock|/e","https://x.example.com"]}`,
			[]string{"a-unix--run-x.sock", "a-x.example.com-443"},
			[]string{"a", "a"},
		},
		{
			"IPv6", `{"name":"a","policy":"merge","urls":["https://[2001:db8::1]/e","https://x.example.com"]}`,
			[]string{"a--2001-db8--1--443", "a-x.example.com-443"},
			[]string{"a", "a"},
		},
		{
			"a name that another has", `{"name":"a","policy":"merge","urls":["https://x.example.com/e"]},{"name":"a-x.example.com-443","urls":["https://y.example.com"]}`,
			[]string{"a-x.example.com-443-2", "a-x.example.com-443"},
			[]string{"a", ""},
		},
		{
			"two by default with the same first URL", `{"policy":"merge","urls":["https://x.example.com/e"]},{"policy":"merge","urls":["https://x.example.com/e?f"]},{"urls":["https://x.example.com/e?g"]}`,
			[]string{"x.example.com-e-x.example.com-443", "x.example.com-e-2-x.example.com-443", "x.example.com-e-3"},
			[]string{"x.example.com-e", "x.example.com-e-2", ""},
		},
		{
			"other policies", `{"name":"a","policy":"mirror","urls":["https://x.example.com/e","https://y.example.com/e"]}`,
			[]string{"a"},
			[]string{""},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var names, upstreams []string
			for _, u := range provision(t, "", asUpstream(test.upstreams))[0].service.def.upstreams {
				names, upstreams = append(names, u.name), append(upstreams, u.upstream)
			}
			if !slices.Equal(names, test.want) || !slices.Equal(upstreams, test.upstream) {
				t.Errorf("got %q of %q, want %q of %q", names, upstreams, test.want, test.upstream)
			}
		})
	}
}

// So is each discovered address.
func TestNamesOfDiscoveredAddresses(t *testing.T) {
	u := provision(t, "", asUpstream(`{"name":"a","urls":["https://x.example.com/e"],"dynamic":{"source":"a","name":"x"}}`))[0].service.def.upstreams[0]
	if !u.expands {
		t.Fatal("the addresses are no sources of their own")
	}
	keys := map[string]bool{u.key: true}
	for address, want := range map[string]string{
		"10.0.0.1:443":      "a-10.0.0.1-443",
		"[2001:db8::1]:443": "a--2001-db8--1--443",
		"b.example.com:80":  "a-b.example.com-80",
	} {
		m := u.member(address)
		if m.name != want || m.upstream != "a" {
			t.Errorf("%s: got %s of %s, want %s", address, m.name, m.upstream, want)
		}
		if places := m.spec.places(); len(places) != 1 || places[0].address != address {
			t.Errorf("%s: it is dialled at %v", address, places)
		}
		if keys[m.key] {
			t.Errorf("%s: it is the source of another", address)
		}
		keys[m.key] = true
		if again := u.member(address); again.key != m.key || again.env != m.env {
			t.Errorf("%s: it is another source when it is made again", address)
		}
	}
}

// A given name is never taken away by a default one that comes first.
func TestGivenNamesComeBeforeDefaultOnes(t *testing.T) {
	def := provision(t, "", asUpstream(`{"urls":["https://a.example.com/e"]},{"name":"a.example.com-e","urls":["https://b.example.com"]}`))[0].service.def
	if got := []string{def.upstreams[0].name, def.upstreams[1].name}; !slices.Equal(got, []string{"a.example.com-e-2", "a.example.com-e"}) {
		t.Errorf("got %q", got)
	}
}

// The handler's settings come before those of the global stream, and those
// before the defaults.
func TestClientSettingsAreLayered(t *testing.T) {
	const app = `{"streams":{"prices":{"upstreams":[{"name":"a","urls":["https://a.example.com/events"]},{"name":"c","urls":["https://c.example.com/events"]}],
		"start":"oldest","only":{"source":["a"],"type":["b*"]},"filters":"on","prime":"on","heartbeat":"1s","retry":{"min":"3s"},"slow":"disconnect","write_timeout":"1s",
		"max_clients":5,"when_full":"retry","max_age":"1h","coalesce":"10ms","drain":"1s","on_reload":"drain","detach":"on"}}}`
	own := clientSettings{
		start: startOldest, only: (&Only{Source: []string{"a"}, Type: []string{"b*"}}).resolve(), filters: true, prime: primeOn, heartbeat: time.Second, retryMin: 3 * time.Second, retryMax: 3 * time.Second,
		slow: slowDisconnect, writeTimeout: time.Second, maxClients: 5, whenFull: fullRetry,
		maxAge: time.Hour, coalesce: 10 * time.Millisecond, drain: time.Second, onReload: reloadDrain, detach: true,
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
		{"only sources", `,"only":{"source":["c"]}`, with(func(s *clientSettings) { s.only.sources = templates([]string{"c"}) })},
		{"only types", `,"only":{"type":["c"]}`, with(func(s *clientSettings) { s.only.types = templates([]string{"c"}) })},
		{"heartbeat off", `,"heartbeat":0`, with(func(s *clientSettings) { s.heartbeat = 0 })},
		{"retry as a whole", `,"retry":{"max":"1s"}`, with(func(s *clientSettings) { s.retryMin, s.retryMax = time.Second, time.Second })},
		{"retry of one value", `,"retry":{"min":"500ms"}`, with(func(s *clientSettings) { s.retryMin, s.retryMax = 500*time.Millisecond, 500*time.Millisecond })},
		{"prime", `,"prime":"auto"`, with(func(s *clientSettings) { s.prime = primeAuto })},
		{"filters", `,"filters":"off"`, with(func(s *clientSettings) { s.filters = false })},
		{"slow", `,"slow":"skip"`, with(func(s *clientSettings) { s.slow = slowSkip })},
		{"write_timeout", `,"write_timeout":"2s"`, with(func(s *clientSettings) { s.writeTimeout = 2 * time.Second })},
		{"max_clients as a whole", `,"max_clients":7`, with(func(s *clientSettings) { s.maxClients, s.whenFull = 7, fullReject })},
		{"max_clients off", `,"max_clients":0`, with(func(s *clientSettings) { s.maxClients, s.whenFull = 0, fullReject })},
		{"max_age off", `,"max_age":0`, with(func(s *clientSettings) { s.maxAge = 0 })},
		{"coalesce off", `,"coalesce":0`, with(func(s *clientSettings) { s.coalesce = 0 })},
		{"drain at once", `,"drain":0`, with(func(s *clientSettings) { s.drain = 0 })},
		{"on_reload", `,"on_reload":"keep"`, with(func(s *clientSettings) { s.onReload = reloadKeep })},
		{"detach", `,"detach":"off"`, with(func(s *clientSettings) { s.detach = false })},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := provision(t, app, `{"stream":"prices"`+test.more+`}`)[0]
			if !reflect.DeepEqual(*h.service.settings, test.want) {
				t.Errorf("got %+v, want %+v", *h.service.settings, test.want)
			}
		})
	}
}

// The settings of a handler that defines a stream are its own: another one
// that names the stream has the defaults.
func TestClientSettingsOfADefiningHandlerAreItsOwn(t *testing.T) {
	handlers := provision(t, "", withUpstream(`"stream":"prices","heartbeat":"1s"`), `{"stream":"prices"}`)
	if got := handlers[0].service.settings.heartbeat; got != time.Second {
		t.Errorf("its heartbeat is %s", got)
	}
	if got := handlers[1].service.settings.heartbeat; got != defaultHeartbeat {
		t.Errorf("the other's heartbeat is %s", got)
	}
}

// A longer minimum moves the default maximum.
func TestRetryMinimumAboveTheDefaultMaximum(t *testing.T) {
	s := provision(t, "", withUpstream(`"retry":{"min":"1m"}`))[0].service.settings
	if s.retryMin != time.Minute || s.retryMax != time.Minute {
		t.Errorf("got %s to %s", s.retryMin, s.retryMax)
	}
}

// A longer base moves the default maximum.
func TestBackoffBaseAboveTheDefaultMaximum(t *testing.T) {
	spec := provision(t, "", withUpstream(`"backoff":{"base":"5m"}`))[0].service.def.upstreams[0].spec
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
		"resume":"off","backoff":{"base":"3s","max":"9s"},"idle_timeout":"1m","max_event_size":1000}`)[0].service.def
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

func TestPlaceholdersOfTheRequest(t *testing.T) {
	for text, want := range map[string][]string{
		"": nil,
		"https://a.example.com/{env.A}/{file./b}/{upstream}":     nil,
		"{http.reverse_proxy.upstream.hostport}":                 nil,
		"{http.request.uri.path.1}":                              {"http.request.uri.path.1"},
		"{http.b}{http.a}{http.b}":                               {"http.a", "http.b"},
		"{env.{http.a}}":                                         {"http.a"},
		"{http.a":                                                nil,
		"{http.reverse_proxy.upstream.port}/{http.vars.tenant}":  {"http.vars.tenant"},
		"{http.request.uri.query.a b}&{http.request.header.X-Y}": {"http.request.header.X-Y", "http.request.uri.query.a b"},
	} {
		if got := placeholdersIn(text); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func TestPlaceholdersOfTheRequestInHeaders(t *testing.T) {
	for _, test := range []struct{ name, ops, want string }{
		{"none", `{"set":{"A":["{env.B}","{http.reverse_proxy.upstream.host}"]}}`, ""},
		{"set", `{"set":{"A":["b","Bearer {http.a}"]}}`, "http.a"},
		{"add", `{"add":{"A":["{http.a}"]}}`, "http.a"},
		{"delete", `{"delete":["A","X-{http.a}"]}`, "http.a"},
		{"name", `{"set":{"X-{http.a}":["b"]}}`, "http.a"},
		{"search", `{"replace":{"A":[{"search":"{http.a}","replace":"b"}]}}`, "http.a"},
		{"regular expression", `{"replace":{"A":[{"search_regexp":"{http.a}","replace":"b"}]}}`, "http.a"},
		{"replacement", `{"replace":{"A":[{"search":"b","replace":"{http.a}"}]}}`, "http.a"},
		{"name of a replacement", `{"replace":{"{http.a}":[{"search":"b","replace":"c"}]}}`, "http.a"},
		{"characters that JSON escapes", `{"set":{"A":["{http.<a>&\"b\\"]},"delete":["{http.<a>&\"b\\}"]}`, `http.<a>&"b\`},
	} {
		t.Run(test.name, func(t *testing.T) {
			ops := new(headers.HeaderOps)
			if err := json.Unmarshal([]byte(test.ops), ops); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(headerPlaceholders(nil, ops), " "); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// The default of max_event_size shrinks to what is retained.
func TestMaxEventSizeByDefault(t *testing.T) {
	const plain, keyed = `{"urls":["https://a.example.com/"]}`, `{"urls":["https://a.example.com/{http.request.uri.query.user}"]}`
	for _, test := range []struct {
		name, upstream, more string
		want                 int64
	}{
		{"plain", plain, ``, 1 << 20},
		{"plain, small", plain, `,"retain":{"size":1000}`, 1000},
		{"plain, as large", plain, `,"retain":{"size":1048576}`, 1 << 20},
		{"plain, small, and given", plain, `,"retain":{"size":1000},"max_event_size":500`, 500},
		{"keyed", keyed, ``, 256 << 10},
		{"keyed, small", keyed, `,"retain":{"size":1000}`, 1000},
		{"keyed, large", keyed, `,"retain":{"size":67108864}`, 256 << 10},
		{"keyed, and given", keyed, `,"max_event_size":1048576`, 1 << 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			def := provision(t, "", `{"upstreams":[`+test.upstream+`]`+test.more+`}`)[0].service.def
			if got := def.upstreams[0].spec.MaxEventSize; got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
		})
	}
}
