package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// A proxied is one of the servers that docs/deploying.md has Caddy stand behind.
type proxied struct {
	name    string // the section
	program string
	// configure makes a configuration that listens on an address out of the
	// page's, writes it to a directory, and returns the arguments.
	configure func(t *testing.T, text, dir, listen string) []string

	line    string   // the line that the page says it needs
	without []string // old and new: what takes it out
	brief   []string // old and new: what makes its idle timeout briefIdle
	params  []string // arguments that do so
	effect  func(t *testing.T, p proxied)
	away    bool // answers for Caddy while that is away, with an empty stream
}

// briefIdle is the idle timeout that heartbeats have to keep a stream open over,
// beat is how often they come.
const (
	briefIdle = 3 * time.Second
	beat      = 200 * time.Millisecond
)

var proxies = []proxied{
	{
		name:    "nginx",
		program: "nginx",
		configure: func(t *testing.T, text, dir, listen string) []string {
			file := filepath.Join(dir, "nginx.conf")
			var paths strings.Builder
			for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
				fmt.Fprintf(&paths, "%s_temp_path %s/%s;\n", kind, dir, kind)
			}
			writeFile(t, file, fmt.Sprintf("daemon off;\npid %s/pid;\nerror_log stderr;\nevents {}\nhttp {\naccess_log off;\n%s%s\n}\n",
				dir, paths.String(), replaceAll(t, text, "listen 80;", "listen "+listen+";")))
			return []string{"-e", "stderr", "-c", file}
		},
		line:    "proxy_buffering off;",
		without: []string{"proxy_http_version 1.1;", "", "proxy_buffering off;", "proxy_ignore_headers X-Accel-Buffering;"},
		brief:   []string{"proxy_buffering off;", "proxy_read_timeout 3s;"}, // and heeds the header
		effect:  holdsEventsBack,
		away:    true,
	},
	{
		name:    "HAProxy",
		program: "haproxy",
		configure: func(t *testing.T, text, dir, listen string) []string {
			file := filepath.Join(dir, "haproxy.cfg")
			writeFile(t, file, replaceAll(t, text, "bind :80", "bind "+listen, " check", " check inter 100ms fall 1"))
			return []string{"-db", "-f", file}
		},
		line:    "option http-no-delay",
		without: []string{"option http-no-delay", ""},
		brief:   []string{"timeout server 50s", "timeout server 3s"},
		effect:  delaysEvents,
		away:    true,
	},
	{
		name:    "Varnish",
		program: "varnishd",
		configure: func(t *testing.T, text, dir, listen string) []string {
			file := filepath.Join(dir, "default.vcl")
			writeFile(t, file, text)
			return []string{"-F", "-n", filepath.Join(dir, "work"), "-a", listen, "-f", file, "-s", "malloc,16m", "-j", "none"}
		},
		line:    "return (pipe);",
		without: []string{"return (pipe);", ""},
		params:  []string{"-p", "pipe_timeout=3", "-p", "send_timeout=2"},
		effect:  cutsStreams,
	},
	{
		name:    "lighttpd",
		program: "lighttpd",
		configure: func(t *testing.T, text, dir, listen string) []string {
			file := filepath.Join(dir, "lighttpd.conf")
			host, port, _ := strings.Cut(listen, ":")
			writeFile(t, file, fmt.Sprintf("server.document-root = %q\nserver.bind = %q\nserver.port = %s\nserver.upload-dirs = (%q)\n%s",
				dir, host, port, dir, text))
			return []string{"-D", "-f", file}
		},
		line:    "server.stream-response-body = 2",
		without: []string{"server.stream-response-body = 2", ""},
		brief:   []string{`server.modules += ( "mod_proxy" )`, "server.modules += ( \"mod_proxy\" )\nserver.max-write-idle = 3"},
		effect:  holdsEventsBack,
	},
}

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start runs the proxy with the page's configuration, with each old text
// replaced by the new one, in front of Caddy, and returns its address.
func (p proxied) start(t *testing.T, s *server, params []string, oldnew ...string) string {
	t.Helper()
	language := map[string]string{"Varnish": "vcl"}[p.name]
	if language == "" {
		language = strings.ToLower(p.name)
	}
	host, port, _ := strings.Cut(s.addr, ":")
	text := takeExample(t, "deploying.md", p.name, language, 0)
	text = replaceAll(t, text, "127.0.0.1", host, "8080", port)
	text = replaceAll(t, text, oldnew...)
	// those who drop their rights, as nginx does as root, must get to it
	dir, err := os.MkdirTemp("", "sse-fanin-proxy-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // see above
		t.Fatal(err)
	}
	addr := freeAddr(t)
	output := new(ssetest.LogBuffer)
	cmd := exec.Command(p.program, append(p.configure(t, text, dir, addr), params...)...) //nolint:gosec // one of the four
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // workers as well
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(5*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
		_ = cmd.Wait()
		late.Stop()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if t.Failed() {
			t.Logf("%s wrote:\n%s", p.program, output)
		}
	})
	// it may listen before it is ready, and answer for Caddy until then
	probe := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(t, step, p.name+" answers", func() bool {
		resp, err := probe.Head("http://" + addr + "/events")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK && strings.Contains(resp.Header.Get("Cache-Control"), "no-store")
	})
	return "http://" + addr
}

