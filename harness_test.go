package ssefanin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// instance is a site served by this process. Caddy's configuration is global,
// so there is one at a time, and tests that use it do not run in parallel.
type instance struct {
	t      *testing.T
	scheme string
	addr   string
}

// serve loads a site into this process. Its text stands in a block that
// listens on the instance's address; global, if any, among the global options.
func serve(t *testing.T, global, site string) *instance {
	t.Helper()
	in := &instance{t: t, scheme: "http", addr: freeAddr(t)}
	t.Cleanup(in.stop)
	in.reload(global, site)
	return in
}

// serveTLS is serve with TLS, and with HTTP/2 and HTTP/3 therefore. Nobody
// trusts its certificate.
func serveTLS(t *testing.T, global, site string) *instance {
	t.Helper()
	in := &instance{t: t, scheme: "https", addr: freeAddr(t)}
	t.Cleanup(in.stop)
	in.reload(global, site)
	return in
}

// stop unloads the configuration and waits until nothing of it is left.
func (in *instance) stop() {
	if err := caddy.Stop(); err != nil {
		in.t.Errorf("stopping: %v", err)
	}
	eventually(in.t, 10*time.Second, "streams and sources are released", func() bool {
		n := len(liveHubs.list())
		sources.Range(func(_, _ any) bool { n++; return true })
		hubs.Range(func(_, _ any) bool { n++; return true })
		return n == 0
	})
	nobodyServed(in.t)
}

// nobodyServed waits until nothing is left of the clients there were. One whose
// connection was taken over is counted until its request has ended, which may be after
// its stream is gone; and a writer that has not noticed yet that it has nothing to do
// would serve the clients of a test with a synthetic clock, by the real one.
func nobodyServed(t *testing.T) {
	t.Helper()
	noneTaken(t)
	eventually(t, 10*time.Second, "no writer is left", func() bool { return !goroutinesIn(t, "caddy-sse-fanin.(*writers).run(") })
}

func (in *instance) url(path string) string { return in.scheme + "://" + in.addr + path }

func (in *instance) reload(global, site string) {
	in.t.Helper()
	if err := in.tryReload(global, site); err != nil {
		in.t.Fatalf("loading: %v", err)
	}
}

func (in *instance) tryReload(global, site string) error {
	in.t.Helper()
	if err := load(in.t, in.caddyfile(global, site)); err != nil {
		return err
	}
	in.awaitTakeover()
	return nil
}

// awaitTakeover waits until new connections reach the new configuration only:
// when a configuration is loaded, the one before may accept a few more.
func (in *instance) awaitTakeover() {
	in.t.Helper()
	eventually(in.t, 10*time.Second, "the earlier server has closed its listener", func() bool {
		// a site without bind listens on all addresses
		return max(caddy.ListenerUsage("tcp", in.addr), caddy.ListenerUsage("tcp", ":"+port(in.addr))) < 2
	})
}

func (in *instance) caddyfile(global, site string) string {
	if in.scheme == "https" {
		global += tlsOptions
	}
	return "{\n" + global + "\n}\n" + in.block(site)
}

// tlsOptions are the global options of what serves TLS.
const tlsOptions = "\nauto_https disable_redirects\ndefault_sni 127.0.0.1"

// block is a site on the instance's address.
func (in *instance) block(site string) string {
	if in.scheme == "https" {
		files, err := certificate()
		must(in.t, err)
		site += "\ntls " + files
	}
	return fmt.Sprintf("%s {\n%s\n}\n", in.url(""), site)
}

// load loads a whole Caddyfile, with the admin endpoint and automatic HTTPS
// off and without logs.
func load(t *testing.T, text string) error {
	t.Helper()
	raw, err := adapt(text)
	if err != nil {
		return err
	}
	return caddy.Load(raw, true)
}

// storageDir is where the configurations of all tests keep certificates and
// the like.
func storageDir() string { return filepath.Join(ssetest.Dir(), "storage") }

// certificate is a self-signed certificate, as the arguments of the directive
// tls. (One that Caddy manages comes only after the configuration was loaded.)
var certificate = sync.OnceValues(makeCertificate)

func makeCertificate() (files string, err error) {
	certFile, keyFile, err := ssetest.WriteCertificate(ssetest.Dir())
	return certFile + " " + keyFile, err
}

