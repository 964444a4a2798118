package ssefanin

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/doccheck"
)

// mistake is a Caddyfile that is refused, by adapt or by validate.
type mistake struct {
	name string
	text string // what stands in a site's block from the second line on, or a whole file
	want string // the error, without what Caddy puts before it
}

// file gives the text of the whole Caddyfile.
func (m mistake) file() string {
	if strings.Contains(m.text, ":8080 {") || strings.HasPrefix(m.text, "{\n") {
		return m.text
	}
	return ":8080 {\n\t" + strings.ReplaceAll(m.text, "\n", "\n\t") + "\n}\n"
}

func refuseAll(t *testing.T, mistakes []mistake) {
	t.Helper()
	setFeedEnv(t)
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			err := doccheck.ValidateCaddyfile(m.file())
			if err == nil {
				t.Fatal("it is valid")
			}
			got := err.Error()
			if strings.Contains(got, "s3c") || strings.Contains(got, "ret@") {
				t.Errorf("a secret in the error: %s", got)
			}
			// what Caddy puts before it
			for _, prefix := range []string{"parsing caddyfile tokens for 'sse_fanin': ", "provision http.handlers.sse_fanin: "} {
				if _, ours, ok := strings.Cut(got, prefix); ok {
					got = ours
				}
			}
			if got != m.want {
				t.Errorf("got\n%s\nwant\n%s\nof\n%s", got, m.want, m.file())
			}
		})
	}
}

func TestCaddyfileRefusesUnknownWords(t *testing.T) {
	refuseAll(t, []mistake{
		{"in the block", "sse_fanin https://a.example.com/events {\n\thartbeat 5s\n}", "unrecognized subdirective 'hartbeat', expected one of backoff, coalesce, connect, detach, drain, envelope, events, filters, header_up, heartbeat, idle_timeout, ids, last_value, log, max_age, max_clients, max_event_size, max_streams, on_reload, only, prefix, prime, resume, retain, retry, slow, source_events, start, stream, transport, upstream, write_timeout, at Caddyfile:3"},
		{"a setting of clients in an upstream", "sse_fanin {\n\tupstream https://a.example.com/events {\n\t\theartbeat 5s\n\t}\n}", "heartbeat belongs in the block of a stream, beside its upstreams, at Caddyfile:4"},
		{"in retain", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tcount 5\n\t}\n}", "unrecognized subdirective 'count' of retain, expected one of age, events, size, at Caddyfile:4"},
		{"in the global option", "{\n\tsse_fanin {\n\t\tstreams prices https://a.example.com/events\n\t}\n}\n", "unrecognized subdirective 'streams' of the global option sse_fanin, expected stream <name> { ... } or log <kind> { ... }, at Caddyfile:3"},
		{"in an upstream", "sse_fanin {\n\tupstream https://a.example.com/events {\n\t\thartbeat 5s\n\t}\n}", "unrecognized subdirective 'hartbeat' of upstream, expected one of backoff, dynamic, events, header_up, idle_timeout, max_event_size, policy, prefix, resume, transport, at Caddyfile:4"},
		{"in a stream of the global option", "{\n\tsse_fanin {\n\t\tstream prices https://a.example.com/events {\n\t\t\tstream x\n\t\t}\n\t}\n}\n", "unrecognized subdirective 'stream', expected one of backoff, coalesce, connect, detach, drain, envelope, events, filters, header_up, heartbeat, idle_timeout, ids, last_value, log, max_age, max_clients, max_event_size, max_streams, on_reload, only, prefix, prime, resume, retain, retry, slow, source_events, start, transport, upstream, write_timeout, at Caddyfile:4"},
		{"a URL in the block", "sse_fanin {\n\thttps://a.example.com/events?token=s3cret\n}", "unrecognized subdirective 'https://a.example.com/events': a URL stands in the stream's first line, or after 'upstream', at Caddyfile:3"},
		{"policy beside the upstreams", "sse_fanin https://a.example.com/events {\n\tpolicy mirror\n}", "policy belongs in the block of an upstream: upstream [<name>] <url>... { policy ... }, at Caddyfile:3"},
		{"dynamic in a stream of the global option", "{\n\tsse_fanin {\n\t\tstream prices https://a.example.com/events {\n\t\t\tdynamic a a.example.com 80\n\t\t}\n\t}\n}\n", "dynamic belongs in the block of an upstream: upstream [<name>] <url>... { dynamic ... }, at Caddyfile:4"},
		{"policy in retain", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tpolicy mirror\n\t}\n}", "policy belongs in the block of an upstream: upstream [<name>] <url>... { policy ... }, at Caddyfile:4"},
		{"a bound of retain in the block", "sse_fanin https://a.example.com/events {\n\tsize 1MiB\n}", "size belongs in the block of retain: retain { size ... }, at Caddyfile:3"},
		{"an upstream in an upstream", "sse_fanin {\n\tupstream https://a.example.com/events {\n\t\tupstream https://b.example.com/events\n\t}\n}", "upstream belongs in the block of a stream, beside its upstreams, at Caddyfile:4"},
		{"a setting of clients in the global option", "{\n\tsse_fanin {\n\t\theartbeat 5s\n\t}\n}\n", "heartbeat belongs in the block of a stream, beside its upstreams; in the global option sse_fanin, that is stream <name> { ... }, at Caddyfile:3"},
		{"an option of upstreams on the status page", "sse_fanin_status {\n\theader_up A b\n}", "parsing caddyfile tokens for 'sse_fanin_status': header_up belongs in the block of a stream, or of one of its upstreams, at Caddyfile:3"},
		{"a transport", "sse_fanin https://a.example.com/events {\n\ttransport carrier_pigeon\n}", "getting module named 'http.reverse_proxy.transport.carrier_pigeon': module not registered: http.reverse_proxy.transport.carrier_pigeon, at Caddyfile:3"},
	})
}

