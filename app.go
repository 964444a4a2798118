package ssefanin

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App holds the streams that are shared by several sites, and ties the streams
// of one configuration to those of the process: it acquires them when the
// configuration is loaded, has them connected when it starts, and releases
// them when it is replaced. Handlers bring their streams to it.
//
// Nothing of a stream lives here: an App is made anew at every reload, and the
// streams live on.
type App struct {
	// Streams by name. Handlers name one instead of upstreams of their own. A
	// stream is connected even when no handler names it.
	Streams map[string]*Stream `json:"streams,omitempty"`

	ctx         caddy.Context
	logger      *zap.Logger
	definitions []*definition
	byKey       map[string]*definition  // by stream key
	envs        map[string]*environment // by source key
	handlers    []*Handler
	servers     []*caddyhttp.Server // that tell of the exit; see observe
	watching    bool                // they count with the exit's watch
	attached    []*definition       // of definitions, those that have been attached to their hubs
	started     bool                // its streams are attached
	teller      *teller             // nil until all apps have started
}

// definition is a stream as one configuration defines it. Immutable once the
// configuration is started, as is all that it points to but hub and keyed: the
// streams of all keys are made of one definition, each under locks of its own.
// What lives belongs to a hub.
type definition struct {
	key       string // of the hub
	label     string
	name      string // empty for an unnamed stream
	digest    string // of the source side
	owner     any    // *caddyhttp.Server of the handler that defined it; nil for the global options
	upstreams []*upstreamDef
	retain    eventlog.Options
	ids       string
	shape     hubShape
	clients   *ClientSettings // defaults for the handlers that name it; nil if there are none
	handlers  []*Handler      // that serve it; complete before it is attached

	hub *hub // nil for a keyed stream

	// of a keyed stream
	keyed        *keyedStream
	placeholders []string // that make the key, without braces
	maxStreams   int
}

// upstreamDef is an upstream of a definition. Immutable; many hubs may use it at
// the same time.
type upstreamDef struct {
	name     string
	upstream string // whose source this is one of several of, or ""
	key      string // of the source
	spec     *sourceSpec
	env      *environment
	shape    *shape

	// expands: each of the dynamic addresses is a source of its own; see member.
	expands bool

	headerPlaceholders []string // of the request, without braces
}

// member returns the upstream for one of the dynamic addresses.
func (u *upstreamDef) member(address string) *upstreamDef {
	spec := *u.spec
	spec.Policy, spec.Dynamic, spec.dynamicRaw = "", nil, nil
	spec.Address = address
	return &upstreamDef{
		name:     memberName(u.name, address),
		upstream: u.name,
		key:      spec.key(),
		spec:     &spec,
		env:      u.env,
		shape:    u.shape,
	}
}

// memberName is the name of a source that is one of several of an upstream.
func memberName(upstream, address string) string {
	return nameFrom(upstream + "-" + address)
}

// stream is a definition's hub, or what has the hubs of its keys.
type stream interface {
	attach(*definition)
	detach(*definition)
	drainHandler(*Handler)
	inUse() *definition
	counted() *streamCounts
}

func (d *definition) target() stream {
	if d.keyed != nil {
		return d.keyed
	}
	return d.hub
}

func (d *definition) release() {
	if d.keyed != nil {
		releaseKeyed(d.keyed)
	} else {
		releaseHub(d.hub)
	}
}

// CaddyModule returns the Caddy module information. Without a copy of the App:
// it is the origin of events, which are told while it stops.
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
	a.byKey = make(map[string]*definition)
	a.envs = make(map[string]*environment)
	if err := registerMetrics(ctx); err != nil {
		return fmt.Errorf("registering metrics: %w", err)
	}
	if err := a.tellOnceStarted(ctx); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(a.Streams)) {
		stream := a.Streams[name]
		if err := checkName("stream", name); err != nil {
			return err
		}
		if stream == nil {
			return fmt.Errorf("stream '%s': it has no upstreams", name)
		}
		def, err := a.define(name, stream, nil)
		if err != nil {
			return err
		}
		def.clients = &stream.ClientSettings
	}
	return nil
}

