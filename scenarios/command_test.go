package scenarios

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// failedStartup is Caddy's exit status when it could not start.
const failedStartup = 1

var announcedAddress = regexp.MustCompile(`curl -N http://(\S+?)/`)

// startCommand runs `caddy sse-fanin` on a free port and waits until it says
// where.
func startCommand(t *testing.T, args ...string) *process {
	t.Helper()
	p := newProcess(t)
	p.start(append([]string{"sse-fanin", "--listen", "127.0.0.1:0"}, args...)...)
	eventually(t, 20*time.Second, "caddy says where it listens", func() bool {
		m := announcedAddress.FindStringSubmatch(p.running.Log.String())
		if m != nil {
			p.addr = m[1]
		}
		return m != nil
	})
	return p
}

func TestCommandServes(t *testing.T) {
	besideOthers(t)
	a := newOrigin(t, ssetest.OriginConfig{Source: "a"})
	b := newOrigin(t, ssetest.OriginConfig{Source: "b"})
	root := filepath.Join(t.TempDir(), `{env.HOME} \{a}}`) // a name as good as any
	must(t, os.Mkdir(root, 0o700))
	must(t, os.WriteFile(filepath.Join(root, "index.html"), []byte("<p>a file</p>"), 0o600))
	p := startCommand(t, "--root", root, "--status", "/status", "--access-log", "one="+a.URL(), b.URL()+"?q=1")

	client := ssetest.StartClient(ssetest.ClientConfig{URL: p.url("/events")})
	t.Cleanup(client.Close)
	must(t, a.WaitConnections(within(t, 10*time.Second), 1))
	must(t, b.WaitConnections(within(t, 10*time.Second), 1))
	must(t, client.WaitOpen(within(t, 10*time.Second), 1))
	a.Emit("", "of a")
	b.Emit("", "of b")
	must(t, client.WaitCount(within(t, 10*time.Second), 2))
	got := map[string]bool{}
	for _, ev := range client.Events() {
		got[ev.Data] = true
	}
	if !got["of a"] || !got["of b"] {
		t.Errorf("got %v", got)
	}

	if status, _, body := p.fetch("/", ""); status != http.StatusOK || body != "<p>a file</p>" {
		t.Errorf("/: %d %s", status, body)
	}
	if status, contentType, _ := p.fetch("/status", "text/html"); status != http.StatusOK || !strings.HasPrefix(contentType, "text/html") {
		t.Errorf("/status as a page: %d %s", status, contentType)
	}
	status, contentType, body := p.fetch("/status", "application/json")
	if status != http.StatusOK || contentType != "application/json" {
		t.Errorf("/status: %d %s", status, contentType)
	}
	var shown struct {
		Streams []struct {
			Name      string
			Upstreams []struct{ Name string }
		}
	}
	must(t, json.Unmarshal([]byte(body), &shown))
	if len(shown.Streams) != 1 || shown.Streams[0].Name != "events" || len(shown.Streams[0].Upstreams) != 2 || !strings.Contains(body, `"name":"one"`) {
		t.Errorf("/status: %s", body)
	}
	if status, _, body := p.fetch("/status?ready", ""); status != http.StatusOK {
		t.Errorf("/status?ready: %d %s", status, body)
	}
	eventually(t, 5*time.Second, "the access log has the page", func() bool {
		return strings.Contains(p.running.Log.String(), "http.log.access")
	})
	// what it says is what concerns whoever started it
	for line := range strings.SplitSeq(strings.TrimSpace(p.running.Log.String()), "\n") {
		if !strings.HasPrefix(line, "{") {
			continue
		}
		var entry struct{ Logger, Level string }
		must(t, json.Unmarshal([]byte(line), &entry))
		if entry.Logger != "sse_fanin" && entry.Logger != "http.log.access" {
			t.Errorf("it logs %s", line)
		}
	}
	p.terminate(5 * time.Second) // with a client
	if _, err := os.Stat(filepath.Join(p.dir, "caddy", "autosave.json")); err == nil {
		t.Error("the configuration was written to disk")
	}
}

