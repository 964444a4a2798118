package ssefanin

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

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
		{"coalesce", `"coalesce":"10ms"`, true, true},
		{"drain", `"drain":"1s"`, true, true},
		{"on_reload", `"on_reload":"drain"`, true, true},
		{"detach", `"detach":"on"`, true, true},
		{"filters", `"filters":"on"`, true, true},
		{"prime", `"prime":"on"`, true, true},
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
		{"source_events off", `"source_events":"off"`, true, true},
		{"connect eager", `"connect":"eager"`, true, true},
		{"connect empty", `"connect":{}`, true, true},
		{"events of all types", `"events":[]`, true, true},
		// what the stream keeps makes another stream of the same sources
		{"retain events", `"retain":{"events":5}`, false, true},
		{"retain size", `"retain":{"size":33554432}`, false, true},
		{"retain age", `"retain":{"age":"1h"}`, false, true},
		{"ids none", `"ids":"none"`, false, true},
		{"ids upstream", `"ids":"upstream"`, false, true},
		{"envelope", `"envelope":"json"`, false, true},
		{"source_events", `"source_events":"on"`, false, true},
		{"connect", `"connect":"on_demand"`, false, true},
		{"events", `"events":["tick"]`, false, true},
		{"prefix", `"prefix":"a."`, false, true},
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
			base, changed := handlers[0].service.def, handlers[1].service.def
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
	two := func(more string) string {
		return `{"urls":["https://a.example.com/events","https://b.example.com/events"]` + more + `}`
	}
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
		{"events and prefix", with(`"events":["tick"],"prefix":"a."`), with(`"events":["tock"]`), true},
		{"failover with one URL", with(`"policy":"failover"`), with(`"policy":null`), true},
		{"failover with several URLs", two(``), two(`,"policy":"failover"`), true},
		{"mirror", two(``), two(`,"policy":"mirror"`), false},
		{"balance", two(``), two(`,"policy":"balance"`), false},
		{"mirror and balance", two(`,"policy":"mirror"`), two(`,"policy":"balance"`), false},
		{"merge", two(``), two(`,"policy":"merge"`), false},
		{"one URL more", two(``), urls("https://a.example.com/events"), false},
		{"order of URLs", two(``), `{"urls":["https://b.example.com/events","https://a.example.com/events"]}`, false},
		{"another way to write the second URL", two(``), `{"urls":["https://a.example.com/events","HTTPS://B.example.com:443/events"]}`, true},
		{"merge and an upstream for each", two(`,"policy":"merge"`), urls("https://a.example.com/events") + "," + urls("https://b.example.com/events"), true},
		{"merge with one URL", with(`"policy":"merge"`), urls("https://a.example.com/events"), true},

		{"dynamic", with(`"dynamic":{"source":"a","name":"a"}`), urls("https://a.example.com/events"), false},
		{"dynamic null", with(`"dynamic":null`), urls("https://a.example.com/events"), true},
		{"dynamic of another name", with(`"dynamic":{"source":"a","name":"a"}`), with(`"dynamic":{"source":"a","name":"b"}`), false},
		{"way of writing dynamic", with(`"dynamic":{"source":"a","name":"a"}`), with(`"dynamic":{ "name": "a", "source": "a" }`), true},
		{"dynamic merge", with(`"dynamic":{"source":"a","name":"a"}`), with(`"policy":"merge","dynamic":{"source":"a","name":"a"}`), true},
		{"dynamic failover", with(`"dynamic":{"source":"a","name":"a"}`), with(`"policy":"failover","dynamic":{"source":"a","name":"a"}`), false},

		{"half a backoff", with(`"backoff":{"base":"5s"}`), with(`"backoff":{"base":"5s","max":"1m"}`), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			handlers := provision(t, "", asUpstream(test.a), asUpstream(test.b))
			a, b := sourceKeys(handlers[0].service.def), sourceKeys(handlers[1].service.def)
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
	if !slices.Equal(sourceKeys(before.service.def), sourceKeys(after.service.def)) {
		t.Error("it is another source")
	}
}

