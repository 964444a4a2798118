package ssefanin

import (
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
)

// This file reads the block of an upstream in a Caddyfile, and the options of
// upstreams.

// unmarshalUpstream parses: upstream [<name>] <url>... { <upstream options> }
func (b *streamBlock) unmarshalUpstream(d *caddyfile.Dispenser) error {
	u := new(Upstream)
	start := d.Token()
	for d.NextArg() {
		arg := d.Val()
		if isURLArgument(arg) {
			if err := checkURL(arg); err != nil {
				return d.WrapErr(err)
			}
			u.URLs = append(u.URLs, arg)
			continue
		}
		if err := checkNameArgument("upstream", arg); err != nil {
			return d.WrapErr(err)
		}
		if u.Name != "" || len(u.URLs) > 0 {
			if strings.Contains(arg, ".") || arg == "localhost" {
				return d.Errf("upstream: '%s' is not a URL: missing http:// or https://", arg)
			}
			return d.Errf("upstream: unexpected '%s', expected upstream [<name>] <url>...", arg)
		}
		for i, other := range b.Upstreams {
			if other.Name == arg {
				return d.Errf("upstream '%s' is defined twice, first at %s:%d", arg, b.upstreams[i].File, b.upstreams[i].Line)
			}
		}
		u.Name = arg
	}
	if len(u.URLs) == 0 {
		return d.Errf("upstream: missing the URL, expected upstream [<name>] <url>...%s", orURL(u.Name))
	}
	b.Upstreams = append(b.Upstreams, u)
	b.upstreams = append(b.upstreams, start)
	seen := make(map[string]caddyfile.Token)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		if word == "header_up" {
			if err := unmarshalHeaderUp(d, &u.HeaderUp); err != nil {
				return err
			}
			continue
		}
		if err := option.Once(d, seen); err != nil {
			return err
		}
		switch word {
		case "policy":
			if err := option.Choice(d, &u.Policy, policyFailover, policyMirror, policyBalance, policyMerge); err != nil {
				return err
			}
			continue
		case "dynamic":
			if err := u.unmarshalDynamic(d); err != nil {
				return err
			}
			continue
		}
		ok, err := u.UpstreamOptions.unmarshalOption(d)
		if err != nil {
			return err
		}
		if !ok {
			return unrecognized(d, " of upstream", replicaWords, upstreamWords)
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
		o.Resume, err = option.Argument(d, "on|off|<last-event-id>")
	case "backoff":
		o.Backoff = new(Backoff)
		err = durations(d, "<base> [<max>]", &o.Backoff.Base, &o.Backoff.Max)
	case "idle_timeout":
		err = option.Duration(d, true, &o.IdleTimeout)
	case "max_event_size":
		err = option.Size(d, &o.MaxEventSize)
	case "events":
		o.Events, err = option.Arguments(d, 1000, "<type>...")
	case "prefix":
		o.Prefix, err = option.Argument(d, "<text>")
	default:
		return false, nil
	}
	if err != nil {
		return true, err
	}
	return true, option.Wrap(d, o.validate())
}

// unmarshalHeaderUp parses: header_up [+|-]<field> [<value|regexp> [<replacement>]]
func unmarshalHeaderUp(d *caddyfile.Dispenser, ops **headers.HeaderOps) error {
	const expected = "expected header_up [+|-]<field> [<value|regexp> [<replacement>]]"
	if *ops == nil {
		*ops = new(headers.HeaderOps)
	}
	args := d.RemainingArgs()
	if err := option.NoBlock(d, expected); err != nil {
		return err
	}
	var value string
	var replacement *string
	switch {
	case len(args) == 0 || args[0] == "":
		return d.Errf("header_up: missing the field, %s", expected)
	case len(args) > 3:
		return d.Errf("header_up: %d arguments are too many, %s; a value with spaces stands in quotes", len(args), expected)
	case len(args) == 1 && args[0][0] != '-':
		return d.Errf("header_up: '%s' has no value, %s; to delete a field, write '-<field>'", shownField(args[0]), expected)
	case len(args) > 1 && args[0][0] == '-':
		return d.Errf("header_up: '%s' deletes the field and takes no value", shownField(args[0]))
	case len(args) == 3 && args[0][0] == '+':
		return d.Errf("header_up: '%s' adds a value and takes no replacement", shownField(args[0]))
	case len(args) == 3:
		replacement = &args[2]
		fallthrough
	case len(args) == 2:
		value = args[1]
	}
	if err := headers.CaddyfileHeaderOp(*ops, args[0], value, replacement); err != nil {
		return d.Errf("header_up: %w", err)
	}
	return option.Wrap(d, checkHeaderUp(*ops))
}

// unmarshalTransport parses: transport <name> { ... }
func (o *UpstreamOptions) unmarshalTransport(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Errf("transport: missing argument, expected transport http { ... }")
	}
	name := d.Val()
	if n := d.CountRemainingArgs(); n > 0 {
		d.NextArg()
		return d.Errf("transport: unexpected '%s', expected transport %s { ... }", d.Val(), name)
	}
	start := option.At(d.Token())
	mod, err := caddyfile.UnmarshalModule(d, "http.reverse_proxy.transport."+name)
	if err != nil {
		return err
	}
	if _, err := usableTransport(mod); err != nil {
		return start.WrapErr(err)
	}
	o.TransportRaw = caddyconfig.JSONModuleObject(mod, "protocol", name, nil)
	return nil
}

// unmarshalDynamic parses: dynamic <source> [<args>...] { ... }
func (u *Upstream) unmarshalDynamic(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Errf("dynamic: missing argument, expected dynamic a|srv|multi [<args>...] { ... }")
	}
	name := d.Val()
	start := option.At(d.Token())
	mod, err := caddyfile.UnmarshalModule(d, "http.reverse_proxy.upstreams."+name)
	if err != nil {
		return err
	}
	if _, ok := mod.(reverseproxy.UpstreamSource); !ok {
		return start.Errf("dynamic: module '%s' gives no addresses", name)
	}
	u.DynamicRaw = caddyconfig.JSONModuleObject(mod, "source", name, nil)
	return nil
}
