package ssefanin

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("sse_fanin", parseHandler)
	// after directives that guard a site, before any that would proxy the
	// request away
	httpcaddyfile.RegisterDirectiveOrder("sse_fanin", httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterGlobalOption("sse_fanin", parseGlobal)
}

// parseHandler parses the directive, and checks things that one configuration
// may hold only once, while their place in the file is still known.
func parseHandler(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	helper.Next()
	start := option.At(helper.Token())
	helper.Reset()
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(helper.Dispenser); err != nil {
		return nil, err
	}
	if h.Name == "" || len(h.Upstreams) == 0 {
		return h, nil
	}
	const stateKey = "sse_fanin.streams"
	defined, _ := helper.State[stateKey].(map[string]string)
	if defined == nil {
		defined = make(map[string]string)
		helper.State[stateKey] = defined
	}
	if globalStreams(helper.Option("sse_fanin"))[h.Name] != nil {
		return nil, start.Errf("stream '%s' is already defined in the global option sse_fanin; to serve it, give its name instead of upstreams", h.Name)
	}
	if before := defined[h.Name]; before != "" {
		return nil, start.Errf("stream '%s' is already defined at %s; to serve it here too, give its name instead of upstreams", h.Name, before)
	}
	defined[h.Name] = fmt.Sprintf("%s:%d", start.File(), start.Line())
	return h, nil
}

// The words of each kind of subdirective, for errors.
var (
	upstreamWords = []string{"header_up", "transport", "resume", "backoff", "idle_timeout", "max_event_size", "events", "prefix"}
	replicaWords  = []string{"policy", "dynamic"}
	retainWords   = []string{"events", "size", "age"}
	valueWords    = []string{"key", "max"}
	logWords      = []string{"dir", "sync", "memory"} // of `log file`
	sourceWords   = append([]string{"upstream", "retain", "log", "last_value", "ids", "envelope", "source_events", "connect", "max_streams"}, upstreamWords...)
	clientWords   = []string{"start", "only", "filters", "prime", "heartbeat", "retry", "slow", "write_timeout", "max_clients", "max_age", "coalesce", "drain", "on_reload", "detach"}
)

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens:
//
//	sse_fanin [<matcher>] [<url|stream-name>...] {
//		stream         <name>
//		log            file|<module> [<args>...] {
//			...
//		}
//		upstream       [<name>] <url>... {
//			policy         failover|mirror|balance|merge
//			dynamic        <source> [<args>...] {
//				...
//			}
//			<upstream options>
//		}
//		# upstream options: defaults for every upstream when they stand here
//		header_up      [+|-]<field> [<value|regexp> [<replacement>]]
//		transport      <name> {
//			...
//		}
//		resume         on|off|<last-event-id>
//		backoff        <base> [<max>]
//		idle_timeout   <duration>
//		max_event_size <size>
//		events         <type>...
//		prefix         <text>
//
//		retain {
//			events <n>
//			size   <bytes>
//			age    <duration>
//		}
//		last_value     <type>... {
//			key <json-pointer>
//			max <n>
//		}
//		start          live|oldest|<n>|<duration>|last_value
//		ids            stream|upstream|none
//		envelope       json
//		only           source|type <pattern>...
//		filters        on|off
//		prime          auto|on|off
//		source_events  on|off
//		connect        eager|on_demand [<linger>]
//		heartbeat      <duration>
//		retry          <min> [<max>]
//		slow           skip|disconnect
//		write_timeout  <duration>
//		max_clients    <n> [reject|retry]
//		max_streams    <n>
//		max_age        <duration>
//		coalesce       <duration>
//		drain          <duration>
//		on_reload      keep|drain
//		detach         on|off
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	b := newStreamBlock(&h.Stream, d.Token())
	for d.NextArg() {
		arg := d.Val()
		if isURLArgument(arg) {
			if err := b.addURL(d); err != nil {
				return err
			}
			continue
		}
		if err := checkNameArgument("stream", arg); err != nil {
			return d.WrapErr(err)
		}
		if h.Name != "" {
			return d.Errf("'%s' is a second stream name beside '%s'; a handler serves one stream", arg, h.Name)
		}
		h.Name = arg
	}
	reference := h.Name
	if reference != "" && len(h.Upstreams) > 0 {
		return d.Errf("'%s' names a stream that is defined elsewhere, so no URLs can stand beside it; to name this stream, use the subdirective 'stream %s', to match a path, begin it with '/'%s", reference, reference, orURL(reference))
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		switch {
		case reference != "" && word == "stream":
			return d.Errf("stream: the name is already given as an argument, '%s'", reference)
		case reference != "" && slices.Contains(sourceWords, word):
			return d.Errf("%s belongs where the stream '%s' is defined, together with its upstreams", word, reference)
		case word != "stream":
			if err := b.unmarshalSubdirective(d, "stream"); err != nil {
				return err
			}
		default:
			if err := option.Once(d, b.seen); err != nil {
				return err
			}
			name, err := option.Argument(d, "<name>")
			if err != nil {
				return err
			}
			if err := checkName("stream", name); err != nil {
				return d.WrapErr(err)
			}
			h.Name = name
		}
	}
	if len(h.Upstreams) > 0 {
		return b.check(h.Name)
	}
	start := option.At(b.start)
	if h.Name == "" {
		return start.Err("no upstreams: give at least one URL, or the name of a stream")
	}
	if setting := h.hasSourceSide(); setting != "" {
		return start.Errf("%s belongs where the stream '%s' is defined, together with its upstreams", setting, h.Name)
	}
	return nil
}