// An option of the stream means the same as one of each upstream.
func TestSourceIdentityDoesNotDependOnWhereOptionsStand(t *testing.T) {
	const options = `"header_up":{"set":{"A":["b"]}},"transport":{"protocol":"http","dial_timeout":"1s"},"resume":"off","backoff":{"base":"2s"},"idle_timeout":"1m","max_event_size":1000`
	handlers := provision(t, "", withUpstream(options), asUpstream(`{"urls":["https://a.example.com/events"],`+options+`}`))
	if handlers[0].service.def.key != handlers[1].service.def.key {
		t.Error("they are two streams")
	}
}

func TestStreamIdentity(t *testing.T) {
	setFeedEnv(t)
	const a, b = `{"urls":["https://a.example.com/events"]}`, `{"urls":["https://b.example.com/events"]}`
	keyed := func(more string) string {
		return `{"upstreams":[{"urls":["https://a.example.com/{http.request.uri.query.user}"]}]` + more + `}`
	}
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
		{"order of types", withUpstream(`"events":["a","b"]`), withUpstream(`"events":["b","a","b"]`), true},
		{"other types", withUpstream(`"events":["a","b"]`), withUpstream(`"events":["a"]`), false},
		{"a type and a prefix of that name", withUpstream(`"events":["a"]`), withUpstream(`"prefix":"a"`), false},
		{"where events and prefix stand", withUpstream(`"events":["a"],"prefix":"b."`), asUpstream(`{"urls":["https://a.example.com/events"],"events":["a"],"prefix":"b."}`), true},
		{"events of the stream that the upstream takes back", withUpstream(""), `{"upstreams":[{"urls":["https://a.example.com/events"],"events":[]}],"events":["a"]}`, true},
		{"switches as booleans", withUpstream(`"source_events":"on"`), withUpstream(`"source_events":true`), true},
		{"linger by default", withUpstream(`"connect":"on_demand"`), withUpstream(`"connect":{"mode":"on_demand","linger":"30s"}`), true},
		{"linger", withUpstream(`"connect":"on_demand"`), withUpstream(`"connect":{"mode":"on_demand","linger":"5s"}`), false},
		{"no linger", withUpstream(`"connect":"on_demand"`), withUpstream(`"connect":{"mode":"on_demand","linger":0}`), false},
		{"merge and an upstream for each", asUpstream(`{"urls":["https://a.example.com/events","https://b.example.com/events"],"policy":"merge"}`), asUpstream(a + "," + b), false},

		{"keyed and plain", keyed(``), asUpstream(`{"urls":["https://a.example.com/user"]}`), false},
		{"keyed by another placeholder", keyed(``), asUpstream(`{"urls":["https://a.example.com/{http.request.uri.query.who}"]}`), false},
		{"keyed by a header and plain", withUpstream(`"header_up":{"set":{"A":["{http.request.header.A}"]}}`), withUpstream(``), false},
		{"max_streams by default", keyed(``), keyed(`,"max_streams":1000`), true},
		{"max_streams", keyed(``), keyed(`,"max_streams":5`), false},
		{"keyed on demand", keyed(``), keyed(`,"connect":"on_demand"`), true},
		{"keyed, linger by default", keyed(``), keyed(`,"connect":{"mode":"on_demand","linger":"30s"}`), true},
		{"keyed, linger", keyed(``), keyed(`,"connect":{"mode":"on_demand","linger":"5s"}`), false},
		{"keyed, retain by default", keyed(``), keyed(`,"retain":{"events":1000,"size":1048576}`), true},
		{"keyed, retain", keyed(``), keyed(`,"retain":{"events":10000,"size":67108864}`), false},
		{"keyed, max_event_size by default", keyed(``), keyed(`,"max_event_size":262144`), true},
		{"keyed, max_event_size", keyed(``), keyed(`,"max_event_size":1048576`), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			handlers := provision(t, "", test.a, test.b)
			if same := handlers[0].service.def.key == handlers[1].service.def.key; same != test.same {
				t.Errorf("the same stream: %v", same)
			}
		})
	}
}

