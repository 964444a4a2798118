package e2e

import (
	"encoding/json"
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

// commands are what run builds.
var commands = map[string]string{"caddy": "./cmd/caddy", "demo": "./examples/demo"}

// run starts one of the commands, which the test's end kills. stop kills it
// earlier.
func run(t *testing.T, name string, args ...string) (output *ssetest.LogBuffer, stop func()) {
	t.Helper()
	binary, err := ssetest.Build(commands[name], false)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ssetest.StartProcess(t.TempDir(), nil, binary, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", name, p.Log.Tail(4000))
		}
	})
	return &p.Log, p.Kill
}

// A wire is how the browser comes to Caddy.
type wire struct {
	name   string
	scheme string
	alpn   string // what the browser calls it
}

var wires = []wire{{"http1", "http", "http/1.1"}, {"http2", "https", "h2"}}

// overWires runs a test over each of them.
func overWires(t *testing.T, test func(t *testing.T, w wire)) {
	for _, w := range wires {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
}

// server is a running Caddy.
type server struct {
	t     *testing.T
	wire  wire
	dir   string
	addr  string
	admin *http.Client
	stop  func()
}

// newServer starts Caddy with a site, for the browser.
func newServer(t *testing.T, w wire, site string) *server {
	t.Helper()
	needBrowser(t)
	return newPlainServer(t, w, site)
}

// newPlainServer starts Caddy with a site, for clients other than the browser.
func newPlainServer(t *testing.T, w wire, site string) *server {
	t.Helper()
	s := &server{t: t, wire: w, dir: t.TempDir(), addr: freeAddr(t)}
	s.admin = ssetest.UnixClient(filepath.Join(s.dir, "admin.sock"), step)
	if w.scheme == "https" {
		certificate(t, s.dir)
	}
	s.start(site)
	return s
}

func (s *server) start(site string) {
	s.t.Helper()
	file := filepath.Join(s.dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(s.caddyfile(site)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	_, s.stop = run(s.t, "caddy", "run", "--config", file, "--adapter", "caddyfile")
	listening(s.t, s.addr)
}

func (s *server) caddyfile(site string) string {
	tls := ""
	if s.wire.scheme == "https" {
		tls = "tls " + filepath.Join(s.dir, "cert.pem") + " " + filepath.Join(s.dir, "key.pem")
	}
	pages, err := filepath.Abs("testdata")
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf(`{
	admin unix/%s
	auto_https off
	persist_config off
	servers {
		protocols h1 h2
	}
}
%s://%s {
	%s
	root %q
	file_server
	%s
}
`, filepath.Join(s.dir, "admin.sock"), s.wire.scheme, s.addr, tls, pages, site)
}

func (s *server) url(path string) string { return s.wire.scheme + "://" + s.addr + path }

// reload loads another site.
func (s *server) reload(site string) {
	s.t.Helper()
	s.post("/load", "text/caddyfile", s.caddyfile(site))
}

// waitClients waits until a stream has n clients.
func (s *server) waitClients(stream string, n int) {
	s.t.Helper()
	eventually(s.t, step, fmt.Sprintf("%d clients of %s", n, stream), func() bool {
		resp, err := s.admin.Get("http://caddy/sse_fanin/streams/" + stream)
		if err != nil {
			s.t.Fatal(err)
		}
		defer resp.Body.Close()
		var status struct {
			Clients struct {
				Connected int `json:"connected"`
			} `json:"clients"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
			s.t.Fatal(err)
		}
		return status.Clients.Connected == n
	})
}

func (s *server) post(path, contentType, body string) {
	s.t.Helper()
	resp, err := s.admin.Post("http://caddy"+path, contentType, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s: %s: %s", path, resp.Status, answer)
	}
}

// certificate writes cert.pem and key.pem.
func certificate(t *testing.T, dir string) {
	t.Helper()
	if _, _, err := ssetest.WriteCertificate(dir); err != nil {
		t.Fatal(err)
	}
}

func newOrigin(t *testing.T, source string) *ssetest.Origin {
	t.Helper()
	o, err := ssetest.NewOrigin(ssetest.OriginConfig{Source: source})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := ssetest.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func listening(t *testing.T, addr string) {
	t.Helper()
	if err := ssetest.AwaitListening(step, addr); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, atMost time.Duration, what string, ok func() bool) {
	t.Helper()
	if err := ssetest.Await(atMost, what, ok); err != nil {
		t.Fatal(err)
	}
}
