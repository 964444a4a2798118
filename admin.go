package ssefanin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI is a module that provides the /sse_fanin/ endpoints for the Caddy
// admin API: the state of the process's streams, and two operations on them.
// Caddy makes it before the apps, so it reads the state of the process, not of
// a configuration.
type adminAPI struct{}

// adminOn is how many configurations there are whose admin API is on: none, or
// one, or two in a reload. Caddy makes the module for those only.
var adminOn atomic.Int32

// Provision notes that the admin API is on, until the configuration has gone.
func (adminAPI) Provision(ctx caddy.Context) error {
	adminOn.Add(1)
	context.AfterFunc(ctx.Context, func() { adminOn.Add(-1) })
	return nil
}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.sse_fanin",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes returns the routes of the /sse_fanin/ endpoints.
func (a adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: adminStreams, Handler: caddy.AdminHandlerFunc(a.handle)},
		{Pattern: adminStreams + "/", Handler: caddy.AdminHandlerFunc(a.handle)},
	}
}

const adminStreams = "/sse_fanin/streams"

// handle serves
//
//	GET  /sse_fanin/streams
//	GET  /sse_fanin/streams/<name>
//	POST /sse_fanin/streams/<name>/drain[?nodes=all]
//	POST /sse_fanin/streams/<name>/upstreams/<upstream>/reconnect
func (adminAPI) handle(w http.ResponseWriter, r *http.Request) error {
	rest := strings.Trim(strings.TrimPrefix(r.URL.Path, adminStreams), "/")
	var path []string
	if rest != "" {
		path = strings.Split(rest, "/")
	}
	switch {
	case len(path) == 0:
		if err := allow(w, r, http.MethodGet); err != nil {
			return err
		}
		return writeJSON(w, snapshotStreams())
	case len(path) == 1:
		if err := allow(w, r, http.MethodGet); err != nil {
			return err
		}
		all := snapshotStreams()
		// one that is configured comes before one that is leaving
		i := slices.IndexFunc(all, func(st streamStatus) bool { return st.Name == path[0] })
		if i < 0 {
			return errNoStream(path[0])
		}
		return writeJSON(w, all[i])
	case len(path) == 2 && path[1] == "drain":
		if err := allow(w, r, http.MethodPost); err != nil {
			return err
		}
		return drainStream(path[0], r.URL.Query().Get("nodes"))
	case len(path) == 4 && path[1] == "upstreams" && path[3] == "reconnect":
		if err := allow(w, r, http.MethodPost); err != nil {
			return err
		}
		return reconnectUpstream(path[0], path[2])
	}
	return caddy.APIError{
		HTTPStatus: http.StatusNotFound,
		Err:        fmt.Errorf("there is no %s", r.URL.Path),
	}
}

func allow(w http.ResponseWriter, r *http.Request, method string) error {
	if r.Method == method {
		return nil
	}
	w.Header().Set("Allow", method)
	return caddy.APIError{
		HTTPStatus: http.StatusMethodNotAllowed,
		Err:        fmt.Errorf("method %s is not allowed, use %s", r.Method, method),
	}
}

func writeJSON(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return caddy.APIError{HTTPStatus: http.StatusInternalServerError, Err: err}
	}
	return nil
}

// errNoStream lists the streams, unless there is one of the name: a keyed
// stream may have no keys at present.
func errNoStream(name string) error {
	var names []string
	for _, st := range snapshotStreams() {
		if st.Name == name {
			return nil
		}
		names = append(names, st.Name)
	}
	return notFound("stream", name, names)
}

func notFound(what, name string, names []string) error {
	slices.Sort(names)
	names = slices.Compact(names)
	known := "there are none"
	if len(names) > 0 {
		known = "there are: " + strings.Join(names, ", ")
	}
	return caddy.APIError{
		HTTPStatus: http.StatusNotFound,
		Err:        fmt.Errorf("unknown %s '%s', %s", what, name, known),
	}
}

// drainStream ends the clients of a stream over their drain windows. The
// stream stays, and takes new ones. Clients of other nodes that share its log end
// only if nodes is "all".
func drainStream(name, nodes string) error {
	if err := errNoStream(name); err != nil {
		return err
	}
	if nodes != "" && nodes != allNodes {
		return caddy.APIError{
			HTTPStatus: http.StatusBadRequest,
			Err:        fmt.Errorf("nodes: '%s' is not known, it is '%s' or left out for this node alone", nodes, allNodes),
		}
	}
	var errs []error
	for _, h := range liveHubs.named(name) {
		h.drain(everybody, endDrained)
		if d := h.log.Load().durable; d != nil && nodes == allNodes {
			errs = append(errs, d.cluster.askAll(nodeQuestion{Do: doDrain}))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadGateway, Err: err}
	}
	return nil
}

// allNodes is the value of `nodes` for every node that shares a stream's log.
const allNodes = "all"

// reconnectUpstream has an upstream connected anew, for all streams that
// share it. The name of a dynamic upstream stands for all its addresses.
func reconnectUpstream(streamName, upstream string) error {
	if err := errNoStream(streamName); err != nil {
		return err
	}
	found, names := 0, make(map[string]bool)
	for _, v := range viewStreams() {
		if v.Name == streamName {
			for name := range v.counted {
				names[name] = true
			}
		}
	}
	known := names[upstream]
	for _, h := range liveHubs.named(streamName) {
		n, all, err := h.reconnect(upstream)
		if err != nil {
			return caddy.APIError{HTTPStatus: http.StatusBadGateway, Err: err}
		}
		found += n
		for _, name := range all {
			names[name] = true
		}
	}
	if found == 0 && !known {
		return notFound("upstream", upstream, slices.Collect(maps.Keys(names)))
	}
	return nil
}

// reconnect has the sources that go by an upstream's name connected anew, by the
// node that has them. It returns how many there are, and the names of all sources.
func (h *hub) reconnect(upstream string) (n int, names []string, err error) {
	if d := h.log.Load().durable; d != nil && d.shared() && !d.writing.Load() {
		a, err := d.cluster.askWriter(nodeQuestion{Do: doReconnect, Upstream: upstream})
		return a.Found, a.Names, err
	}
	n, names = h.inputs.reconnect(upstream)
	return n, names, nil
}

// Interface guards
var (
	_ caddy.AdminRouter = (*adminAPI)(nil)
	_ caddy.Provisioner = (*adminAPI)(nil)
)
