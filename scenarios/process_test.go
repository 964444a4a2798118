package scenarios

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// process is a running Caddy, built from cmd/caddy.
type process struct {
	t       *testing.T
	running *ssetest.Process // once started
	dir     string
	binary  string   // cmd/caddy, unless it is another
	env     []string // besides that of the test
	addr    string   // of the site
	admin   *http.Client
}

// startProcess runs Caddy with a site. The site's text stands in a block that
// listens on p.addr; global, if any, among the global options.
func startProcess(t *testing.T, global, site string) *process {
	t.Helper()
	p := prepareProcess(t)
	p.run(global, site)
	return p
}

// prepareProcess returns a process that has its addresses, but does not run.
func prepareProcess(t *testing.T) *process {
	t.Helper()
	p := newProcess(t)
	p.addr = freeAddr(t)
	p.admin = ssetest.UnixClient(filepath.Join(p.dir, "admin.sock"), 0)
	return p
}

// run starts the process with its first configuration, and waits until it
// listens.
func (p *process) run(global, site string) {
	t := p.t
	t.Helper()
	file := filepath.Join(p.dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(p.caddyfile(global, site)), 0o600); err != nil {
		t.Fatal(err)
	}
	p.start("run", "--config", file, "--adapter", "caddyfile")
	must(t, ssetest.AwaitListening(patience, p.addr))
}

// newProcess returns a process that has not been started, with a directory of
// its own.
func newProcess(t *testing.T) *process {
	t.Helper()
	return &process{t: t, dir: t.TempDir()}
}

// start runs Caddy with these arguments until the test ends.
func (p *process) start(args ...string) {
	t := p.t
	t.Helper()
	var err error
	if p.binary == "" {
		p.binary, err = ssetest.Build("./cmd/caddy", false)
		must(t, err)
	}
	p.running, err = ssetest.StartProcess(p.dir, p.env, p.binary, args...)
	must(t, err)
	t.Cleanup(func() {
		p.running.Kill()
		if t.Failed() {
			t.Logf("log of caddy:\n%s", p.running.Log.Tail(6000))
		}
	})
}

func (p *process) caddyfile(global, site string) string {
	return fmt.Sprintf(`{
	admin unix/%s
	auto_https off
	persist_config off
	%s
}
http://%s {
	%s
}
`, filepath.Join(p.dir, "admin.sock"), global, p.addr, site)
}

func (p *process) url(path string) string { return "http://" + p.addr + path }

// reload loads another configuration.
func (p *process) reload(global, site string) {
	p.t.Helper()
	resp, err := p.admin.Post("http://caddy/load", "text/caddyfile", strings.NewReader(p.caddyfile(global, site)))
	if err != nil {
		p.t.Fatalf("reloading: %v", err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		p.t.Fatalf("reloading: %s: %s", resp.Status, body)
	}
}

// get reads from the admin endpoint.
func (p *process) get(path string) string {
	p.t.Helper()
	resp, err := p.admin.Get("http://caddy" + path)
	if err != nil {
		p.t.Fatalf("admin: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatalf("admin: %v", err)
	}
	return string(body)
}

var goroutineTotal = regexp.MustCompile(`goroutine profile: total (\d+)`)

func (p *process) goroutines() int {
	p.t.Helper()
	m := goroutineTotal.FindStringSubmatch(p.get("/debug/pprof/goroutine?debug=1"))
	if m == nil {
		p.t.Fatal("no goroutine profile")
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

var heapInUse = regexp.MustCompile(`# HeapAlloc = (\d+)`)

// heap is the memory that is still in use after a collection, in bytes.
func (p *process) heap() int64 {
	p.t.Helper()
	m := heapInUse.FindStringSubmatch(p.get("/debug/pprof/heap?gc=1&debug=1"))
	if m == nil {
		p.t.Fatal("no heap profile")
	}
	n, _ := strconv.ParseInt(m[1], 10, 64)
	return n
}

// rss is the resident memory of the process, in bytes.
func (p *process) rss() int64 { return p.memory("VmRSS") }

// memory is what the system says of the process's memory, in bytes.
func (p *process) memory(name string) int64 {
	p.t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.running.PID()))
	if err != nil {
		p.t.Skip("no /proc")
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name+":"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	p.t.Fatalf("no %s", name)
	return 0
}

// terminate sends SIGTERM and returns how long the process took to exit.
func (p *process) terminate(atMost time.Duration) time.Duration {
	p.t.Helper()
	begin := time.Now()
	must(p.t, p.running.Terminate())
	if !p.running.WaitExit(atMost) {
		p.t.Errorf("caddy has not exited %s after SIGTERM", atMost)
		p.running.Kill()
	}
	return time.Since(begin)
}

// exit has the process exit, by SIGTERM or the admin endpoint, and returns how
// long that took.
func (p *process) exit(signal bool, atMost time.Duration) time.Duration {
	p.t.Helper()
	if signal {
		return p.terminate(atMost)
	}
	begin := time.Now()
	resp, err := p.admin.Post("http://caddy/stop", "", nil)
	must(p.t, err)
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if !p.running.WaitExit(max(atMost-time.Since(begin), 0)) {
		p.t.Errorf("caddy has not exited %s after it was told to stop", atMost)
		p.running.Kill()
	}
	return time.Since(begin)
}

// fetch returns status, type and body of what the process serves.
func (p *process) fetch(path, accept string) (status int, contentType, body string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(within(p.t, 10*time.Second), http.MethodGet, p.url(path), nil)
	must(p.t, err)
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := http.DefaultClient.Do(req)
	must(p.t, err)
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	must(p.t, err)
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(content)
}