func TestCaddyfileRefusesRepeats(t *testing.T) {
	refuseAll(t, []mistake{
		{"stream", "sse_fanin https://a.example.com/events {\n\tstream a\n\tstream a\n}", "stream is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"transport", "sse_fanin https://a.example.com/events {\n\ttransport http\n\ttransport http\n}", "transport is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"resume", "sse_fanin https://a.example.com/events {\n\tresume on\n\tresume on\n}", "resume is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"backoff", "sse_fanin https://a.example.com/events {\n\tbackoff 1s\n\tbackoff 1s\n}", "backoff is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"idle_timeout", "sse_fanin https://a.example.com/events {\n\tidle_timeout 1m\n\tidle_timeout 1m\n}", "idle_timeout is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"max_event_size", "sse_fanin https://a.example.com/events {\n\tmax_event_size 1MiB\n\tmax_event_size 1MiB\n}", "max_event_size is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"start", "sse_fanin https://a.example.com/events {\n\tstart live\n\tstart live\n}", "start is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"ids", "sse_fanin https://a.example.com/events {\n\tids none\n\tids none\n}", "ids is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"heartbeat", "sse_fanin https://a.example.com/events {\n\theartbeat 5s\n\theartbeat 5s\n}", "heartbeat is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"retry", "sse_fanin https://a.example.com/events {\n\tretry 1s\n\tretry 1s\n}", "retry is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"slow", "sse_fanin https://a.example.com/events {\n\tslow skip\n\tslow skip\n}", "slow is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"write_timeout", "sse_fanin https://a.example.com/events {\n\twrite_timeout 5s\n\twrite_timeout 5s\n}", "write_timeout is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"max_clients", "sse_fanin https://a.example.com/events {\n\tmax_clients 5\n\tmax_clients 5\n}", "max_clients is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"max_age", "sse_fanin https://a.example.com/events {\n\tmax_age 1h\n\tmax_age 1h\n}", "max_age is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"drain", "sse_fanin https://a.example.com/events {\n\tdrain 5s\n\tdrain 5s\n}", "drain is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"on_reload", "sse_fanin https://a.example.com/events {\n\ton_reload keep\n\ton_reload keep\n}", "on_reload is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"detach", "sse_fanin https://a.example.com/events {\n\tdetach on\n\tdetach on\n}", "detach is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"retain", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tevents 5\n\t}\n\tretain {\n\t\tevents 5\n\t}\n}", "retain is given twice, first at Caddyfile:3, at Caddyfile:6"},
		{"in retain", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tevents 5\n\t\tevents 6\n\t}\n}", "events is given twice, first at Caddyfile:4, at Caddyfile:5"},
		{"in an upstream", "sse_fanin {\n\tupstream https://a.example.com/events {\n\t\tresume on\n\t\tresume off\n\t}\n}", "resume is given twice, first at Caddyfile:4, at Caddyfile:5"},
		{"upstream name", "sse_fanin {\n\tupstream a https://a.example.com/events\n\tupstream a https://b.example.com/events\n}", "upstream 'a' is defined twice, first at Caddyfile:3, at Caddyfile:4"},
		{"stream in the global option", "{\n\tsse_fanin {\n\t\tstream a https://a.example.com/events\n\t\tstream a https://a.example.com/events\n\t}\n}\n", "stream 'a' is defined twice in the global option sse_fanin, at Caddyfile:4"},
		{"stream in two global options", "{\n\tsse_fanin {\n\t\tstream a https://a.example.com/events\n\t}\n\tsse_fanin {\n\t\tstream a https://a.example.com/events\n\t}\n}\n", "stream 'a' is defined twice in the global option sse_fanin, at Caddyfile:6"},
		{"stream in the global option and in a handler", "{\n\tsse_fanin {\n\t\tstream a https://a.example.com/events\n\t}\n}\n\n:8080 {\n\tsse_fanin https://a.example.com/events {\n\t\tstream a\n\t}\n}\n", "stream 'a' is already defined in the global option sse_fanin; to serve it, give its name instead of upstreams, at Caddyfile:8"},
		{"stream in two handlers", ":8080 {\n\tsse_fanin https://a.example.com/events {\n\t\tstream a\n\t}\n}\n\n:8081 {\n\tsse_fanin https://a.example.com/events {\n\t\tstream a\n\t}\n}\n", "stream 'a' is already defined at Caddyfile:2; to serve it here too, give its name instead of upstreams, at Caddyfile:8"},
		{"stream in a snippet that two sites import", "(events) {\n\tsse_fanin https://a.example.com/events {\n\t\tstream a\n\t}\n}\n\n:8080 {\n\timport events\n}\n\n:8081 {\n\timport events\n}\n", "stream 'a' is already defined at Caddyfile:2; to serve it here too, give its name instead of upstreams, at Caddyfile:2 import chain ['Caddyfile:12 (import events)']"},
		{"prefix", "sse_fanin https://a.example.com/events {\n\tprefix a.\n\tprefix a.\n}", "prefix is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"events", "sse_fanin https://a.example.com/events {\n\tevents tick\n\tevents tick\n}", "events is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"envelope", "sse_fanin https://a.example.com/events {\n\tenvelope json\n\tenvelope json\n}", "envelope is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"prime", "sse_fanin https://a.example.com/events {\n\tprime on\n\tprime off\n}", "prime is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"filters", "sse_fanin https://a.example.com/events {\n\tfilters on\n\tfilters on\n}", "filters is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"source_events", "sse_fanin https://a.example.com/events {\n\tsource_events on\n\tsource_events on\n}", "source_events is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"connect", "sse_fanin https://a.example.com/events {\n\tconnect on_demand\n\tconnect on_demand\n}", "connect is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"max_streams", "sse_fanin https://a.example.com/events {\n\tmax_streams 5\n\tmax_streams 5\n}", "max_streams is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"policy of an upstream", "sse_fanin {\n\tupstream a https://a.example.com/events https://b.example.com/events {\n\t\tpolicy mirror\n\t\tpolicy mirror\n\t}\n}", "policy is given twice, first at Caddyfile:4, at Caddyfile:5"},
		{"dynamic of an upstream", "sse_fanin {\n\tupstream a https://a.example.com/events https://b.example.com/events {\n\t\tdynamic a a.example.com 443\n\t\tdynamic a a.example.com 443\n\t}\n}", "dynamic is given twice, first at Caddyfile:4, at Caddyfile:5"},
		{"events of an upstream", "sse_fanin {\n\tupstream a https://a.example.com/events https://b.example.com/events {\n\t\tevents tick\n\t\tevents tick\n\t}\n}", "events is given twice, first at Caddyfile:4, at Caddyfile:5"},
		{"prefix of an upstream", "sse_fanin {\n\tupstream a https://a.example.com/events https://b.example.com/events {\n\t\tprefix a.\n\t\tprefix a.\n\t}\n}", "prefix is given twice, first at Caddyfile:4, at Caddyfile:5"},
	})
}

func TestCaddyfileRefusesMissingArguments(t *testing.T) {
	refuseAll(t, []mistake{
		{"stream", "sse_fanin https://a.example.com/events {\n\tstream\n}", "stream: missing argument, expected stream <name>, at Caddyfile:3"},
		{"header_up", "sse_fanin https://a.example.com/events {\n\theader_up\n}", "header_up: missing the field, expected header_up [+|-]<field> [<value|regexp> [<replacement>]], at Caddyfile:3"},
		{"transport", "sse_fanin https://a.example.com/events {\n\ttransport\n}", "transport: missing argument, expected transport http { ... }, at Caddyfile:3"},
		{"resume", "sse_fanin https://a.example.com/events {\n\tresume\n}", "resume: missing argument, expected resume on|off|<last-event-id>, at Caddyfile:3"},
		{"backoff", "sse_fanin https://a.example.com/events {\n\tbackoff\n}", "backoff: missing argument, expected backoff <base> [<max>], at Caddyfile:3"},
		{"idle_timeout", "sse_fanin https://a.example.com/events {\n\tidle_timeout\n}", "idle_timeout: missing argument, expected idle_timeout <duration>|off, at Caddyfile:3"},
		{"max_event_size", "sse_fanin https://a.example.com/events {\n\tmax_event_size\n}", "max_event_size: missing argument, expected max_event_size <size>, at Caddyfile:3"},
		{"retain", "sse_fanin https://a.example.com/events {\n\tretain\n}", "retain: the block is missing or empty, expected events, size or age in it, at Caddyfile:3"},
		{"start", "sse_fanin https://a.example.com/events {\n\tstart\n}", "start: missing argument, expected start live|oldest|<n>|<duration>|last_value, at Caddyfile:3"},
		{"ids", "sse_fanin https://a.example.com/events {\n\tids\n}", "ids: missing argument, expected ids stream|upstream|none, at Caddyfile:3"},
		{"heartbeat", "sse_fanin https://a.example.com/events {\n\theartbeat\n}", "heartbeat: missing argument, expected heartbeat <duration>|off, at Caddyfile:3"},
		{"retry", "sse_fanin https://a.example.com/events {\n\tretry\n}", "retry: missing argument, expected retry <min> [<max>], at Caddyfile:3"},
		{"slow", "sse_fanin https://a.example.com/events {\n\tslow\n}", "slow: missing argument, expected slow skip|disconnect, at Caddyfile:3"},
		{"write_timeout", "sse_fanin https://a.example.com/events {\n\twrite_timeout\n}", "write_timeout: missing argument, expected write_timeout <duration>, at Caddyfile:3"},
		{"max_clients", "sse_fanin https://a.example.com/events {\n\tmax_clients\n}", "max_clients: missing argument, expected max_clients <n> [reject|retry], at Caddyfile:3"},
		{"max_age", "sse_fanin https://a.example.com/events {\n\tmax_age\n}", "max_age: missing argument, expected max_age <duration>|off, at Caddyfile:3"},
		{"drain", "sse_fanin https://a.example.com/events {\n\tdrain\n}", "drain: missing argument, expected drain <duration>, at Caddyfile:3"},
		{"on_reload", "sse_fanin https://a.example.com/events {\n\ton_reload\n}", "on_reload: missing argument, expected on_reload keep|drain, at Caddyfile:3"},
		{"detach", "sse_fanin https://a.example.com/events {\n\tdetach\n}", "detach: missing argument, expected detach on|off, at Caddyfile:3"},
		{"upstream", "sse_fanin https://a.example.com/events {\n\tupstream\n}", "upstream: missing the URL, expected upstream [<name>] <url>..., at Caddyfile:3"},
		{"retain events", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tevents\n\t}\n}", "events: missing argument, expected events <n>, at Caddyfile:4"},
		{"retain size", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tsize\n\t}\n}", "size: missing argument, expected size <size>, at Caddyfile:4"},
		{"retain age", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tage\n\t}\n}", "age: missing argument, expected age <duration>, at Caddyfile:4"},
		{"empty retain", "sse_fanin https://a.example.com/events {\n\tretain {\n\t}\n}", "retain: the block is missing or empty, expected events, size or age in it, at Caddyfile:4"},
		{"global stream", "{\n\tsse_fanin {\n\t\tstream\n\t}\n}\n", "stream: missing the name, expected stream <name> [<url>...] { ... }, at Caddyfile:3"},
		{"global stream without upstreams", "{\n\tsse_fanin {\n\t\tstream a {\n\t\t\theartbeat 5s\n\t\t}\n\t}\n}\n", "stream 'a' has no upstreams: give it at least one URL, at Caddyfile:3"},
		{"everything", "sse_fanin", "no upstreams: give at least one URL, or the name of a stream, at Caddyfile:2"},
		{"everything but a matcher", "sse_fanin /events", "no upstreams: give at least one URL, or the name of a stream, at Caddyfile:2"},
		{"everything but the name of an upstream", "sse_fanin {\n\tupstream a\n}", "upstream: missing the URL, expected upstream [<name>] <url>..., at Caddyfile:3"},
		{"upstreams beside settings", "sse_fanin {\n\theartbeat 5s\n}", "no upstreams: give at least one URL, or the name of a stream, at Caddyfile:2"},
		{"prefix", "sse_fanin https://a.example.com/events {\n\tprefix\n}", "prefix: missing argument, expected prefix <text>, at Caddyfile:3"},
		{"events", "sse_fanin https://a.example.com/events {\n\tevents\n}", "events: missing argument, expected events <type>..., at Caddyfile:3"},
		{"envelope", "sse_fanin https://a.example.com/events {\n\tenvelope\n}", "envelope: missing argument, expected envelope json, at Caddyfile:3"},
		{"prime", "sse_fanin https://a.example.com/events {\n\tprime\n}", "prime: missing argument, expected prime auto|on|off, at Caddyfile:3"},
		{"only", "sse_fanin https://a.example.com/events {\n\tonly\n}", "only: missing argument, expected only source|type <pattern>..., at Caddyfile:3"},
		{"only type", "sse_fanin https://a.example.com/events {\n\tonly type\n}", "only: missing pattern, expected only type <pattern>..., at Caddyfile:3"},
		{"filters", "sse_fanin https://a.example.com/events {\n\tfilters\n}", "filters: missing argument, expected filters on|off, at Caddyfile:3"},
		{"source_events", "sse_fanin https://a.example.com/events {\n\tsource_events\n}", "source_events: missing argument, expected source_events on|off, at Caddyfile:3"},
		{"connect", "sse_fanin https://a.example.com/events {\n\tconnect\n}", "connect: missing argument, expected connect eager|on_demand [<linger>], at Caddyfile:3"},
		{"max_streams", "sse_fanin https://a.example.com/events {\n\tmax_streams\n}", "max_streams: missing argument, expected max_streams <n>, at Caddyfile:3"},
		{"policy", "sse_fanin {\n\tupstream a https://a.example.com/events https://b.example.com/events {\n\t\tpolicy\n\t}\n}", "policy: missing argument, expected policy failover|mirror|balance|merge, at Caddyfile:4"},
		{"dynamic", "sse_fanin {\n\tupstream a https://a.example.com/events {\n\t\tdynamic\n\t}\n}", "dynamic: missing argument, expected dynamic a|srv|multi [<args>...] { ... }, at Caddyfile:4"},
	})
}

