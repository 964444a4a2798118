package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// builtDir is what buildOnce made, for TestMain to remove.
var builtDir string

// buildOnce builds Caddy and the demo.
var buildOnce = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "sse-fanin-e2e-")
	if err != nil {
		return err
	}
	builtDir = dir
	cmd := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "./cmd/caddy", "./examples/demo")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building: %w\n%s", err, out)
	}
	return nil
})

// buffer keeps what a process writes.
type buffer struct {
	mu  sync.Mutex // protects buf
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// run starts one of the built binaries, which the test's end kills. stop kills
// it earlier.
func run(t *testing.T, binary string, args ...string) (output *buffer, stop func()) {
	t.Helper()
	if err := buildOnce(); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	output = new(buffer)
	cmd := exec.Command(filepath.Join(builtDir, binary), args...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			out := output.String()
			t.Logf("%s wrote:\n%s", binary, out[max(len(out)-4000, 0):])
		}
	})
	return output, stop
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
	s.admin = &http.Client{Timeout: step, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.dir, "admin.sock"))
		},
	}}
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

// certificate writes a self-signed certificate and its key.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "e2e"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []struct {
		name  string
		block pem.Block
	}{
		{"cert.pem", pem.Block{Type: "CERTIFICATE", Bytes: cert}},
		{"key.pem", pem.Block{Type: "PRIVATE KEY", Bytes: private}},
	} {
		if err := os.WriteFile(filepath.Join(dir, file.name), pem.EncodeToMemory(&file.block), 0o600); err != nil {
			t.Fatal(err)
		}
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

// freeAddr finds a loopback address nobody listens on.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func listening(t *testing.T, addr string) {
	t.Helper()
	eventually(t, 20*time.Second, addr+" listens", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// eventually waits for a condition.
func eventually(t *testing.T, atMost time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(atMost)
	defer deadline.Stop()
	again := time.NewTicker(30 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %s: %s", atMost, what)
		case <-again.C:
		}
	}
}
