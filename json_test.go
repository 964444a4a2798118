package ssefanin

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/doccheck"
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
		{"unknown key of a later version", "", withUpstream(`"compress":"zstd"`), `json: unknown field "compress"`},
		{"unknown key of retain", "", withUpstream(`"retain":{"count":5}`), `json: unknown field "count"`},
		{"unknown key of an upstream", "", asUpstream(`{"urls":["https://a.example.com"],"envelope":"json"}`), `json: unknown field "envelope"`},
		{"unknown key of a stream", "", withUpstream(`"policy":"mirror"`), `json: unknown field "policy"`},
		{"unknown key of connect", "", withUpstream(`"connect":{"mode":"on_demand","wait":"5s"}`), `json: unknown field "wait"`},
		{"unknown key of dynamic", "", asUpstream(`{"urls":["https://a.example.com"],"dynamic":{"source":"a","nam":"a"}}`), `json: unknown field "nam"`},
		{"unknown key of the transport", "", withUpstream(`"transport":{"protocol":"http","tsl":{}}`), `json: unknown field "tsl"`},
		{"unknown key of last_value", "", withUpstream(`"last_value":{"types":["a"],"by":"/s"}`), `json: unknown field "by"`},
		{"last_value empty", "", withUpstream(`"last_value":{}`), "last_value: it has no types; give the types of the events whose newest is kept, 'message' for unnamed ones"},
		{"last_value of a type that does not come", "", `{"handler":"sse_fanin","upstreams":[{"urls":["https://a.example.com"],"events":["x*"]}],"last_value":{"types":["price"]}}`, "last_value: there would be none, since 'events' and 'prefix' of the upstreams leave no events of 'price'"},
		{"last_value negative", "", withUpstream(`"last_value":{"types":["a"],"max":-1}`), "last_value: max: -1 is out of range, it must be from 1 to 1000000"},
		{"last_value with a bad key", "", withUpstream(`"last_value":{"types":["a"],"key":"s"}`), "last_value: key: 's' is no JSON pointer, it must begin with '/', such as /symbol"},
		{"start without last values", "", withUpstream(`"start":"last_value"`), "start: 'last_value' sends the last values of the stream, but it keeps none; add 'last_value <type>...' to the stream"},
		{"undefined stream", "", reference, "stream 'prices' is not defined: define it with its upstreams in the global option sse_fanin, or in one handler with 'stream prices'"},
		{"undefined stream beside another", `{"streams":{"news":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, reference, "stream 'prices' is not defined (there are: news): define it with its upstreams in the global option sse_fanin, or in one handler with 'stream prices'"},
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
		{"unknown key of a stream of the app", `{"streams":{"a":{"upstreams":[{"urls":["https://a.example.com"]}],"name":"a"}}}`, respond, `json: unknown field "name"`},
		// upstreams
		{"upstream null", "", asUpstream(`null`), "upstream 1 is null"},
		{"upstream empty", "", asUpstream(`{}`), "upstream 1: it has no URL"},
		{"upstream without URLs", "", asUpstream(`{"name":"a","urls":[]}`), "upstream 'a': it has no URL"},
		{"URL null", "", asUpstream(`{"urls":[null]}`), "upstream URL '': the URL is empty"},
		{"URL empty", "", asUpstream(`{"name":"a","urls":[""]}`), "upstream 'a': upstream URL '': the URL is empty"},
		{"URL without a scheme", "", asUpstream(`{"urls":["me:s3cret@a.example.com?token=s3cret"]}`), "upstream URL 'a.example.com': missing http:// or https://"},
		{"URL with a wrong scheme", "", asUpstream(`{"urls":["wss://me:s3cret@a.example.com/?token=s3cret"]}`), "upstream URL 'wss://a.example.com/': the scheme 'wss' is not supported, use http, https or unix//path/to.sock"},
		{"URL without a host", "", asUpstream(`{"urls":["https:///events"]}`), "upstream URL 'https:///events': the host is empty"},
		{"URL with a bad port", "", asUpstream(`{"urls":["https://a.example.com:70000/"]}`), "upstream URL 'https://a.example.com:70000/': '70000' is not a port from 1 to 65535"},
		{"URL with a space in front", "", asUpstream(`{"urls":[" https://a.example.com/"]}`), "upstream URL ' https://a.example.com/': first path segment in URL cannot contain colon"},
		{"URL with a request's placeholder after the host", "", asUpstream(`{"urls":["https://a.example.com{http.request.uri}"]}`), "upstream URL 'https://a.example.com{http.request.uri}': the placeholder {http.request.uri} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port"},
		{"URL with a request's placeholder after the host, and a path", "", asUpstream(`{"urls":["https://a.example.com{http.request.uri}/x"]}`), "upstream URL 'https://a.example.com{http.request.uri}/x': the placeholder {http.request.uri} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port"},
		{"URL with a request's placeholder as the host", "", asUpstream(`{"urls":["https://{http.request.uri.query.h}/x"]}`), "upstream URL 'https://{http.request.uri.query.h}/x': the placeholder {http.request.uri.query.h} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port"},
		{"URL with a request's placeholder as the port", "", asUpstream(`{"urls":["https://a.example.com:{http.request.uri.query.p}/"]}`), "upstream URL 'https://a.example.com:{http.request.uri.query.p}/': the placeholder {http.request.uri.query.p} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port"},
		{"URL with a request's placeholder as the scheme", "", asUpstream(`{"urls":["{http.request.scheme}://a.example.com/"]}`), "upstream URL '{http.request.scheme}://a.example.com/': the placeholder {http.request.scheme} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port"},
		{"URL with a request's placeholder as all", "", asUpstream(`{"urls":["{http.request.uri.query.u}"]}`), "upstream URL '{http.request.uri.query.u}': the placeholder {http.request.uri.query.u} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port"},
		{"URL with a request's placeholder in the name of another", "", asUpstream(`{"urls":["https://{env.{http.request.uri.query.u}}/"]}`), "upstream URL 'https://{env.{http.request.uri.query.u}}/': the placeholder {http.request.uri.query.u} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port"},
		{"URL with a request's placeholder in the path of the socket", "", asUpstream(`{"urls":["unix//run/{http.request.uri.query.u}.sock"]}`), "upstream URL 'unix//run/{http.request.uri.query.u}.sock': the placeholder {http.request.uri.query.u} belongs to a client's request, so it may stand in the path and the query of the request, not in the path of the socket"},
		{"URL with a request's placeholder in the fragment", "", asUpstream(`{"urls":["https://a.example.com/#{http.request.uri.query.u}"]}`), "upstream URL 'https://a.example.com/': the placeholder {http.request.uri.query.u} stands in the fragment, which is not sent to an upstream"},
		{"URL with a request's placeholder in the value of another", "", asUpstream(`{"urls":["{env.FEED_KEYED_URL}"]}`), "upstream URL '{env.FEED_KEYED_URL}': with its placeholders filled in: a value has a placeholder of a client's request, which may only stand in the configuration itself"},
		{"URL with a request's placeholder after one that ends in the host", "", asUpstream(`{"urls":["{env.FEED_HOST_URL}{http.request.uri}"]}`), "upstream URL '{env.FEED_HOST_URL}{http.request.uri}': with its placeholders filled in: the placeholder {http.request.uri} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port"},
		{"URL with a Caddyfile's placeholder", "", asUpstream(`{"urls":["https://a.example.com/?room={query.room}&token=s3cret"]}`), "upstream URL 'https://a.example.com/': unrecognized placeholder {query.room}; outside of a Caddyfile, {query.room} is written {http.request.uri.query.room}"},
		{"URL with the query of the request", "", asUpstream(`{"urls":["https://a.example.com/?{http.request.uri.query}"]}`), "upstream URL 'https://a.example.com/': the placeholder {http.request.uri.query} stands in the query, but not as the value of a parameter; name each parameter that is passed on, as in ?room={query.room}"},
		{"URL with an empty placeholder", "", asUpstream(`{"urls":["https://{env.NOT_SET}/?token={env.FEED_TOKEN}"]}`), "upstream URL 'https://{env.NOT_SET}/': evaluated placeholder {env.NOT_SET} is empty"},
		{"name", "", asUpstream(`{"name":"a b","urls":["https://a.example.com"]}`), "upstream: the name 'a b' may only contain letters, digits and '_.-'"},
		{"name twice", "", asUpstream(`{"name":"a","urls":["https://a.example.com"]},{"name":"a","urls":["https://b.example.com"]}`), "upstream 'a' is defined twice"},
		{"name too long", "", asUpstream(`{"name":"` + strings.Repeat("a", 129) + `","urls":["https://a.example.com"]}`), "upstream: the name is longer than 128 characters"},
		// upstream options, of the stream and of an upstream
		{"resume with a line end", "", withUpstream(`"resume":"a\nb"`), "resume: an event id in a request cannot contain control characters"},
		{"resume with a request's placeholder", "", asUpstream(`{"name":"a","urls":["https://a.example.com"],"resume":"{http.request.uri.query.id}"}`), "upstream 'a': resume: the placeholder {http.request.uri.query.id} belongs to a client's request; placeholders may stand in the path and the query of a URL and in header_up"},
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
		{"retain size below max_event_size", "", withUpstream(`"retain":{"size":1000},"max_event_size":1048576`), "upstream 'https://a.example.com/events': max_event_size: 1048576 bytes is more than the size of all that is retained, 1000 bytes; lower max_event_size, or raise size in retain"},
		{"retain size of a keyed stream below max_event_size", "", asUpstream(`{"urls":["https://a.example.com/{http.request.uri.query.u}"],"max_event_size":2097152}`), "upstream 'https://a.example.com/{http.request.uri.query.u}': max_event_size: 2097152 bytes is more than the size of all that is retained, 1048576 bytes; lower max_event_size, or raise size in retain"},
		{"retain age", "", withUpstream(`"retain":{"age":"-1h"}`), "retain: age: -1h0m0s is negative"},
		{"retain age in nanoseconds", "", withUpstream(`"retain":{"age":3600}`), "retain: age: 3.6µs is too short, it must be 0 or at least 1ms"},
		{"ids", "", withUpstream(`"ids":"yes"`), "ids: unrecognized value 'yes', expected stream or upstream or none"},
		// where the log is kept
		{"log, unnamed", "", withUpstream(`"log":{"kind":"file"}`), "log: it needs 'stream <name>': the name is what the log is found by when Caddy is started again"},
		{"log, keyed", "", `{"handler":"sse_fanin","stream":"a","log":{"kind":"file"},"upstreams":[{"urls":["https://a.example.com/{http.request.uri.query.u}"]}]}`, "stream 'a': log: the placeholder {http.request.uri.query.u} makes this a stream for each of its values, and those are kept in memory only; remove the placeholder or 'log'"},
		{"log, ids none", "", withUpstream(`"stream":"a","ids":"none","log":{"kind":"file"}`), "stream 'a': log: with 'ids none' no client can resume, so there is nothing to keep a log for; remove 'ids none' or 'log'"},
		{"log, a name that is no folder", `{"streams":{".":{"log":{"kind":"file"},"upstreams":[{"urls":["https://a.example.com"]}]}}}`, respond, "stream '.': log: the name '.' cannot be that of a folder, and the log gets one of the stream's name; give the stream another name"},
		{"log, unknown kind", "", withUpstream(`"stream":"a","log":{"kind":"tape"}`), "stream 'a': log: unrecognized kind 'tape', expected file or memory_test or shared_test; any other is a module to build Caddy with"},
		{"log, no kind", "", withUpstream(`"stream":"a","log":{"dir":"/x"}`), "stream 'a': log: the kind is missing, expected file or memory_test or shared_test"},
		{"log, a word", "", withUpstream(`"stream":"a","log":"file"`), "stream 'a': log: the kind is missing, expected file or memory_test or shared_test"},
		{"log, unknown option", "", withUpstream(`"stream":"a","log":{"kind":"file","fsync":"always"}`), `json: unknown field "fsync"`},
		{"log, sync", "", withUpstream(`"stream":"a","log":{"kind":"file","sync":"never"}`), "sync: 'never' is neither always, off nor a duration such as 1s"},
		{"log, sync a number", "", withUpstream(`"stream":"a","log":{"kind":"file","sync":1000000000}`), "json: cannot unmarshal number into Go struct field FileLog.sync of type string"},
		{"log, sync 0s", "", withUpstream(`"stream":"a","log":{"kind":"file","sync":"0s"}`), "sync: 0s is no interval; to have what is written on disk before clients get it, write always"},
		{"log, memory negative", "", withUpstream(`"stream":"a","log":{"kind":"file","memory":-1}`), "memory: -1 is negative"},
		{"log, memory too little", "", withUpstream(`"stream":"a","log":{"kind":"file","memory":1024}`), "memory: 1024 bytes is too little, it must be at least 64 KiB"},
		{"log, memory too much", "", withUpstream(`"stream":"a","log":{"kind":"file","memory":2199023255552}`), "memory: 2199023255552 bytes is too much, it must be at most 1.0 TiB"},
		{"log, dir with an empty placeholder", "", withUpstream(`"stream":"a","log":{"kind":"file","dir":"{env.NOT_SET}"}`), "dir: evaluated placeholder {env.NOT_SET} is empty"},
		{"log of a reference", `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, `{"handler":"sse_fanin","stream":"prices","log":{"kind":"file"}}`, "log: it belongs where the stream 'prices' is defined, together with its upstreams"},
		{"log of an upstream", "", asUpstream(`{"urls":["https://a.example.com"],"log":{"kind":"file"}}`), `json: unknown field "log"`},
		{"log defaults of an unknown kind", `{"log":{"tape":{}}}`, respond, "log: unrecognized kind 'tape', expected file or memory_test or shared_test; any other is a module to build Caddy with"},
		{"log defaults with an unknown option", `{"log":{"file":{"fsync":"always"}}}`, respond, `json: unknown field "fsync"`},
		{"log defaults with a bad option", `{"log":{"file":{"sync":"5"}}}`, respond, "sync: '5' is neither always, off nor a duration such as 1s"},
		// several places of an upstream
		{"policy", "", asUpstream(`{"name":"a","urls":["https://a.example.com","https://b.example.com"],"policy":"random"}`), "upstream 'a': policy: unrecognized value 'random', expected failover or mirror or balance or merge"},
		{"mirror with one URL", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"policy":"mirror"}`), "upstream 'a': policy: 'mirror' needs several URLs, or dynamic addresses"},
		{"balance with one URL", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"policy":"balance","dynamic":null}`), "upstream 'a': policy: 'balance' needs several URLs, or dynamic addresses"},
		{"the same URL twice", "", asUpstream(`{"name":"a","urls":["https://a.example.com?s3cret","HTTPS://A.example.com:443/?s3cret"]}`), "upstream 'a': the URL 'https://a.example.com/' is given twice"},
		{"the second URL without a scheme", "", asUpstream(`{"name":"a","urls":["https://a.example.com","b.example.com"]}`), "upstream 'a': upstream URL 'b.example.com': missing http:// or https://"},
		{"dynamic with two URLs", "", asUpstream(`{"name":"a","urls":["https://a.example.com","https://b.example.com"],"dynamic":{"source":"a","name":"a"}}`), "upstream 'a': dynamic: it gives the addresses for one URL, but there are 2"},
		{"dynamic without a URL", "", asUpstream(`{"name":"a","dynamic":{"source":"a","name":"a"}}`), "upstream 'a': it has no URL"},
		{"dynamic with a socket", "", asUpstream(`{"name":"a","urls":["unix//run/a.sock"],"dynamic":{"source":"a","name":"a"}}`), "upstream 'a': dynamic: it gives the addresses to dial, but the URL is that of a unix socket; use http:// or https://"},
		{"dynamic with a placeholder that is a socket", "", asUpstream(`{"name":"a","urls":["{env.FEED_SOCKET}"],"dynamic":{"source":"a","name":"a"}}`), "upstream 'a': dynamic: it gives the addresses to dial, but the URL is that of a unix socket; use http:// or https://"},
		{"dynamic with HTTP/3", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"dynamic":{"source":"a","name":"a"},"transport":{"protocol":"http","versions":["3"]}}`), "upstream 'a': dynamic: HTTP/3 connections are kept by name, so they cannot be made to discovered addresses; use other versions in transport"},
		{"dynamic with HTTP/3 of the stream", "", `{"handler":"sse_fanin","transport":{"protocol":"http","versions":["3"]},"upstreams":[{"name":"a","urls":["https://a.example.com/events"],"dynamic":{"source":"a","name":"a"}}]}`, "upstream 'a': dynamic: HTTP/3 connections are kept by name, so they cannot be made to discovered addresses; use other versions in transport"},
		{"dynamic of an unknown module", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"dynamic":{"source":"pigeon"}}`), "upstream 'a': dynamic: loading module 'pigeon': unknown module: http.reverse_proxy.upstreams.pigeon"},
		{"dynamic without a module", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"dynamic":{"name":"a"}}`), "upstream 'a': dynamic: module name not specified with key 'source' in map[name:a]"},
		{"dynamic as a text", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"dynamic":"a"}`), "upstream 'a': dynamic: json: cannot unmarshal string into Go value of type map[string]interface {}"},
		{"dynamic with a request's placeholder", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"dynamic":{"source":"a","name":"{http.request.uri.query.n}"}}`), "upstream 'a': dynamic: the placeholder {http.request.uri.query.n} belongs to a client's request, which cannot decide which server is asked"},
		{"transport with a request's placeholder", "", withUpstream(`"transport":{"protocol":"http","tls":{"server_name":"{http.request.host}"}}`), "upstream 'https://a.example.com/events': transport: the placeholder {http.request.host} belongs to a client's request; placeholders may stand in the path and the query of a URL and in header_up"},
		{"transport with TLS for a keyed http", "", asUpstream(`{"name":"a","urls":["http://a.example.com/{http.request.uri.query.u}"],"transport":{"protocol":"http","tls":{}}}`), "upstream 'a': transport: TLS is configured, but the URL 'http://a.example.com/x' begins with http://; use https://"},
		// what becomes of events
		{"events empty", "", withUpstream(`"events":[""]`), "events: '' is not the type of an event; unnamed events are 'message'"},
		{"events with a line end", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"events":["a\nb"]}`), "upstream 'a': events: 'a\nb' is not the type of an event; unnamed events are 'message'"},
		{"prefix of control events", "", withUpstream(`"prefix":"fanin."`), "prefix: 'fanin.' begins with 'fanin.', which is kept for the module's own events"},
		{"prefix of control events for an upstream", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"prefix":"fanin.a"}`), "upstream 'a': prefix: 'fanin.a' begins with 'fanin.', which is kept for the module's own events"},
		{"prefix with a line end", "", withUpstream(`"prefix":"a\r"`), "prefix: a type cannot contain line ends"},
		{"envelope", "", withUpstream(`"envelope":"xml"`), "envelope: unrecognized value 'xml', expected json"},
		{"source_events", "", withUpstream(`"source_events":"yes"`), "source_events: unrecognized value 'yes', expected on or off"},
		{"source_events a number", "", withUpstream(`"source_events":1`), "json: cannot unmarshal number into Go struct field Handler.Stream.source_events of type string"},
		{"ids upstream with two upstreams", "", `{"handler":"sse_fanin","ids":"upstream","upstreams":[{"urls":["https://a.example.com"]},{"urls":["https://b.example.com"]}]}`, "ids: 'upstream' passes on the ids of one upstream, but there are 2; replicas of one source are several URLs of one upstream"},
		{"ids upstream with two upstreams in the app", `{"streams":{"a":{"ids":"upstream","upstreams":[{"urls":["https://a.example.com"]},{"urls":["https://b.example.com"]}]}}}`, respond, "stream 'a': ids: 'upstream' passes on the ids of one upstream, but there are 2; replicas of one source are several URLs of one upstream"},
		{"ids upstream with merge", "", `{"handler":"sse_fanin","ids":"upstream","upstreams":[{"name":"a","urls":["https://a.example.com","https://b.example.com"],"policy":"merge"}]}`, "ids: 'upstream' passes on the ids of one upstream, but policy 'merge' makes several of it"},
		{"ids upstream with dynamic addresses", "", `{"handler":"sse_fanin","ids":"upstream","upstreams":[{"name":"a","urls":["https://a.example.com/events"],"dynamic":{"source":"a","name":"a"}}]}`, "ids: 'upstream' passes on the ids of one upstream, but policy 'merge' makes several of it"},
		{"ids upstream with null", "", `{"handler":"sse_fanin","ids":"upstream","upstreams":[null]}`, "upstream 1 is null"},
		// when upstreams are connected
		{"connect", "", withUpstream(`"connect":"lazy"`), "connect: unrecognized value 'lazy', expected eager or on_demand"},
		{"connect, mode", "", withUpstream(`"connect":{"mode":"lazy"}`), "connect: unrecognized value 'lazy', expected eager or on_demand"},
		{"connect eager with a linger", "", withUpstream(`"connect":{"mode":"eager","linger":"5s"}`), "connect: a linger belongs to 'on_demand'"},
		{"connect by default with a linger", "", withUpstream(`"connect":{"linger":"5s"}`), "connect: a linger belongs to 'on_demand'"},
		{"connect with a linger in nanoseconds", "", withUpstream(`"connect":{"mode":"on_demand","linger":5}`), "connect: 5ns is too short, it must be 0 or at least 1ms"},
		{"connect with a negative linger", "", withUpstream(`"connect":{"mode":"on_demand","linger":-1}`), "connect: -1ns is negative"},
		{"connect eager with a keyed URL", "", `{"handler":"sse_fanin","connect":"eager","upstreams":[{"urls":["https://a.example.com/{http.request.uri.query.u}"]}]}`, "connect: the placeholder {http.request.uri.query.u} makes the stream a keyed one, which is connected on demand"},
		{"connect eager with a keyed header", "", withUpstream(`"connect":"eager","header_up":{"set":{"A":["{http.request.header.B}"]}}`), "connect: the placeholder {http.request.header.B} makes the stream a keyed one, which is connected on demand"},
		{"connect eager with a keyed stream in the app", `{"streams":{"a":{"connect":"eager","upstreams":[{"urls":["https://a.example.com/{http.request.uri.query.u}"]}]}}}`, respond, "stream 'a': connect: the placeholder {http.request.uri.query.u} makes the stream a keyed one, which is connected on demand"},
		{"max_streams without a key", "", withUpstream(`"max_streams":5`), "max_streams: it bounds the keys of a keyed stream, but no upstream has a placeholder of the request"},
		{"max_streams negative", "", `{"handler":"sse_fanin","max_streams":-1,"upstreams":[{"urls":["https://a.example.com/{http.request.uri.query.u}"]}]}`, "max_streams: -1 is negative"},
		{"keyed stream in two handlers", "", `{"handler":"sse_fanin","stream":"a","upstreams":[{"urls":["https://a.example.com/{http.request.uri.query.u}"]}]},{"handler":"sse_fanin","stream":"a","upstreams":[{"urls":["https://a.example.com/{http.request.uri.query.u}"]}]}`, "stream 'a' is defined twice: define it once and let the other handlers only name it"},
		{"keyed stream and another of its name", "", `{"handler":"sse_fanin","stream":"a","upstreams":[{"urls":["https://a.example.com/{http.request.uri.query.u}"]}]},` + withUpstream(`"stream":"a"`), "stream 'a' is defined twice: define it once and let the other handlers only name it"},
		{"reference with envelope", `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, `{"handler":"sse_fanin","stream":"prices","envelope":"json"}`, "envelope: it belongs where the stream 'prices' is defined, together with its upstreams"},
		{"reference with source_events", `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, `{"handler":"sse_fanin","stream":"prices","source_events":false}`, "source_events: it belongs where the stream 'prices' is defined, together with its upstreams"},
		{"reference with connect", `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, `{"handler":"sse_fanin","stream":"prices","connect":"eager"}`, "connect: it belongs where the stream 'prices' is defined, together with its upstreams"},
		{"reference with max_streams", `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, `{"handler":"sse_fanin","stream":"prices","max_streams":5}`, "max_streams: it belongs where the stream 'prices' is defined, together with its upstreams"},
		{"reference with events", `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, `{"handler":"sse_fanin","stream":"prices","events":[]}`, "events: it belongs where the stream 'prices' is defined, together with its upstreams"},
		{"reference with prefix", `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, `{"handler":"sse_fanin","stream":"prices","prefix":"a."}`, "prefix: it belongs where the stream 'prices' is defined, together with its upstreams"},
		{"reference with ids", `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, `{"handler":"sse_fanin","stream":"prices","ids":"stream"}`, "ids: it belongs where the stream 'prices' is defined, together with its upstreams"},
		{"prime", "", withUpstream(`"prime":"yes"`), "prime: unrecognized value 'yes', expected auto or on or off"},
		{"only nothing", "", withUpstream(`"only":{}`), "only: neither source nor type is given; without only, clients may see everything"},
		{"only no types", "", withUpstream(`"only":{"source":["a"],"type":[]}`), "only: type: the list is empty, so nobody would see anything; give at least one pattern"},
		{"only an empty type", "", withUpstream(`"only":{"type":["a",""]}`), "only: type: '': the pattern is empty"},
		{"only a type twice", "", withUpstream(`"only":{"type":["a","b","a"]}`), "only: type: 'a' is given twice"},
		{"only a list", "", withUpstream(`"only":["a"]`), "json: cannot unmarshal array into Go struct field Handler.Stream.ClientSettings.only of type ssefanin.Only"},
		{"only an unknown key", "", withUpstream(`"only":{"types":["a"]}`), `json: unknown field "types"`},
		{"only with a control character", "", withUpstream(`"only":{"source":["a\u0000"]}`), "only: source: 'a\x00': the pattern has a control character, which no name has"},
		{"only with a brace", "", withUpstream(`"only":{"type":["user.id}"]}`), "only: type: 'user.id}': a '}' ends no placeholder; expected {name}"},
		{"only with a short placeholder", "", withUpstream(`"only":{"type":["user.{header.X-User}"]}`), "only: type: 'user.{header.X-User}': outside of a Caddyfile, that is written 'user.{http.request.header.X-User}'"},
		{"only an upstream that there is not", "", `{"handler":"sse_fanin","upstreams":[{"name":"a","urls":["https://a.example.com"]},{"name":"b","urls":["https://b.example.com"]}],"stream":"s","only":{"source":["a","c"]}}`, "only: source: 'c' is none of the stream's upstreams, which are: a, b"},
		{"only a type that does not come", "", `{"handler":"sse_fanin","upstreams":[{"urls":["https://a.example.com"],"prefix":"p."}],"only":{"type":["price","x"]}}`, "only: type: nobody would see anything, since 'events' and 'prefix' of the upstreams leave no events of 'price', 'x'"},
		{"only of a global stream", `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com"]}],"only":{"type":[]}}}}`, reference, "only: type: the list is empty, so nobody would see anything; give at least one pattern"},
		{"filters", "", withUpstream(`"filters":"yes"`), "filters: unrecognized value 'yes', expected on or off"},
		// client settings
		{"start", "", withUpstream(`"start":"now"`), "start: 'now' is neither live, oldest, last_value, a number of events nor a duration such as 5m"},
		{"start negative", "", withUpstream(`"start":-5`), "start: '-5' is neither live, oldest, last_value, a number of events nor a duration such as 5m"},
		{"start a fraction", "", withUpstream(`"start":1.5`), "start: '1.5' is neither live, oldest, last_value, a number of events nor a duration such as 5m"},
		{"start no time", "", withUpstream(`"start":"0s"`), "start: 0s is too short, it must be at least 1ms"},
		{"start a negative time", "", withUpstream(`"start":"-5m"`), "start: -5m0s is negative"},
		{"start an object", "", withUpstream(`"start":{}`), "start: '{}' is neither live, oldest, last_value, a number of events nor a duration such as 5m"},
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
		{"coalesce in milliseconds", "", withUpstream(`"coalesce":10`), "coalesce: 10ns is too short, it must be 0 or at least 1ms"},
		{"drain", "", withUpstream(`"drain":"-1s"`), "drain: -1s is negative"},
		{"on_reload", "", withUpstream(`"on_reload":"restart"`), "on_reload: unrecognized value 'restart', expected keep or drain"},
		{"detach", "", withUpstream(`"detach":"auto"`), "detach: unrecognized value 'auto', expected on or off"},
		{"setting of a reference", `{"streams":{"prices":{"upstreams":[{"urls":["https://a.example.com"]}]}}}`, `{"handler":"sse_fanin","stream":"prices","slow":"maybe"}`, "slow: unrecognized value 'maybe', expected skip or disconnect"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := doccheck.ValidateJSON(handlerConfig(test.app, test.handler))
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
	setFeedEnv(t)
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
		{"everything null", "", `{"handler":"sse_fanin","stream":null,"upstreams":[{"name":null,"urls":["https://a.example.com"],"policy":null,"dynamic":null,"events":null,"prefix":null,"header_up":null,"transport":null,"backoff":null}],` +
			`"header_up":null,"transport":null,"resume":null,"backoff":null,"idle_timeout":null,"max_event_size":null,"retain":null,"ids":null,"start":null,` +
			`"heartbeat":null,"retry":null,"slow":null,"write_timeout":null,"max_clients":null,"when_full":null,"max_age":null,"coalesce":null,"drain":null,"on_reload":null,"detach":null,` +
			`"events":null,"prefix":null,"envelope":null,"only":null,"filters":null,"prime":null,"source_events":null,"connect":null,"max_streams":null,"log":null}`},
		{"log file", "", withUpstream(`"stream":"a","log":{"kind":"file"}`)},
		{"log file with options", "", withUpstream(`"stream":"a","log":{"kind":"file","dir":"{env.FEED_DIR}","sync":"always","memory":65536}`)},
		{"log file with null", "", withUpstream(`"stream":"a","log":{"kind":"file","dir":null,"sync":null,"memory":null}`)},
		{"log defaults", `{"log":{"file":{"sync":"off"}}}`, withUpstream(`"stream":"a","log":{"kind":"file"}`)},
		{"log defaults null", `{"log":null}`, respond},
		{"retain any number of events", "", withUpstream(`"retain":{"events":0}`)},
		{"several URLs", "", asUpstream(`{"urls":["https://a.example.com","https://b.example.com"]}`)},
		{"failover", "", asUpstream(`{"name":"a","urls":["https://a.example.com","https://b.example.com"],"policy":"failover"}`)},
		{"mirror", "", asUpstream(`{"name":"a","urls":["https://a.example.com","https://b.example.com"],"policy":"mirror"}`)},
		{"balance", "", asUpstream(`{"name":"a","urls":["https://a.example.com","https://b.example.com"],"policy":"balance"}`)},
		{"merge", "", asUpstream(`{"name":"a","urls":["https://a.example.com","https://b.example.com"],"policy":"merge"}`)},
		{"failover with one URL", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"policy":"failover"}`)},
		{"merge with one URL", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"policy":"merge"}`)},
		{"dynamic, failover", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"policy":"failover","dynamic":{"source":"a","name":"a.example.com","port":"443"}}`)},
		{"dynamic, mirror", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"policy":"mirror","dynamic":{"source":"a","name":"a.example.com","port":"443"}}`)},
		{"dynamic, balance", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"policy":"balance","dynamic":{"source":"a","name":"a.example.com","port":"443"}}`)},
		{"dynamic, merge", "", asUpstream(`{"name":"a","urls":["https://a.example.com/events"],"policy":"merge","dynamic":{"source":"a","name":"a.example.com","port":"443"}}`)},
		{"only", "", withUpstream(`"only":{"source":["a-*"],"type":["user.{http.auth.user.id}.*","{http.vars.a}{env.B}"]}`)},
		{"only null", "", withUpstream(`"only":null`)},
		{"filters with one source", "", withUpstream(`"filters":"on"`)},
		{"switches as booleans", "", withUpstream(`"filters":true,"source_events":false`)},
		{"connect as a word", "", withUpstream(`"connect":"on_demand"`)},
		{"connect empty", "", withUpstream(`"connect":{}`)},
		{"connect without a linger to speak of", "", withUpstream(`"connect":{"mode":"on_demand","linger":0}`)},
		{"ids upstream", "", withUpstream(`"ids":"upstream"`)},
		{"ids upstream with replicas", "", `{"handler":"sse_fanin","ids":"upstream","upstreams":[{"name":"a","urls":["https://a.example.com","https://b.example.com"],"policy":"mirror"}]}`},
		{"ids upstream with dynamic replicas", "", `{"handler":"sse_fanin","ids":"upstream","upstreams":[{"name":"a","urls":["https://a.example.com/events"],"policy":"balance","dynamic":{"source":"a","name":"a"}}]}`},
		{"events of none", "", withUpstream(`"events":[]`)},
		{"prefix that only resembles that of control events", "", withUpstream(`"prefix":"fanin"`)},
		{"keyed", "", asUpstream(`{"urls":["https://a.example.com/{http.request.uri.query.u}"]}`)},
		{"keyed by a header", "", withUpstream(`"header_up":{"set":{"A":["{http.request.header.B}"]}},"max_streams":5`)},
		{"keyed on demand", "", `{"handler":"sse_fanin","connect":"on_demand","max_streams":1,"upstreams":[{"urls":["https://a.example.com/{http.request.uri.query.u}"]}]}`},
		{"keyed, by a reference before its definition", "", `{"handler":"sse_fanin","stream":"a"},{"handler":"sse_fanin","stream":"a","upstreams":[{"urls":["https://a.example.com/{http.request.uri.query.u}"]}]}`},
		{"keyed twice, without a name", "", `{"handler":"sse_fanin","upstreams":[{"urls":["https://a.example.com/{http.request.uri.query.u}"]}]},{"handler":"sse_fanin","upstreams":[{"urls":["https://a.example.com/{http.request.uri.query.u}"]}]}`},
		{"retain size below the default of max_event_size", "", withUpstream(`"retain":{"size":1000}`)},
		{"retain size of a keyed stream below the default of max_event_size", "", `{"handler":"sse_fanin","retain":{"size":1000},"upstreams":[{"urls":["https://a.example.com/{http.request.uri.query.u}"]}]}`},
		{"header_up with upstream placeholders is not keyed", "", withUpstream(`"connect":"eager","header_up":{"set":{"A":["{http.reverse_proxy.upstream.hostport}"]}}`)},
		{"start a number", "", withUpstream(`"start":5`)},
		{"start a number in quotes", "", withUpstream(`"start":"5"`)},
		{"start a duration", "", withUpstream(`"start":"1d12h"`)},
		{"retain empty", "", withUpstream(`"retain":{}`)},
		{"header_up empty", "", withUpstream(`"header_up":{}`)},
		{"the longest times", "", withUpstream(`"backoff":{"base":9000000000000000000},"idle_timeout":9000000000000000000,"retry":{"max":9000000000000000000},"max_age":9000000000000000000,"coalesce":9000000000000000000,"drain":9000000000000000000,"heartbeat":9000000000000000000,"write_timeout":9000000000000000000,"retain":{"age":9000000000000000000}`)},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := doccheck.ValidateJSON(handlerConfig(test.app, test.handler)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestJSONDefaults(t *testing.T) {
	for _, test := range []struct{ name, handler string }{
		{"absent", withUpstream("")},
		{"null", withUpstream(`"resume":null,"transport":null,"backoff":null,"idle_timeout":null,"max_event_size":null,"retain":null,"ids":null,"start":null,"heartbeat":null,"retry":null,"slow":null,"write_timeout":null,"max_clients":null,"max_age":null,"coalesce":null,"drain":null,"on_reload":null,"detach":null,"events":null,"prefix":null,"envelope":null,"only":null,"filters":null,"prime":null,"source_events":null,"connect":null,"max_streams":null`)},
		{"given", withUpstream(`"resume":"on","transport":{"protocol":"http"},"backoff":{"base":"1s","max":"1m"},"idle_timeout":0,"max_event_size":1048576,"retain":{"events":10000,"size":67108864,"age":0},"ids":"stream","start":"live","heartbeat":"15s","retry":{"min":"2s","max":"5s"},"slow":"skip","write_timeout":"10s","max_clients":0,"when_full":"reject","max_age":0,"coalesce":0,"drain":"5s","on_reload":"keep","detach":"off","envelope":"","filters":"off","prime":"auto","source_events":"off","connect":"eager","events":[],"prefix":""`)},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := provision(t, "", test.handler)[0]
			want := clientSettings{
				start:        startLive,
				prime:        primeAuto,
				heartbeat:    15 * time.Second,
				retryMin:     2 * time.Second,
				retryMax:     5 * time.Second,
				slow:         slowSkip,
				writeTimeout: 10 * time.Second,
				whenFull:     fullReject,
				drain:        5 * time.Second,
				onReload:     reloadKeep,
			}
			if !reflect.DeepEqual(*h.service.settings, want) {
				t.Errorf("client settings: got %+v, want %+v", *h.service.settings, want)
			}
			retain := h.service.def.retain
			if retain.MaxEvents != 10_000 || retain.MaxBytes != 64<<20 || retain.MaxAge != 0 || !retain.IDs {
				t.Errorf("retain: got %+v", retain)
			}
			spec := h.service.def.upstreams[0].spec
			if spec.Resume != resumeOn || spec.BackoffBase != time.Second || spec.BackoffMax != time.Minute ||
				spec.IdleTimeout != 0 || spec.MaxEventSize != 1<<20 || len(spec.headerOps) != 0 {
				t.Errorf("upstream: got %+v", spec)
			}
			if spec.Policy != "" || spec.Dynamic != nil {
				t.Errorf("upstream: got policy %q and addresses of %v", spec.Policy, spec.Dynamic)
			}
			if want := (streamShape{linger: 30 * time.Second}); h.service.def.shape != want {
				t.Errorf("shape: got %+v, want %+v", h.service.def.shape, want)
			}
			if shape := h.service.def.upstreams[0].shape; shape.events != nil || shape.prefix != "" {
				t.Errorf("shape of the upstream: got %+v", shape)
			}
		})
	}
}

// Whatever stands in the place of whatever: it is valid or an error.
func TestJSONNeverPanics(t *testing.T) {
	t.Parallel()
	const full = `{"apps":{
		"http":{"servers":{"srv0":{"listen":[":8080"],"routes":[{"handle":[
			{"handler":"sse_fanin","stream":"a","upstreams":[{"name":"a","urls":["https://a.example.com"],
				"header_up":{"set":{"A":["b"]},"add":{"B":["c"]},"delete":["C"],"replace":{"D":[{"search":"e","replace":"f"}]}},
				"transport":{"protocol":"http","tls":{}},"resume":"on","backoff":{"base":"1s","max":"2s"},"idle_timeout":"1m","max_event_size":1000,
				"policy":"balance","dynamic":{"source":"a","name":"a.example.com","port":"443"},"events":["tick"],"prefix":"a."}],
				"ids":"upstream","envelope":"json","only":{"source":["a"],"type":["*"]},"filters":"on","prime":"on","source_events":"on","connect":{"mode":"on_demand","linger":"5s"},"events":["tick"],"prefix":"a.",
				"log":{"kind":"file","dir":"/x","sync":"1s","memory":100000},
				"retain":{"events":5,"size":100000,"age":"1h"},"max_event_size":500,
				"start":"live","heartbeat":"15s","retry":{"min":"1s","max":"2s"},"slow":"skip","write_timeout":"10s",
				"max_clients":5,"when_full":"retry","max_age":"1h","coalesce":"10ms","drain":"5s","on_reload":"keep","detach":"off"},
			{"handler":"sse_fanin","stream":"b"}]}]}}},
		"sse_fanin":{"log":{"file":{"dir":"/x","sync":"1s","memory":100000}},"streams":{"b":{"max_streams":5,"ids":"upstream","upstreams":[{"urls":["https://b.example.com/{http.request.uri.query.u}","https://c.example.com"],"policy":"mirror"}]}}}}}`
	if err := doccheck.ValidateJSON(full); err != nil {
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
		_ = doccheck.ValidateJSON(string(raw))
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
