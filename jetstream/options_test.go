package jetstream

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/sse-fanin/caddy-sse-fanin/internal/doccheck"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// update rewrites what the golden file expects; look at the difference.
var update = flag.Bool("update", false, "rewrite the expectation in testdata")

// site is a stream s that has its log in JetStream, with options.
func site(options string) string {
	if options != "" {
		options = " {\n\t\t\t" + strings.ReplaceAll(options, "\n", "\n\t\t\t") + "\n\t\t}"
	}
	return ":8080 {\n\tsse_fanin /events https://a.example.com/events {\n\t\tstream s\n\t\tlog jetstream" + options + "\n\t}\n}\n"
}

// setEnv sets the variables, and makes the files, that configurations of the
// tests name.
func setEnv(t *testing.T) {
	t.Helper()
	_, _, accountSeed := newKey(t, nkeys.CreateAccount)
	_, _, userSeed := newKey(t, nkeys.CreateUser)
	certificate, key, err := ssetest.WriteCertificate(t.TempDir())
	must(t, err)
	for name, value := range map[string]string{
		"NATS_URL":      "nats://a.example.com:4222,nats://b.example.com:4222",
		"NATS_BAD_URL":  "nats://user:s3cret@a.example.com",
		"NATS_USER":     "caddy",
		"NATS_PASSWORD": "s3cret",
		"NATS_CREDS":    write(t, "user.creds", anyCredentials(t)),
		"NATS_NKEY":     write(t, "user.nk", userSeed),
		"NATS_ACCOUNT":  write(t, "account.nk", accountSeed),
		"NATS_EMPTY":    write(t, "empty", nil),
		"NATS_CERT":     certificate,
		"NATS_KEY":      key,
	} {
		t.Setenv(name, value)
	}
}

// loading is what stands before the errors that are found when the options are
// loaded, whether they come from a Caddyfile or not.
const loading = "stream 's': log: loading module 'jetstream': provision http.handlers.sse_fanin.log.jetstream: "

// mistake is a configuration that has to be refused.
type mistake struct {
	name string
	text string // options, or a whole file
	want string // the error, without what Caddy puts before it
}

// refused says whether a configuration is refused with an error, which has no
// secret.
func refused(t *testing.T, err error, want, text string) {
	t.Helper()
	if err == nil {
		t.Fatalf("it is valid:\n%s", text)
	}
	got := err.Error()
	if strings.Contains(got, "s3cret") {
		t.Errorf("a secret in the error: %s", got)
	}
	for _, prefix := range []string{"parsing caddyfile tokens for 'sse_fanin': ", "provision http.handlers.sse_fanin: ", "provision sse_fanin: "} {
		if _, ours, ok := strings.Cut(got, prefix); ok {
			got = ours
		}
	}
	// what files and parsers say is not ours
	if begin, cut := strings.CutSuffix(want, "…"); got != want && (!cut || !strings.HasPrefix(got, begin)) {
		t.Errorf("got\n%s\nwant\n%s\nof\n%s", got, want, text)
	}
}

