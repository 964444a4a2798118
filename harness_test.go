package ssefanin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// instance is a site served by this process. Caddy's configuration is global,
// so there is one at a time, and tests that use it do not run in parallel.
type instance struct {
	t    *testing.T
	addr string
}

// serve loads a site into this process. Its text stands in a block that
// listens on the instance's address; global, if any, among the global options.
func serve(t *testing.T, global, site string) *instance {
	t.Helper()
	in := &instance{t: t, addr: freeAddr(t)}
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
		liveHubs.mu.Lock()
		n := len(liveHubs.all)
		liveHubs.mu.Unlock()
		sources.Range(func(_, _ any) bool { n++; return true })
		hubs.Range(func(_, _ any) bool { n++; return true })
		return n == 0
	})
}

func (in *instance) url(path string) string { return "http://" + in.addr + path }

func (in *instance) reload(global, site string) {
	in.t.Helper()
	if err := in.tryReload(global, site); err != nil {
		in.t.Fatalf("loading: %v", err)
	}
}

func (in *instance) tryReload(global, site string) error {
	in.t.Helper()
	return load(in.t, fmt.Sprintf("{\n%s\n}\nhttp://%s {\n%s\n}\n", global, in.addr, site))
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
	if cfg["logging"] == nil {
		cfg["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{
			"level": zap.ErrorLevel.CapitalString(), "writer": map[string]any{"output": "discard"},
		}}}
	}
	if apps, ok := cfg["apps"].(map[string]any); ok {
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

func TestHarnessServes(t *testing.T) {
	in := serve(t, "", "respond /hello hi")
	var resp *http.Response
	eventually(t, 5*time.Second, "the site answers", func() bool {
		var err error
		resp, err = http.Get(in.url("/hello")) //nolint:gosec // our own address
		return err == nil
	})
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("got %s", resp.Status)
	}
}