// streamBlock parses a stream, and remembers where things stand, for errors.
type streamBlock struct {
	*Stream
	start     caddyfile.Token
	seen      map[string]caddyfile.Token // by subdirective
	upstreams []caddyfile.Token          // of each of Stream.Upstreams
}

func newStreamBlock(s *Stream, start caddyfile.Token) *streamBlock {
	return &streamBlock{Stream: s, start: start, seen: make(map[string]caddyfile.Token)}
}

// check validates the block as a whole. The name is empty for an unnamed stream.
func (b *streamBlock) check(name string) error {
	err := b.judgeWhole()
	if err == nil {
		err = b.judgeLog(name)
	}
	if err != nil {
		culprit := b.start
		for _, word := range []string{"start", "ids", "connect", "max_streams", "log"} {
			if token, ok := b.seen[word]; ok && strings.HasPrefix(err.Error(), word+":") {
				culprit = token
			}
		}
		return option.At(culprit).WrapErr(err)
	}
	for i, u := range b.Upstreams {
		spec, err := b.judge(i, u)
		if err != nil {
			return option.At(b.upstreams[i]).WrapErr(err)
		}
		if err := spec.checkFits(b.retainOptions()); err != nil {
			culprit := b.upstreams[i]
			for _, word := range []string{"retain", "max_event_size"} {
				if token, ok := b.seen[word]; ok && u.MaxEventSize == 0 {
					culprit = token
				}
			}
			return option.At(culprit).WrapErr(err)
		}
	}
	return nil
}

// addURL adds the current argument as an upstream of its own.
func (b *streamBlock) addURL(d *caddyfile.Dispenser) error {
	if err := checkURL(d.Val()); err != nil {
		return d.WrapErr(err)
	}
	b.Upstreams = append(b.Upstreams, &Upstream{URLs: []string{d.Val()}})
	b.upstreams = append(b.upstreams, d.Token())
	return nil
}

// unmarshalSubdirective parses the current subdirective of a stream. more are
// the words that are known besides.
func (b *streamBlock) unmarshalSubdirective(d *caddyfile.Dispenser, more ...string) error {
	word := d.Val()
	switch word {
	case "upstream":
		return b.unmarshalUpstream(d)
	case "header_up":
		return unmarshalHeaderUp(d, &b.HeaderUp)
	}
	if word == "only" { // once for each of its lists
		return b.ClientSettings.unmarshalOnly(d, b.seen)
	}
	if err := option.Once(d, b.seen); err != nil {
		return err
	}
	if ok, err := b.UpstreamOptions.unmarshalOption(d); ok || err != nil {
		return err
	}
	if ok, err := b.ClientSettings.unmarshalSetting(d); ok || err != nil {
		return err
	}
	switch word {
	case "retain":
		return b.unmarshalRetain(d)
	case "last_value":
		return b.unmarshalLastValue(d)
	case "log":
		_, raw, err := unmarshalLog(d)
		b.LogRaw = raw
		return err
	case "ids":
		return option.Choice(d, &b.IDs, idsStream, idsUpstream, idsNone)
	case "envelope":
		return option.Choice(d, &b.Envelope, envelopeJSON)
	case "source_events":
		return option.Choice(d, (*string)(&b.SourceEvents), option.On, option.Off)
	case "connect":
		return b.unmarshalConnect(d)
	case "max_streams":
		var err error
		b.MaxStreams, err = option.Number(d, 1, "<n>")
		return err
	default:
		if isURLArgument(word) {
			return d.Errf("unrecognized subdirective '%s': a URL stands in the stream's first line, or after 'upstream'", urltext.Redact(word))
		}
		return unrecognized(d, "", more, sourceWords, clientWords)
	}
}

// unmarshalConnect parses: connect eager|on_demand [<linger>]
func (s *Stream) unmarshalConnect(d *caddyfile.Dispenser) error {
	args, err := option.Arguments(d, 2, "eager|on_demand [<linger>]")
	if err != nil {
		return err
	}
	if err := option.CheckWord("connect", args[0], connectEager, connectOnDemand); err != nil {
		return d.WrapErr(err)
	}
	s.Connect = &Connect{Mode: args[0]}
	if len(args) == 2 {
		linger, err := option.ParseDuration(d, "connect", args[1])
		if err != nil {
			return err
		}
		s.Connect.Linger = &linger
	}
	return option.Wrap(d, s.validate())
}