// adapt turns a Caddyfile into the JSON that load loads.
func adapt(text string) ([]byte, error) {
	raw, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return nil, err
	}
	var cfg map[string]any
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return nil, err
	}
	cfg["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	if cfg["storage"] == nil { // not the one of whoever runs the tests
		cfg["storage"] = map[string]any{"module": "file_system", "root": storageDir()}
	}
	logging, _ := cfg["logging"].(map[string]any)
	if logging == nil {
		logging = make(map[string]any)
		cfg["logging"] = logging
	}
	logs, _ := logging["logs"].(map[string]any)
	if logs == nil {
		logs = make(map[string]any)
		logging["logs"] = logs
	}
	def, _ := logs["default"].(map[string]any)
	if def == nil {
		def = make(map[string]any)
		logs["default"] = def
	}
	if def["writer"] == nil {
		def["level"], def["writer"] = zap.ErrorLevel.CapitalString(), map[string]any{"output": "discard"}
	}
	if apps, ok := cfg["apps"].(map[string]any); ok {
		if inOverlap != nil {
			apps["sse_fanin_overlap"] = map[string]any{}
		}
		if httpApp, ok := apps["http"].(map[string]any); ok {
			for _, server := range httpApp["servers"].(map[string]any) {
				server := server.(map[string]any)
				if server["automatic_https"] == nil && server["tls_connection_policies"] == nil {
					server["automatic_https"] = map[string]any{"disable": true}
				}
			}
		}
	}
	return json.Marshal(cfg)
}

// request sends a request without a body, and returns the response as soon as
// its head is there. The test's end closes its body.
//
// After a reload, Caddy may reset a few connections that the earlier server
// has not accepted: a request to which nothing was answered is sent again.
func (in *instance) request(method, path string, header http.Header) *http.Response {
	in.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	in.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, in.url(path), nil)
	must(in.t, err)
	if header != nil {
		req.Header = header
	}
	transport := &http.Transport{DisableKeepAlives: true}
	for attempts := 1; ; attempts++ {
		late := time.AfterFunc(patience, cancel)
		resp, err := transport.RoundTrip(req)
		late.Stop()
		if err == nil {
			in.t.Cleanup(func() { _ = resp.Body.Close() })
			return resp
		}
		if attempts == maxAttempts || !unanswered(err) {
			in.t.Fatalf("%s %s, attempt %d: %v", method, path, attempts, err)
		}
	}
}

// maxAttempts is how often a request is sent: more than Caddy refuses, but not
// for ever to a server that answers nobody.
const maxAttempts = 10

// unanswered reports whether a request's error is that the connection was
// refused, or has ended before anything came.
func unanswered(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := ssetest.FreeAddr()
	must(t, err)
	return addr
}

// eventually waits for a condition.
func eventually(t *testing.T, atMost time.Duration, what string, ok func() bool) {
	t.Helper()
	must(t, ssetest.Await(max(atMost, patience), what, ok))
}

func newOrigin(t *testing.T, cfg ssetest.OriginConfig) *ssetest.Origin {
	t.Helper()
	o, err := ssetest.NewOrigin(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// patience is the least that a wait gets: how long what comes at once may take
// on a machine that has other things to do. Only a test that fails waits for it.
const patience = 30 * time.Second

// within returns the context of a wait.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), max(d, patience))
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// settle lets the origins send no more and waits until every client has it all.
func settle(t *testing.T, v *ssetest.Verifier, origins ...*ssetest.Origin) {
	t.Helper()
	must(t, v.Settle(within(t, time.Minute), origins...))
}

// run lets something go on for a while, or until step returns an error.
func run(t *testing.T, length, every time.Duration, step func() error) {
	t.Helper()
	must(t, ssetest.Repeat(length, every, step))
}

// TestHarnessRequestsAgain has connections end before the answer, by FIN and by
// RST.
func TestHarnessRequestsAgain(t *testing.T) {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := requests.Add(1)
		if n > 2 {
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		if n == 1 {
			_ = conn.(*net.TCPConn).SetLinger(0)
		}
		conn.Close()
	}))
	t.Cleanup(server.Close)
	in := &instance{t: t, scheme: "http", addr: server.Listener.Addr().String()}
	if resp := in.request(http.MethodGet, "/", nil); resp.StatusCode != http.StatusOK || requests.Load() != 3 {
		t.Errorf("got %s after %d requests", resp.Status, requests.Load())
	}
}

func TestHarnessServes(t *testing.T) {
	in := serve(t, "", "respond /hello hi")
	resp := in.request(http.MethodGet, "/hello", nil)
	if resp.StatusCode != http.StatusOK {
		t.Errorf("got %s", resp.Status)
	}
}
