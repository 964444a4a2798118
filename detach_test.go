package ssefanin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"
	"weak"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// goroutinesIn reports whether a goroutine of this process is in a function.
func goroutinesIn(t *testing.T, function string) bool {
	t.Helper()
	var stacks bytes.Buffer
	must(t, pprof.Lookup("goroutine").WriteTo(&stacks, 2))
	return strings.Contains(stacks.String(), function)
}

// Of a detached client's request nothing is left, while its stream goes on.
func TestRequestOfADetachedClientEnds(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events "+a.URL()+" {\ndetach on\ndrain 1ms\n}")
	c := in.openClient(ssetest.ClientConfig{Once: true})
	connected(t, a)
	eventually(t, 10*time.Second, "the request has ended", func() bool { return !goroutinesIn(t, "caddy-sse-fanin.serveStream") })
	emitSeen(t, a, c, "one", "two")
	in.reload("", "respond gone")
	must(t, c.WaitDone(within(t, 10*time.Second)))
	if end := c.Connection().End; end != ssetest.EndClean {
		t.Errorf("the end is %s", end)
	}
	noneTaken(t)
}

// A configuration that was replaced goes, even if clients came under it. (The one that
// dialled the upstream has the connection's transport.)
func TestDetachedClientKeepsNoConfiguration(t *testing.T) {
	a := plain(t)
	site := "log {\noutput discard\n}\nsse_fanin /events {\nstream s\nupstream a " + a.URL() + "\ndetach on\n}\nrespond /version %d"
	in := serve(t, "", fmt.Sprintf(site, 1))
	connected(t, a)
	in.reload("", fmt.Sprintf(site, 2))
	c := in.openClient(ssetest.ClientConfig{Once: true})
	emitSeen(t, a, c, "one")
	handler, server := inUse(t)
	in.reload("", fmt.Sprintf(site, 3))
	collected(t, "the old handler", handler)
	collected(t, "the old server", server)
	emitSeen(t, a, c, "two")
}

// inUse returns the handler and the server of the configuration that is active.
func inUse(t *testing.T) (weak.Pointer[Handler], weak.Pointer[caddyhttp.Server]) {
	t.Helper()
	ours, err := caddy.ActiveContext().App("sse_fanin")
	must(t, err)
	web, err := caddy.ActiveContext().App("http")
	must(t, err)
	for _, server := range web.(*caddyhttp.App).Servers {
		return weak.Make(ours.(*App).handlers[0]), weak.Make(server)
	}
	t.Fatal("there is no server")
	panic("unreachable")
}

// accessLines waits for n lines of an access log.
func accessLines(t *testing.T, file string, n int) []map[string]any {
	t.Helper()
	var lines []map[string]any
	eventually(t, 10*time.Second, fmt.Sprintf("%s has %d lines", filepath.Base(file), n), func() bool {
		lines = nil
		text, _ := os.ReadFile(file)
		for line := range strings.Lines(string(text)) {
			var fields map[string]any
			if json.Unmarshal([]byte(line), &fields) != nil {
				return false
			}
			lines = append(lines, fields)
		}
		return len(lines) >= n
	})
	if len(lines) > n {
		t.Errorf("%s has %d lines, want %d", filepath.Base(file), len(lines), n)
	}
	return lines
}

