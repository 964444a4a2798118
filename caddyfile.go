package ssefanin

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("sse_fanin", parseHandler)
	// after what guards a site, before what would proxy the request away
	httpcaddyfile.RegisterDirectiveOrder("sse_fanin", httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterGlobalOption("sse_fanin", parseGlobal)
}

// parseHandler parses the directive, and judges what one configuration may
// hold only once while the place in the file is still known.
func parseHandler(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
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
	where := fmt.Sprintf("%s:%d", helper.File(), helper.Line())
	if globalStreams(helper.Option("sse_fanin"))[h.Name] != nil {
		return nil, helper.Errf("stream '%s' is already defined in the global option sse_fanin; to serve it, give its name instead of upstreams", h.Name)
	}
	if before := defined[h.Name]; before != "" {
		return nil, helper.Errf("stream '%s' is already defined at %s; to serve it here too, give its name instead of upstreams", h.Name, before)
	}
	defined[h.Name] = where
	return h, nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens:
//
//	sse_fanin [<matcher>] [<url|stream-name>...] {
//		stream         <name>
//		upstream       [<name>] <url> {
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
//
//		retain {
//			events <n>
//			size   <bytes>
//			age    <duration>
//		}
//		start          live|oldest|<n>
//		ids            stream|none
//		heartbeat      <duration>
//		retry          <min> [<max>]
//		slow           skip|disconnect
//		write_timeout  <duration>
//		max_clients    <n> [reject|retry]
//		max_age        <duration>
//		drain          <duration>
//		on_reload      keep|drain
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	for d.NextArg() {
		arg := d.Val()
		if isURLArgument(arg) {
			if err := h.addURL(d); err != nil {
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
	named := h.Name != ""
	if named && len(h.Upstreams) > 0 {
		return d.Errf("'%s' names a stream that is defined elsewhere, so no URLs can stand beside it; to give these URLs a name, use the subdirective 'stream %s'", h.Name, h.Name)
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() == "stream" {
			if named {
				return d.Errf("the stream's name is already given as an argument, '%s'", h.Name)
			}
			named = true
			if !d.NextArg() {
				return d.ArgErr()
			}
			if err := checkName("stream", d.Val()); err != nil {
				return d.WrapErr(err)
			}
			h.Name = d.Val()
			if d.NextArg() {
				return d.ArgErr()
			}
			continue
		}
		if err := h.Stream.unmarshalSubdirective(d, seen); err != nil {
			return err
		}
	}
	if len(h.Upstreams) > 0 {
		return h.Stream.checkCaddyfile(d)
	}
	if h.Name == "" {
		return d.Err("no upstreams: give at least one URL, or the name of a stream")
	}
	if setting := h.hasSourceSide(); setting != "" {
		return d.Errf("%s belongs where the stream '%s' is defined, together with its upstreams", setting, h.Name)
	}
	if err := h.ClientSettings.validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// checkCaddyfile judges what only the whole block shows.
func (s *Stream) checkCaddyfile(d *caddyfile.Dispenser) error {
	if err := s.validate(); err != nil {
		return d.WrapErr(err)
	}
	size := s.retainOptions().MaxBytes
	for _, u := range s.Upstreams {
		spec, err := u.spec(&s.UpstreamOptions)
		if err == nil && spec.MaxEventSize > size {
			err = fmt.Errorf("max_event_size: %d bytes is more than the size of all that is retained, %d bytes", spec.MaxEventSize, size)
		}
		if err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

// addURL adds the current argument as an upstream of its own.
func (s *Stream) addURL(d *caddyfile.Dispenser) error {
	if err := checkURL(d.Val()); err != nil {
		return d.WrapErr(err)
	}
	s.Upstreams = append(s.Upstreams, &Upstream{URLs: []string{d.Val()}})
	return nil
}

// unmarshalSubdirective parses the current subdirective of a stream. seen
// holds those that came before.
func (s *Stream) unmarshalSubdirective(d *caddyfile.Dispenser, seen map[string]bool) error {
	word := d.Val()
	switch word {
	case "upstream":
		return s.unmarshalUpstream(d)
	case "header_up":
		return unmarshalHeaderUp(d, &s.HeaderUp)
	}
	if seen[word] {
		return d.Errf("'%s' is given twice", word)
	}
	seen[word] = true
	if ok, err := s.UpstreamOptions.unmarshalOption(d); ok || err != nil {
		return err
	}
	switch word {
	case "retain":
		return s.unmarshalRetain(d)
	case "ids":
		return word1(d, &s.IDs, idsStream, idsNone)
	default:
		return s.ClientSettings.unmarshalSetting(d)
	}
}

// unmarshalUpstream parses: upstream [<name>] <url> { <upstream options> }
func (s *Stream) unmarshalUpstream(d *caddyfile.Dispenser) error {
	u := new(Upstream)
	for d.NextArg() {
		arg := d.Val()
		if isURLArgument(arg) {
			if err := checkURL(arg); err != nil {
				return d.WrapErr(err)
			}
			if len(u.URLs) == 1 {
				return d.Errf("a second URL: an upstream has one; write an upstream for each")
			}
			u.URLs = append(u.URLs, arg)
			continue
		}
		if err := checkNameArgument("upstream", arg); err != nil {
			return d.WrapErr(err)
		}
		if u.Name != "" || len(u.URLs) > 0 {
			return d.Errf("unexpected '%s': expected one name, then the URL", arg)
		}
		for _, other := range s.Upstreams {
			if other.Name == arg {
				return d.Errf("upstream '%s' is defined twice", arg)
			}
		}
		u.Name = arg
	}
	if len(u.URLs) == 0 {
		return d.Errf("upstream: missing the URL, expected upstream [<name>] <url>")
	}
	s.Upstreams = append(s.Upstreams, u)
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		if word == "header_up" {
			if err := unmarshalHeaderUp(d, &u.HeaderUp); err != nil {
				return err
			}
			continue
		}
		if seen[word] {
			return d.Errf("'%s' is given twice", word)
		}
		seen[word] = true
		ok, err := u.UpstreamOptions.unmarshalOption(d)
		if err != nil {
			return err
		}
		if !ok {
			return d.Errf("unrecognized subdirective '%s' of upstream", word)
		}
	}
	return nil
}

// unmarshalOption parses the current subdirective if it is an upstream option.
func (o *UpstreamOptions) unmarshalOption(d *caddyfile.Dispenser) (ok bool, err error) {
	switch d.Val() {
	case "transport":
		return true, o.unmarshalTransport(d)
	case "resume":
		if !d.NextArg() {
			return true, d.ArgErr()
		}
		if d.Val() == "" {
			return true, d.Errf("resume: the id is empty, expected on, off or an event id")
		}
		o.Resume = d.Val()
		err = noMoreArgs(d)
	case "backoff":
		o.Backoff = new(Backoff)
		err = durations(d, &o.Backoff.Base, &o.Backoff.Max)
	case "idle_timeout":
		err = durationOrOff(d, &o.IdleTimeout)
	case "max_event_size":
		err = size(d, &o.MaxEventSize)
	default:
		return false, nil
	}
	if err == nil {
		// of the options parsed so far; the line is the one that broke a rule
		if verr := o.validate(); verr != nil {
			err = d.WrapErr(verr)
		}
	}
	return true, err
}

// unmarshalHeaderUp parses: header_up [+|-]<field> [<value|regexp> [<replacement>]]
func unmarshalHeaderUp(d *caddyfile.Dispenser, ops **headers.HeaderOps) error {
	if *ops == nil {
		*ops = new(headers.HeaderOps)
	}
	args := d.RemainingArgs()
	var err error
	switch len(args) {
	case 1:
		err = headers.CaddyfileHeaderOp(*ops, args[0], "", nil)
	case 2:
		err = headers.CaddyfileHeaderOp(*ops, args[0], args[1], nil)
	case 3:
		err = headers.CaddyfileHeaderOp(*ops, args[0], args[1], &args[2])
	default:
		return d.ArgErr()
	}
	if err == nil {
		err = (&UpstreamOptions{HeaderUp: *ops}).validate()
	}
	if err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// unmarshalTransport parses: transport <name> { ... }
func (o *UpstreamOptions) unmarshalTransport(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	mod, err := caddyfile.UnmarshalModule(d, "http.reverse_proxy.transport."+name)
	if err != nil {
		return err
	}
	if _, err := usableTransport(mod); err != nil {
		return d.WrapErr(err)
	}
	o.TransportRaw = caddyconfig.JSONModuleObject(mod, "protocol", name, nil)
	return nil
}

func (s *Stream) unmarshalRetain(d *caddyfile.Dispenser) error {
	s.Retain = new(Retain)
	if d.NextArg() {
		return d.Errf("retain: unexpected '%s', its bounds stand in a block: retain { events <n> }", d.Val())
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		if seen[word] {
			return d.Errf("'%s' is given twice", word)
		}
		seen[word] = true
		var err error
		switch word {
		case "events":
			var n uint64
			if n, err = number(d); err == nil && n == 0 {
				err = d.Errf("events: at least one event is retained")
			}
			s.Retain.Events = int(n)
		case "size":
			err = size(d, &s.Retain.Size)
		case "age":
			var age *caddy.Duration
			if err = duration(d, &age); err == nil {
				s.Retain.Age = *age
			}
		default:
			return d.Errf("unrecognized subdirective '%s' of retain", word)
		}
		if err != nil {
			return err
		}
	}
	if len(seen) == 0 {
		return d.Errf("retain: the block is empty, expected events, size or age")
	}
	return nil
}

// unmarshalSetting parses the current subdirective as a client setting.
func (c *ClientSettings) unmarshalSetting(d *caddyfile.Dispenser) error {
	var err error
	switch word := d.Val(); word {
	case "start":
		if !d.NextArg() {
			return d.ArgErr()
		}
		c.Start = Start(d.Val())
		err = noMoreArgs(d)
	case "heartbeat":
		err = durationOrOff(d, &c.Heartbeat)
	case "retry":
		c.Retry = new(RetryRange)
		err = durations(d, &c.Retry.Min, &c.Retry.Max)
	case "slow":
		err = word1(d, &c.Slow, slowSkip, slowDisconnect)
	case "write_timeout":
		err = duration(d, &c.WriteTimeout)
	case "max_clients":
		err = c.unmarshalMaxClients(d)
	case "max_age":
		err = durationOrOff(d, &c.MaxAge)
	case "drain":
		err = duration(d, &c.Drain)
	case "on_reload":
		err = word1(d, &c.OnReload, reloadKeep, reloadDrain)
	default:
		return d.Errf("unrecognized subdirective '%s'", word)
	}
	if err != nil {
		return err
	}
	if err := c.validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// unmarshalMaxClients parses: max_clients <n> [reject|retry]
func (c *ClientSettings) unmarshalMaxClients(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	n, err := strconv.ParseUint(d.Val(), 10, 31)
	if err != nil {
		return d.Errf("max_clients: '%s' is not a number of clients", d.Val())
	}
	limit := int(n)
	c.MaxClients = &limit
	if d.NextArg() {
		c.WhenFull = d.Val()
		if err := checkWord("max_clients", c.WhenFull, fullReject, fullRetry); err != nil {
			return d.WrapErr(err)
		}
	}
	return noMoreArgs(d)
}

// The following parse the arguments of one subdirective, all of them.

func noMoreArgs(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

func word1(d *caddyfile.Dispenser, to *string, words ...string) error {
	setting := d.Val()
	if !d.NextArg() {
		return d.ArgErr()
	}
	if d.Val() == "" {
		return d.Errf("%s: the value is empty", setting)
	}
	if err := checkWord(setting, d.Val(), words...); err != nil {
		return d.WrapErr(err)
	}
	*to = d.Val()
	return noMoreArgs(d)
}

func number(d *caddyfile.Dispenser) (uint64, error) {
	setting := d.Val()
	if !d.NextArg() {
		return 0, d.ArgErr()
	}
	n, err := strconv.ParseUint(d.Val(), 10, 31)
	if err != nil {
		return 0, d.Errf("%s: '%s' is not a number", setting, d.Val())
	}
	return n, noMoreArgs(d)
}

func parseDuration(d *caddyfile.Dispenser, setting string) (caddy.Duration, error) {
	dur, err := caddy.ParseDuration(d.Val())
	if err != nil {
		return 0, d.Errf("%s: '%s' is not a duration such as 10s", setting, d.Val())
	}
	if dur < 0 {
		return 0, d.Errf("%s: the duration %s is negative", setting, d.Val())
	}
	return caddy.Duration(dur), nil
}

func duration(d *caddyfile.Dispenser, to **caddy.Duration) error {
	setting := d.Val()
	if !d.NextArg() {
		return d.ArgErr()
	}
	dur, err := parseDuration(d, setting)
	if err != nil {
		return err
	}
	*to = &dur
	return noMoreArgs(d)
}

func durationOrOff(d *caddyfile.Dispenser, to **caddy.Duration) error {
	setting := d.Val()
	if !d.NextArg() {
		return d.ArgErr()
	}
	var dur caddy.Duration
	if d.Val() != "off" {
		var err error
		if dur, err = parseDuration(d, setting); err != nil {
			return err
		}
	}
	*to = &dur
	return noMoreArgs(d)
}

// durations parses one or two durations above 0.
func durations(d *caddyfile.Dispenser, first, second *caddy.Duration) error {
	setting := d.Val()
	if !d.NextArg() {
		return d.ArgErr()
	}
	for _, to := range []*caddy.Duration{first, second} {
		dur, err := parseDuration(d, setting)
		if err != nil {
			return err
		}
		if dur < caddy.Duration(time.Millisecond) {
			return d.Errf("%s: %s is too short, it must be at least 1ms", setting, d.Val())
		}
		*to = dur
		if !d.NextArg() {
			return nil
		}
	}
	return d.ArgErr()
}

func size(d *caddyfile.Dispenser, to *int64) error {
	setting := d.Val()
	if !d.NextArg() {
		return d.ArgErr()
	}
	n, err := humanize.ParseBytes(d.Val())
	if err != nil || n > 1<<40 {
		return d.Errf("%s: '%s' is not a size such as 64MiB", setting, d.Val())
	}
	if n == 0 {
		return d.Errf("%s: the size is 0", setting)
	}
	*to = int64(n)
	return noMoreArgs(d)
}

// globalStreams returns the streams of the global option, as parseGlobal
// returned it.
func globalStreams(option any) map[string]*Stream {
	var app App
	if parsed, ok := option.(httpcaddyfile.App); ok {
		// parseGlobal encoded it
		_ = json.Unmarshal(parsed.Value, &app)
	}
	return app.Streams
}

// parseGlobal parses the global option:
//
//	sse_fanin {
//		stream <name> {
//			<upstreams and settings>
//		}
//	}
func parseGlobal(d *caddyfile.Dispenser, existing any) (any, error) {
	// Shorthand placeholders work in site blocks; Caddy does not expand them here.
	d.Next()
	segment := d.NextSegment()
	httpcaddyfile.NewShorthandReplacer().ApplyToSegment(&segment)
	d = caddyfile.NewDispenser(segment)

	app := &App{Streams: globalStreams(existing)}
	if app.Streams == nil {
		app.Streams = make(map[string]*Stream)
	}
	d.Next() // the option's name
	if d.NextArg() {
		return nil, d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() != "stream" {
			return nil, d.Errf("unrecognized subdirective '%s', expected stream <name> { ... }", d.Val())
		}
		if !d.NextArg() {
			return nil, d.ArgErr()
		}
		name := d.Val()
		if err := checkName("stream", name); err != nil {
			return nil, d.WrapErr(err)
		}
		if app.Streams[name] != nil {
			return nil, d.Errf("stream '%s' is defined twice", name)
		}
		stream := new(Stream)
		app.Streams[name] = stream
		for d.NextArg() {
			if !isURLArgument(d.Val()) {
				if err := checkNameArgument("stream", d.Val()); err != nil {
					return nil, d.WrapErr(err)
				}
				return nil, d.Errf("unexpected '%s': expected stream <name> [<url>...] { ... }", d.Val())
			}
			if err := stream.addURL(d); err != nil {
				return nil, err
			}
		}
		seen := make(map[string]bool)
		for nesting := d.Nesting(); d.NextBlock(nesting); {
			if err := stream.unmarshalSubdirective(d, seen); err != nil {
				return nil, err
			}
		}
		if len(stream.Upstreams) == 0 {
			return nil, d.Errf("stream '%s' has no upstreams", name)
		}
		if err := stream.checkCaddyfile(d); err != nil {
			return nil, err
		}
	}
	return httpcaddyfile.App{Name: "sse_fanin", Value: caddyconfig.JSON(app, nil)}, nil
}

// Interface guards
var _ caddyfile.Unmarshaler = (*Handler)(nil)
