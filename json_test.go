package ssefanin

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

// handlerConfig is a configuration with one route, which ends in handler; app,
// if any, is that of the sse_fanin app.
func handlerConfig(app, handler string) string {
	apps := `"http":{"servers":{"srv0":{"listen":[":8080"],"routes":[{"handle":[` + handler + `]}]}}}`
	if app != "" {
		apps += `,"sse_fanin":` + app
	}
	return `{"apps":{` + apps + `}}`
}

// withUpstream is a handler with one upstream, and more.
func withUpstream(more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"handler":"sse_fanin","upstreams":[{"urls":["https://a.example.com/events"]}]` + more + `}`
}

// asUpstream is a handler whose upstream this is.
func asUpstream(upstream string) string {
	return `{"handler":"sse_fanin","upstreams":[` + upstream + `]}`
}

const (
	respond   = `{"handler":"static_response"}`
	reference = `{"handler":"sse_fanin","stream":"prices"}`
)

func TestJSONIsRefused(t *testing.T) {
	setFeedEnv(t)
	for _, test := range []struct{ name, app, handler, want string }{
		// the handler as a whole
		{"nothing", "", `{"handler":"sse_fanin"}`, "no upstreams: give at least one URL, or the name of a stream"},
		{"upstreams null", "", `{"handler":"sse_fanin","upstreams":null}`, "no upstreams: give at least one URL, or the name of a stream"},
		{"upstreams empty", "", `{"handler":"sse_fanin","upstreams":[]}`, "no upstreams: give at least one URL, or the name of a stream"},
		{"unknown key", "", withUpstream(`"hartbeat":"5s"`), `json: unknown field "hartbeat"`},
		{"unknown key of a later version", "", withUpstream(`"filters":"on"`), `json: unknown field "filters"`},
		{"unknown key of retain", "", withUpstream(`"retain":{"count":5}`), `json: unknown field "count"`},
		{"unknown key of an upstream", "", asUpstream(`{"urls":["https://a.example.com"],"policy":"mirror"}`), `json: unknown field "policy"`},
		{"unknown key of the transport", "", withUpstream(`"transport":{"protocol":"http","tsl":{}}`), `json: unknown field "tsl"`},
		{"undefined stream", "", reference, "stream 'prices' is not defined: define it with its upstreams in the global option sse_fanin, or in one handler with 'stream prices'"},
		{"undefined stream beside another", `{"streams":{"news":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, reference, "stream 'prices' is not defined: define it with its upstreams in the global option sse_fanin, or in one handler with 'stream prices'"},
		{"reference with retain", `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, `{"handler":"sse_fanin","stream":"prices","retain":{}}`, "retain: it belongs where the stream 'prices' is defined, together with its upstreams"},
		{"reference with a header", `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, `{"handler":"sse_fanin","stream":"prices","header_up":{}}`, "header_up: it belongs where the stream 'prices' is defined, together with its upstreams"},
		{"stream name", "", withUpstream(`"stream":"a b"`), "stream: the name 'a b' may only contain letters, digits and '_.-'"},
		{"stream in two handlers", "", withUpstream(`"stream":"a"`) + "," + withUpstream(`"stream":"a"`), "stream 'a' is defined twice: define it once and let the other handlers only name it"},
		{"stream in the app and a handler", `{"streams":{"a":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, withUpstream(`"stream":"a"`), "stream 'a' is defined twice: define it once and let the other handlers only name it"},
		// the app
		{"app null", "null", respond, "module value cannot be null"},
		{"stream null", `{"streams":{"a":null}}`, respond, "stream 'a': it has no upstreams"},
		{"stream empty", `{"streams":{"a":{}}}`, respond, "stream 'a': it has no upstreams"},
		{"stream without a name", `{"streams":{"":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, respond, "stream: the name is empty"},
		{"stream with a bad name", `{"streams":{"a/b":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, respond, "stream: the name 'a/b' may only contain letters, digits and '_.-'"},
		{"stream with a bad URL", `{"streams":{"a":{"upstreams":[{"urls":["a.example.com"]}]}}}`, respond, "stream 'a': upstream URL 'a.example.com': missing http:// or https://"},
		{"stream with a bad setting", `{"streams":{"a":{"upstreams":[{"urls":["https://a.example.com"]}],"slow":"maybe"}}}`, respond, "stream 'a': slow: unrecognized value 'maybe', expected skip or disconnect"},
		{"unknown key of the app", `{"stream":{}}`, respond, `json: unknown field "stream"`},
		{"unknown key of a stream", `{"streams":{"a":{"upstreams":[{"urls":["https://a.example.com"]}],"name":"a"}}}`, respond, `json: unknown field "name"`},
		// upstreams
		{"upstream null", "", asUpstream(`null`), "upstream 1 is null"},
		{"upstream empty", "", asUpstream(`{}`), "upstream 1: it has no URL"},
		{"upstream without URLs", "", asUpstream(`{"name":"a","urls":[]}`), "upstream 'a': it has no URL"},
		{"URL null", "", asUpstream(`{"urls":[null]}`), "upstream URL '': the URL is empty"},
		{"URL empty", "", asUpstream(`{"name":"a","urls":[""]}`), "upstream 'a': upstream URL '': the URL is empty"},
		{"URLs, several", "", asUpstream(`{"name":"a","urls":["https://a.example.com","https://b.example.com"]}`), "upstream 'a': it has 2 URLs, but an upstream has one; write an upstream for each"},
		{"URL without a scheme", "", asUpstream(`{"urls":["me:s3cret@a.example.com?token=s3cret"]}`), "upstream URL 'a.example.com': missing http:// or https://"},
		{"URL with a wrong scheme", "", asUpstream(`{"urls":["wss://me:s3cret@a.example.com/?token=s3cret"]}`), "upstream URL 'wss://a.example.com/': the scheme 'wss' is not supported, use http, https or unix//path/to.sock"},
		{"URL without a host", "", asUpstream(`{"urls":["https:///events"]}`), "upstream URL 'https:///events': the host is empty"},
		{"URL with a bad port", "", asUpstream(`{"urls":["https://a.example.com:70000/"]}`), "upstream URL 'https://a.example.com:70000/': '70000' is not a port from 1 to 65535"},
		{"URL with a space in front", "", asUpstream(`{"urls":[" https://a.example.com/"]}`), "upstream URL ' https://a.example.com/': first path segment in URL cannot contain colon"},
		{"URL with a request's placeholder", "", asUpstream(`{"urls":["https://a.example.com{http.request.uri}"]}`), "upstream URL 'https://a.example.com{http.request.uri}': the placeholder {http.request.uri} belongs to a client's request, but the connection to an upstream is shared by all clients"},
		{"URL with an empty placeholder", "", asUpstream(`{"urls":["https://{env.NOT_SET}/?token={env.FEED_TOKEN}"]}`), "upstream URL 'https://{env.NOT_SET}/': evaluated placeholder {env.NOT_SET} is empty"},
		{"name", "", asUpstream(`{"name":"a b","urls":["https://a.example.com"]}`), "upstream: the name 'a b' may only contain letters, digits and '_.-'"},
		{"name twice", "", asUpstream(`{"name":"a","urls":["https://a.example.com"]},{"name":"a","urls":["https://b.example.com"]}`), "upstream 'a' is defined twice"},
		{"name too long", "", asUpstream(`{"name":"` + strings.Repeat("a", 129) + `","urls":["https://a.example.com"]}`), "upstream: the name is longer than 128 characters"},
		// upstream options, of the stream and of an upstream
		{"resume with a line end", "", withUpstream(`"resume":"a\nb"`), "resume: an event id in a request cannot contain control characters"},
		{"resume with a request's placeholder", "", asUpstream(`{"name":"a","urls":["https://a.example.com"],"resume":"{http.request.uri.query.id}"}`), "upstream 'a': resume: the placeholder {http.request.uri.query.id} belongs to a client's request, but the connection to an upstream is shared by all clients"},
		{"backoff empty", "", withUpstream(`"backoff":{}`), "backoff: neither base nor max is above 0; upstreams would be reconnected without a pause"},
		{"backoff in nanoseconds", "", withUpstream(`"backoff":{"base":5}`), "backoff: 5ns is too short, it must be at least 1ms"},
		{"backoff negative", "", withUpstream(`"backoff":{"base":"-1s"}`), "backoff: -1s is negative"},
		{"backoff below its base", "", withUpstream(`"backoff":{"base":"5s","max":"1s"}`), "backoff: the maximum 1s is below the base 5s"},
		{"backoff below the default base", "", withUpstream(`"backoff":{"max":"10ms"}`), "backoff: the maximum 10ms is below the base 1s"},
		{"idle_timeout in nanoseconds", "", withUpstream(`"idle_timeout":30`), "idle_timeout: 30ns is too short, it must be 0 or at least 1ms"},
		{"idle_timeout negative", "", asUpstream(`{"name":"a","urls":["https://a.example.com"],"idle_timeout":-1}`), "upstream 'a': idle_timeout: -1ns is negative"},
		{"max_event_size negative", "", withUpstream(`"max_event_size":-1`), "max_event_size: -1 is negative"},
		{"max_event_size above the size", "", asUpstream(`{"name":"a","urls":["https://a.example.com"],"max_event_size":100000000}`), "upstream 'a': max_event_size: 100000000 bytes is more than the size of all that is retained, 67108864 bytes; lower max_event_size, or raise size in retain"},
		{"max_event_size too large", "", withUpstream(`"max_event_size":5000000000,"retain":{"size":6000000000}`), "max_event_size: 5000000000 bytes is too much, it must be at most 1.0 GiB"},
		{"header_up with a bad name", "", withUpstream(`"header_up":{"set":{"A B":["c"]}}`), "header_up: 'A …' is not the name of a header field"},
		{"header_up with a line end", "", withUpstream(`"header_up":{"add":{"A":["b\r\nC: d"]}}`), "header_up: the value of 'A' cannot contain control characters"},
		{"header_up with a request's placeholder", "", withUpstream(`"header_up":{"set":{"A":["{http.request.header.B}"]}}`), "header_up: the placeholder {http.request.header.B} belongs to a client's request, but the connection to an upstream is shared by all clients"},
		{"header_up with two searches", "", withUpstream(`"header_up":{"replace":{"A":[{"search":"b","search_regexp":"c","replace":"d"}]}}`), "header_up: 'A' has both a substring and a regular expression to search for"},
		{"header_up with a bad regular expression", "", withUpstream(`"header_up":{"replace":{"A":[{"search_regexp":"(","replace":"d"}]}}`), "header_up: 'A': error parsing regexp: missing closing ): `(`"},
		{"transport of a request", "", withUpstream(`"transport":{"protocol":"fastcgi"}`), "upstream 'https://a.example.com/events': transport: 'fastcgi' works only within a client's request, while an upstream is connected without one; use 'http'"},
		{"transport with proxy_protocol", "", withUpstream(`"transport":{"protocol":"http","proxy_protocol":"v1"}`), "upstream 'https://a.example.com/events': transport: proxy_protocol tells the upstream a client's address, but the connection is shared by all clients"},
		{"transport with TLS for http", "", asUpstream(`{"name":"a","urls":["http://a.example.com"],"transport":{"protocol":"http","tls":{}}}`), "upstream 'a': transport: TLS is configured, but the URL 'http://a.example.com/' begins with http://; use https://"},
		// what is retained
		{"retain events", "", withUpstream(`"retain":{"events":-1}`), "retain: events: -1 is negative"},
		{"retain events, too many", "", withUpstream(`"retain":{"events":9999999999}`), "retain: events: 9999999999 is too much, it must be at most 2147483647"},
		{"retain size", "", withUpstream(`"retain":{"size":-1}`), "retain: size: -1 is negative"},
		{"retain size, too large", "", withUpstream(`"retain":{"size":2199023255552}`), "retain: size: 2199023255552 bytes is too much, it must be at most 1.0 TiB"},
		{"retain size below max_event_size", "", withUpstream(`"retain":{"size":1000}`), "upstream 'https://a.example.com/events': max_event_size: 1048576 bytes is more than the size of all that is retained, 1000 bytes; lower max_event_size, or raise size in retain"},
		{"retain age", "", withUpstream(`"retain":{"age":"-1h"}`), "retain: age: -1h0m0s is negative"},
		{"retain age in nanoseconds", "", withUpstream(`"retain":{"age":3600}`), "retain: age: 3.6µs is too short, it must be 0 or at least 1ms"},
		{"ids", "", withUpstream(`"ids":"upstream"`), "ids: unrecognized value 'upstream', expected stream or none"},
		// client settings
		{"start", "", withUpstream(`"start":"now"`), "start: 'now' is neither live, oldest nor a number of events"},
		{"start negative", "", withUpstream(`"start":-5`), "start: '-5' is neither live, oldest nor a number of events"},
		{"start a fraction", "", withUpstream(`"start":1.5`), "start: '1.5' is neither live, oldest nor a number of events"},
		{"start an object", "", withUpstream(`"start":{}`), "start: '{}' is neither live, oldest nor a number of events"},
		{"heartbeat in nanoseconds", "", withUpstream(`"heartbeat":15`), "heartbeat: 15ns is too short, it must be 0 or at least 1ms"},
		{"heartbeat negative", "", withUpstream(`"heartbeat":"-15s"`), "heartbeat: -15s is negative"},
		{"retry empty", "", withUpstream(`"retry":{}`), "retry: neither min nor max is above 0; clients would reconnect without a pause"},
		{"retry in nanoseconds", "", withUpstream(`"retry":{"min":2,"max":5}`), "retry: 2ns is too short, it must be at least 1ms"},
		{"retry negative", "", withUpstream(`"retry":{"max":"-5s"}`), "retry: -5s is negative"},
		{"retry below its minimum", "", withUpstream(`"retry":{"min":"5s","max":"1s"}`), "retry: the maximum 1s is below the minimum 5s"},
		{"slow", "", withUpstream(`"slow":"maybe"`), "slow: unrecognized value 'maybe', expected skip or disconnect"},
		{"write_timeout zero", "", withUpstream(`"write_timeout":0`), "write_timeout: 0s is too short, it must be at least 1ms"},
		{"max_clients", "", withUpstream(`"max_clients":-1`), "max_clients: -1 is negative; 0 is no limit"},
		{"when_full", "", withUpstream(`"max_clients":1,"when_full":"wait"`), "when_full: unrecognized value 'wait', expected reject or retry"},
		{"when_full without max_clients", "", withUpstream(`"when_full":"retry"`), "when_full: it says what happens beyond max_clients, which is not set"},
		{"max_age", "", withUpstream(`"max_age":-1`), "max_age: -1ns is negative"},
		{"drain", "", withUpstream(`"drain":"-1s"`), "drain: -1s is negative"},
		{"on_reload", "", withUpstream(`"on_reload":"restart"`), "on_reload: unrecognized value 'restart', expected keep or drain"},
		{"setting of a reference", `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, `{"handler":"sse_fanin","stream":"prices","slow":"maybe"}`, "slow: unrecognized value 'maybe', expected skip or disconnect"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := validateJSON(handlerConfig(test.app, test.handler))
			if err == nil {
				t.Fatal("it is valid")
			}
			got := err.Error()
			if strings.Contains(got, "s3cret") {
				t.Errorf("a secret in the error: %s", got)
			}
			// Caddy puts the way to the module before it
			if got != test.want && !strings.HasSuffix(got, ": "+test.want) {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

func TestJSONIsValid(t *testing.T) {
	streams := `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`
	for _, test := range []struct{ name, app, handler string }{
		{"one upstream", "", withUpstream("")},
		{"app alone", streams, respond},
		{"app empty", `{}`, respond},
		{"streams null", `{"streams":null}`, respond},
		{"reference", streams, reference},
		{"reference before its definition", "", reference + "," + withUpstream(`"stream":"prices"`)},
		{"reference in a subroute before its definition", "", `{"handler":"subroute","routes":[{"handle":[` + reference + `]}]},` + withUpstream(`"stream":"prices"`)},
		{"reference before its definition in a subroute", "", reference + `,{"handler":"subroute","routes":[{"handle":[` + withUpstream(`"stream":"prices"`) + `]}]}`},
		{"equal streams without a name", "", withUpstream("") + "," + withUpstream(`"heartbeat":"1s"`)},
		{"everything null", "", `{"handler":"sse_fanin","stream":null,"upstreams":[{"name":null,"urls":["https://a.example.com"],"header_up":null,"transport":null,"backoff":null}],` +
			`"header_up":null,"transport":null,"resume":null,"backoff":null,"idle_timeout":null,"max_event_size":null,"retain":null,"ids":null,"start":null,` +
			`"heartbeat":null,"retry":null,"slow":null,"write_timeout":null,"max_clients":null,"when_full":null,"max_age":null,"drain":null,"on_reload":null}`},
		{"start a number", "", withUpstream(`"start":5`)},
		{"start a number in quotes", "", withUpstream(`"start":"5"`)},
		{"retain empty", "", withUpstream(`"retain":{}`)},
		{"header_up empty", "", withUpstream(`"header_up":{}`)},
		{"the longest times", "", withUpstream(`"backoff":{"base":9000000000000000000},"idle_timeout":9000000000000000000,"retry":{"max":9000000000000000000},"max_age":9000000000000000000,"drain":9000000000000000000,"heartbeat":9000000000000000000,"write_timeout":9000000000000000000,"retain":{"age":9000000000000000000}`)},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := validateJSON(handlerConfig(test.app, test.handler)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestJSONDefaults(t *testing.T) {
	for _, test := range []struct{ name, handler string }{
		{"absent", withUpstream("")},
		{"null", withUpstream(`"resume":null,"transport":null,"backoff":null,"idle_timeout":null,"max_event_size":null,"retain":null,"ids":null,"start":null,"heartbeat":null,"retry":null,"slow":null,"write_timeout":null,"max_clients":null,"max_age":null,"drain":null,"on_reload":null`)},
		{"given", withUpstream(`"resume":"on","transport":{"protocol":"http"},"backoff":{"base":"1s","max":"1m"},"idle_timeout":0,"max_event_size":1048576,"retain":{"events":10000,"size":67108864,"age":0},"ids":"stream","start":"live","heartbeat":"15s","retry":{"min":"2s","max":"5s"},"slow":"skip","write_timeout":"10s","max_clients":0,"when_full":"reject","max_age":0,"drain":"5s","on_reload":"keep"`)},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := provision(t, "", test.handler)[0]
			want := clientSettings{
				start:        startLive,
				heartbeat:    15 * time.Second,
				retryMin:     2 * time.Second,
				retryMax:     5 * time.Second,
				slow:         slowSkip,
				writeTimeout: 10 * time.Second,
				whenFull:     fullReject,
				drain:        5 * time.Second,
				onReload:     reloadKeep,
			}
			if *h.settings != want {
				t.Errorf("client settings: got %+v, want %+v", *h.settings, want)
			}
			retain := h.def.retain
			if retain.MaxEvents != 10_000 || retain.MaxBytes != 64<<20 || retain.MaxAge != 0 || !retain.IDs {
				t.Errorf("retain: got %+v", retain)
			}
			spec := h.def.upstreams[0].spec
			if spec.Resume != resumeOn || spec.BackoffBase != time.Second || spec.BackoffMax != time.Minute ||
				spec.IdleTimeout != 0 || spec.MaxEventSize != 1<<20 || len(spec.headerOps) != 0 {
				t.Errorf("upstream: got %+v", spec)
			}
		})
	}
}

// Whatever stands in the place of whatever: it is valid or an error.
func TestJSONNeverPanics(t *testing.T) {
	const full = `{"apps":{
		"http":{"servers":{"srv0":{"listen":[":8080"],"routes":[{"handle":[
			{"handler":"sse_fanin","stream":"a","upstreams":[{"name":"a","urls":["https://a.example.com"],
				"header_up":{"set":{"A":["b"]},"add":{"B":["c"]},"delete":["C"],"replace":{"D":[{"search":"e","replace":"f"}]}},
				"transport":{"protocol":"http","tls":{}},"resume":"on","backoff":{"base":"1s","max":"2s"},"idle_timeout":"1m","max_event_size":1000}],
				"retain":{"events":5,"size":100000,"age":"1h"},"ids":"stream","max_event_size":500,
				"start":"live","heartbeat":"15s","retry":{"min":"1s","max":"2s"},"slow":"skip","write_timeout":"10s",
				"max_clients":5,"when_full":"retry","max_age":"1h","drain":"5s","on_reload":"keep"},
			{"handler":"sse_fanin","stream":"b"}]}]}}},
		"sse_fanin":{"streams":{"b":{"upstreams":[{"urls":["https://b.example.com"]}]}}}}}`
	if err := validateJSON(full); err != nil {
		t.Fatal(err)
	}
	strange := []any{nil, true, -1, 1e300, "", "x", []any{}, []any{nil}, map[string]any{}}
	var root any
	if err := json.Unmarshal([]byte(full), &root); err != nil {
		t.Fatal(err)
	}
	tried := 0
	try := func() {
		raw, err := json.Marshal(root)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if p := recover(); p != nil {
				t.Errorf("%s\n%v", raw, p)
			}
		}()
		tried++
		_ = validateJSON(string(raw))
	}
	var walk func(node any)
	walk = func(node any) {
		switch node := node.(type) {
		case map[string]any:
			for key, child := range node {
				// what only Caddy reads is not ours to try
				if !slices.Contains([]string{"apps", "http", "servers", "srv0", "listen", "routes", "handle", "handler"}, key) {
					for _, value := range strange {
						node[key] = value
						try()
					}
					node[key] = child
				}
				walk(child)
			}
		case []any:
			for i, child := range node {
				if _, ok := child.(map[string]any); !ok {
					for _, value := range strange {
						node[i] = value
						try()
					}
					node[i] = child
				}
				walk(child)
			}
		}
	}
	walk(root)
	if tried < 400 {
		t.Errorf("only %d configurations were tried", tried)
	}
}