// The line of a detached client is the one that Caddy writes for everybody else.
func TestAccessLineOfADetachedClient(t *testing.T) {
	const hash = "$2a$04$XpTz2.rfksuIgW1NCtr8ceHUelfubz30aRjugvm.FHruLAmXG5sWq" // of "hiccup", by bcrypt
	for name, test := range map[string]struct {
		tls     bool
		options string // of the site, beside its log
		fields  string // of the request
	}{
		"plain":                   {fields: "User-Agent: test\r\nVia: a\r\nVia: b\r\n"},
		"tls":                     {tls: true},
		"fields of others":        {options: "log_append team blue\nlog_append <early {http.request.method}"},
		"fields of the same name": {options: "log_append sse_end late\nlog_append <sse_events early"},
		"credentials":             {fields: "Cookie: a=b\r\nAuthorization: Bearer c\r\n", options: "header >Set-Cookie d=e"},
		"another level":           {options: "vars log_level WARN"},
		"bytes that are no text":  {fields: "Via: \xff\r\n"},
		"a user":                  {options: "basic_auth {\nalice " + hash + "\n}", fields: "Authorization: " + basicAuth("alice:hiccup") + "\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			a := plain(t)
			start := serve
			if test.tls {
				start = serveTLS
			}
			file := filepath.Join(t.TempDir(), "access.log")
			site := "log {\noutput file " + file + "\nformat json\n}\n" + test.options
			for _, mode := range takenModes {
				site += fmt.Sprintf("\nsse_fanin /%s %s {\nretry 3s\ndrain 1ms\n%s\n}", strings.ReplaceAll(mode, " ", "-"), a.URL(), mode)
			}
			in := start(t, "", site)
			var lines []map[string]any
			for i, mode := range takenModes {
				q := in.send("GET /"+strings.ReplaceAll(mode, " ", "-")+"?q=1 HTTP/1.1", test.fields+"\r\n")
				connected(t, a)
				waitSubscribers(t, 1)
				a.Emit("", "hello")
				q.until("data: hello")
				q.conn.Close()
				lines = accessLines(t, file, i+1)
				noneTaken(t)
			}
			for _, line := range lines {
				delete(line, "ts")
				if d, _ := line["duration"].(float64); d <= 0 {
					t.Errorf("the duration is %v", line["duration"])
				}
				delete(line, "duration")
				request := line["request"].(map[string]any)
				if request["remote_port"] == "" {
					t.Error("there is no port")
				}
				delete(request, "remote_port")
				request["uri"] = strings.Replace(request["uri"].(string), "detach-on", "detach-off", 1)
				delete(line["resp_headers"].(map[string]any), "Alt-Svc") // comes once HTTP/3 is served
			}
			if !reflect.DeepEqual(lines[0], lines[1]) {
				for key := range lines[0] {
					if !reflect.DeepEqual(lines[0][key], lines[1][key]) {
						t.Errorf("%s is %v, and when it is detached %v", key, lines[0][key], lines[1][key])
					}
				}
				for key := range lines[1] {
					if _, ok := lines[0][key]; !ok {
						t.Errorf("only when it is detached there is %s", key)
					}
				}
			}
		})
	}
}

// A field that another handler has set is not for the log, and what it is called shows
// only whether it is a usual one.
func TestHeaderInTheAccessLineOfADetachedClient(t *testing.T) {
	a := plain(t)
	for credentials, want := range map[string]string{"": "REDACTED", "log_credentials": "secret"} {
		file := filepath.Join(t.TempDir(), "access.log")
		in := serve(t, "servers {\n"+credentials+"\n}", "log {\noutput file "+file+"\nformat json\n}\n"+
			"request_header X-Token secret\nsse_fanin /events "+a.URL()+" {\ndetach on\n}")
		q := in.send("GET /events HTTP/1.1", "User-Agent: test\r\nCookie: a=secret\r\nX-Own: secret\r\nSec-Fetch-Mode: cors\r\n\r\n")
		q.until(": sse_fanin")
		eventually(t, 10*time.Second, "it is taken over", func() bool { return takenClients.Load() == 1 })
		q.conn.Close()
		noneTaken(t)
		header := accessLines(t, file, 1)[0]["request"].(map[string]any)["headers"].(map[string]any)
		cookie := want
		if credentials != "" {
			cookie = "a=secret"
		}
		for name, value := range map[string]string{
			"User-Agent": "test", "Sec-Fetch-Mode": "cors", "Cookie": cookie, "X-Own": want, "X-Token": want,
		} {
			if values, _ := header[name].([]any); len(values) != 1 || values[0] != value {
				t.Errorf("with %q, %s is %v, want %q", credentials, name, header[name], value)
			}
		}
	}
	if !slices.IsSorted(shownFields) {
		t.Error("the fields are looked for as if they were sorted")
	}
}