// behind starts an origin and Caddy, which sends its events without heartbeats
// at /events and with heartbeats at /events?beats.
func behind(t *testing.T) (*ssetest.Origin, *server) {
	t.Helper()
	o := newOrigin(t, "a")
	s := newPlainServer(t, wires[0], fmt.Sprintf(`
@beats query beats=*
sse_fanin @beats s {
	heartbeat %s
	start oldest
}
sse_fanin /events %s {
	stream s
	heartbeat off
	retry 100ms 200ms
	drain 50ms
}
respond /ok ok`, beat, o.URL()))
	waitConnected(t, 1, o)
	return o, s
}

func startClient(t *testing.T, cfg ssetest.ClientConfig) *ssetest.Client {
	t.Helper()
	c := ssetest.StartClient(cfg)
	t.Cleanup(c.Close)
	return c
}

// within has a wait fail the test when it takes too long.
func within(t *testing.T, wait func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), step)
	defer cancel()
	if err := wait(ctx); err != nil {
		t.Fatal(err)
	}
}

// oneByOne sends events, each after the client has got the one before, and
// returns how long each was on its way.
func oneByOne(t *testing.T, o *ssetest.Origin, c *ssetest.Client, n int) []time.Duration {
	t.Helper()
	var took []time.Duration
	for range n {
		before, began := c.Count(), time.Now()
		o.EmitNumbered(1)
		within(t, func(ctx context.Context) error { return c.WaitCount(ctx, before+1) })
		took = append(took, time.Since(began))
	}
	return took
}

// TestProxies runs the configurations of docs/deploying.md in front of Caddy.
func TestProxies(t *testing.T) {
	t.Parallel()
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(p.program); err != nil {
				t.Skipf("no %s: %v", p.program, err)
			}
			t.Run("events", func(t *testing.T) {
				t.Parallel()
				p.passesEvents(t)
			})
			t.Run("heartbeats", func(t *testing.T) {
				t.Parallel()
				p.keepsStreams(t)
			})
			t.Run("without the line", func(t *testing.T) {
				t.Parallel()
				p.effect(t, p)
			})
		})
	}
}

// passesEvents checks that events arrive one by one, and that a client resumes.
func (p proxied) passesEvents(t *testing.T) {
	o, s := behind(t)
	url := p.start(t, s, nil)
	first := startClient(t, ssetest.ClientConfig{URL: url + "/events?beats=1"})
	s.waitClients("s", 1)
	t.Logf("each event took %s", oneByOne(t, o, first, 6))
	first.Close()
	s.waitClients("s", 0) // the proxy has left, too; lighttpd with the next heartbeat

	const missed = 3
	o.EmitNumbered(missed)
	again := startClient(t, ssetest.ClientConfig{URL: url + "/events?beats=1", LastEventID: first.LastEventID()})
	within(t, func(ctx context.Context) error { return again.WaitCount(ctx, missed) })
	oneByOne(t, o, again, 1)
	for i, e := range again.Events() {
		if want := fmt.Sprintf(`"n":%d,`, 7+i); !strings.Contains(e.Data, want) {
			t.Errorf("event %d after resuming is %s %s, want %s", i+1, e.Type, e.Data, want)
		}
	}
	again.Close()
	if !p.away {
		return
	}
	s.stop()
	eventually(t, step, "an empty stream instead of Caddy", func() bool {
		status, body, err := fetch(url + "/events")
		return err == nil && status == http.StatusOK && body == "retry: 3000\n\n"
	})
}

// fetch gets a response that ends.
func fetch(url string) (status int, body string, err error) { return fetchWith(url, nil) }

