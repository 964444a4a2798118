package ssefanin

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App holds the streams that are shared by several sites, and ties the streams
// of one configuration to the process's: it acquires them when the
// configuration is loaded, has them connected when it starts, and releases them
// when it is replaced. Handlers bring their streams to it.
//
// Nothing of a stream lives here: an App is made anew at every reload, and the
// streams live on.
type App struct {
	// Streams by name. Handlers name one instead of upstreams of their own. A
	// stream is connected even when no handler names it.
	Streams map[string]*Stream `json:"streams,omitempty"`

	// Defaults for the streams with a `log`, by its kind.
	LogRaw caddy.ModuleMap `json:"log,omitempty" caddy:"namespace=http.handlers.sse_fanin.log"`

	ctx          caddy.Context
	logger       *zap.Logger
	builder      *builder
	definitions  []*definition
	byKey        map[string]*definition // by stream key
	handlers     []*Handler
	announces    bool          // its servers announce the exit; see observeServers
	watching     bool          // they count with the exit's watch
	accessLogger *zap.Logger   // that its servers write access logs with
	attached     []*definition // the definitions that have been attached to their hubs
	started      bool          // its streams are attached
	announcer    *announcer    // nil until all apps have started
}

// CaddyModule returns the Caddy module information. Without a copy of the App:
// it is the origin of events, which are emitted while it stops.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "sse_fanin",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision defines the named streams. Nothing is dialled.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.logger = ctx.Logger()
	a.accessLogger = ctx.Logger(loggerName("http")).Named("log.access")
	a.byKey = make(map[string]*definition)
	var err error
	if a.builder, err = newBuilder(ctx, a.LogRaw); err != nil {
		return err
	}
	if err := registerMetrics(ctx); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	if err := a.announceOnceStarted(ctx); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(a.Streams)) {
		cfg := a.Streams[name]
		if err := checkName("stream", name); err != nil {
			return err
		}
		if cfg == nil {
			return fmt.Errorf("stream '%s': it has no upstreams", name)
		}
		def, err := a.define(name, cfg, nil)
		if err != nil {
			return err
		}
		def.clients = &cfg.ClientSettings
	}
	a.observeServers()
	return nil
}

// Start connects the streams. It only adds to what runs: the configuration
// before this one is still in use, and this one may fail to start.
func (a *App) Start() error {
	for _, h := range a.handlers {
		if h.service.def == nil {
			return errUndefined(h.Name, a.streamNames())
		}
	}
	holdAnnouncements()
	a.started = true
	if a.announces {
		exits.hold()
		a.watching = true
	}
	for _, def := range a.definitions {
		def.target().attach(def)
		a.attached = append(a.attached, def)
	}
	if len(a.attached) > 0 {
		streamSampler.wake()
	}
	a.warnOfUnusedLogs()
	return nil
}

// warnOfUnusedLogs logs defaults for logs that no stream uses. Most likely they
// were meant to be more than that.
func (a *App) warnOfUnusedLogs() {
	for _, kind := range slices.Sorted(maps.Keys(a.builder.logDefaults)) {
		if !slices.ContainsFunc(a.definitions, func(d *definition) bool { return d.log != nil && d.log.kind == kind }) {
			a.logger.Warn("no stream uses the defaults for logs; a stream is kept besides memory only if it has 'log' itself", zap.String("kind", kind))
		}
	}
}

// Stop takes the configuration off its streams: sources that only it wanted are
// disconnected, and changes of the next one take effect.
func (a *App) Stop() error {
	if caddy.Exiting() {
		// The servers may go on for their shutdown_delay; when they stop, they
		// end their clients themselves. Cleanup does the rest.
		return nil
	}
	a.detach()
	for _, h := range a.handlers {
		if h.service.settings.onReload == reloadDrain {
			h.service.def.target().drain(servedBy(&h.service), endReload)
		}
	}
	return nil
}

// Cleanup releases the streams. One that no configuration holds any more ends.
func (a *App) Cleanup() error {
	a.detach() // a configuration that failed to start was never stopped
	var releases sync.WaitGroup
	for _, def := range a.definitions {
		if caddy.Exiting() { // logs may take a moment each to be closed
			releases.Go(def.release)
		} else {
			def.release()
		}
	}
	releases.Wait()
	a.definitions = nil
	if a.watching {
		exits.drop()
		a.watching = false
	}
	return nil
}

// detach undoes Start, even one that failed halfway. Stop and Cleanup call it;
// a second call has no effect.
func (a *App) detach() {
	if a.announcer != nil {
		a.announcer.stop()
		a.announcer = nil
	}
	for _, def := range a.attached {
		def.target().detach(def)
	}
	a.attached = nil
	if a.started {
		releaseAnnouncements()
		a.started = false
	}
}