// Start connects the streams. It only adds to what runs: the configuration
// before this one is still in use, and this one may fail to start.
func (a *App) Start() error {
	for _, h := range a.handlers {
		if h.def == nil {
			return errUndefined(h.Name)
		}
	}
	holdAnnouncements()
	a.started = true
	if len(a.servers) > 0 {
		exits.hold()
		a.watching = true
	}
	for _, def := range a.definitions {
		def.target().attach(def)
		a.attached = append(a.attached, def)
	}
	return nil
}

// Stop takes the configuration off its streams: what only it wanted is
// disconnected, and what the next one has changed takes effect.
func (a *App) Stop() error {
	if caddy.Exiting() {
		// The servers may go on for their shutdown_delay; when they stop, they
		// end their clients themselves. Cleanup does the rest.
		return nil
	}
	a.detach()
	for _, h := range a.handlers {
		if h.settings.onReload == reloadDrain {
			h.def.target().drainHandler(h)
		}
	}
	return nil
}

// Cleanup releases the streams. One that no configuration holds any more ends.
func (a *App) Cleanup() error {
	a.detach() // a configuration that failed to start was never stopped
	for _, def := range a.definitions {
		def.release()
	}
	a.definitions = nil
	if a.watching {
		exits.drop()
		a.watching = false
	}
	return nil
}

