package ssefanin

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
)

// definition is a stream as one configuration defines it. Immutable once the
// configuration is started, as is all that it points to but hub and keyed: the
// streams of all keys are made of one definition, each under locks of its own.
// Running state belongs to a hub.
type definition struct {
	key       string // of the hub
	label     string
	name      string // empty for an unnamed stream
	digest    string // of the source side
	owner     any    // *caddyhttp.Server of the handler that defined it; nil for the global options
	upstreams []*upstreamDef
	retain    eventlog.Options
	log       *logDef       // where the log is kept besides memory; nil: nowhere
	values    *lastValueDef // nil: no last values are kept
	ids       string
	shape     streamShape
	clients   *ClientSettings // defaults for the handlers that name it; nil if there are none
	services  []*service      // that serve it; complete before it is attached

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

// firstOf returns the one of uses that counts, nil if there is none.
func firstOf(uses []*definition) *definition {
	if len(uses) == 0 {
		return nil
	}
	return uses[0]
}

// stream is a definition's hub, or the keyed stream with the hubs of its keys.
type stream interface {
	attach(*definition)
	detach(*definition)
	drain(chosen func(*subscriber) bool, why endReason)
	inUse() *definition
	counted() *streamCounts
}

// target returns the stream that the definition acquired.
func (d *definition) target() stream {
	if d.keyed != nil {
		return d.keyed
	}
	return d.hub
}

// release gives up the acquired stream. It is called once.
func (d *definition) release() {
	if d.keyed != nil {
		releaseKeyed(d.keyed)
	} else {
		releaseHub(d.hub)
	}
}

// streamShape is a stream's treatment of all its events. Immutable.
type streamShape struct {
	envelope     bool
	sourceEvents bool
	onDemand     bool
	linger       time.Duration
}

// shapeOf returns a stream's treatment of all its events, and how it is
// connected.
func shapeOf(s *Stream) streamShape {
	h := streamShape{
		envelope:     s.Envelope == envelopeJSON,
		sourceEvents: s.SourceEvents == option.On,
		onDemand:     s.keyed() != "",
		linger:       defaultLinger,
	}
	if s.Connect != nil {
		h.onDemand = h.onDemand || s.Connect.Mode == connectOnDemand
		h.linger = durationOr(s.Connect.Linger, defaultLinger)
	}
	return h
}

// builder makes the definitions of one configuration.
type builder struct {
	ctx    caddy.Context
	logger *zap.Logger
	envs   map[string]*environment // by source key

	logDefaults caddy.ModuleMap // options of logs, by kind
}

// newBuilder returns the builder of one configuration. The error is about the
// defaults of logs.
func newBuilder(ctx caddy.Context, logDefaults caddy.ModuleMap) (*builder, error) {
	b := &builder{ctx: ctx, logger: ctx.Logger(), envs: make(map[string]*environment), logDefaults: logDefaults}
	for _, kind := range slices.Sorted(maps.Keys(logDefaults)) {
		if err := checkLogKind(kind); err != nil {
			return nil, err
		}
	}
	l := struct { // loading clears the raw text
		LogRaw caddy.ModuleMap `caddy:"namespace=http.handlers.sse_fanin.log"`
	}{maps.Clone(logDefaults)}
	if _, err := ctx.LoadModule(&l, "LogRaw"); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	return b, nil
}

// build resolves a stream's configuration.
func (b *builder) build(name string, cfg *Stream) (*definition, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if len(cfg.Upstreams) == 0 {
		return nil, fmt.Errorf("it has no upstreams")
	}
	if err := cfg.judgeWhole(); err != nil {
		return nil, err
	}
	def := &definition{
		name:       name,
		retain:     cfg.retainOptions(),
		ids:        wordOr(cfg.IDs, idsStream),
		shape:      shapeOf(cfg),
		maxStreams: cfg.MaxStreams,
	}
	if def.maxStreams == 0 {
		def.maxStreams = defaultMaxStreams
	}
	taken := make(map[string]bool)
	for _, u := range cfg.Upstreams {
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
	var err error
	if def.log, err = b.log(name, cfg, def.retain); err != nil {
		return nil, err
	}
	def.values = def.lastValues(cfg.LastValue)
	var sources []*[3]string // name, key and shape
	for i, u := range cfg.Upstreams {
		uds, err := b.buildUpstream(i, u, cfg, def, taken)
		if err != nil {
			return nil, err
		}
		def.upstreams = append(def.upstreams, uds...)
		for _, ud := range uds {
			sources = append(sources, &[3]string{ud.name, ud.key, ud.shape.text()})
			def.placeholders = append(def.placeholders, placeholdersIn(ud.env.templates...)...)
			def.placeholders = append(def.placeholders, ud.headerPlaceholders...)
		}
	}
	if err := cfg.LastValue.judge(def); err != nil {
		return nil, err
	}
	b.warnOfTwins(name, def.upstreams)
	slices.Sort(def.placeholders)
	def.placeholders = slices.Compact(def.placeholders)
	// the order of upstreams means nothing
	slices.SortFunc(sources, func(a, b *[3]string) int { return strings.Compare(a[0], b[0]) })
	def.digest = digest([]any{
		sources, def.retain, def.ids, def.shape.envelope, def.shape.sourceEvents,
		def.shape.onDemand, def.shape.onDemand && def.shape.linger > 0, def.shape.linger, def.maxStreams,
		def.values.digested(),
	})
	def.key, def.label = namedKey(name), name
	if name == "" {
		def.key, def.label = "id:"+def.digest, def.digest[:8]
	}
	return def, nil
}

// warnOfTwins logs upstreams that are the same source, shaped the same way.
func (b *builder) warnOfTwins(streamName string, upstreams []*upstreamDef) {
	names := make(map[string]string)
	for _, u := range upstreams {
		same := u.key + "\n" + u.shape.text()
		if first, ok := names[same]; ok {
			b.logger.Warn("two upstreams of a stream are the same source; each of its events comes twice",
				zap.String("stream", streamName), zap.Strings("upstreams", []string{first, u.name}))
		}
		names[same] = u.name
	}
}

// buildUpstream resolves an upstream: one source, or several where each URL
// is one.
func (b *builder) buildUpstream(i int, u *Upstream, cfg *Stream, def *definition, taken map[string]bool) ([]*upstreamDef, error) {
	spec, err := cfg.judge(i, u)
	if err != nil {
		return nil, err
	}
	spec.Log, spec.Standby = def.log.sourceKey(), def.log != nil && def.log.sharer != nil && def.log.sharer.Standby()
	if err := spec.checkFits(def.retain); err != nil {
		return nil, u.wrap(i, err)
	}
	one := upstreamDef{shape: u.shape(&cfg.UpstreamOptions), headerPlaceholders: headerPlaceholders(spec.headerOps...)}
	if u.policy() != policyMerge || spec.dynamicRaw != nil {
		one.expands = u.policy() == policyMerge
		if err := b.resolve(&one, spec); err != nil {
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
		if err := b.resolve(&member, &own); err != nil {
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
func (b *builder) resolve(ud *upstreamDef, spec *sourceSpec) error {
	ud.spec, ud.key = spec, spec.key()
	ud.env = b.envs[ud.key]
	if ud.env == nil {
		env, err := newEnvironment(b.ctx, spec)
		if err != nil {
			return err
		}
		ud.env, b.envs[ud.key] = env, env
	}
	return nil
}

// unique makes a name differ from the taken ones.
func unique(name string, taken map[string]bool) string {
	candidate := name
	for n := 2; taken[candidate]; n++ {
		candidate = fmt.Sprintf("%s-%d", name, n)
	}
	taken[candidate] = true
	return candidate
}

func namedKey(name string) string { return namedPrefix + name }

const namedPrefix = "name:"

func isNamedKey(key string) bool { return strings.HasPrefix(key, namedPrefix) }
