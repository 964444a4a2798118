// Package ssefanin is a Caddy HTTP handler that merges the events of several
// Server-Sent-Events upstreams into one stream and serves it to every client.
//
// Each upstream is connected once per process, however many clients, sites and
// configurations use it. docs/ARCHITECTURE.md follows an event through the
// files.
package ssefanin

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// Handler serves a merged stream of Server-Sent Events. It connects to its
// upstreams once, whatever the number of clients, and writes the events of all
// of them to every client. A client that reconnects goes on where it was.
//
// With `upstreams` it defines a stream; with only the name of one in `stream`,
// it serves a stream that the `sse_fanin` app or another handler defines.
//
// Clients receive text/event-stream as WHATWG HTML, section 9.2, defines it.
// The ways of following upstreams and keeping positions are this module's own.
type Handler struct {
	// The name of the stream. A named stream keeps its clients and its position
	// over reloads that change its upstreams or settings; without a name, a
	// stream is identified by its upstreams and settings.
	Name string `json:"stream,omitempty"`

	Stream

	service service
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sse_fanin",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision validates the configuration and hands the stream to the app, which
// owns it from there on: the handler itself has nothing to clean up.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.service.logger = ctx.Logger()
	h.service.errorRoutes = handlesErrors(ctx)
	if h.Name != "" {
		if err := checkName("stream", h.Name); err != nil {
			return err
		}
	}
	if err := h.ClientSettings.validate(); err != nil {
		return err
	}
	val, err := ctx.App("sse_fanin")
	if err != nil {
		return fmt.Errorf("getting the sse_fanin app: %w", err)
	}
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	app := val.(*App)
	h.service.accessLogger = app.accessLogger
	return app.add(h, server)
}

// bind gives the handler the stream it serves.
func (h *Handler) bind(def *definition) error {
	settings := h.ClientSettings.over(def.clients).resolve()
	if err := settings.start.judge(def.values != nil); err != nil {
		return fmt.Errorf("stream '%s': %w", def.label, err)
	}
	if err := h.ClientSettings.over(def.clients).Only.judge(def); err != nil {
		return fmt.Errorf("stream '%s': %w", def.label, err)
	}
	h.service.def, h.service.settings = def, &settings
	def.services = append(def.services, &h.service)
	return nil
}

// ServeHTTP serves the stream. It does not call the next handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if h.service.def == nil { // a configuration that is about to fail to start
		return caddyhttp.Error(http.StatusServiceUnavailable, errUndefined(h.Name, nil))
	}
	ignoreBody(w, r)
	leaveServer(w, r)
	switch r.Method {
	case http.MethodGet:
		return serveStream(w, r, &h.service)
	case http.MethodHead:
		if _, err := h.service.settings.only.choiceOf(r); err != nil {
			return h.service.forbidden(w, r, err)
		}
		if _, err := h.service.def.keyOf(r); err != nil {
			return h.service.badRequest(w, r, err)
		}
		if _, err := requestedSince(r); err != nil {
			return h.service.badRequest(w, r, err)
		}
		writeHeader(w)
		return nil
	case http.MethodOptions:
		answerOptions(w)
		return nil
	default:
		w.Header().Set("Allow", allowedMethods)
		return caddyhttp.Error(http.StatusMethodNotAllowed, fmt.Errorf("method %s is not allowed on an event stream", r.Method))
	}
}

// handlesErrors reports whether an error that a handler returns gets a page
// that the configuration makes.
func handlesErrors(ctx caddy.Context) bool {
	if server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); server != nil &&
		server.Errors != nil && len(server.Errors.Routes) > 0 {
		return true
	}
	return slices.ContainsFunc(ctx.Modules(), func(module caddy.Module) bool {
		subroute, ok := module.(*caddyhttp.Subroute)
		return ok && subroute.Errors != nil && len(subroute.Errors.Routes) > 0
	})
}

// allowedMethods are the methods of the stream and of its status.
const allowedMethods = "GET, HEAD, OPTIONS"

// answerOptions answers a browser that asks whether a page of another origin
// may send a request, and a load balancer's check. The directive `header` adds
// a preflight's answers beyond the methods.
func answerOptions(w http.ResponseWriter) {
	w.Header().Set("Allow", allowedMethods)
	w.WriteHeader(http.StatusNoContent)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