func TestCaddyfileIsRefused(t *testing.T) {
	setEnv(t)
	const words = "expected one of buffer, credentials, hold, lease, memory, nkey, prefix, replicas, servers, standby, tls, token, user"
	for _, m := range []mistake{
		// words
		{"an unknown word", "server nats://a", "unrecognized subdirective 'server' of log jetstream, " + words + ", at Caddyfile:5"},
		{"an option of log file", "servers nats://a\ndir /x", "unrecognized subdirective 'dir' of log jetstream, " + words + ", at Caddyfile:6"},
		{"an option twice", "servers nats://a\nlease 2s\nlease 3s", "lease is given twice, first at Caddyfile:6, at Caddyfile:7"},
		{"a URL after the kind", ":8080 {\n\tsse_fanin /events https://a.example.com/events {\n\t\tstream s\n\t\tlog jetstream nats://user:s3cret@a\n\t}\n}\n", "log: unexpected 'nats://a', the options stand in a block: log jetstream { servers <url>... }, at Caddyfile:4"},
		{"defaults with an unknown word", "{\n\tsse_fanin {\n\t\tlog jetstream {\n\t\t\tcluster a\n\t\t}\n\t}\n}\n", "unrecognized subdirective 'cluster' of log jetstream, " + words + ", at Caddyfile:4"},
		{"defaults that are wrong", "{\n\tsse_fanin {\n\t\tlog jetstream {\n\t\t\treplicas 2\n\t\t}\n\t}\n}\n", "replicas: 2 is none of 1, 3 and 5: an even number outlives no more failures than the odd one below it, and JetStream keeps 5 at most, at Caddyfile:4"},
		// servers
		{"no servers", "", "stream 's': log: servers: none are given, expected servers <url>..., here or in the defaults of the global option sse_fanin"},
		{"no servers, but options", "replicas 3", "stream 's': log: servers: none are given, expected servers <url>..., here or in the defaults of the global option sse_fanin"},
		{"servers without a value", "servers", "servers: missing argument, expected servers <url>..., at Caddyfile:5"},
		{"an empty server", `servers ""`, "servers: the argument is empty, expected servers <url>..., at Caddyfile:5"},
		{"a block", "servers nats://a {\n\tx\n}", "unexpected block, expected servers <url>..., at Caddyfile:5"},
		{"a server without a scheme", "servers a.example.com:4222", "servers: 'a.example.com:4222': missing nats:// or tls://, at Caddyfile:5"},
		{"the second without a scheme", "servers nats://a b:4222", "servers: 'b:4222': missing nats:// or tls://, at Caddyfile:5"},
		{"a wrong scheme", "servers http://a", "servers: 'http://a': the scheme 'http' is not supported, use nats, tls, ws or wss, at Caddyfile:5"},
		{"a password in the URL", "servers nats://user:s3cret@a", "servers: 'nats://a': a name or password in it would be shown with it; write user <name> <password>, at Caddyfile:5"},
		{"a password that cannot be parsed", "servers nats://user:s3cret%zz@a", "servers: 'nats://a': it cannot be parsed, at Caddyfile:5"},
		{"no host", "servers nats://:4222", "servers: 'nats://:4222': the host is missing, at Caddyfile:5"},
		{"a path", "servers nats://a/x", "servers: 'nats://a/x': nothing may follow host and port, at Caddyfile:5"},
		{"a query", "servers nats://a?s3cret", "servers: 'nats://a': nothing may follow host and port, at Caddyfile:5"},
		{"a port out of range", "servers nats://a:70000", "servers: 'nats://a:70000': '70000' is not a port from 1 to 65535, at Caddyfile:5"},
		{"a server twice", "servers nats://a nats://a", "servers: 'nats://a' is given twice, at Caddyfile:5"},
		{"WebSocket and not", "servers nats://a wss://b", "servers: 'nats://a' and 'wss://b': either all are reached by WebSocket or none is, at Caddyfile:5"},
		{"an empty placeholder", "servers {env.NOT_SET}", loading + "servers: evaluated placeholder {env.NOT_SET} is empty"},
		{"an unknown placeholder", "servers nats://{evn.HOST}", loading + "servers: unrecognized placeholder {evn.HOST}"},
		{"a placeholder of the request", "servers nats://{query.u}", loading + "servers: unrecognized placeholder {http.request.uri.query.u}"},
		{"a placeholder with a password", "servers {env.NATS_BAD_URL}", loading + "servers: 'nats://a.example.com': a name or password in it would be shown with it; write user <name> <password>"},
		{"a placeholder that is no URL", "servers {env.NATS_USER}", loading + "servers: 'caddy': missing nats:// or tls://"},
		// logging in
		{"credentials without a value", "credentials", "credentials: missing argument, expected credentials <file>, at Caddyfile:5"},
		{"credentials that are not there", "servers nats://a\ncredentials /nowhere/user.creds", loading + "credentials: open /nowhere/user.creds: no such file or directory"},
		{"credentials that are a seed", "servers nats://a\ncredentials {env.NATS_NKEY}", loading + "credentials: {env.NATS_NKEY}: it has no user's JWT; expected a .creds file, as nsc generate creds makes it"},
		{"credentials that are empty", "servers nats://a\ncredentials {env.NATS_EMPTY}", loading + "credentials: {env.NATS_EMPTY}: it has no user's JWT; expected a .creds file, as nsc generate creds makes it"},
		{"credentials of an empty placeholder", "servers nats://a\ncredentials {env.NOT_SET}/user.creds", loading + "credentials: evaluated placeholder {env.NOT_SET} is empty"},
		{"an nkey that is not there", "servers nats://a\nnkey /nowhere/user.nk", loading + "nkey: open /nowhere/user.nk: no such file or directory"},
		{"an nkey of an account", "servers nats://a\nnkey {env.NATS_ACCOUNT}", loading + "nkey: {env.NATS_ACCOUNT}: its nkey is not that of a user; the seed of a user begins with SU"},
		{"an nkey that is none", "servers nats://a\nnkey {env.NATS_EMPTY}", loading + "nkey: {env.NATS_EMPTY}: it has no seed of an nkey: …"},
		{"a user without a password", "user s3cret", "user: missing argument, expected user <name> <password>, at Caddyfile:5"},
		{"a password with a space", "user caddy s3cret s3cret", "user: too many arguments, expected user <name> <password>, at Caddyfile:5"},
		{"an empty password", `user caddy ""`, "user: the argument is empty, expected user <name> <password>, at Caddyfile:5"},
		{"a password of an empty placeholder", "servers nats://a\nuser caddy {env.NOT_SET}", loading + "user: evaluated placeholder {env.NOT_SET} is empty"},
		{"a token without a value", "token", "token: missing argument, expected token <token>, at Caddyfile:5"},
		{"a token of an empty placeholder", "servers nats://a\ntoken {env.NOT_SET}", loading + "token: evaluated placeholder {env.NOT_SET} is empty"},
		{"two ways to log in", "servers nats://a\ncredentials {env.NATS_CREDS}\nuser caddy s3cret", loading + "credentials and user: each is a way to log in, and one is to be given"},
		{"all ways to log in", "servers nats://a\ncredentials {env.NATS_CREDS}\nuser caddy s3cret\nnkey {env.NATS_NKEY}\ntoken s3cret", loading + "credentials and nkey and user and token: each is a way to log in, and one is to be given"},
		{"another way than the defaults", "{\n\tsse_fanin {\n\t\tlog jetstream {\n\t\t\ttoken s3cret\n\t\t}\n\t}\n}\n" + site("servers nats://a\nuser caddy s3cret"), loading + "user and token: each is a way to log in, and one is to be given"},
		// TLS
		{"tls with an argument", "servers nats://a\ntls on", "tls: unexpected 'on', the options stand in a block: tls { trust_pool <module> }, at Caddyfile:6"},
		{"an unknown word of tls", "servers nats://a\ntls {\n\tca /x\n}", "unrecognized subdirective 'ca' of tls, expected one of client_auth, server_name, trust_pool, at Caddyfile:7"},
		{"a word of tls twice", "servers nats://a\ntls {\n\tserver_name a\n\tserver_name b\n}", "server_name is given twice, first at Caddyfile:7, at Caddyfile:8"},
		{"a trust pool without a module", "servers nats://a\ntls {\n\ttrust_pool\n}", "trust_pool: missing argument, expected trust_pool file <pem_file>..., or another module of tls.ca_pool.source, at Caddyfile:7"},
		{"a trust pool of an unknown module", "servers nats://a\ntls {\n\ttrust_pool pigeon\n}", "getting module named 'tls.ca_pool.source.pigeon': module not registered: tls.ca_pool.source.pigeon, at Caddyfile:7"},
		{"a trust pool that is not there", "servers nats://a\ntls {\n\ttrust_pool file /nowhere/ca.pem\n}", loading + "tls: trust_pool: loading module 'file': provision tls.ca_pool.source.file: reading /nowhere/ca.pem: open /nowhere/ca.pem: no such file or directory"},
		{"a trust pool without certificates", "servers nats://a\ntls {\n\ttrust_pool file {$NATS_EMPTY}\n}", loading + "tls: trust_pool: it has no certificates"},
		{"a certificate without a key", "servers nats://a\ntls {\n\tclient_auth /x.pem\n}", "client_auth: missing the file of the key, expected client_auth <certificate> <key>, at Caddyfile:7"},
		{"a certificate that is not there", "servers nats://a\ntls {\n\tclient_auth /nowhere/x.pem /nowhere/x.key\n}", loading + "tls: client_auth: open /nowhere/x.pem: no such file or directory"},
		{"a certificate that is none", "servers nats://a\ntls {\n\tclient_auth {env.NATS_EMPTY} {env.NATS_KEY}\n}", loading + "tls: client_auth: tls: failed to find any PEM data in certificate input"},
		{"a certificate of an empty placeholder", "servers nats://a\ntls {\n\tclient_auth {env.NOT_SET} {env.NATS_KEY}\n}", loading + "tls: client_auth: evaluated placeholder {env.NOT_SET} is empty"},
		{"tls with WebSocket without it", "servers ws://a\ntls", loading + "tls: 'ws://a' is without TLS, begin it with wss://"},
		// values
		{"replicas 0", "replicas 0", "replicas: '0' is not a whole number from 1 to 2147483647, at Caddyfile:5"},
		{"replicas 2", "replicas 2", "replicas: 2 is none of 1, 3 and 5: an even number outlives no more failures than the odd one below it, and JetStream keeps 5 at most, at Caddyfile:5"},
		{"replicas 7", "replicas 7", "replicas: 7 is none of 1, 3 and 5: an even number outlives no more failures than the odd one below it, and JetStream keeps 5 at most, at Caddyfile:5"},
		{"replicas all", "replicas all", "replicas: 'all' is not a whole number from 1 to 2147483647, at Caddyfile:5"},
		{"prefix with a dot", "prefix a.b", "prefix: 'a.b' is not 1 to 64 letters, digits, _ and -, at Caddyfile:5"},
		{"prefix with a wildcard", "prefix a*", "prefix: 'a*' is not 1 to 64 letters, digits, _ and -, at Caddyfile:5"},
		{"lease 500ms", "lease 500ms", "lease: 500ms is too short, it must be at least 1s, at Caddyfile:5"},
		{"lease 0", "lease 0", "lease: 0s is too short, it must be at least 1s, at Caddyfile:5"},
		{"lease 2m", "lease 2m", "lease: 2m0s is too long, it must be at most 1m0s, at Caddyfile:5"},
		{"lease soon", "lease soon", "lease: 'soon' is not a duration such as 10s, at Caddyfile:5"},
		{"buffer 64KiB", "buffer 64KiB", "buffer: 65536 bytes is too little, it must be at least 1.0 MiB, at Caddyfile:5"},
		{"buffer 5GiB", "buffer 5GiB", "buffer: 5368709120 bytes is too much, it must be at most 4.0 GiB, at Caddyfile:5"},
		{"hold 10ms", "hold 10ms", "hold: 10ms is too short, it must be at least 1s, at Caddyfile:5"},
		{"hold 2h", "hold 2h", "hold: 2h0m0s is too long, it must be at most 1h0m0s, at Caddyfile:5"},
		{"standby maybe", "standby maybe", "standby: unrecognized value 'maybe', expected on or off, at Caddyfile:5"},
		{"memory 1KiB", "memory 1KiB", "memory: 1024 bytes is too little, it must be at least 64 KiB, at Caddyfile:5"},
	} {
		t.Run(m.name, func(t *testing.T) {
			text := m.text
			if !strings.HasPrefix(text, "{\n") && !strings.HasPrefix(text, ":8080") {
				text = site(text)
			}
			refused(t, doccheck.ValidateCaddyfile(text), expand(m.want), text)
		})
	}
}