func TestCaddyfileRefusesStrayArguments(t *testing.T) {
	refuseAll(t, []mistake{
		{"stream a b", "sse_fanin https://a.example.com/events {\n\tstream a b\n}", "stream: unexpected 'b', expected stream <name>, at Caddyfile:3"},
		{"header_up A b c d", "sse_fanin https://a.example.com/events {\n\theader_up A b c d\n}", "header_up: 4 arguments are too many, expected header_up [+|-]<field> [<value|regexp> [<replacement>]]; a value with spaces stands in quotes, at Caddyfile:3"},
		{"header_up -A b", "sse_fanin https://a.example.com/events {\n\theader_up -A b\n}", "header_up: '-A' deletes the field and takes no value, at Caddyfile:3"},
		{"header_up +A b c", "sse_fanin https://a.example.com/events {\n\theader_up +A b c\n}", "header_up: '+A' adds a value and takes no replacement, at Caddyfile:3"},
		{"transport http x", "sse_fanin https://a.example.com/events {\n\ttransport http x\n}", "transport: unexpected 'x', expected transport http { ... }, at Caddyfile:3"},
		{"resume on off", "sse_fanin https://a.example.com/events {\n\tresume on off\n}", "resume: unexpected 'off', expected resume on|off|<last-event-id>, at Caddyfile:3"},
		{"backoff 1s 2s 3s", "sse_fanin https://a.example.com/events {\n\tbackoff 1s 2s 3s\n}", "backoff: unexpected '3s', expected backoff <base> [<max>], at Caddyfile:3"},
		{"idle_timeout 1m 2m", "sse_fanin https://a.example.com/events {\n\tidle_timeout 1m 2m\n}", "idle_timeout: unexpected '2m', expected idle_timeout <duration>|off, at Caddyfile:3"},
		{"max_event_size 1MiB 2MiB", "sse_fanin https://a.example.com/events {\n\tmax_event_size 1MiB 2MiB\n}", "max_event_size: unexpected '2MiB', expected max_event_size <size>, at Caddyfile:3"},
		{"retain 5", "sse_fanin https://a.example.com/events {\n\tretain 5\n}", "retain: unexpected '5', its bounds stand in a block: retain { events <n> }, at Caddyfile:3"},
		{"start live 5", "sse_fanin https://a.example.com/events {\n\tstart live 5\n}", "start: unexpected '5', expected start live|oldest|<n>|<duration>|last_value, at Caddyfile:3"},
		{"ids none stream", "sse_fanin https://a.example.com/events {\n\tids none stream\n}", "ids: unexpected 'stream', expected ids stream|upstream|none, at Caddyfile:3"},
		{"heartbeat 5s 6s", "sse_fanin https://a.example.com/events {\n\theartbeat 5s 6s\n}", "heartbeat: unexpected '6s', expected heartbeat <duration>|off, at Caddyfile:3"},
		{"retry 1s 2s 3s", "sse_fanin https://a.example.com/events {\n\tretry 1s 2s 3s\n}", "retry: unexpected '3s', expected retry <min> [<max>], at Caddyfile:3"},
		{"slow skip maybe", "sse_fanin https://a.example.com/events {\n\tslow skip maybe\n}", "slow: unexpected 'maybe', expected slow skip|disconnect, at Caddyfile:3"},
		{"write_timeout 5s 6s", "sse_fanin https://a.example.com/events {\n\twrite_timeout 5s 6s\n}", "write_timeout: unexpected '6s', expected write_timeout <duration>, at Caddyfile:3"},
		{"max_clients 5 retry now", "sse_fanin https://a.example.com/events {\n\tmax_clients 5 retry now\n}", "max_clients: unexpected 'now', expected max_clients <n> [reject|retry], at Caddyfile:3"},
		{"max_age 1h 2h", "sse_fanin https://a.example.com/events {\n\tmax_age 1h 2h\n}", "max_age: unexpected '2h', expected max_age <duration>|off, at Caddyfile:3"},
		{"drain 5s 6s", "sse_fanin https://a.example.com/events {\n\tdrain 5s 6s\n}", "drain: unexpected '6s', expected drain <duration>, at Caddyfile:3"},
		{"detach on off", "sse_fanin https://a.example.com/events {\n\tdetach on off\n}", "detach: unexpected 'off', expected detach on|off, at Caddyfile:3"},
		{"on_reload keep drain", "sse_fanin https://a.example.com/events {\n\ton_reload keep drain\n}", "on_reload: unexpected 'drain', expected on_reload keep|drain, at Caddyfile:3"},
		{"upstream a <url> b", "sse_fanin https://a.example.com/events {\n\tupstream a https://b.example.com/events b\n}", "upstream: unexpected 'b', expected upstream [<name>] <url>..., at Caddyfile:3"},
		{"two names of an upstream", "sse_fanin https://a.example.com/events {\n\tupstream a b https://b.example.com/events\n}", "upstream: unexpected 'b', expected upstream [<name>] <url>..., at Caddyfile:3"},
		{"retain events 5 6", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tevents 5 6\n\t}\n}", "events: unexpected '6', expected events <n>, at Caddyfile:4"},
		{"retain size 1MiB 2MiB", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tsize 1MiB 2MiB\n\t}\n}", "size: unexpected '2MiB', expected size <size>, at Caddyfile:4"},
		{"retain age 1h 2h", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tage 1h 2h\n\t}\n}", "age: unexpected '2h', expected age <duration>, at Caddyfile:4"},
		{"global option", "{\n\tsse_fanin prices {\n\t\tstream a https://a.example.com/events\n\t}\n}\n", "sse_fanin: unexpected 'prices', expected sse_fanin { stream <name> { ... } }, at Caddyfile:2"},
		{"global stream", "{\n\tsse_fanin {\n\t\tstream a b https://a.example.com/events\n\t}\n}\n", "stream: unexpected 'b', expected stream <name> [<url>...] { ... }, at Caddyfile:3"},
		{"two stream names", "sse_fanin prices news", "'news' is a second stream name beside 'prices'; a handler serves one stream, at Caddyfile:2"},
		{"a block after a setting", "sse_fanin https://a.example.com/events {\n\theartbeat 5s {\n\t\tevery minute\n\t}\n}", "unexpected block, expected heartbeat <duration>|off, at Caddyfile:3"},
		{"an empty block after a setting", "sse_fanin https://a.example.com/events {\n\theartbeat 5s {\n\t}\n}", "unexpected block, expected heartbeat <duration>|off, at Caddyfile:3"},
		{"a block after header_up", "sse_fanin https://a.example.com/events {\n\theader_up A s3cret {\n\t\tb\n\t}\n}", "unexpected block, expected header_up [+|-]<field> [<value|regexp> [<replacement>]], at Caddyfile:3"},
		{"prefix a. x", "sse_fanin https://a.example.com/events {\n\tprefix a. x\n}", "prefix: unexpected 'x', expected prefix <text>, at Caddyfile:3"},
		{"envelope json x", "sse_fanin https://a.example.com/events {\n\tenvelope json x\n}", "envelope: unexpected 'x', expected envelope json, at Caddyfile:3"},
		{"only type x in two lines", "sse_fanin https://a.example.com/events {\n\tonly type x\n\tonly source y\n\tonly type z\n}", "only type is given twice, first at Caddyfile:3, at Caddyfile:5"},
		{"filters on x", "sse_fanin https://a.example.com/events {\n\tfilters on x\n}", "filters: unexpected 'x', expected filters on|off, at Caddyfile:3"},
		{"source_events on x", "sse_fanin https://a.example.com/events {\n\tsource_events on x\n}", "source_events: unexpected 'x', expected source_events on|off, at Caddyfile:3"},
		{"connect on_demand 5s x", "sse_fanin https://a.example.com/events {\n\tconnect on_demand 5s x\n}", "connect: unexpected 'x', expected connect eager|on_demand [<linger>], at Caddyfile:3"},
		{"max_streams 5 x", "sse_fanin https://a.example.com/events {\n\tmax_streams 5 x\n}", "max_streams: unexpected 'x', expected max_streams <n>, at Caddyfile:3"},
		{"policy mirror merge", "sse_fanin {\n\tupstream a https://a.example.com/events https://b.example.com/events {\n\t\tpolicy mirror merge\n\t}\n}", "policy: unexpected 'merge', expected policy failover|mirror|balance|merge, at Caddyfile:4"},
		{"a name between the URLs", "sse_fanin {\n\tupstream https://a.example.com/events a https://b.example.com/events\n}", "upstream: unexpected 'a', expected upstream [<name>] <url>..., at Caddyfile:3"},
		{"a block after policy", "sse_fanin {\n\tupstream a https://a.example.com/events https://b.example.com/events {\n\t\tpolicy mirror {\n\t\t\tx\n\t\t}\n\t}\n}", "unexpected block, expected policy failover|mirror|balance|merge, at Caddyfile:4"},
		{"a block after events", "sse_fanin https://a.example.com/events {\n\tevents tick {\n\t\tx\n\t}\n}", "unexpected block, expected events <type>..., at Caddyfile:3"},
		{"a block after connect", "sse_fanin https://a.example.com/events {\n\tconnect on_demand {\n\t\tlinger 5s\n\t}\n}", "unexpected block, expected connect eager|on_demand [<linger>], at Caddyfile:3"},
	})
}