// A log is found by its kind, its directory and the name of the stream. Sources
// begin where the log ends, so another log has sources of its own.
func TestLogIdentity(t *testing.T) {
	t.Setenv("FEED_DIR", "/a")
	const base = `{"kind":"file","dir":"/a"}`
	for _, test := range []struct {
		name, app, stream, log string
		same                   bool
	}{
		{"nothing", "", "s", base, true},
		{"another way to write dir", "", "s", `{"kind":"file","dir":"/b/../a/"}`, true},
		{"dir from the environment", "", "s", `{"kind":"file","dir":"{env.FEED_DIR}"}`, true},
		{"dir by default", `{"log":{"file":{"dir":"/a"}}}`, "s", `{"kind":"file"}`, true},
		{"dir by default, null", `{"log":{"file":{"dir":"/a"}}}`, "s", `{"kind":"file","dir":null}`, true},
		{"dir over the default", `{"log":{"file":{"dir":"/b"}}}`, "s", base, true},
		{"sync", "", "s", `{"kind":"file","dir":"/a","sync":"always"}`, true},
		{"sync by default", `{"log":{"file":{"sync":"off"}}}`, "s", base, true},
		{"memory", "", "s", `{"kind":"file","dir":"/a","memory":65536}`, true},
		{"another dir", "", "s", `{"kind":"file","dir":"/b"}`, false},
		{"another dir by default", `{"log":{"file":{"dir":"/b"}}}`, "s", `{"kind":"file"}`, false},
		{"another stream", "", "t", base, false},
		{"no log", "", "s", `null`, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := provision(t, "", withUpstream(`"stream":"s","log":`+base))[0].service.def
			after := provision(t, test.app, withUpstream(`"stream":"`+test.stream+`","log":`+test.log))[0].service.def
			if same := before.log.same(after.log); same != test.same {
				t.Errorf("the same log: %v", same)
			}
			if same := slices.Equal(sourceKeys(before), sourceKeys(after)); same != test.same {
				t.Errorf("the same source: %v", same)
			}
		})
	}
}

func TestNamedStreamIsItsName(t *testing.T) {
	before := provision(t, "", withUpstream(`"stream":"prices"`))[0]
	after := provision(t, "", `{"handler":"sse_fanin","stream":"prices","ids":"none","upstreams":[{"urls":["https://other.example.com"]}]}`)[0]
	if before.service.def.key != after.service.def.key || before.service.def.hub != after.service.def.hub {
		t.Error("another configuration made it another stream")
	}
	if before.service.def.label != "prices" {
		t.Errorf("it is labelled %q", before.service.def.label)
	}
}

func TestUnnamedStreamIsLabelledByItsIdentity(t *testing.T) {
	def := provision(t, "", withUpstream(""))[0].service.def
	if len(def.label) != 8 || !strings.HasPrefix(def.digest, def.label) {
		t.Errorf("label %q of %s", def.label, def.digest)
	}
}

// instantiate returns what a keyed definition is for one key.
func instantiate(t *testing.T, def *definition, values map[string]string) *definition {
	t.Helper()
	own, err := def.instantiate(values)
	if err != nil {
		t.Fatal(err)
	}
	return own
}

const userKey = "http.request.uri.query.user"