func TestJSONIsRefused(t *testing.T) {
	setEnv(t)
	for _, m := range []mistake{
		{"no servers", `"replicas": 3`, "stream 's': log: servers: none are given, expected servers <url>..., here or in the defaults of the global option sse_fanin"},
		{"servers as a text", `"servers": "nats://a"`, "stream 's': log: loading module 'jetstream': decoding module config: http.handlers.sse_fanin.log.jetstream: json: cannot unmarshal string into Go struct field Log.servers of type []string"},
		{"an unknown option", `"server": "nats://a"`, `stream 's': log: loading module 'jetstream': decoding module config: http.handlers.sse_fanin.log.jetstream: json: unknown field "server"`},
		{"an unknown option of tls", `"servers": ["nats://a"], "tls": {"ca": {}}`, `stream 's': log: loading module 'jetstream': decoding module config: http.handlers.sse_fanin.log.jetstream: json: unknown field "ca"`},
		{"an empty server", `"servers": [""]`, loading + "servers: '': missing nats:// or tls://"},
		{"a wrong scheme", `"servers": ["http://a"]`, loading + "servers: 'http://a': the scheme 'http' is not supported, use nats, tls, ws or wss"},
		{"a user without a password", `"servers": ["nats://a"], "user": {"name": "s3cret"}`, loading + "user: it needs a name and a password"},
		{"a certificate without a key", `"servers": ["nats://a"], "tls": {"client_auth": {"certificate": "x"}}`, loading + "tls: client_auth: it needs the files of a certificate and of its key"},
		{"a trust pool without a module", `"servers": ["nats://a"], "tls": {"trust_pool": {"pem_files": ["x"]}}`, loading + "tls: trust_pool: module name not specified with key 'provider' in map[pem_files:[x]]"},
		{"replicas 2", `"servers": ["nats://a"], "replicas": 2`, loading + "replicas: 2 is none of 1, 3 and 5: an even number outlives no more failures than the odd one below it, and JetStream keeps 5 at most"},
		{"replicas negative", `"servers": ["nats://a"], "replicas": -1`, loading + "replicas: -1 is none of 1, 3 and 5: an even number outlives no more failures than the odd one below it, and JetStream keeps 5 at most"},
		{"prefix with a dot", `"servers": ["nats://a"], "prefix": "a.b"`, loading + "prefix: 'a.b' is not 1 to 64 letters, digits, _ and -"},
		{"lease negative", `"servers": ["nats://a"], "lease": "-1s"`, loading + "lease: -1s is too short, it must be at least 1s"},
		{"buffer negative", `"servers": ["nats://a"], "buffer": -1`, loading + "buffer: -1 is negative"},
		{"hold in nanoseconds", `"servers": ["nats://a"], "hold": 5`, loading + "hold: 5ns is too short, it must be at least 1s"},
		{"standby", `"servers": ["nats://a"], "standby": "yes"`, loading + "standby: unrecognized value 'yes', expected on or off"},
		{"memory", `"servers": ["nats://a"], "memory": 5`, loading + "memory: 5 bytes is too little, it must be at least 64 KiB"},
		{"two mistakes", `"servers": ["nats://a"], "lease": 1, "memory": 5`, loading + "lease: 1ns is too short, it must be at least 1s\nmemory: 5 bytes is too little, it must be at least 64 KiB"},
	} {
		t.Run(m.name, func(t *testing.T) {
			text := `{"apps":{"http":{"servers":{"s":{"listen":[":8080"],"routes":[{"handle":[{"handler":"sse_fanin","stream":"s","upstreams":[{"urls":["https://a.example.com/events"]}],"log":{"kind":"jetstream",` + m.text + `}}]}]}}}}}`
			refused(t, doccheck.ValidateJSON(text), m.want, text)
		})
	}
}