func TestCaddyfileRefusesValues(t *testing.T) {
	refuseAll(t, []mistake{
		{"stream \"a b\"", "sse_fanin https://a.example.com/events {\n\tstream \"a b\"\n}", "stream: the name 'a b' may only contain letters, digits and '_.-', at Caddyfile:3"},
		{"stream \"\"", "sse_fanin https://a.example.com/events {\n\tstream \"\"\n}", "stream: the argument is empty, expected stream <name>, at Caddyfile:3"},
		{"stream a/b", "sse_fanin https://a.example.com/events {\n\tstream a/b\n}", "stream: the name 'a/b' may only contain letters, digits and '_.-', at Caddyfile:3"},
		{"resume \"\"", "sse_fanin https://a.example.com/events {\n\tresume \"\"\n}", "resume: the argument is empty, expected resume on|off|<last-event-id>, at Caddyfile:3"},
		{"resume {query.id}", "sse_fanin https://a.example.com/events {\n\tresume {query.id}\n}", "resume: the placeholder {http.request.uri.query.id} belongs to a client's request; placeholders may stand in the path and the query of a URL and in header_up, at Caddyfile:3"},
		{"backoff soon", "sse_fanin https://a.example.com/events {\n\tbackoff soon\n}", "backoff: 'soon' is not a duration such as 10s, at Caddyfile:3"},
		{"backoff 0", "sse_fanin https://a.example.com/events {\n\tbackoff 0\n}", "backoff: 0 is too short, it must be at least 1ms, at Caddyfile:3"},
		{"backoff -1s", "sse_fanin https://a.example.com/events {\n\tbackoff -1s\n}", "backoff: -1s is negative, at Caddyfile:3"},
		{"backoff 5s 1s", "sse_fanin https://a.example.com/events {\n\tbackoff 5s 1s\n}", "backoff: the maximum 1s is below the base 5s, at Caddyfile:3"},
		{"backoff 1us", "sse_fanin https://a.example.com/events {\n\tbackoff 1us\n}", "backoff: 1µs is too short, it must be at least 1ms, at Caddyfile:3"},
		{"idle_timeout never", "sse_fanin https://a.example.com/events {\n\tidle_timeout never\n}", "idle_timeout: 'never' is not a duration such as 10s, at Caddyfile:3"},
		{"idle_timeout -1m", "sse_fanin https://a.example.com/events {\n\tidle_timeout -1m\n}", "idle_timeout: -1m0s is negative, at Caddyfile:3"},
		{"idle_timeout 1ns", "sse_fanin https://a.example.com/events {\n\tidle_timeout 1ns\n}", "idle_timeout: 1ns is too short, it must be 0 or at least 1ms, at Caddyfile:3"},
		{"max_event_size big", "sse_fanin https://a.example.com/events {\n\tmax_event_size big\n}", "max_event_size: 'big' is not a size such as 64MiB, at Caddyfile:3"},
		{"max_event_size 0", "sse_fanin https://a.example.com/events {\n\tmax_event_size 0\n}", "max_event_size: '0' is no size, it must be at least 1 byte, at Caddyfile:3"},
		{"max_event_size -1", "sse_fanin https://a.example.com/events {\n\tmax_event_size -1\n}", "max_event_size: '-1' is not a size such as 64MiB, at Caddyfile:3"},
		{"max_event_size 2GiB", "sse_fanin https://a.example.com/events {\n\tmax_event_size 2GiB\n}", "max_event_size: 2147483648 bytes is too much, it must be at most 1.0 GiB, at Caddyfile:3"},
		{"max_event_size 128MiB", "sse_fanin https://a.example.com/events {\n\tmax_event_size 128MiB\n}", "max_event_size: 134217728 bytes is more than the size of all that is retained, 67108864 bytes; lower max_event_size, or raise size in retain, at Caddyfile:3"},
		{"start now", "sse_fanin https://a.example.com/events {\n\tstart now\n}", "start: 'now' is neither live, oldest, last_value, a number of events nor a duration such as 5m, at Caddyfile:3"},
		{"start -5", "sse_fanin https://a.example.com/events {\n\tstart -5\n}", "start: '-5' is neither live, oldest, last_value, a number of events nor a duration such as 5m, at Caddyfile:3"},
		{"start 0s", "sse_fanin https://a.example.com/events {\n\tstart 0s\n}", "start: 0s is too short, it must be at least 1ms, at Caddyfile:3"},
		{"start -5m", "sse_fanin https://a.example.com/events {\n\tstart -5m\n}", "start: -5m0s is negative, at Caddyfile:3"},
		{"start 5 m", "sse_fanin https://a.example.com/events {\n\tstart 5 m\n}", "start: unexpected 'm', expected start live|oldest|<n>|<duration>|last_value, at Caddyfile:3"},
		{"start 1.5", "sse_fanin https://a.example.com/events {\n\tstart 1.5\n}", "start: '1.5' is neither live, oldest, last_value, a number of events nor a duration such as 5m, at Caddyfile:3"},
		{"start \"\"", "sse_fanin https://a.example.com/events {\n\tstart \"\"\n}", "start: the argument is empty, expected start live|oldest|<n>|<duration>|last_value, at Caddyfile:3"},
		{"ids yes", "sse_fanin https://a.example.com/events {\n\tids yes\n}", "ids: unrecognized value 'yes', expected stream or upstream or none, at Caddyfile:3"},
		{"heartbeat 15", "sse_fanin https://a.example.com/events {\n\theartbeat 15\n}", "heartbeat: '15' is not a duration such as 10s, at Caddyfile:3"},
		{"heartbeat -15s", "sse_fanin https://a.example.com/events {\n\theartbeat -15s\n}", "heartbeat: -15s is negative, at Caddyfile:3"},
		{"heartbeat 1us", "sse_fanin https://a.example.com/events {\n\theartbeat 1us\n}", "heartbeat: 1µs is too short, it must be 0 or at least 1ms, at Caddyfile:3"},
		{"retry 0", "sse_fanin https://a.example.com/events {\n\tretry 0\n}", "retry: 0 is too short, it must be at least 1ms, at Caddyfile:3"},
		{"retry 0 5s", "sse_fanin https://a.example.com/events {\n\tretry 0 5s\n}", "retry: 0 is too short, it must be at least 1ms, at Caddyfile:3"},
		{"retry 5s 1s", "sse_fanin https://a.example.com/events {\n\tretry 5s 1s\n}", "retry: the maximum 1s is below the minimum 5s, at Caddyfile:3"},
		{"retry soon", "sse_fanin https://a.example.com/events {\n\tretry soon\n}", "retry: 'soon' is not a duration such as 10s, at Caddyfile:3"},
		{"retry -1s", "sse_fanin https://a.example.com/events {\n\tretry -1s\n}", "retry: -1s is negative, at Caddyfile:3"},
		{"slow maybe", "sse_fanin https://a.example.com/events {\n\tslow maybe\n}", "slow: unrecognized value 'maybe', expected skip or disconnect, at Caddyfile:3"},
		{"slow \"\"", "sse_fanin https://a.example.com/events {\n\tslow \"\"\n}", "slow: the argument is empty, expected slow skip|disconnect, at Caddyfile:3"},
		{"write_timeout 0", "sse_fanin https://a.example.com/events {\n\twrite_timeout 0\n}", "write_timeout: 0s is too short, it must be at least 1ms, at Caddyfile:3"},
		{"write_timeout off", "sse_fanin https://a.example.com/events {\n\twrite_timeout off\n}", "write_timeout: 'off' is not a duration such as 10s, at Caddyfile:3"},
		{"write_timeout -1s", "sse_fanin https://a.example.com/events {\n\twrite_timeout -1s\n}", "write_timeout: -1s is negative, at Caddyfile:3"},
		{"max_clients many", "sse_fanin https://a.example.com/events {\n\tmax_clients many\n}", "max_clients: 'many' is not a whole number from 0 to 2147483647, at Caddyfile:3"},
		{"max_clients -1", "sse_fanin https://a.example.com/events {\n\tmax_clients -1\n}", "max_clients: '-1' is not a whole number from 0 to 2147483647, at Caddyfile:3"},
		{"max_clients 5 maybe", "sse_fanin https://a.example.com/events {\n\tmax_clients 5 maybe\n}", "max_clients: unrecognized value 'maybe', expected reject or retry, at Caddyfile:3"},
		{"max_age -1h", "sse_fanin https://a.example.com/events {\n\tmax_age -1h\n}", "max_age: -1h0m0s is negative, at Caddyfile:3"},
		{"max_age 1us", "sse_fanin https://a.example.com/events {\n\tmax_age 1us\n}", "max_age: 1µs is too short, it must be 0 or at least 1ms, at Caddyfile:3"},
		{"drain soon", "sse_fanin https://a.example.com/events {\n\tdrain soon\n}", "drain: 'soon' is not a duration such as 10s, at Caddyfile:3"},
		{"drain -5s", "sse_fanin https://a.example.com/events {\n\tdrain -5s\n}", "drain: -5s is negative, at Caddyfile:3"},
		{"detach auto", "sse_fanin https://a.example.com/events {\n\tdetach auto\n}", "detach: unrecognized value 'auto', expected on or off, at Caddyfile:3"},
		{"on_reload restart", "sse_fanin https://a.example.com/events {\n\ton_reload restart\n}", "on_reload: unrecognized value 'restart', expected keep or drain, at Caddyfile:3"},
		{"retain events -1", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tevents -1\n\t}\n}", "events: '-1' is not a whole number from 0 to 2147483647, at Caddyfile:4"},
		{"retain events many", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tevents many\n\t}\n}", "events: 'many' is not a whole number from 0 to 2147483647, at Caddyfile:4"},
		{"retain events 9999999999", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tevents 9999999999\n\t}\n}", "events: '9999999999' is not a whole number from 0 to 2147483647, at Caddyfile:4"},
		{"retain size 0", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tsize 0\n\t}\n}", "size: '0' is no size, it must be at least 1 byte, at Caddyfile:4"},
		{"retain size -1", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tsize -1\n\t}\n}", "size: '-1' is not a size such as 64MiB, at Caddyfile:4"},
		{"retain size big", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tsize big\n\t}\n}", "size: 'big' is not a size such as 64MiB, at Caddyfile:4"},
		{"retain size 2TiB", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tsize 2TiB\n\t}\n}", "retain: size: 2199023255552 bytes is too much, it must be at most 1.0 TiB, at Caddyfile:4"},
		{"retain age -1h", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tage -1h\n\t}\n}", "retain: age: -1h0m0s is negative, at Caddyfile:4"},
		{"retain age long", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tage long\n\t}\n}", "age: 'long' is not a duration such as 10s, at Caddyfile:4"},
		{"retain age 1us", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tage 1us\n\t}\n}", "retain: age: 1µs is too short, it must be 0 or at least 1ms, at Caddyfile:4"},
		{"an upstream's max_event_size above retain size", "sse_fanin {\n\tretain {\n\t\tsize 1MiB\n\t}\n\tupstream https://a.example.com/events {\n\t\tmax_event_size 2MiB\n\t}\n}", "max_event_size: 2097152 bytes is more than the size of all that is retained, 1048576 bytes; lower max_event_size, or raise size in retain, at Caddyfile:6"},
		{"max_event_size above retain size, given first", "sse_fanin https://a.example.com/events {\n\tmax_event_size 2MiB\n\tretain {\n\t\tsize 1MiB\n\t}\n}", "max_event_size: 2097152 bytes is more than the size of all that is retained, 1048576 bytes; lower max_event_size, or raise size in retain, at Caddyfile:3"},
		{"max_event_size above retain size in the global option", "{\n\tsse_fanin {\n\t\tstream a https://a.example.com/events {\n\t\t\tmax_event_size 128MiB\n\t\t}\n\t}\n}\n", "max_event_size: 134217728 bytes is more than the size of all that is retained, 67108864 bytes; lower max_event_size, or raise size in retain, at Caddyfile:4"},
		{"header_up without a value", "sse_fanin https://a.example.com/events {\n\theader_up Authorization\n}", "header_up: 'Authorization' has no value, expected header_up [+|-]<field> [<value|regexp> [<replacement>]]; to delete a field, write '-<field>', at Caddyfile:3"},
		{"header_up with a colon", "sse_fanin https://a.example.com/events {\n\theader_up Authorization: \"Bearer s3cret\"\n}", "header_up: 'Authorization:' is not the name of a header field, at Caddyfile:3"},
		{"header_up in one argument", "sse_fanin https://a.example.com/events {\n\theader_up \"Authorization: Bearer s3cret\"\n}", "header_up: 'Authorization:…' has no value, expected header_up [+|-]<field> [<value|regexp> [<replacement>]]; to delete a field, write '-<field>', at Caddyfile:3"},
		{"header_up with a response modifier", "sse_fanin https://a.example.com/events {\n\theader_up ?Accept x\n}", "header_up: ?Accept: the default header modifier ('?') can only be used on response headers; for conditional manipulation of request headers, use matchers, at Caddyfile:3"},
		{"header_up with an invalid regular expression", "sse_fanin https://a.example.com/events {\n\theader_up Accept ( x\n}", "header_up: 'Accept': error parsing regexp: missing closing ): `(`, at Caddyfile:3"},
		{"header_up with a line end", "sse_fanin https://a.example.com/events {\n\theader_up Accept \"a\n b\"\n}", "header_up: the value of 'Accept' cannot contain control characters, at Caddyfile:3"},
		{"events \"\"", "sse_fanin https://a.example.com/events {\n\tevents \"\"\n}", "events: the argument is empty, expected events <type>..., at Caddyfile:3"},
		{"events tick \"\"", "sse_fanin {\n\tupstream a https://a.example.com/events {\n\t\tevents tick \"\"\n\t}\n}", "events: the argument is empty, expected events <type>..., at Caddyfile:4"},
		{"events with a line end", "sse_fanin https://a.example.com/events {\n\tevents \"a\n b\"\n}", "events: 'a\n\t b' is not the type of an event; unnamed events are 'message', at Caddyfile:3"},
		{"prefix \"\"", "sse_fanin https://a.example.com/events {\n\tprefix \"\"\n}", "prefix: the argument is empty, expected prefix <text>, at Caddyfile:3"},
		{"prefix fanin.", "sse_fanin https://a.example.com/events {\n\tprefix fanin.\n}", "prefix: 'fanin.' begins with 'fanin.', which is kept for the module's own events, at Caddyfile:3"},
		{"prefix fanin.a", "sse_fanin {\n\tupstream a https://a.example.com/events {\n\t\tprefix fanin.a.\n\t}\n}", "prefix: 'fanin.a.' begins with 'fanin.', which is kept for the module's own events, at Caddyfile:4"},
		{"prefix with a line end", "sse_fanin https://a.example.com/events {\n\tprefix \"a\n b\"\n}", "prefix: a type cannot contain line ends, at Caddyfile:3"},
		{"envelope xml", "sse_fanin https://a.example.com/events {\n\tenvelope xml\n}", "envelope: unrecognized value 'xml', expected json, at Caddyfile:3"},
		{"envelope off", "sse_fanin https://a.example.com/events {\n\tenvelope off\n}", "envelope: unrecognized value 'off', expected json, at Caddyfile:3"},
		{"prime yes", "sse_fanin https://a.example.com/events {\n\tprime yes\n}", "prime: unrecognized value 'yes', expected auto or on or off, at Caddyfile:3"},
		{"only types", "sse_fanin https://a.example.com/events {\n\tonly types x\n}", "only: unrecognized value 'types', expected source or type, at Caddyfile:3"},
		{"only type \"\"", "sse_fanin https://a.example.com/events {\n\tonly type a \"\"\n}", "only: the argument is empty, expected only source|type <pattern>..., at Caddyfile:3"},
		{"only type a a", "sse_fanin https://a.example.com/events {\n\tonly type a a\n}", "only: type: 'a' is given twice, at Caddyfile:3"},
		{"only source with a line end", "sse_fanin https://a.example.com/events {\n\tonly source \"a\n b\"\n}", "only: source: 'a\n\t b': the pattern has a control character, which no name has, at Caddyfile:3"},
		{"only type with half a placeholder", "sse_fanin https://a.example.com/events {\n\tonly type \"user.{http.auth.user.id.*\"\n}", "only: type: 'user.{http.auth.user.id.*': a '{' begins no placeholder; expected {name}, at Caddyfile:3"},
		{"only with a block", "sse_fanin https://a.example.com/events {\n\tonly type a {\n\t\tb\n\t}\n}", "unexpected block, expected only source|type <pattern>..., at Caddyfile:3"},
		{"filters yes", "sse_fanin https://a.example.com/events {\n\tfilters yes\n}", "filters: unrecognized value 'yes', expected on or off, at Caddyfile:3"},
		{"source_events true", "sse_fanin https://a.example.com/events {\n\tsource_events true\n}", "source_events: unrecognized value 'true', expected on or off, at Caddyfile:3"},
		{"connect lazy", "sse_fanin https://a.example.com/events {\n\tconnect lazy\n}", "connect: unrecognized value 'lazy', expected eager or on_demand, at Caddyfile:3"},
		{"connect on_demand soon", "sse_fanin https://a.example.com/events {\n\tconnect on_demand soon\n}", "connect: 'soon' is not a duration such as 10s, at Caddyfile:3"},
		{"connect on_demand -1s", "sse_fanin https://a.example.com/events {\n\tconnect on_demand -1s\n}", "connect: -1s is negative, at Caddyfile:3"},
		{"connect on_demand 1us", "sse_fanin https://a.example.com/events {\n\tconnect on_demand 1us\n}", "connect: 1µs is too short, it must be 0 or at least 1ms, at Caddyfile:3"},
		{"connect eager 5s", "sse_fanin https://a.example.com/events {\n\tconnect eager 5s\n}", "connect: a linger belongs to 'on_demand', at Caddyfile:3"},
		{"connect 5s", "sse_fanin https://a.example.com/events {\n\tconnect 5s\n}", "connect: unrecognized value '5s', expected eager or on_demand, at Caddyfile:3"},
		{"max_streams 0", "sse_fanin https://a.example.com/events {\n\tmax_streams 0\n}", "max_streams: '0' is not a whole number from 1 to 2147483647, at Caddyfile:3"},
		{"max_streams many", "sse_fanin https://a.example.com/events {\n\tmax_streams many\n}", "max_streams: 'many' is not a whole number from 1 to 2147483647, at Caddyfile:3"},
		{"policy random", "sse_fanin {\n\tupstream a https://a.example.com/events https://b.example.com/events {\n\t\tpolicy random\n\t}\n}", "policy: unrecognized value 'random', expected failover or mirror or balance or merge, at Caddyfile:4"},
		{"dynamic of an unknown module", "sse_fanin {\n\tupstream a https://a.example.com/events {\n\t\tdynamic carrier_pigeon\n\t}\n}", "getting module named 'http.reverse_proxy.upstreams.carrier_pigeon': module not registered: http.reverse_proxy.upstreams.carrier_pigeon, at Caddyfile:4"},
		{"dynamic with an unknown option", "sse_fanin {\n\tupstream a https://a.example.com/events {\n\t\tdynamic a a.example.com 443 {\n\t\t\tttl 5s\n\t\t}\n\t}\n}", "unrecognized a option 'ttl', at Caddyfile:5"},
		{"header_up with a regular expression and a request's placeholder", "sse_fanin https://a.example.com/events {\n\theader_up Accept ( {query.a}\n}", "header_up: 'Accept': error parsing regexp: missing closing ): `(`, at Caddyfile:3"},
	})
}

