package ssefanin

import (
	"encoding/json"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
)

// This file reads the global option of a Caddyfile.

// globalStreams returns the streams of the global option, as parseGlobal
// returned it.
func globalStreams(parsed any) map[string]*Stream { return globalApp(parsed).Streams }

func globalApp(parsed any) *App {
	app := new(App)
	if encoded, ok := parsed.(httpcaddyfile.App); ok {
		// parseGlobal encoded it
		_ = json.Unmarshal(encoded.Value, app)
	}
	return app
}

// parseGlobal parses the global option:
//
//	sse_fanin {
//		log <kind> {
//			<defaults for the streams that are kept there>
//		}
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

	app := globalApp(existing)
	if app.Streams == nil {
		app.Streams = make(map[string]*Stream)
	}
	d.Next() // the option's name
	if d.NextArg() {
		return nil, d.Errf("sse_fanin: unexpected '%s', expected sse_fanin { stream <name> { ... } }", urltext.Redact(d.Val()))
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() == "log" {
			if err := app.unmarshalLogDefaults(d); err != nil {
				return nil, err
			}
			continue
		}
		if block := placeOf(d.Val()); block != "" {
			if slices.Contains(logWords, d.Val()) {
				return nil, d.Errf("%s belongs in %s", d.Val(), block)
			}
			return nil, d.Errf("%s belongs in %s; in the global option sse_fanin, that is stream <name> { ... }", d.Val(), block)
		}
		if d.Val() != "stream" {
			return nil, d.Errf("unrecognized subdirective '%s' of the global option sse_fanin, expected stream <name> { ... } or log <kind> { ... }", urltext.Redact(d.Val()))
		}
		start := option.At(d.Token())
		name, cfg, err := unmarshalStream(d)
		if err != nil {
			return nil, err
		}
		if app.Streams[name] != nil {
			return nil, start.Errf("stream '%s' is defined twice in the global option sse_fanin", name)
		}
		app.Streams[name] = cfg
	}
	return httpcaddyfile.App{Name: "sse_fanin", Value: caddyconfig.JSON(app, nil)}, nil
}

// unmarshalLogDefaults parses: log <kind> [<args>...] { ... }
func (a *App) unmarshalLogDefaults(d *caddyfile.Dispenser) error {
	start := option.At(d.Token())
	kind, raw, err := unmarshalLog(d)
	if err != nil {
		return err
	}
	if a.LogRaw[kind] != nil {
		return start.Errf("log: the defaults for '%s' are given twice", kind)
	}
	if a.LogRaw == nil {
		a.LogRaw = make(caddy.ModuleMap)
	}
	options := make(map[string]json.RawMessage)
	if err := json.Unmarshal(raw, &options); err != nil {
		return start.WrapErr(err)
	}
	delete(options, "kind") // the key says so
	a.LogRaw[kind] = caddyconfig.JSON(options, nil)
	return nil
}

// unmarshalStream parses: stream <name> [<url>...] { <upstreams and settings> }
func unmarshalStream(d *caddyfile.Dispenser) (string, *Stream, error) {
	const expected = "expected stream <name> [<url>...] { ... }"
	b := newStreamBlock(new(Stream), d.Token())
	if !d.NextArg() {
		return "", nil, d.Errf("stream: missing the name, %s", expected)
	}
	name := d.Val()
	if err := checkName("stream", name); err != nil {
		return "", nil, d.WrapErr(err)
	}
	for d.NextArg() {
		if !isURLArgument(d.Val()) {
			if err := checkNameArgument("stream", d.Val()); err != nil {
				return "", nil, d.WrapErr(err)
			}
			return "", nil, d.Errf("stream: unexpected '%s', %s", d.Val(), expected)
		}
		if err := b.addURL(d); err != nil {
			return "", nil, err
		}
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := b.unmarshalSubdirective(d); err != nil {
			return "", nil, err
		}
	}
	if len(b.Upstreams) == 0 {
		return "", nil, option.At(b.start).Errf("stream '%s' has no upstreams: give it at least one URL", name)
	}
	return name, b.Stream, b.check(name)
}