// observeServers has the configuration hear of the exit and know the connections
// of its servers: of all, since the exit waits for all, and a client may use one
// that has had streams before this configuration. It comes last in Provision: if
// no other app has asked for the HTTP app yet, its handlers are provisioned now.
func (a *App) observeServers() {
	val, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return // there is none, or Caddy will ask for it too and get the error
	}
	for _, server := range val.(*caddyhttp.App).Servers {
		a.announces = true
		new(acceptedConnections).observe(server)
		// Streams ended in an app's Stop or in Cleanup are ended too late: before
		// that, the server waits for its requests, for ever.
		server.RegisterOnShutdown(func() {
			if caddy.Exiting() {
				endAllClients()
			}
		})
		server.RegisterOnStop(func(ctx context.Context) error {
			if caddy.Exiting() {
				awaitTakenClients(ctx)
			}
			return nil
		})
	}
}

// add takes a handler in: it defines a stream, or names one.
func (a *App) add(h *Handler, owner any) error {
	if len(h.Upstreams) > 0 {
		def, err := a.define(h.Name, &h.Stream, owner)
		if err != nil {
			return err
		}
		if err := h.bind(def); err != nil {
			return err
		}
		a.handlers = append(a.handlers, h)
		if h.Name != "" {
			return a.bindWaiting(def)
		}
		return nil
	}
	if h.Name == "" {
		return fmt.Errorf("no upstreams: give at least one URL, or the name of a stream")
	}
	if setting := h.hasSourceSide(); setting != "" {
		return fmt.Errorf("%s: it belongs where the stream '%s' is defined, together with its upstreams", setting, h.Name)
	}
	a.handlers = append(a.handlers, h)
	if def := a.byKey[namedKey(h.Name)]; def != nil {
		return h.bind(def)
	}
	if !a.definedLater(h.Name) {
		return errUndefined(h.Name, a.streamNames())
	}
	return nil
}

// bindWaiting gives a definition to the handlers that named it before.
func (a *App) bindWaiting(def *definition) error {
	for _, h := range a.handlers {
		if h.service.def == nil && h.Name == def.name {
			if err := h.bind(def); err != nil {
				return err
			}
		}
	}
	return nil
}

// errUndefined is the error about a name that no stream has. names are those
// there are, as far as they are known.
func errUndefined(name string, names []string) error {
	there := ""
	if len(names) > 0 {
		there = " (there are: " + strings.Join(names, ", ") + ")"
	}
	return fmt.Errorf("stream '%s' is not defined%s: define it with its upstreams in the global option sse_fanin, or in one handler with 'stream %s'%s", name, there, name, orURL(name))
}

// streamNames are the names of the streams that are defined so far.
func (a *App) streamNames() []string {
	var names []string
	for _, def := range a.definitions {
		if def.name != "" {
			names = append(names, def.name)
		}
	}
	slices.Sort(names)
	return names
}

// definedLater reports whether a handler that is not provisioned yet defines
// the stream: handlers come in any order, and there is no sign of the last one.
func (a *App) definedLater(name string) bool {
	val, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return false
	}
	raw, err := json.Marshal(val.(*caddyhttp.App).Servers)
	if err != nil {
		return true // Start will find out
	}
	var tree any
	return json.Unmarshal(raw, &tree) != nil || hasDefinition(tree, name)
}

// hasDefinition looks for a handler that defines a stream in decoded JSON.
func hasDefinition(node any, name string) bool {
	switch node := node.(type) {
	case map[string]any:
		if upstreams, ok := node["upstreams"].([]any); ok && len(upstreams) > 0 &&
			node["handler"] == "sse_fanin" && node["stream"] == name {
			return true
		}
		for _, child := range node {
			if hasDefinition(child, name) {
				return true
			}
		}
	case []any:
		for _, child := range node {
			if hasDefinition(child, name) {
				return true
			}
		}
	}
	return false
}

// define validates a stream and acquires its hub. Equal unnamed streams are
// one.
func (a *App) define(name string, cfg *Stream, owner any) (*definition, error) {
	def, err := a.builder.build(name, cfg)
	if err != nil {
		if name != "" {
			return nil, fmt.Errorf("stream '%s': %w", name, err)
		}
		return nil, err
	}
	def.owner = owner
	if same := a.byKey[def.key]; same != nil {
		// A site with several addresses becomes a handler in each of several
		// servers; that is one definition.
		if name != "" && (same.owner == nil || owner == nil || same.owner == owner || same.digest != def.digest) {
			return nil, fmt.Errorf("stream '%s' is defined twice: define it once and let the other handlers only name it", name)
		}
		return same, nil
	}
	if def.placeholders != nil {
		def.keyed = acquireKeyed(def)
	} else {
		def.hub = acquireHub(def)
	}
	a.byKey[def.key] = def
	a.definitions = append(a.definitions, def)
	return def, nil
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