// Whether a stream can have a log, and what stands in its block.
func TestCaddyfileRefusesLogs(t *testing.T) {
	refuseAll(t, []mistake{
		{"unnamed", "sse_fanin https://a.example.com/events {\n\tlog file\n}", "log: it needs 'stream <name>': the name is what the log is found by when Caddy is started again, at Caddyfile:3"},
		{"a name that is no folder", "sse_fanin https://a.example.com/events {\n\tstream ..\n\tlog file\n}", "log: the name '..' cannot be that of a folder, and the log gets one of the stream's name; give the stream another name, at Caddyfile:4"},
		{"keyed by a URL", "sse_fanin https://a.example.com/{query.u} {\n\tlog file\n\tstream a\n}", "log: the placeholder {http.request.uri.query.u} makes this a stream for each of its values, and those are kept in memory only; remove the placeholder or 'log', at Caddyfile:3"},
		{"keyed by a header, in the global option", "{\n\tsse_fanin {\n\t\tstream a https://a.example.com/events {\n\t\t\theader_up X-User {header.X-User}\n\t\t\tlog file\n\t\t}\n\t}\n}\n", "log: the placeholder {http.request.header.X-User} makes this a stream for each of its values, and those are kept in memory only; remove the placeholder or 'log', at Caddyfile:5"},
		{"ids none", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file\n\tids none\n}", "log: with 'ids none' no client can resume, so there is nothing to keep a log for; remove 'ids none' or 'log', at Caddyfile:4"},
		{"no kind", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog\n}", "log: missing argument, expected log file { ... }, at Caddyfile:4"},
		{"a block without a kind", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog {\n\t\tdir /x\n\t}\n}", "log: missing argument, expected log file { ... }, at Caddyfile:4"},
		{"unknown kind", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog tape\n}", "log: unrecognized kind 'tape', expected file or memory_test or shared_test; any other is a module to build Caddy with, at Caddyfile:4"},
		{"a kind that is not built in", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog jetstream {\n\t\tservers nats://a\n\t}\n}", "log: this Caddy is built without the module for 'jetstream': xcaddy build --with github.com/sse-fanin/caddy-sse-fanin --with github.com/sse-fanin/caddy-sse-fanin/jetstream, at Caddyfile:4"},
		{"unknown option", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tfsync always\n\t}\n}", "unrecognized subdirective 'fsync' of log file, expected one of dir, memory, sync, at Caddyfile:5"},
		{"a bound of retain", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tsize 20GiB\n\t}\n}", "size belongs in the block of retain: retain { size ... }, at Caddyfile:5"},
		{"a path after the kind", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file /var/lib/sse\n}", "log: unexpected '/var/lib/sse', the options stand in a block: log file { dir <path> }, at Caddyfile:4"},
		{"twice", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file\n\tlog file\n}", "log is given twice, first at Caddyfile:4, at Caddyfile:5"},
		{"an option twice", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tsync 1s\n\t\tsync 2s\n\t}\n}", "sync is given twice, first at Caddyfile:5, at Caddyfile:6"},
		{"dir without a path", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tdir\n\t}\n}", "dir: missing argument, expected dir <path>, at Caddyfile:5"},
		{"dir empty", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tdir \"\"\n\t}\n}", "dir: the argument is empty, expected dir <path>, at Caddyfile:5"},
		{"dir twice in a line", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tdir /a /b\n\t}\n}", "dir: unexpected '/b', expected dir <path>, at Caddyfile:5"},
		{"dir with an empty placeholder", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tdir {env.NOT_SET}/sse\n\t}\n}", "stream 'a': log: loading module 'file': provision http.handlers.sse_fanin.log.file: dir: evaluated placeholder {env.NOT_SET} is empty"},
		{"dir with a placeholder of the request", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tdir /x/{query.u}\n\t}\n}", "stream 'a': log: loading module 'file': provision http.handlers.sse_fanin.log.file: dir: unrecognized placeholder {http.request.uri.query.u}"},
		{"sync without a value", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tsync\n\t}\n}", "sync: missing argument, expected sync always|<interval>|off, at Caddyfile:5"},
		{"sync 5", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tsync 5\n\t}\n}", "sync: '5' is neither always, off nor a duration such as 1s, at Caddyfile:5"},
		{"sync never", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tsync never\n\t}\n}", "sync: 'never' is neither always, off nor a duration such as 1s, at Caddyfile:5"},
		{"sync 0", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tsync 0\n\t}\n}", "sync: 0 is no interval; to have what is written on disk before clients get it, write always, at Caddyfile:5"},
		{"sync 1us", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tsync 1us\n\t}\n}", "sync: 1µs is too short, it must be at least 1ms, at Caddyfile:5"},
		{"sync -1s", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tsync -1s\n\t}\n}", "sync: -1s is negative, at Caddyfile:5"},
		{"memory without a value", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tmemory\n\t}\n}", "memory: missing argument, expected memory <size>, at Caddyfile:5"},
		{"memory 0", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tmemory 0\n\t}\n}", "memory: '0' is no size, it must be at least 1 byte, at Caddyfile:5"},
		{"memory 1KiB", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tmemory 1KiB\n\t}\n}", "memory: 1024 bytes is too little, it must be at least 64 KiB, at Caddyfile:5"},
		{"memory 2TiB", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tmemory 2TiB\n\t}\n}", "memory: 2199023255552 bytes is too much, it must be at most 1.0 TiB, at Caddyfile:5"},
		{"memory lots", "sse_fanin https://a.example.com/events {\n\tstream a\n\tlog file {\n\t\tmemory lots\n\t}\n}", "memory: 'lots' is not a size such as 64MiB, at Caddyfile:5"},
		{"in a handler that names a stream", "sse_fanin prices {\n\tlog file\n}", "log belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"in a handler that names a stream by subdirective", "sse_fanin {\n\tstream prices\n\tlog file\n}", "log belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
		{"in an upstream", "sse_fanin {\n\tstream a\n\tupstream https://a.example.com/events {\n\t\tlog file\n\t}\n}", "log belongs in the block of a stream, beside its upstreams, at Caddyfile:5"},
		{"an option beside the upstreams", "sse_fanin https://a.example.com/events {\n\tstream a\n\tdir /var/lib/sse\n}", "dir belongs in the block of log: log file { dir ... }, at Caddyfile:4"},
		{"an option in retain", "sse_fanin https://a.example.com/events {\n\tstream a\n\tretain {\n\t\tmemory 1MiB\n\t}\n}", "memory belongs in the block of log: log file { memory ... }, at Caddyfile:5"},
		{"an option in the global option", "{\n\tsse_fanin {\n\t\tsync 1s\n\t}\n}\n", "sync belongs in the block of log: log file { sync ... }, at Caddyfile:3"},
		{"defaults twice", "{\n\tsse_fanin {\n\t\tlog file {\n\t\t\tsync 2s\n\t\t}\n\t\tlog file\n\t}\n}\n", "log: the defaults for 'file' are given twice, at Caddyfile:6"},
		{"defaults in two global options", "{\n\tsse_fanin {\n\t\tlog file\n\t}\n\tsse_fanin {\n\t\tlog file\n\t}\n}\n", "log: the defaults for 'file' are given twice, at Caddyfile:6"},
		{"defaults of no kind", "{\n\tsse_fanin {\n\t\tlog\n\t}\n}\n", "log: missing argument, expected log file { ... }, at Caddyfile:3"},
		{"defaults of an unknown kind", "{\n\tsse_fanin {\n\t\tlog tape {\n\t\t\tsync 2s\n\t\t}\n\t}\n}\n", "log: unrecognized kind 'tape', expected file or memory_test or shared_test; any other is a module to build Caddy with, at Caddyfile:3"},
		{"defaults with an unknown option", "{\n\tsse_fanin {\n\t\tlog file {\n\t\t\tfsync always\n\t\t}\n\t}\n}\n", "unrecognized subdirective 'fsync' of log file, expected one of dir, memory, sync, at Caddyfile:4"},
		{"defaults with too little memory", "{\n\tsse_fanin {\n\t\tlog file {\n\t\t\tmemory 1KiB\n\t\t}\n\t}\n}\n", "memory: 1024 bytes is too little, it must be at least 64 KiB, at Caddyfile:4"},
	})
}