func TestKeysAreSourcesOfTheirOwn(t *testing.T) {
	setFeedEnv(t)
	for _, test := range []struct{ name, config string }{
		{"in the path", asUpstream(`{"urls":["https://a.example.com/{http.request.uri.query.user}"]}`)},
		{"in the query", asUpstream(`{"urls":["https://a.example.com/?user={http.request.uri.query.user}"]}`)},
		{"in a header", withUpstream(`"header_up":{"set":{"A":["{http.request.uri.query.user}"]}}`)},
		{"in a header's name", withUpstream(`"header_up":{"set":{"A-{http.request.uri.query.user}":["b"]}}`)},
		{"in a replacement", withUpstream(`"header_up":{"replace":{"A":[{"search":"b","replace":"{http.request.uri.query.user}"}]}}`)},
		{"with a placeholder of the configuration", asUpstream(`{"urls":["{env.FEED_URL}/{http.request.uri.query.user}?{env.FEED_TOKEN}"]}`)},
		{"in a replica", asUpstream(`{"policy":"mirror","urls":["https://a.example.com/","https://b.example.com/{http.request.uri.query.user}"]}`)},
	} {
		t.Run(test.name, func(t *testing.T) {
			def := provision(t, "", test.config)[0].service.def
			if def.keyed == nil || !def.shape.onDemand || !slices.Equal(def.placeholders, []string{userKey}) {
				t.Fatalf("it is no keyed stream: %+v", def)
			}
			seen := make(map[string]string)
			for _, user := range []string{"a", "b", "A", "a ", "a+", "a%20", "a/", "a\xff", "a\xfe", "a\ufffd", "{env.FEED_TOKEN}", "{http.request.uri.query.user}", "s3cret"} {
				values := map[string]string{userKey: user}
				source := instantiate(t, def, values).upstreams[0]
				if before, ok := seen[source.key]; ok {
					t.Errorf("%q and %q are one source", before, user)
				}
				seen[source.key] = user
				if again := instantiate(t, def, values).upstreams[0]; again.key != source.key {
					t.Errorf("%q is another source the second time", user)
				}
			}
		})
	}
}

// ask has a keyed definition find the stream for a request.
func ask(def *definition, target string) (*hub, error) {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	return def.stream(caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), nil))
}

func TestRequestsThatResolveToTheSameValuesShareAStream(t *testing.T) {
	def := provision(t, "", asUpstream(`{"urls":["https://a.example.com/{http.request.uri.query.user}/{http.request.uri.path.0}"]}`))[0].service.def
	def.keyed.attach(def)
	t.Cleanup(func() { def.keyed.detach(def) })
	seen := make(map[*hub]string)
	for _, test := range []struct{ first, same string }{
		{"/a?user=1", "/a?x=y&user=1"},
		{"/a?user=2", "/a/b?user=2&other=1"},
		{"/b?user=1", "/%62?user=%31"},
		{"/a?user=%ff", "/a?user=%FF"},
		{"/a?user=%fe", "/a?user=%fe"},
		{"/a?user=%ef%bf%bd", "/a?user=\ufffd"},
		{"/a?user=1%2F", "/a?user=1/"},
		{"/a?user=1%252F", "/a?x&user=1%252F"},
		{"/1?user=a", "/1?user=a&"},
		{"/a?user=2&user=1", "/a?user=2,1"},
	} {
		first, err := ask(def, test.first)
		if err != nil {
			t.Fatalf("%s: %v", test.first, err)
		}
		if before, ok := seen[first]; ok {
			t.Errorf("%s and %s share a stream", before, test.first)
		}
		seen[first] = test.first
		if same, err := ask(def, test.same); err != nil || same != first {
			t.Errorf("%s and %s share no stream: %v", test.first, test.same, err)
		}
	}
	for _, target := range []string{"/a", "/?user=1", "/a?user=", "/a?user=.", "/a?user=..", "/a?user=%2e%2e", "/a?user=%00", "/a?user=1%0d%0aX:%201", "/..?user=1"} {
		if _, err := ask(def, target); !errors.As(err, new(*keyError)) {
			t.Errorf("%s: got %v", target, err)
		}
	}
}

// What one URL does not tell apart, another does: values are never joined.
func TestKeysAreNotAmbiguous(t *testing.T) {
	for _, test := range []struct{ a, b map[string]string }{
		{map[string]string{"a": "1", "b": "23"}, map[string]string{"a": "12", "b": "3"}},
		{map[string]string{"a": "b", "c": "d"}, map[string]string{"a": "b1:c1:d"}},
		{map[string]string{"a": "\xff"}, map[string]string{"a": "\xfe"}},
		{map[string]string{"a": "\xff"}, map[string]string{"a": "\ufffd"}},
		{map[string]string{"a": "b"}, map[string]string{"b": "a"}},
	} {
		if digestValues(test.a) == digestValues(test.b) {
			t.Errorf("%q and %q are one key", test.a, test.b)
		}
	}
}