func (a *App) detach() {
	if a.teller != nil {
		a.teller.stop()
		a.teller = nil
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

// add takes a handler in: it defines a stream, or names one.
func (a *App) add(h *Handler, owner any) error {
	if len(h.Upstreams) > 0 {
		def, err := a.define(h.Name, &h.Stream, owner)
		if err != nil {
			return err
		}
		h.bind(def)
		a.handlers = append(a.handlers, h)
		if h.Name != "" {
			a.bindWaiting(def)
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
		h.bind(def)
		return nil
	}
	if !a.definedLater(h.Name) {
		return errUndefined(h.Name)
	}
	return nil
}

// bindWaiting gives a definition to the handlers that named it before.
func (a *App) bindWaiting(def *definition) {
	for _, h := range a.handlers {
		if h.def == nil && h.Name == def.name {
			h.bind(def)
		}
	}
}

func errUndefined(name string) error {
	return fmt.Errorf("stream '%s' is not defined: define it with its upstreams in the global option sse_fanin, or in one handler with 'stream %s'%s", name, name, orURL(name))
}

// definedLater says whether a handler that is not provisioned yet defines the
// stream: handlers come in any order, and nothing tells when the last has come.
func (a *App) definedLater(name string) bool {
	val, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return false
	}
	raw, err := json.Marshal(val.(*caddyhttp.App).Servers)
	if err != nil {
		return true // Start will tell
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

func namedKey(name string) string { return namedPrefix + name }

func isNamedKey(key string) bool { return strings.HasPrefix(key, namedPrefix) }

const namedPrefix = "name:"

// define judges a stream and acquires its hub. Equal unnamed streams are one.
func (a *App) define(name string, stream *Stream, owner any) (*definition, error) {
	def, err := a.build(name, stream)
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

// build resolves a stream's configuration.
func (a *App) build(name string, stream *Stream) (*definition, error) {
	if err := stream.validate(); err != nil {
		return nil, err
	}
	if len(stream.Upstreams) == 0 {
		return nil, fmt.Errorf("it has no upstreams")
	}
	if err := stream.judgeWhole(); err != nil {
		return nil, err
	}
	def := &definition{
		name:       name,
		retain:     stream.retainOptions(),
		ids:        wordOr(stream.IDs, idsStream),
		shape:      stream.shape(),
		maxStreams: stream.MaxStreams,
	}
	if def.maxStreams == 0 {
		def.maxStreams = defaultMaxStreams
	}
	taken := make(map[string]bool)
	for _, u := range stream.Upstreams {
		if u == nil || u.Name == "" {
			continue
		}
		if err := checkName("upstream", u.Name); err != nil {
			return nil, err
		}
		if taken[u.Name] {
			return nil, fmt.Errorf("upstream '%s' is defined twice", u.Name)
		}
		taken[u.Name] = true
	}
	var sources [][3]string // name, key and shape
	for i, u := range stream.Upstreams {
		uds, err := a.buildUpstream(i, u, stream, def.retain, taken)
		if err != nil {
			return nil, err
		}
		def.upstreams = append(def.upstreams, uds...)
		for _, ud := range uds {
			sources = append(sources, [3]string{ud.name, ud.key, ud.shape.text()})
			def.placeholders = append(def.placeholders, placeholdersIn(ud.env.templates...)...)
			def.placeholders = append(def.placeholders, ud.headerPlaceholders...)
		}
	}
	a.warnOfTwins(name, def.upstreams)
	slices.Sort(def.placeholders)
	def.placeholders = slices.Compact(def.placeholders)
	// the order of upstreams means nothing
	slices.SortFunc(sources, func(a, b [3]string) int { return strings.Compare(a[0], b[0]) })
	def.digest = digest([]any{
		sources, def.retain, def.ids, def.shape.envelope, def.shape.sourceEvents,
		def.shape.onDemand, def.shape.onDemand && def.shape.linger > 0, def.shape.linger, def.maxStreams,
	})
	def.key, def.label = namedKey(name), name
	if name == "" {
		def.key, def.label = "id:"+def.digest, def.digest[:8]
	}
	return def, nil
}

// warnOfTwins tells of upstreams that are the same source, shaped the same way.
func (a *App) warnOfTwins(stream string, upstreams []*upstreamDef) {
	names := make(map[string]string)
	for _, u := range upstreams {
		same := u.key + "\n" + u.shape.text()
		if first, ok := names[same]; ok {
			a.logger.Warn("two upstreams of a stream are the same source; each of its events comes twice",
				zap.String("stream", stream), zap.Strings("upstreams", []string{first, u.name}))
		}
		names[same] = u.name
	}
}

// buildUpstream resolves an upstream: one source, or several where each URL
// is one.
func (a *App) buildUpstream(i int, u *Upstream, stream *Stream, retain eventlog.Options, taken map[string]bool) ([]*upstreamDef, error) {
	spec, err := stream.judge(i, u)
	if err != nil {
		return nil, err
	}
	if err := spec.checkFits(retain); err != nil {
		return nil, u.wrap(i, err)
	}
	one := upstreamDef{shape: u.shape(&stream.UpstreamOptions), headerPlaceholders: headerPlaceholders(spec.headerOps...)}
	if u.policy() != policyMerge || spec.dynamicRaw != nil {
		one.expands = u.policy() == policyMerge
		if err := a.resolve(&one, spec); err != nil {
			return nil, u.wrap(i, err)
		}
		if spec.dynamicRaw != nil && one.env.endpoints[0].socket != "" {
			return nil, u.wrap(i, errDynamicSocket)
		}
		one.name = u.Name
		if one.name == "" {
			one.name = unique(defaultName(spec.URLs[0], one.env.endpoints[0]), taken)
		}
		return []*upstreamDef{&one}, nil
	}
	var all []*upstreamDef
	base := u.Name
	for _, text := range spec.URLs {
		member, own := one, *spec
		own.URLs, own.Policy = []string{text}, ""
		if err := a.resolve(&member, &own); err != nil {
			return nil, u.wrap(i, err)
		}
		ep := member.env.endpoints[0]
		if base == "" {
			base = unique(defaultName(text, ep), taken)
		}
		_, _, hostport := ep.hostport()
		member.name, member.upstream = unique(memberName(base, hostport), taken), base
		all = append(all, &member)
	}
	return all, nil
}

// resolve gives an upstream its spec and an environment. Upstreams of one
// configuration that are the same source share both.
func (a *App) resolve(ud *upstreamDef, spec *sourceSpec) error {
	ud.spec, ud.key = spec, spec.key()
	ud.env = a.envs[ud.key]
	if ud.env == nil {
		env, err := newEnvironment(a.ctx, spec)
		if err != nil {
			return err
		}
		ud.env, a.envs[ud.key] = env, env
	}
	return nil
}

// unique makes a name differ from those that are taken.
func unique(name string, taken map[string]bool) string {
	candidate := name
	for n := 2; taken[candidate]; n++ {
		candidate = fmt.Sprintf("%s-%d", name, n)
	}
	taken[candidate] = true
	return candidate
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