// Lines go where the configuration sends them, or nowhere.
func TestWhereAccessLinesOfDetachedClientsGo(t *testing.T) {
	dir := t.TempDir()
	named, other, skipped := filepath.Join(dir, "named"), filepath.Join(dir, "other"), filepath.Join(dir, "skipped")
	a := plain(t)
	log := func(name, file string) string {
		return "log " + name + " {\noutput file " + file + "\nformat json\n" + "}\n"
	}
	stream := "sse_fanin /events {\nstream s\nupstream a " + a.URL() + "\ndetach on\n}"
	site := log("one", named) + log("two", other) +
		"@two path /events\nlog_name @two two\nlog_skip /skipped\n" + stream + "\nsse_fanin /skipped s {\ndetach on\n}\n"
	in := serve(t, "", site)
	for _, path := range []string{"/events", "/skipped"} {
		q := in.send("GET "+path+" HTTP/1.1", "\r\n")
		q.until(": sse_fanin")
		eventually(t, 10*time.Second, "it is taken over", func() bool { return takenClients.Load() == 1 })
		q.conn.Close()
		noneTaken(t)
	}
	for file, want := range map[string]int{named: 0, other: 1, skipped: 0} {
		if text, _ := os.ReadFile(file); bytes.Count(text, []byte("\n")) != want {
			t.Errorf("%s has %q, want %d lines", filepath.Base(file), text, want)
		}
	}
}

// What ends clients ends detached ones, too, and they count as much.
func TestDetachedClientsEndLikeOthers(t *testing.T) {
	for name, test := range map[string]struct {
		options, reload, end string
	}{
		"max_age":                         {"max_age 100ms", "", "max_age"},
		"on_reload":                       {"on_reload drain\ndrain 1ms", "respond /version 2", "reload"},
		"removed":                         {"drain 1ms", "-", "removed"},
		"the write timeout of the server": {"", "", "max_age"},
	} {
		t.Run(name, func(t *testing.T) {
			a := plain(t)
			file := filepath.Join(t.TempDir(), "access.log")
			global := ""
			if strings.HasPrefix(name, "the write") {
				global = "servers {\ntimeouts {\nwrite 2s\n}\n}"
			}
			log := "log {\noutput file " + file + "\nformat json\n}\n"
			site := log + "sse_fanin /events {\nstream s\nupstream a " + a.URL() + "\ndetach on\nmax_clients 1\n" + test.options + "\n}\n"
			in := serve(t, global, site)
			q := in.send("GET /events HTTP/1.1", "\r\n")
			q.until(": sse_fanin")
			if test.reload != "" {
				if resp := in.do(http.MethodGet, "/events"); resp.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("a second client got %s", resp.Status)
				}
				accessLines(t, file, 1)
				must(t, os.Truncate(file, 0))
			}
			switch test.reload {
			case "":
			case "-":
				in.reload(global, log)
			default:
				in.reload(global, site+test.reload)
			}
			q.endsCleanly()
			if line := accessLines(t, file, 1)[0]; line["sse_end"] != test.end || line["status"] != float64(http.StatusOK) {
				t.Errorf("got %v", line)
			}
			noneTaken(t)
		})
	}
}

// A client over HTTP/2 cannot be detached, and is served as ever.
func TestDetachBesideOtherProtocols(t *testing.T) {
	a := plain(t)
	s := serveEverywhere(t, "sse_fanin /events "+a.URL()+" {\ndetach on\ndrain 10ms\n}", idleWriter)
	clients := s.clients(ssetest.ClientConfig{Once: true})
	connected(t, a)
	s.emitAll(a, clients, "to all")
	s.idle(clients, 600*time.Millisecond)
	s.emitAll(a, clients, "after a while")
	s.reload("respond gone")
	s.wantCleanEnds(clients)
	noneTaken(t)
}

// A client that takes nothing is ended by the write timeout.
func TestDetachedClientThatDoesNotRead(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Pad: 32 << 10})
	in, socket := serveSocket(t, "sse_fanin /events "+a.URL()+" {\nwrite_timeout 200ms\nheartbeat off\ndetach on\n}")
	v := ssetest.NewVerifier()
	reader := in.openClient(ssetest.ClientConfig{Socket: socket, Track: v.Track("reader")})
	connected(t, a)
	raw, err := ssetest.DialRaw(within(t, 5*time.Second), ssetest.RawConfig{URL: in.url("/events"), Socket: socket, BytesPerSecond: -1})
	must(t, err)
	defer raw.Close()
	waitSubscribers(t, 2)
	flood(t, a, reader, 200)
	waitSubscribers(t, 1)
	settle(t, v, a)
	reader.Close()
	noneTaken(t)
}