func TestCaddyfileRefusesLastValues(t *testing.T) {
	refuseAll(t, []mistake{
		{"without types", "sse_fanin https://a.example.com/events {\n\tlast_value\n}", "last_value: missing argument, expected last_value <type>..., at Caddyfile:3"},
		{"only a block", "sse_fanin https://a.example.com/events {\n\tlast_value {\n\t\tkey /s\n\t}\n}", "last_value: missing argument, expected last_value <type>..., at Caddyfile:3"},
		{"a type twice", "sse_fanin https://a.example.com/events {\n\tlast_value a b a\n}", "last_value: the type 'a' is given twice, at Caddyfile:3"},
		{"an empty type", "sse_fanin https://a.example.com/events {\n\tlast_value \"\"\n}", "last_value: '' is not the type of an event; unnamed events are 'message', at Caddyfile:3"},
		{"a type of ours", "sse_fanin https://a.example.com/events {\n\tlast_value fanin.gap\n}", "last_value: 'fanin.gap' begins with 'fanin.', which is kept for the module's own events; an upstream's are renamed to 'upstream.fanin.gap', at Caddyfile:3"},
		{"twice", "sse_fanin https://a.example.com/events {\n\tlast_value a\n\tlast_value b\n}", "last_value is given twice, first at Caddyfile:3, at Caddyfile:4"},
		{"a key that is no pointer", "sse_fanin https://a.example.com/events {\n\tlast_value a {\n\t\tkey symbol\n\t}\n}", "last_value: key: 'symbol' is no JSON pointer, it must begin with '/', such as /symbol, at Caddyfile:4"},
		{"a key with a bad escape", "sse_fanin https://a.example.com/events {\n\tlast_value a {\n\t\tkey /a~b\n\t}\n}", "last_value: key: '/a~b' is no JSON pointer: '~' must be followed by 0 (for ~) or 1 (for /), at Caddyfile:4"},
		{"a key twice", "sse_fanin https://a.example.com/events {\n\tlast_value a {\n\t\tkey /a\n\t\tkey /b\n\t}\n}", "key is given twice, first at Caddyfile:4, at Caddyfile:5"},
		{"no key", "sse_fanin https://a.example.com/events {\n\tlast_value a {\n\t\tkey\n\t}\n}", "key: missing argument, expected key <json-pointer>, at Caddyfile:4"},
		{"max 0", "sse_fanin https://a.example.com/events {\n\tlast_value a {\n\t\tmax 0\n\t}\n}", "max: '0' is not a whole number from 1 to 2147483647, at Caddyfile:4"},
		{"max too large", "sse_fanin https://a.example.com/events {\n\tlast_value a {\n\t\tmax 1000001\n\t}\n}", "last_value: max: 1000001 is out of range, it must be from 1 to 1000000, at Caddyfile:4"},
		{"unknown option", "sse_fanin https://a.example.com/events {\n\tlast_value a {\n\t\tsize 1\n\t}\n}", "size belongs in the block of retain: retain { size ... }, at Caddyfile:4"},
		{"unknown word", "sse_fanin https://a.example.com/events {\n\tlast_value a {\n\t\tby /s\n\t}\n}", "unrecognized subdirective 'by' of last_value, expected one of key, max, at Caddyfile:4"},
		{"an option beside the upstreams", "sse_fanin https://a.example.com/events {\n\tkey /s\n}", "key belongs in the block of last_value: last_value <type>... { key ... }, at Caddyfile:3"},
		{"in a handler that names a stream", "sse_fanin prices {\n\tlast_value a\n}", "last_value belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"start with none", "sse_fanin https://a.example.com/events {\n\theartbeat 5s\n\tstart last_value\n}", "start: 'last_value' sends the last values of the stream, but it keeps none; add 'last_value <type>...' to the stream, at Caddyfile:4"},
	})
}

func TestCaddyfileRefusesURLs(t *testing.T) {
	refuseAll(t, []mistake{
		{"no scheme", "sse_fanin a.example.com", "stream 'a.example.com' is not defined: define it with its upstreams in the global option sse_fanin, or in one handler with 'stream a.example.com'; if 'a.example.com' is the host of an upstream, begin its URL with http:// or https://"},
		{"no scheme, beside a URL", "sse_fanin a.example.com https://b.example.com/events", "'a.example.com' names a stream that is defined elsewhere, so no URLs can stand beside it; to name this stream, use the subdirective 'stream a.example.com', to match a path, begin it with '/'; if 'a.example.com' is the host of an upstream, begin its URL with http:// or https://, at Caddyfile:2"},
		{"no scheme, alone in upstream", "sse_fanin {\n\tupstream b.example.com\n}", "upstream: missing the URL, expected upstream [<name>] <url>...; if 'b.example.com' is the host of an upstream, begin its URL with http:// or https://, at Caddyfile:3"},
		{"no scheme but a query", "sse_fanin a.example.com?token=s3cret", "'a.example.com' is neither a name nor a URL: missing http:// or https://, at Caddyfile:2"},
		{"a scheme without slashes", "sse_fanin mailto:a.example.com", "'mailto:a.example.com' is neither a name nor a URL: missing http:// or https://, at Caddyfile:2"},
		{"the query of the request", "sse_fanin https://a.example.com/events?{query}", "upstream URL 'https://a.example.com/events': the placeholder {http.request.uri.query} stands in the query, but not as the value of a parameter; name each parameter that is passed on, as in ?room={query.room}, at Caddyfile:2"},
		{"the query of the request, in the global option", "{\n\tsse_fanin {\n\t\tstream a unix//run/a.sock|/events?{query}\n\t}\n}\n", "upstream URL 'unix//run/a.sock|/events': the placeholder {http.request.uri.query} stands in the query, but not as the value of a parameter; name each parameter that is passed on, as in ?room={query.room}, at Caddyfile:3"},
		{"the body of the request", "sse_fanin https://a.example.com/events?room={http.request.body}", "upstream 'https://a.example.com/events': the placeholder {http.request.body} would have each client's body read, however long it is and takes; take the value from the path, the query or a header, at Caddyfile:2"},
		{"the body of the request in a header", "sse_fanin {\n\tupstream a https://a.example.com/events {\n\t\theader_up X-Room {http.request.body_base64}\n\t}\n}", "upstream 'a': the placeholder {http.request.body_base64} would have each client's body read, however long it is and takes; take the value from the path, the query or a header, at Caddyfile:3"},
		{"the URI of the request", "sse_fanin https://a.example.com/events{uri}", "upstream URL 'https://a.example.com/events{http.request.uri}': the placeholder {http.request.uri} stands in the path, where a value is one segment, and is more than that; give its parts, as in /{path.0}/{path.1}?room={query.room}, at Caddyfile:2"},
		{"no scheme but a port", "sse_fanin localhost:9001", "'localhost:9001' is neither a name nor a URL: missing http:// or https://, at Caddyfile:2"},
		{"no scheme but a path and a query", "sse_fanin a.example.com/events?token=s3cret", "'a.example.com/events' is neither a name nor a URL: missing http:// or https://, at Caddyfile:2"},
		{"no scheme but a user", "sse_fanin me:s3cret@a.example.com", "'a.example.com' is neither a name nor a URL: missing http:// or https://, at Caddyfile:2"},
		{"no scheme, in upstream", "sse_fanin https://a.example.com/events {\n\tupstream b b.example.com/events\n}", "'b.example.com/events' is neither a name nor a URL: missing http:// or https://, at Caddyfile:3"},
		{"no scheme after a name", "sse_fanin {\n\tupstream prices a.example.com\n}", "upstream: 'a.example.com' is not a URL: missing http:// or https://, at Caddyfile:3"},
		{"no scheme after a URL", "sse_fanin {\n\tupstream https://a.example.com b.example.com\n}", "upstream: 'b.example.com' is not a URL: missing http:// or https://, at Caddyfile:3"},
		{"one slash", "sse_fanin https:/a.example.com/events", "'https:/a.example.com/events' is neither a name nor a URL: missing http:// or https://, at Caddyfile:2"},
		{"ftp", "sse_fanin ftp://a.example.com/events", "upstream URL 'ftp://a.example.com/events': the scheme 'ftp' is not supported, use http, https or unix//path/to.sock, at Caddyfile:2"},
		{"ws", "sse_fanin ws://a.example.com/events", "upstream URL 'ws://a.example.com/events': the scheme 'ws' is not supported, use http, https or unix//path/to.sock, at Caddyfile:2"},
		{"a typo", "sse_fanin htps://a.example.com/events", "upstream URL 'htps://a.example.com/events': the scheme 'htps' is not supported, use http, https or unix//path/to.sock, at Caddyfile:2"},
		{"a typo in upper case", "sse_fanin HTP://a.example.com/events", "upstream URL 'HTP://a.example.com/events': the scheme 'htp' is not supported, use http, https or unix//path/to.sock, at Caddyfile:2"},
		{"an empty variable", "sse_fanin https://{$UNSET_HOST}/events", "upstream URL 'https:///events': the host is empty, at Caddyfile:2"},
		{"an empty variable and a port", "sse_fanin https://{$UNSET_HOST}:8443/events", "upstream URL 'https://:8443/events': the host is empty, at Caddyfile:2"},
		{"an empty variable alone", "sse_fanin {$UNSET_URL}", "no upstreams: give at least one URL, or the name of a stream, at Caddyfile:2"},
		{"port 0", "sse_fanin https://a.example.com:0/events", "upstream URL 'https://a.example.com:0/events': '0' is not a port from 1 to 65535, at Caddyfile:2"},
		{"port too large", "sse_fanin https://a.example.com:65536/events", "upstream URL 'https://a.example.com:65536/events': '65536' is not a port from 1 to 65535, at Caddyfile:2"},
		{"port without a number", "sse_fanin https://a.example.com:/events", "upstream URL 'https://a.example.com:/events': '' is not a port from 1 to 65535, at Caddyfile:2"},
		{"port in words", "sse_fanin https://a.example.com:https/events", "upstream URL 'https://a.example.com:https/events': invalid port \":https\" after host, at Caddyfile:2"},
		{"a space", "sse_fanin \"https://a example.com/events\"", "upstream URL 'https://a example.com/events': invalid character \" \" in host name, at Caddyfile:2"},
		{"a password with a slash", "sse_fanin https://me:s3c/ret@a.example.com/events", "upstream URL 'https://a.example.com/events': it cannot be parsed; in a user name or a password, characters such as / ? # % @ must be percent-encoded, at Caddyfile:2"},
		{"a password with a question mark", "sse_fanin https://me:s3c?ret@a.example.com/events", "upstream URL 'https://a.example.com/events': it cannot be parsed; in a user name or a password, characters such as / ? # % @ must be percent-encoded, at Caddyfile:2"},
		{"a password with a percent sign", "sse_fanin https://me:s3c%%ret@a.example.com/events", "upstream URL 'https://a.example.com/events': it cannot be parsed; in a user name or a password, characters such as / ? # % @ must be percent-encoded, at Caddyfile:2"},
		{"a placeholder of the request as the host", "sse_fanin https://{host}/events", "upstream URL 'https://{http.request.host}/events': the placeholder {http.request.host} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:2"},
		{"a placeholder of the request in upstream", "sse_fanin https://a.example.com/events {\n\tupstream b https://b.example.com{uri}\n}", "upstream URL 'https://b.example.com{http.request.uri}': the placeholder {http.request.uri} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:3"},
		{"a placeholder of the upstream", "sse_fanin https://{upstream_hostport}/events", "upstream URL 'https://{http.reverse_proxy.upstream.hostport}/events': unrecognized placeholder {http.reverse_proxy.upstream.hostport}"},
		{"an empty placeholder", "sse_fanin https://{env.NOT_SET}/events?token=s3cret", "upstream URL 'https://{env.NOT_SET}/events': evaluated placeholder {env.NOT_SET} is empty"},
		{"an empty placeholder of a named upstream", "sse_fanin {\n\tupstream a {env.NOT_SET}\n}", "upstream 'a': upstream URL '{env.NOT_SET}': evaluated placeholder {env.NOT_SET} is empty"},
		{"an unknown placeholder", "sse_fanin https://{evn.HOST}/events", "upstream URL 'https://{evn.HOST}/events': unrecognized placeholder {evn.HOST}"},
		{"a placeholder without a scheme", "sse_fanin {env.FEED_HOST}", "upstream URL '{env.FEED_HOST}': with its placeholders filled in: missing http:// or https://"},
		{"a placeholder with a wrong scheme", "sse_fanin {env.FEED_NAME}://a.example.com", "upstream URL '{env.FEED_NAME}://a.example.com': with its placeholders filled in: the scheme 'name.example.com' is not supported, use http, https or unix//path/to.sock"},
		{"a placeholder with a bad port", "sse_fanin https://a.example.com:{env.FEED_TOKEN}/events", "upstream URL 'https://a.example.com:{env.FEED_TOKEN}/events': with its placeholders filled in: it cannot be parsed"},
		{"a socket without a path", "sse_fanin unix/", "upstream URL 'unix/': the path of the unix socket is empty, expected unix//path/to.sock, at Caddyfile:2"},
		{"a socket of the root", "sse_fanin unix//", "upstream URL 'unix//': the path of the unix socket is empty, expected unix//path/to.sock, at Caddyfile:2"},
		{"a socket with a relative path of the request", "sse_fanin unix//run/feed.sock|events?token=s3cret", "upstream URL 'unix//run/feed.sock|events': the path of the request must begin with '/', expected unix//path/to.sock|/path, at Caddyfile:2"},
		{"a placeholder of the request after the host", "sse_fanin https://a.example.com{uri}", "upstream URL 'https://a.example.com{http.request.uri}': the placeholder {http.request.uri} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:2"},
		{"a placeholder of the request after the host, and a path", "sse_fanin https://a.example.com{uri}/events", "upstream URL 'https://a.example.com{http.request.uri}/events': the placeholder {http.request.uri} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:2"},
		{"a placeholder of the request in the host", "sse_fanin https://{query.h}.example.com/x", "upstream URL 'https://{http.request.uri.query.h}.example.com/x': the placeholder {http.request.uri.query.h} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:2"},
		{"a placeholder of the request as the port", "sse_fanin https://a.example.com:{query.p}/", "upstream URL 'https://a.example.com:{http.request.uri.query.p}/': the placeholder {http.request.uri.query.p} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:2"},
		{"a placeholder of the request as the user", "sse_fanin https://{query.u}:s3cret@a.example.com/", "upstream URL 'https://a.example.com/': the placeholder {http.request.uri.query.u} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:2"},
		{"a placeholder of the request as the scheme", "sse_fanin {scheme}://a.example.com/", "upstream URL '{http.request.scheme}://a.example.com/': the placeholder {http.request.scheme} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:2"},
		{"a placeholder of the request as all", "sse_fanin {query.u}", "upstream URL '{http.request.uri.query.u}': the placeholder {http.request.uri.query.u} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:2"},
		{"a placeholder of the request as all but the path", "sse_fanin {query.u}/events", "upstream URL '{http.request.uri.query.u}/events': the placeholder {http.request.uri.query.u} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:2"},
		{"a placeholder of the request as all, with a scheme in the query", "sse_fanin {query.u}?next=https://a.example.com/", "upstream URL '{http.request.uri.query.u}': the placeholder {http.request.uri.query.u} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:2"},
		{"a placeholder of the request with a slash in its name as the host", "sse_fanin https://{http.request.uri.query.a/b}.example.com/", "upstream URL 'https://{http.request.uri.query.a/b}.example.com/': the placeholder {http.request.uri.query.a/b} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:2"},
		{"a placeholder of the request in the name of another", "sse_fanin {env.{query.u}}", "upstream URL '{env.{http.request.uri.query.u}}': the placeholder {http.request.uri.query.u} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:2"},
		{"a placeholder of the request in a replica", "sse_fanin {\n\tupstream a https://a.example.com/{query.u} https://{query.h}/{query.u}\n}", "upstream URL 'https://{http.request.uri.query.h}/{http.request.uri.query.u}': the placeholder {http.request.uri.query.h} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:3"},
		{"a placeholder of the request as the host, in the global option", "{\n\tsse_fanin {\n\t\tstream a https://{host}/events\n\t}\n}\n", "upstream URL 'https://{http.request.host}/events': the placeholder {http.request.host} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port, at Caddyfile:3"},
		{"a placeholder of the request in the path of a socket", "sse_fanin unix//run/{query.u}.sock|/{query.u}", "upstream URL 'unix//run/{http.request.uri.query.u}.sock|/{http.request.uri.query.u}': the placeholder {http.request.uri.query.u} belongs to a client's request, so it may stand in the path and the query of the request, not in the path of the socket, at Caddyfile:2"},
		{"a placeholder of the request as a socket", "sse_fanin unix/{query.u}", "upstream URL 'unix/{http.request.uri.query.u}': the placeholder {http.request.uri.query.u} belongs to a client's request, so it may stand in the path and the query of the request, not in the path of the socket, at Caddyfile:2"},
		{"a placeholder of the request in the fragment", "sse_fanin https://a.example.com/events#{query.u}", "upstream URL 'https://a.example.com/events': the placeholder {http.request.uri.query.u} stands in the fragment, which is not sent to an upstream, at Caddyfile:2"},
		{"a placeholder of the request after a placeholder that ends in the host", "sse_fanin {env.FEED_HOST_URL}{query.u}", "upstream URL '{env.FEED_HOST_URL}{http.request.uri.query.u}': with its placeholders filled in: the placeholder {http.request.uri.query.u} belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port"},
		{"a placeholder of the request in the value of another", "sse_fanin {env.FEED_KEYED_URL}", "upstream URL '{env.FEED_KEYED_URL}': with its placeholders filled in: a value has a placeholder of a client's request, which may only stand in the configuration itself"},
		{"a typo in the scheme of a keyed one", "sse_fanin htps://a.example.com/{query.u}", "upstream URL 'htps://a.example.com/{http.request.uri.query.u}': the scheme 'htps' is not supported, use http, https or unix//path/to.sock, at Caddyfile:2"},
		{"a bad port of a keyed one", "sse_fanin https://a.example.com:0/{query.u}", "upstream URL 'https://a.example.com:0/{http.request.uri.query.u}': '0' is not a port from 1 to 65535, at Caddyfile:2"},
	})
}

func TestCaddyfileRefusesReferences(t *testing.T) {
	refuseAll(t, []mistake{
		{"undefined", "sse_fanin /events prices", "stream 'prices' is not defined: define it with its upstreams in the global option sse_fanin, or in one handler with 'stream prices'"},
		{"undefined, by subdirective", "sse_fanin {\n\tstream prices\n}", "stream 'prices' is not defined: define it with its upstreams in the global option sse_fanin, or in one handler with 'stream prices'"},
		{"undefined, with a global option", "{\n\tsse_fanin {\n\t\tstream a https://a.example.com/events\n\t}\n}\n\n:8080 {\n\tsse_fanin prices\n}\n", "stream 'prices' is not defined (there are: a): define it with its upstreams in the global option sse_fanin, or in one handler with 'stream prices'"},
		{"with a URL before", "sse_fanin https://a.example.com/events prices", "'prices' names a stream that is defined elsewhere, so no URLs can stand beside it; to name this stream, use the subdirective 'stream prices', to match a path, begin it with '/', at Caddyfile:2"},
		{"with a URL after", "sse_fanin prices https://a.example.com/events", "'prices' names a stream that is defined elsewhere, so no URLs can stand beside it; to name this stream, use the subdirective 'stream prices', to match a path, begin it with '/', at Caddyfile:2"},
		{"with an upstream", "sse_fanin prices {\n\tupstream https://a.example.com/events\n}", "upstream belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"with a name", "sse_fanin prices {\n\tstream news\n}", "stream: the name is already given as an argument, 'prices', at Caddyfile:3"},
		{"with header_up", "sse_fanin prices {\n\theader_up A b\n}", "header_up belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"with transport", "sse_fanin prices {\n\ttransport http\n}", "transport belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"with resume", "sse_fanin prices {\n\tresume off\n}", "resume belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"with backoff", "sse_fanin prices {\n\tbackoff 1s\n}", "backoff belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"with idle_timeout", "sse_fanin prices {\n\tidle_timeout 1m\n}", "idle_timeout belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"with max_event_size", "sse_fanin prices {\n\tmax_event_size 1MiB\n}", "max_event_size belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"with ids", "sse_fanin prices {\n\tids none\n}", "ids belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"with retain", "sse_fanin prices {\n\tretain {\n\t\tevents 5\n\t}\n}", "retain belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"by subdirective, with retain", "sse_fanin {\n\tstream prices\n\tretain {\n\t\tevents 5\n\t}\n}", "retain belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
		{"with a dot", "sse_fanin prices.eu", "stream 'prices.eu' is not defined: define it with its upstreams in the global option sse_fanin, or in one handler with 'stream prices.eu'; if 'prices.eu' is the host of an upstream, begin its URL with http:// or https://"},
		{"with events", "sse_fanin prices {\n\tevents tick\n}", "events belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"with prefix", "sse_fanin prices {\n\tprefix a.\n}", "prefix belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"with envelope", "sse_fanin prices {\n\tenvelope json\n}", "envelope belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"with source_events", "sse_fanin prices {\n\tsource_events on\n}", "source_events belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"with connect", "sse_fanin prices {\n\tconnect on_demand\n}", "connect belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"with max_streams", "sse_fanin prices {\n\tmax_streams 5\n}", "max_streams belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:3"},
		{"by subdirective, with events", "sse_fanin {\n\tstream prices\n\tevents tick\n}", "events belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
		{"by subdirective, with prefix", "sse_fanin {\n\tstream prices\n\tprefix a.\n}", "prefix belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
		{"by subdirective, with envelope", "sse_fanin {\n\tstream prices\n\tenvelope json\n}", "envelope belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
		{"by subdirective, with source_events", "sse_fanin {\n\tstream prices\n\tsource_events off\n}", "source_events belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
		{"by subdirective, with connect", "sse_fanin {\n\tstream prices\n\tconnect eager\n}", "connect belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
		{"by subdirective, with max_streams", "sse_fanin {\n\tstream prices\n\tmax_streams 5\n}", "max_streams belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
		{"by subdirective, with header_up", "sse_fanin {\n\tstream prices\n\theader_up A b\n}", "header_up belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
		{"by subdirective, with transport", "sse_fanin {\n\tstream prices\n\ttransport http\n}", "transport belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
		{"by subdirective, with resume", "sse_fanin {\n\tstream prices\n\tresume on\n}", "resume belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
		{"by subdirective, with backoff", "sse_fanin {\n\tstream prices\n\tbackoff 1s\n}", "backoff belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
		{"by subdirective, with idle_timeout", "sse_fanin {\n\tstream prices\n\tidle_timeout off\n}", "idle_timeout belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
		{"by subdirective, with max_event_size", "sse_fanin {\n\tstream prices\n\tmax_event_size 1MiB\n}", "max_event_size belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
		{"by subdirective, with ids", "sse_fanin {\n\tstream prices\n\tids stream\n}", "ids belongs where the stream 'prices' is defined, together with its upstreams, at Caddyfile:2"},
	})
}

func TestCaddyfileRefusesTransports(t *testing.T) {
	refuseAll(t, []mistake{
		{"fastcgi", "sse_fanin https://a.example.com/events {\n\ttransport fastcgi\n}", "transport: 'fastcgi' works only within a client's request, while an upstream is connected without one; use 'http', at Caddyfile:3"},
		{"fastcgi with a block", "sse_fanin https://a.example.com/events {\n\ttransport fastcgi {\n\t\troot /srv\n\t}\n}", "transport: 'fastcgi' works only within a client's request, while an upstream is connected without one; use 'http', at Caddyfile:3"},
		{"proxy_protocol", "sse_fanin https://a.example.com/events {\n\ttransport http {\n\t\tproxy_protocol v2\n\t}\n}", "transport: proxy_protocol tells the upstream a client's address, but the connection is shared by all clients, at Caddyfile:3"},
		{"TLS and http", "sse_fanin http://a.example.com/events {\n\ttransport http {\n\t\ttls_server_name a.example.com\n\t}\n}", "upstream 'http://a.example.com/events': transport: TLS is configured, but the URL 'http://a.example.com/events' begins with http://; use https://, at Caddyfile:2"},
		{"TLS for all and one http", "sse_fanin {\n\ttransport http {\n\t\ttls\n\t}\n\tupstream a https://a.example.com/events\n\tupstream b http://b.example.com/events\n}", "upstream 'b': transport: TLS is configured, but the URL 'http://b.example.com/events' begins with http://; use https://, at Caddyfile:7"},
		{"TLS and http of a placeholder", "sse_fanin http://{env.FEED_HOST}/events {\n\ttransport http {\n\t\ttls\n\t}\n}", "upstream 'http://{env.FEED_HOST}/events': transport: TLS is configured, but the URL 'http://host.example.com/events' begins with http://; use https://"},
		{"HTTP/3 and http", "sse_fanin http://a.example.com/events {\n\ttransport http {\n\t\tversions 3\n\t}\n}", "upstream 'http://a.example.com/events': transport: HTTP/3 needs TLS, but the URL 'http://a.example.com/events' begins with http://; use https://, at Caddyfile:2"},
		{"h2c and https", "sse_fanin https://a.example.com/events {\n\ttransport http {\n\t\tversions h2c\n\t}\n}", "upstream 'https://a.example.com/events': transport: h2c is HTTP/2 without TLS, but the URL 'https://a.example.com/events' begins with https://; use http:// or version 2, at Caddyfile:2"},
		{"TLS and http in the global option", "{\n\tsse_fanin {\n\t\tstream a http://a.example.com/events {\n\t\t\ttransport http {\n\t\t\t\ttls\n\t\t\t}\n\t\t}\n\t}\n}\n", "upstream 'http://a.example.com/events': transport: TLS is configured, but the URL 'http://a.example.com/events' begins with http://; use https://, at Caddyfile:3"},
		{"an unknown option", "sse_fanin https://a.example.com/events {\n\ttransport http {\n\t\ttsl\n\t}\n}", "unrecognized subdirective tsl, at Caddyfile:4"},
		{"TLS and http of a replica", "sse_fanin {\n\tupstream a https://a.example.com/events http://b.example.com/events {\n\t\ttransport http {\n\t\t\ttls\n\t\t}\n\t}\n}", "upstream 'a': transport: TLS is configured, but the URL 'http://b.example.com/events' begins with http://; use https://, at Caddyfile:3"},
		{"TLS and http of a keyed stream", "sse_fanin http://a.example.com/events?user={query.user} {\n\ttransport http {\n\t\ttls\n\t}\n}", "upstream 'http://a.example.com/events': transport: TLS is configured, but the URL 'http://a.example.com/events' begins with http://; use https://, at Caddyfile:2"},
		{"a placeholder of the request", "sse_fanin https://a.example.com/events {\n\ttransport http {\n\t\ttls_server_name {query.name}\n\t}\n}", "upstream 'https://a.example.com/events': transport: the placeholder {http.request.uri.query.name} belongs to a client's request; placeholders may stand in the path and the query of a URL and in header_up, at Caddyfile:2"},
	})
}

// What contradicts itself only as a whole.
func TestCaddyfileRefusesContradictions(t *testing.T) {
	refuseAll(t, []mistake{
		{"mirror with one URL", "sse_fanin {\n\tupstream a https://a.example.com/events {\n\t\tpolicy mirror\n\t}\n}", "upstream 'a': policy: 'mirror' needs several URLs, or dynamic addresses, at Caddyfile:3"},
		{"balance with one URL", "sse_fanin {\n\tupstream a https://a.example.com/events {\n\t\tpolicy balance\n\t}\n}", "upstream 'a': policy: 'balance' needs several URLs, or dynamic addresses, at Caddyfile:3"},
		{"mirror with one URL, in the global option", "{\n\tsse_fanin {\n\t\tstream prices {\n\t\t\tupstream https://a.example.com/events {\n\t\t\t\tpolicy mirror\n\t\t\t}\n\t\t}\n\t}\n}\n", "upstream 'https://a.example.com/events': policy: 'mirror' needs several URLs, or dynamic addresses, at Caddyfile:4"},
		{"the same URL twice", "sse_fanin {\n\tupstream a https://a.example.com/events https://A.example.com:443/events#top\n}", "upstream 'a': the URL 'https://a.example.com/events' is given twice, at Caddyfile:3"},
		{"the same URL twice, with a secret", "sse_fanin {\n\tupstream a https://a.example.com/events?token=s3cret https://a.example.com/events?token=s3cret\n}", "upstream 'a': the URL 'https://a.example.com/events' is given twice, at Caddyfile:3"},
		{"the same keyed URL twice", "sse_fanin {\n\tupstream a https://a.example.com/{query.u} https://a.example.com/{query.u}\n}", "upstream 'a': the URL 'https://a.example.com/{http.request.uri.query.u}' is given twice, at Caddyfile:3"},
		{"dynamic with two URLs", "sse_fanin {\n\tupstream a https://a.example.com/events https://b.example.com/events {\n\t\tdynamic a a.example.com 443\n\t}\n}", "upstream 'a': dynamic: it gives the addresses for one URL, but there are 2, at Caddyfile:3"},
		{"dynamic with a socket", "sse_fanin {\n\tupstream a unix//run/a.sock {\n\t\tdynamic a a.example.com 443\n\t}\n}", "upstream 'a': dynamic: it gives the addresses to dial, but the URL is that of a unix socket; use http:// or https://, at Caddyfile:3"},
		{"dynamic with a placeholder that is a socket", "sse_fanin {\n\tupstream a {env.FEED_SOCKET} {\n\t\tdynamic a a.example.com 443\n\t}\n}", "upstream 'a': dynamic: it gives the addresses to dial, but the URL is that of a unix socket; use http:// or https://"},
		{"dynamic with a placeholder of the request", "sse_fanin {\n\tupstream a https://a.example.com/events {\n\t\tdynamic srv {query.name}\n\t}\n}", "upstream 'a': dynamic: the placeholder {http.request.uri.query.name} belongs to a client's request, which cannot decide which server is asked, at Caddyfile:3"},
		{"dynamic with HTTP/3", "sse_fanin {\n\tupstream a https://a.example.com/events {\n\t\tdynamic a a.example.com 443\n\t\ttransport http {\n\t\t\tversions 3\n\t\t}\n\t}\n}", "upstream 'a': dynamic: HTTP/3 connections are kept by name, so they cannot be made to discovered addresses; use other versions in transport, at Caddyfile:3"},
		{"dynamic with HTTP/3 for all", "sse_fanin {\n\ttransport http {\n\t\tversions 3\n\t}\n\tupstream a https://a.example.com/events {\n\t\tdynamic a a.example.com 443\n\t}\n}", "upstream 'a': dynamic: HTTP/3 connections are kept by name, so they cannot be made to discovered addresses; use other versions in transport, at Caddyfile:6"},
		{"ids upstream with two upstreams", "sse_fanin https://a.example.com/events https://b.example.com/events {\n\theartbeat 5s\n\tids upstream\n}", "ids: 'upstream' passes on the ids of one upstream, but there are 2; replicas of one source are several URLs of one upstream, at Caddyfile:4"},
		{"ids upstream, given first", "sse_fanin {\n\tids upstream\n\tupstream https://a.example.com/events\n\tupstream https://b.example.com/events\n}", "ids: 'upstream' passes on the ids of one upstream, but there are 2; replicas of one source are several URLs of one upstream, at Caddyfile:3"},
		{"ids upstream with two upstreams in the global option", "{\n\tsse_fanin {\n\t\tstream prices https://a.example.com/events https://b.example.com/events {\n\t\t\tids upstream\n\t\t}\n\t}\n}\n", "ids: 'upstream' passes on the ids of one upstream, but there are 2; replicas of one source are several URLs of one upstream, at Caddyfile:4"},
		{"ids upstream with merge", "sse_fanin {\n\tupstream a https://a.example.com/events https://b.example.com/events {\n\t\tpolicy merge\n\t}\n\tids upstream\n}", "ids: 'upstream' passes on the ids of one upstream, but policy 'merge' makes several of it, at Caddyfile:6"},
		{"ids upstream with dynamic addresses", "sse_fanin {\n\tids upstream\n\tupstream a https://a.example.com/events {\n\t\tdynamic srv _events._tcp.example.com\n\t}\n}", "ids: 'upstream' passes on the ids of one upstream, but policy 'merge' makes several of it, at Caddyfile:3"},
		{"eager with a keyed URL", "sse_fanin https://a.example.com/{path.1} {\n\tconnect eager\n}", "connect: the placeholder {http.request.uri.path.1} makes the stream a keyed one, which is connected on demand, at Caddyfile:3"},
		{"eager with a keyed header", "sse_fanin https://a.example.com/events {\n\theader_up Authorization {header.Authorization}\n\tconnect eager\n}", "connect: the placeholder {http.request.header.Authorization} makes the stream a keyed one, which is connected on demand, at Caddyfile:4"},
		{"eager with a keyed header of an upstream", "sse_fanin {\n\tconnect eager\n\tupstream https://a.example.com/events {\n\t\theader_up X-{query.a} b\n\t}\n}", "connect: the placeholder {http.request.uri.query.a} makes the stream a keyed one, which is connected on demand, at Caddyfile:3"},
		{"eager with a keyed URL in the global option", "{\n\tsse_fanin {\n\t\tstream a https://a.example.com/events?user={query.user} {\n\t\t\tconnect eager\n\t\t}\n\t}\n}\n", "connect: the placeholder {http.request.uri.query.user} makes the stream a keyed one, which is connected on demand, at Caddyfile:4"},
		{"max_streams without a key", "sse_fanin https://a.example.com/events {\n\tmax_streams 5\n}", "max_streams: it bounds the keys of a keyed stream, but no upstream has a placeholder of the request, at Caddyfile:3"},
		{"max_streams with a placeholder of the upstream", "sse_fanin https://a.example.com/events {\n\theader_up Host {upstream_hostport}\n\tmax_streams 5\n}", "max_streams: it bounds the keys of a keyed stream, but no upstream has a placeholder of the request, at Caddyfile:4"},
		{"max_event_size above a keyed stream's default size", "sse_fanin https://a.example.com/events?user={query.user} {\n\tmax_event_size 2MiB\n}", "max_event_size: 2097152 bytes is more than the size of all that is retained, 1048576 bytes; lower max_event_size, or raise size in retain, at Caddyfile:3"},
		{"max_event_size by default, but above the size", "sse_fanin https://a.example.com/events {\n\tretain {\n\t\tsize 512KiB\n\t}\n\tmax_event_size 1MiB\n}", "max_event_size: 1048576 bytes is more than the size of all that is retained, 524288 bytes; lower max_event_size, or raise size in retain, at Caddyfile:6"},
		{"a keyed stream in two handlers", ":8080 {\n\tsse_fanin https://a.example.com/{query.u} {\n\t\tstream a\n\t}\n}\n\n:8081 {\n\tsse_fanin https://a.example.com/{query.u} {\n\t\tstream a\n\t}\n}\n", "stream 'a' is already defined at Caddyfile:2; to serve it here too, give its name instead of upstreams, at Caddyfile:8"},
		{"a keyed stream in the global option and in a handler", "{\n\tsse_fanin {\n\t\tstream a https://a.example.com/{query.u}\n\t}\n}\n\n:8080 {\n\tsse_fanin https://a.example.com/{query.u} {\n\t\tstream a\n\t}\n}\n", "stream 'a' is already defined in the global option sse_fanin; to serve it, give its name instead of upstreams, at Caddyfile:8"},
		{"mirror with too many URLs", "sse_fanin {\n\tupstream a" + manyURLs(65) + " {\n\t\tpolicy mirror\n\t}\n}", "upstream 'a': policy: 'mirror' takes at most 64 URLs, but there are 65, at Caddyfile:3"},
	})
}

// manyURLs are n URLs, each after a space.
func manyURLs(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, " https://a%d.example.com/events", i)
	}
	return b.String()
}

// What stands in an upstream only, and what a later version knows, is no word
// of a stream, and ends nowhere silently.
func TestCaddyfileRefusesWordsOfOtherPlaces(t *testing.T) {
	for _, line := range []string{
		"policy mirror",
		"dynamic a a.example.com 443",
		"linger 5s",
		"upstream https://b.example.com/events {\n\t\tfilters on\n\t}",
		"upstream https://b.example.com/events {\n\t\tenvelope json\n\t}",
		"upstream https://b.example.com/events {\n\t\tconnect on_demand\n\t}",
		"upstream https://b.example.com/events {\n\t\tids upstream\n\t}",
		"upstream https://b.example.com/events {\n\t\tmax_streams 5\n\t}",
		"upstream https://b.example.com/events {\n\t\tsource_events on\n\t}",
		"upstream https://b.example.com/events {\n\t\tlog file\n\t}",
		"retain {\n\t\tmax_streams 5\n\t}",
	} {
		t.Run(line, func(t *testing.T) {
			m := mistake{text: "sse_fanin https://a.example.com/events {\n\t" + line + "\n}"}
			err := doccheck.ValidateCaddyfile(m.file())
			if err == nil || !strings.Contains(err.Error(), "unrecognized") && !strings.Contains(err.Error(), " belongs in ") || !strings.Contains(err.Error(), ", at Caddyfile:") {
				t.Errorf("got %v", err)
			}
		})
	}
}