// unmarshalLog parses: log <kind> [<args>...] { ... }
func unmarshalLog(d *caddyfile.Dispenser) (kind string, raw json.RawMessage, err error) {
	if !d.NextArg() {
		return "", nil, d.Errf("log: missing argument, expected log file { ... }")
	}
	kind = d.Val()
	if err := checkLogKind(kind); err != nil {
		return "", nil, d.WrapErr(err)
	}
	mod, err := caddyfile.UnmarshalModule(d, logNamespace+"."+kind)
	if err != nil {
		return "", nil, err
	}
	return kind, caddyconfig.JSONModuleObject(mod, "kind", kind, nil), nil
}

// unmarshalRetain parses: retain { events <n> size <bytes> age <duration> }
func (s *Stream) unmarshalRetain(d *caddyfile.Dispenser) error {
	s.Retain = new(Retain)
	if d.NextArg() {
		return d.Errf("retain: unexpected '%s', its bounds stand in a block: retain { events <n> }", d.Val())
	}
	given, err := option.Block(d, func() (err error) {
		switch d.Val() {
		case "events":
			var n int
			n, err = option.Number(d, 0, "<n>")
			s.Retain.Events = &n
		case "size":
			err = option.Size(d, &s.Retain.Size)
		case "age":
			var age *caddy.Duration
			if err = option.Duration(d, false, &age); err == nil {
				s.Retain.Age = *age
			}
		default:
			err = unrecognized(d, " of retain", retainWords)
		}
		if err != nil {
			return err
		}
		return option.Wrap(d, s.Retain.validate())
	})
	if err != nil {
		return err
	}
	if given == 0 {
		return d.Errf("retain: the block is missing or empty, expected events, size or age in it")
	}
	return nil
}

// unmarshalSetting parses the current subdirective if it is a client setting.
func (c *ClientSettings) unmarshalSetting(d *caddyfile.Dispenser) (ok bool, err error) {
	switch d.Val() {
	case "start":
		var start string
		start, err = option.Argument(d, "live|oldest|<n>|<duration>|last_value")
		c.Start = Start(start)
	case "filters":
		err = option.Choice(d, (*string)(&c.Filters), option.On, option.Off)
	case "prime":
		err = option.Choice(d, &c.Prime, primeAuto, primeOn, primeOff)
	case "heartbeat":
		err = option.Duration(d, true, &c.Heartbeat)
	case "retry":
		c.Retry = new(RetryRange)
		err = durations(d, "<min> [<max>]", &c.Retry.Min, &c.Retry.Max)
	case "slow":
		err = option.Choice(d, &c.Slow, slowSkip, slowDisconnect)
	case "write_timeout":
		err = option.Duration(d, false, &c.WriteTimeout)
	case "max_clients":
		err = c.unmarshalMaxClients(d)
	case "max_age":
		err = option.Duration(d, true, &c.MaxAge)
	case "coalesce":
		err = option.Duration(d, true, &c.Coalesce)
	case "drain":
		err = option.Duration(d, false, &c.Drain)
	case "on_reload":
		err = option.Choice(d, &c.OnReload, reloadKeep, reloadDrain)
	case "detach":
		err = option.Choice(d, (*string)(&c.Detach), option.On, option.Off)
	default:
		return false, nil
	}
	if err != nil {
		return true, err
	}
	return true, option.Wrap(d, c.validate())
}

// unmarshalOnly parses: only source|type <pattern>...
func (c *ClientSettings) unmarshalOnly(d *caddyfile.Dispenser, seen map[string]caddyfile.Token) error {
	start := d.Token()
	args, err := option.Arguments(d, math.MaxInt, "source|type <pattern>...")
	if err != nil {
		return err
	}
	list := args[0]
	if err := option.CheckWord("only", list, "source", "type"); err != nil {
		return d.WrapErr(err)
	}
	if before, ok := seen["only "+list]; ok {
		return d.Errf("only %s is given twice, first at %s:%d", list, before.File, before.Line)
	}
	seen["only "+list] = start
	if len(args) == 1 {
		return d.Errf("only: missing pattern, expected only %s <pattern>...", list)
	}
	if c.Only == nil {
		c.Only = new(Only)
	}
	if list == "source" {
		c.Only.Source = args[1:]
	} else {
		c.Only.Type = args[1:]
	}
	return option.Wrap(d, c.validate())
}

// unmarshalMaxClients parses: max_clients <n> [reject|retry]
func (c *ClientSettings) unmarshalMaxClients(d *caddyfile.Dispenser) error {
	args, err := option.Arguments(d, 2, "<n> [reject|retry]")
	if err != nil {
		return err
	}
	limit, err := option.ParseNumber(d, "max_clients", args[0], 0)
	if err != nil {
		return err
	}
	c.MaxClients = &limit
	if len(args) == 2 {
		c.WhenFull = args[1]
		return option.Wrap(d, option.CheckWord("max_clients", c.WhenFull, fullReject, fullRetry))
	}
	return nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
