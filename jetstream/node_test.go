package jetstream

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// patience is how long a wait may take on a machine that has other things to do.
// Only a test that fails waits for it.
const patience = time.Minute

// node is a Caddy of its own, built with this module, that serves a stream live
// at /events, and its status at /status.
type node struct {
	*ssetest.Process
	t     *testing.T
	addr  string
	dir   string
	admin *http.Client
}

// startNode runs a Caddy whose stream live has these options of log jetstream,
// until the test ends.
func startNode(t *testing.T, o *ssetest.Origin, options string) *node {
	t.Helper()
	addr, err := ssetest.FreeAddr()
	must(t, err)
	n := &node{t: t, addr: addr, dir: t.TempDir()}
	n.admin = ssetest.UnixClient(n.socket(), patience)
	t.Cleanup(n.admin.CloseIdleConnections)
	n.start(o, options)
	return n
}

// start runs Caddy, again perhaps.
func (n *node) start(o *ssetest.Origin, options string) {
	n.t.Helper()
	binary, err := ssetest.Build("./cmd/caddy-cluster", false)
	must(n.t, err)
	file := filepath.Join(n.dir, "Caddyfile")
	must(n.t, os.WriteFile(file, []byte(n.caddyfile(o, options)), 0o600))
	process, err := ssetest.StartProcess(n.dir, nil, binary, "run", "--config", file, "--adapter", "caddyfile")
	must(n.t, err)
	n.Process = process
	n.t.Cleanup(func() {
		process.Kill()
		if n.t.Failed() {
			n.t.Logf("log of caddy at %s:\n%s", n.addr, process.Log.Tail(6000))
		}
	})
	must(n.t, ssetest.AwaitListening(patience, n.addr))
}

func (n *node) socket() string { return filepath.Join(n.dir, "admin.sock") }

func (n *node) caddyfile(o *ssetest.Origin, options string) string {
	return fmt.Sprintf(`{
	admin unix/%s
	auto_https off
	persist_config off
}
http://%s {
	sse_fanin /events {
		stream live
		upstream a %s
		backoff 100ms 1s
		log jetstream {
			%s
		}
	}
	sse_fanin_status /status
}
`, n.socket(), n.addr, o.URL(), options)
}

// reload loads other options.
func (n *node) reload(o *ssetest.Origin, options string) {
	n.t.Helper()
	resp, err := n.admin.Post("http://caddy/load", "text/caddyfile", strings.NewReader(n.caddyfile(o, options)))
	must(n.t, err)
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		n.t.Fatalf("reloading: %d %s", resp.StatusCode, text)
	}
}

// readiness is what ?ready answers.
func (n *node) readiness() (status int, body string) {
	resp, err := http.Get("http://" + n.addr + "/status?ready")
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// awaitReady waits until the stream has what it needs.
func (n *node) awaitReady() {
	n.t.Helper()
	n.eventually("the stream is ready", func() bool {
		status, _ := n.readiness()
		return status == http.StatusOK
	})
}

func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	if err := ssetest.Await(patience, what, ok); err != nil {
		_, body := n.readiness()
		n.t.Fatalf("%v; ready: %s", err, body)
	}
}

// end has Caddy exit in order.
func (n *node) end() {
	n.t.Helper()
	must(n.t, n.Terminate())
	if !n.WaitExit(patience) {
		n.t.Fatal("Caddy does not exit")
	}
}

// connect has a client follow the stream, from after an id if there is one.
func (n *node) connect(lastID string, track *ssetest.Track) *ssetest.Client {
	n.t.Helper()
	c := ssetest.StartClient(ssetest.ClientConfig{URL: "http://" + n.addr + "/events", LastEventID: lastID, Track: track, Stubborn: true})
	n.t.Cleanup(c.Close)
	return c
}

func newOrigin(t *testing.T) *ssetest.Origin {
	t.Helper()
	o, err := ssetest.NewOrigin(ssetest.OriginConfig{Source: "a"})
	must(t, err)
	t.Cleanup(o.Close)
	return o
}