func TestCaddyfileIsValid(t *testing.T) {
	setEnv(t)
	for name, text := range map[string]string{
		"one server":               site("servers nats://a"),
		"servers with ports":       site("servers nats://a:4222 tls://b:4223 tls://[::1]:4222/"),
		"a list in a variable":     site("servers {env.NATS_URL}"),
		"WebSocket":                site("servers wss://a ws://b"),
		"credentials":              site("servers nats://a\ncredentials {env.NATS_CREDS}"),
		"nkey":                     site("servers nats://a\nnkey {env.NATS_NKEY}"),
		"user":                     site("servers nats://a\nuser {env.NATS_USER} {env.NATS_PASSWORD}"),
		"password in a file":       site("servers nats://a\nuser caddy {file." + write(t, "password", []byte("s3cret\n")) + "}"),
		"token":                    site("servers nats://a\ntoken {env.NATS_PASSWORD}"),
		"tls as the system has it": site("servers nats://a\ntls"),
		"tls":                      site("servers wss://a\ntls {\n\ttrust_pool file {$NATS_CERT}\n\tclient_auth {env.NATS_CERT} {env.NATS_KEY}\n\tserver_name nats.example.com\n}"),
		"all from the defaults":    "{\n\tsse_fanin {\n\t\tlog jetstream {\n\t\t\tservers nats://a\n\t\t\treplicas 3\n\t\t}\n\t}\n}\n" + site(""),
		"servers of its own":       "{\n\tsse_fanin {\n\t\tlog jetstream {\n\t\t\treplicas 3\n\t\t\ttoken {env.NATS_PASSWORD}\n\t\t}\n\t}\n}\n" + site("servers nats://a"),
	} {
		if err := doccheck.ValidateCaddyfile(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// expand fills in {env.*} in what an error says of a path.
func expand(text string) string {
	return regexp.MustCompile(`: \{env\.(NATS_\w+)\}:`).ReplaceAllStringFunc(text, func(found string) string {
		return ": " + os.Getenv(strings.TrimSuffix(strings.TrimPrefix(found, ": {env."), "}:")) + ":"
	})
}

// The golden file has every option, as a Caddyfile and as JSON, and those of the
// syntax comment are the same.
func TestEveryOptionIsAdapted(t *testing.T) {
	setEnv(t)
	const file, dashes = "testdata/every_option.caddyfiletest", "\n----------\n"
	content, err := os.ReadFile(file)
	must(t, err)
	text, want, _ := strings.Cut(string(content), dashes)
	text += "\n"
	if formatted := string(caddyfile.Format([]byte(text))); formatted != text {
		t.Errorf("not formatted; caddy fmt gives\n%s", formatted)
	}
	got, err := doccheck.Adapt(text)
	must(t, err)
	if *update {
		must(t, os.WriteFile(file, []byte(strings.TrimSuffix(text, "\n")+dashes+got+"\n"), 0o600))
	} else if got != strings.TrimSuffix(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	must(t, doccheck.ValidateJSON(got))
	code, err := os.ReadFile("caddyfile.go")
	must(t, err)
	_, comment, _ := strings.Cut(string(code), "//\tjetstream {\n")
	comment, _, _ = strings.Cut(comment, "\n//\t}\n")
	for _, m := range regexp.MustCompile(`(?m)^//\t+([a-z_]+)\b`).FindAllStringSubmatch(comment, -1) {
		if !slices.Contains(logWords, m[1]) && !slices.Contains(tlsWords, m[1]) {
			t.Errorf("%s is in the syntax comment only", m[1])
		}
		if !regexp.MustCompile(`\t` + m[1] + `\b`).MatchString(text) {
			t.Errorf("%s is in the syntax comment, but not in %s", m[1], file)
		}
	}
}

// What a log is opened with is the same from a Caddyfile and from JSON, and the
// defaults are those of the documentation.
func TestDefaults(t *testing.T) {
	var l Log
	must(t, json.Unmarshal([]byte(`{"servers": ["nats://a"]}`), &l))
	l.setDefaults()
	want := Log{Servers: []string{"nats://a"}, Replicas: 1, Prefix: "sse_fanin", Lease: defaultLease, Buffer: 16 << 20, HoldFor: defaultHold, MaxMemory: 64 << 20}
	if got, want := encode(t, &l), encode(t, &want); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if l.Hold() != 30*time.Second || l.Standby() || l.Memory() != 64<<20 {
		t.Errorf("%s, %v, %d", l.Hold(), l.Standby(), l.Memory())
	}
}

func encode(t *testing.T, l *Log) string {
	t.Helper()
	raw, err := json.Marshal(l)
	must(t, err)
	return string(raw)
}

func TestValidateOpensNoConnection(t *testing.T) {
	setEnv(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	must(t, doccheck.ValidateCaddyfile(site("servers nats://"+ln.Addr().String()+"\ncredentials {env.NATS_CREDS}\ntls")))
	// a connection that was made is waiting to be accepted
	must(t, ln.(*net.TCPListener).SetDeadline(time.Now().Add(50*time.Millisecond)))
	if conn, err := ln.Accept(); err == nil {
		conn.Close()
		t.Error("validating has connected the server")
	}
}

// What makes it another log, or another connection to it, and what does not.
func TestKey(t *testing.T) {
	base := func() *Log {
		return &Log{Servers: []string{"nats://a", "nats://b"}, Login: Login{User: &User{Name: "caddy", Password: "s3cret"}}, Prefix: "p", Replicas: 3, TLS: &TLS{ServerName: "a"}}
	}
	for name, test := range map[string]struct {
		change func(l *Log)
		same   bool
	}{
		"nothing":                 {func(*Log) {}, true},
		"the order of servers":    {func(l *Log) { slices.Reverse(l.Servers) }, true},
		"what can be changed":     {func(l *Log) { l.Lease, l.Buffer, l.HoldFor, l.OnStandby, l.MaxMemory = 1, 2, 3, "on", 4 }, true},
		"another server":          {func(l *Log) { l.Servers[1] = "nats://c" }, false},
		"another prefix":          {func(l *Log) { l.Prefix = "q" }, false},
		"another password":        {func(l *Log) { l.User.Password = "other" }, false},
		"another way to log in":   {func(l *Log) { l.User, l.Token = nil, "t" }, false},
		"replicas":                {func(l *Log) { l.Replicas = 1 }, false},
		"another name in TLS":     {func(l *Log) { l.TLS.ServerName = "b" }, false},
		"another pool, same file": {func(l *Log) { l.TLS.certificates = [][]byte{{1}} }, false},
		"no TLS":                  {func(l *Log) { l.TLS = nil }, false},
	} {
		l := base()
		test.change(l)
		key := l.Key("s")
		if same := key == base().Key("s"); same != test.same {
			t.Errorf("%s: the same key: %v", name, same)
		}
		if strings.Contains(key, "s3cret") {
			t.Errorf("a secret in %s", key)
		}
	}
	if l := base(); l.Key("s") == l.Key("t") {
		t.Error("two streams have the same key")
	}
}

// A client certificate that was renewed is used without a reload.
func TestClientCertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	certificate, key, err := ssetest.WriteCertificate(dir)
	must(t, err)
	c := &ClientAuth{Certificate: certificate, Key: key}
	load := func() *tls.Certificate {
		cert, err := c.load()
		must(t, err)
		return cert
	}
	before := load()
	_, _, err = ssetest.WriteCertificate(dir)
	must(t, err)
	if slices.Equal(before.Certificate[0], load().Certificate[0]) {
		t.Error("it is the one from before")
	}
}
