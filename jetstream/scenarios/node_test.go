package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// node is a Caddy, a process that serves the stream live.
type node struct {
	*ssetest.Process // once started
	t                *testing.T
	name             string
	host             host
	network, addr    string // of the site
	dir              string
	config           string // the site's directives
	http             *http.Client
}

// newNode returns a node that has not been started.
func newNode(t *testing.T, name string, h host, config string) *node {
	t.Helper()
	n := &node{t: t, name: name, host: h, dir: t.TempDir(), config: config}
	n.network, n.addr = h.siteAddress(t, n.dir)
	n.http = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.dial}}
	return n
}

func (n *node) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, n.network, n.addr)
}

// start runs Caddy, again perhaps, and returns at once.
func (n *node) start() {
	n.t.Helper()
	binary, err := ssetest.Build("./cmd/caddy-cluster", false)
	must(n.t, err)
	file := filepath.Join(n.dir, "Caddyfile")
	must(n.t, os.WriteFile(file, []byte(n.caddyfile()), 0o600))
	n.Process = n.host.start(n.t, n.dir, binary, "run", "--config", file, "--adapter", "caddyfile")
	process := n.Process
	n.t.Cleanup(func() {
		process.Kill()
		if n.t.Failed() {
			n.t.Logf("log of %s:\n%s", n.name, process.Log.Tail(6000))
		}
	})
}

// caddyfile is the node's whole configuration.
func (n *node) caddyfile() string {
	site := "http://node {\nbind unix/" + n.addr
	if host, port, err := net.SplitHostPort(n.addr); err == nil {
		site = "http://node:" + port + " {\nbind " + host
	}
	return fmt.Sprintf("{\nadmin unix/%s\nauto_https off\npersist_config off\n}\n%s\n%s\n}\n", n.admin(), site, n.config)
}

// admin is the socket of the admin API.
func (n *node) admin() string { return filepath.Join(n.dir, "admin.sock") }

// reload has the node use other directives of the site, without an exit.
func (n *node) reload(config string) {
	n.t.Helper()
	n.config = config
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", n.admin())
		},
	}}
	resp, err := client.Post("http://127.0.0.1/load", "text/caddyfile", strings.NewReader(n.caddyfile()))
	must(n.t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		n.t.Fatalf("%s answers a reload with %s: %s", n.name, resp.Status, answer)
	}
}

// nodeStatus is what a node knows of the log.
type nodeStatus struct {
	State   string
	First   uint64
	Last    uint64
	Resyncs uint64
	Refused uint64
	Writer  string
	Term    uint64
	Error   string
}

// status asks a node for its state; one that does not answer has none.
func (n *node) status() nodeStatus {
	req, err := http.NewRequest(http.MethodGet, "http://node/status", nil)
	must(n.t, err)
	req.Header.Set("Accept", "application/json")
	resp, err := n.http.Do(req)
	if err != nil {
		return nodeStatus{}
	}
	defer resp.Body.Close()
	var s struct {
		Streams []struct{ Log struct{ Store nodeStatus } }
	}
	if json.NewDecoder(resp.Body).Decode(&s) != nil || len(s.Streams) == 0 {
		return nodeStatus{}
	}
	return s.Streams[0].Log.Store
}

// readiness is the status of ?ready; 0 if there is no answer.
func (n *node) readiness() int {
	resp, err := n.http.Get("http://node/status?ready")
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// awaitReady waits until the stream has what it needs.
func (n *node) awaitReady() {
	n.t.Helper()
	if err := ssetest.Await(patience, n.name+" is ready", func() bool { return n.readiness() == http.StatusOK }); err != nil {
		n.t.Fatalf("%v; its log is %+v", err, n.status())
	}
}

// end has Caddy exit in order.
func (n *node) end() {
	n.t.Helper()
	must(n.t, n.Terminate())
	if !n.WaitExit(patience) {
		n.t.Fatalf("%s does not exit", n.name)
	}
}