func TestCommandServesOnlyWhatItIsTold(t *testing.T) {
	besideOthers(t)
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 50})
	p := startCommand(t, "--path", "/live/feed", "--debug", a.URL())
	client := ssetest.StartClient(ssetest.ClientConfig{URL: p.url("/live/feed")})
	t.Cleanup(client.Close)
	must(t, client.WaitCount(within(t, 10*time.Second), 1))
	for _, path := range []string{"/", "/events", "/status"} {
		if status, _, body := p.fetch(path, ""); status != http.StatusNotFound || !strings.Contains(body, "/live/feed") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if strings.Contains(p.running.Log.String(), "http.log.access") {
		t.Error("there is an access log")
	}
	if !strings.Contains(p.running.Log.String(), `"server running"`) {
		t.Error("--debug does not write Caddy's log")
	}
}

func TestCommandDemo(t *testing.T) {
	besideOthers(t)
	p := startCommand(t, "--demo")
	if status, _, body := p.fetch("/", ""); status != http.StatusOK || !strings.Contains(body, "<title>sse_fanin demo</title>") {
		t.Errorf("the page: %d %s", status, body)
	}
	client := ssetest.StartClient(ssetest.ClientConfig{URL: p.url("/events")})
	t.Cleanup(client.Close)
	missing := map[string]bool{"price": true, "build": true}
	eventually(t, 20*time.Second, "events of both origins", func() bool {
		for _, ev := range client.Events() {
			delete(missing, ev.Type)
		}
		return len(missing) == 0
	})
	p.terminate(5 * time.Second)
}

func TestCommandRefuses(t *testing.T) {
	besideOthers(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	const u = "http://127.0.0.1:1/events"
	for _, test := range []struct {
		args string
		want string
	}{
		{"", "missing the URL of an upstream"},
		{"127.0.0.1:1/events", "upstream URL '127.0.0.1:1/events': missing http:// or https://"},
		{"ftp://127.0.0.1:1/events", "the scheme 'ftp' is not supported"},
		{"a= " + u, "the URL is empty"},
		{"=" + u, "upstream: the name is empty"},
		{"a+b=" + u, "the name 'a+b' may only contain"},
		{"a=" + u + " a=" + u, "two upstreams are named 'a'"},
		{"--listen 8080 " + u, "--listen: '8080': a port comes after a colon, as in :8080"},
		{"--listen :port " + u, "--listen: ':port': invalid port"},
		{"--listen :65536 " + u, "out of range"},
		{"--listen :8080/events " + u, "see --path"},
		{"--listen https://:8443 " + u, "HTTPS needs the name of a host"},
		{"--listen tcp://localhost:8080 " + u, "the scheme 'tcp' is not supported"},
		{"--listen " + taken.Addr().String() + " " + u, "address already in use"},
		{"--path events " + u, "--path: 'events' is not a path such as /path"},
		{"--path /* " + u, "--path: '/*' is not a path"},
		{"--status status " + u, "--status: 'status' is not a path such as /status"},
		{"--status /events " + u, "--status: /events is the path of the stream"},
		{"--status /EVENTS " + u, "--status: /EVENTS is the path of the stream; upper and lower case make no difference"},
		{"--status /x/../events " + u, "--status: '/x/../events' is not a path"},
		{"--status //events " + u, "--status: '//events' is not a path"},
		{"--status /ev%65nts " + u, "--status: '/ev%65nts' is not a path"},
		{"--root " + file + " " + u, "is not a directory"},
		{"--root " + file + "-not " + u, "no such file or directory"},
		{"--events 5 " + u, "unknown flag: --events"},
		{"--demo " + u, "--demo has upstreams of its own"},
		{"--demo --status /status", "--status does not go with --demo"},
		{"--demo --debug", "--debug does not go with --demo"},
		{"http://127.0.0.1:1/events?{query}", "?room={query.room}"},
		{"--demo --listen 8080", "missing port in address"},
		{"--demo --listen " + taken.Addr().String(), "address already in use"},
	} {
		p := newProcess(t)
		p.start(append([]string{"sse-fanin"}, strings.Fields(test.args)...)...)
		if !p.running.WaitExit(patience) {
			t.Fatalf("%s: it runs", test.args)
		}
		if code := p.running.ExitCode(); code != failedStartup {
			t.Errorf("%s: exit status %d", test.args, code)
		}
		if log := p.running.Log.String(); !strings.Contains(log, test.want) {
			t.Errorf("%s: expected '%s' in\n%s", test.args, test.want, log)
		}
	}
}
