package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/sse-fanin/caddy-sse-fanin"
)

// caddyConfig is what Caddy runs with.
type caddyConfig struct {
	Dir       string // for its files
	Caddyfile string
}

// caddyfilePath is where the configuration of the Caddy with a folder is.
func caddyfilePath(dir string) string { return filepath.Join(dir, "Caddyfile") }

// caddyRole is Caddy as cmd/caddy builds it, and one handler more. Command:
// start, which is answered before Caddy serves; from then on it is Caddy.
func caddyRole(c *commands) error {
	var cfg caddyConfig
	handle(c, "start", func(given caddyConfig) (none, error) {
		cfg = given
		file := caddyfilePath(cfg.Dir)
		if err := os.WriteFile(file, []byte(cfg.Caddyfile), 0o600); err != nil {
			return none{}, fmt.Errorf("writing the configuration: %w", err)
		}
		for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
			if err := os.Setenv(name, cfg.Dir); err != nil {
				return none{}, fmt.Errorf("setting %s: %w", name, err)
			}
		}
		os.Args = []string{"caddy", "run", "--config", file, "--adapter", "caddyfile"}
		return none{}, nil
	})
	if err := c.serveOne(); err != nil {
		return err
	}
	c.exitAtEOF()
	caddycmd.Main()
	return nil
}

// idleHandler answers with the head of an event stream and nothing more, until
// the client leaves: what a connection costs that nobody writes to.
type idleHandler struct {
	// Send one line, as an event stream does that says at once when to come back.
	Line bool `json:"line,omitempty"`
}

func init() {
	caddy.RegisterModule(idleHandler{})
	httpcaddyfile.RegisterHandlerDirective("bench_idle", parseIdle)
	httpcaddyfile.RegisterDirectiveOrder("bench_idle", httpcaddyfile.Before, "reverse_proxy")
}

// CaddyModule returns the Caddy module information.
func (idleHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.bench_idle",
		New: func() caddy.Module { return new(idleHandler) },
	}
}

func parseIdle(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next() // the directive's name
	handler := new(idleHandler)
	if h.NextArg() {
		if handler.Line = h.Val() == "line"; !handler.Line || h.NextArg() {
			return nil, h.ArgErr()
		}
	}
	return handler, nil
}

func (i *idleHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if i.Line {
		serveLine(w, r)
	} else {
		serveIdle(w, r)
	}
	return nil
}

// serveLine sends the head and one line, and waits for the client to leave.
func serveLine(w http.ResponseWriter, r *http.Request) {
	startEventStream(w)
	_, _ = io.WriteString(w, "retry: 3000\n\n")
	_ = http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// serveIdle sends the head and waits for the client to leave.
func serveIdle(w http.ResponseWriter, r *http.Request) {
	startEventStream(w)
	<-r.Context().Done()
}

// startEventStream sends the head of an event stream.
func startEventStream(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
}

// Interface guard
var _ caddyhttp.MiddlewareHandler = (*idleHandler)(nil)