func fetchWith(url string, header http.Header) (status int, body string, err error) {
	client := &http.Client{Timeout: step, Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	maps.Copy(req.Header, header)
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// keepsStreams checks that heartbeats keep a stream without events open for
// longer than the proxy leaves one open that has none.
func (p proxied) keepsStreams(t *testing.T) {
	_, s := behind(t)
	url := p.start(t, s, p.params, p.brief...)
	beats := startClient(t, ssetest.ClientConfig{URL: url + "/events?beats=1", Once: true})
	within(t, func(ctx context.Context) error { return beats.WaitOpen(ctx, 1) })
	quiet := startClient(t, ssetest.ClientConfig{URL: url + "/events", Once: true})
	within(t, quiet.WaitDone)
	t.Logf("the quiet stream ended after %s", quiet.Connection().Ended.Sub(quiet.Connection().Started).Round(beat))
	within(t, func(ctx context.Context) error {
		return beats.WaitComments(ctx, beats.Comments()+uint64(briefIdle/beat))
	})
	if c := beats.Connection(); c.End != ssetest.EndNone {
		t.Errorf("the stream with heartbeats ended after %s: %s %v", c.Ended.Sub(c.Started), c.End, c.Err)
	}
}

// holdsEventsBack checks that, without the line, the client has nothing while
// the stream lasts.
func holdsEventsBack(t *testing.T, p proxied) {
	o, s := behind(t)
	url := p.start(t, s, nil, p.without...)
	direct := startClient(t, ssetest.ClientConfig{URL: s.url("/events"), Once: true})
	held := startClient(t, ssetest.ClientConfig{URL: url + "/events", Once: true})
	s.waitClients("s", 2)
	oneByOne(t, o, direct, 5)
	if status, body, err := fetch(url + "/ok"); p.name == "nginx" && (status != http.StatusOK || body != "ok") {
		t.Errorf("another request: %d %q %v", status, body, err)
	}
	if n := held.Count(); n != 0 {
		t.Errorf("%d events came without %q", n, p.line)
	}
	s.post("/sse_fanin/streams/s/drain", "", "")
	within(t, func(ctx context.Context) error { return held.WaitCount(ctx, 5) })
}

// delaysEvents checks that, without the line, events are late, and that with it
// they are not. A busy machine makes all of them later, none sooner.
func delaysEvents(t *testing.T, p proxied) {
	const n, late = 10, 100 * time.Millisecond
	o, s := behind(t)
	var clients int
	total := func(oldnew ...string) (sum, least time.Duration) {
		c := startClient(t, ssetest.ClientConfig{URL: p.start(t, s, nil, oldnew...) + "/events"})
		clients++
		s.waitClients("s", clients)
		took := oneByOne(t, o, c, n)
		t.Logf("with %q each event took %s", oldnew, took)
		least = took[0]
		for _, d := range took {
			sum, least = sum+d, min(least, d)
		}
		return sum, least
	}
	if sum, _ := total(p.without...); sum < n*late {
		t.Errorf("%d events took %s without %q; the page says 0.2 s each", n, sum, p.line)
	}
	if _, least := total(); least > late {
		t.Errorf("each event took %s at least with %q", least, p.line)
	}
}

// cutsStreams checks that, without the line, a stream ends in spite of events
// and heartbeats, and that a client resumes.
func cutsStreams(t *testing.T, p proxied) {
	o, s := behind(t)
	url := p.start(t, s, p.params, p.without...)
	verifier := ssetest.NewVerifier()
	c := startClient(t, ssetest.ClientConfig{URL: url + "/events?beats=1", Track: verifier.Track("c")})
	s.waitClients("s", 1)
	oneByOne(t, o, c, 1)
	o.SetRate(20)
	ended := len(c.Connections())
	within(t, func(ctx context.Context) error { return c.WaitOpen(ctx, ended+2) })
	o.SetRate(0)
	within(t, func(ctx context.Context) error { return verifier.WaitSeen(ctx, "a", o.Last()) })
	c.Close()
	if err := verifier.Err(); err != nil {
		t.Error(err)
	}
}

// TestUnit has systemd look at the unit of docs/deploying.md.
func TestUnit(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skipf("no systemd-analyze: %v", err)
	}
	binary, err := ssetest.Build(commands["caddy"], false)
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "caddy.service")
	writeFile(t, unit, replaceAll(t, takeExample(t, "deploying.md", "systemd", "ini", 0), "/usr/bin/caddy", binary))
	if out, err := exec.Command(analyze, "verify", unit).CombinedOutput(); err != nil || len(out) != 0 { //nolint:gosec // found in the PATH
		t.Errorf("%v\n%s", err, out)
	}
}