// As for plain streams, what is configured makes the connection.
func TestKeyedSourceIdentityOutlivesChangesOfTheEnvironment(t *testing.T) {
	config := asUpstream(`{"urls":["https://{env.FEED_HOST}/{http.request.uri.query.user}"]}`)
	values := map[string]string{userKey: "a"}
	t.Setenv("FEED_HOST", "a.example.com")
	before := instantiate(t, provision(t, "", config)[0].service.def, values).upstreams[0]
	t.Setenv("FEED_HOST", "b.example.com")
	after := instantiate(t, provision(t, "", config)[0].service.def, values).upstreams[0]
	if before.key != after.key {
		t.Error("it is another source")
	}
	if got := after.env.endpoints[0].String(); got != "https://b.example.com/a" {
		t.Errorf("it is dialled at %s", got)
	}
}

func TestKeyedSourcesAreCanonical(t *testing.T) {
	handlers := provision(t, "", asUpstream(`{"urls":["https://a.example.com/{http.request.uri.query.user}"]}`), asUpstream(`{"urls":["HTTPS://A.example.com:443/{http.request.uri.query.user}"]}`))
	values := map[string]string{userKey: "a"}
	if a, b := instantiate(t, handlers[0].service.def, values).upstreams[0], instantiate(t, handlers[1].service.def, values).upstreams[0]; a.key != b.key {
		t.Error("they are two sources")
	}
}

// fixNode gives this node an identity, for `balance`.
func fixNode(t *testing.T, id string) {
	t.Helper()
	before := nodeID
	t.Cleanup(func() { nodeID = before })
	nodeID = func() string { return id }
}

// fourPlaces are four replicas.
func fourPlaces() []place {
	var places []place
	for i := range 4 {
		places = append(places, place{id: fmt.Sprintf("https://%d.example.com/", i), url: i})
	}
	return places
}

func TestBalanceSpreadsKeysEvenly(t *testing.T) {
	fixNode(t, "node")
	places := fourPlaces()
	first := make(map[string]int)
	for key := range 1000 {
		spec := &sourceSpec{Policy: policyBalance, Key: fmt.Sprint(key)}
		order := spec.order(slices.Clone(places))
		if len(order) != len(places) {
			t.Fatalf("key %d: got %v", key, order)
		}
		first[order[0].id]++

		// without one, only what was there goes elsewhere, each in the order
		// it had before
		for i := range places {
			fewer := spec.order(slices.Delete(slices.Clone(places), i, i+1))
			want := slices.DeleteFunc(slices.Clone(order), func(p place) bool { return p == places[i] })
			if !slices.Equal(fewer, want) {
				t.Fatalf("key %d without %s: got %v, want %v", key, places[i].id, fewer, want)
			}
		}
		// addresses come in any order
		slices.Reverse(places)
		if again := spec.order(slices.Clone(places)); !slices.Equal(again, order) {
			t.Fatalf("key %d: got %v, and %v", key, order, again)
		}
	}
	for _, p := range places {
		if n := first[p.id]; n < 210 || n > 290 {
			t.Errorf("%s is the first of %d keys of 1000", p.id, n)
		}
	}
}

func TestBalanceSpreadsNodesEvenly(t *testing.T) {
	first := make(map[string]int)
	for node := range 1000 {
		fixNode(t, fmt.Sprint("node ", node))
		first[(&sourceSpec{Policy: policyBalance}).order(fourPlaces())[0].id]++
	}
	for id, n := range first {
		if n < 210 || n > 290 {
			t.Errorf("%s is the first of %d nodes of 1000", id, n)
		}
	}
}

func TestOtherPoliciesKeepTheOrder(t *testing.T) {
	for _, policy := range []string{"", policyFailover, policyMirror, policyMerge} {
		if got := (&sourceSpec{Policy: policy, Key: "a"}).order(fourPlaces()); !slices.Equal(got, fourPlaces()) {
			t.Errorf("%s: got %v", policy, got)
		}
	}
}
