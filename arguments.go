package ssefanin

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
)

// The functions below read the subdirectives of a Caddyfile: each reads all
// arguments of the current one, and its errors name the expected ones.

// unrecognized is the error about a subdirective that is none of the known.
func unrecognized(d *caddyfile.Dispenser, where string, known ...[]string) error {
	if block := placeOf(d.Val()); block != "" {
		return d.Errf("%s belongs in %s", d.Val(), block)
	}
	words := slices.Concat(known...)
	slices.Sort(words)
	return d.Errf("unrecognized subdirective '%s'%s, expected one of %s", urltext.Redact(d.Val()), where, strings.Join(words, ", "))
}

// placeOf returns the block in which a subdirective belongs that stands in
// another one; empty if there is no such subdirective.
func placeOf(word string) string {
	switch {
	case slices.Contains(replicaWords, word):
		return "the block of an upstream: upstream [<name>] <url>... { " + word + " ... }"
	case slices.Contains(upstreamWords, word):
		return "the block of a stream, or of one of its upstreams"
	case slices.Contains(retainWords, word):
		return "the block of retain: retain { " + word + " ... }"
	case slices.Contains(valueWords, word):
		return "the block of last_value: last_value <type>... { " + word + " ... }"
	case slices.Contains(logWords, word):
		return "the block of log: log file { " + word + " ... }"
	case slices.Contains(sourceWords, word), slices.Contains(clientWords, word):
		return "the block of a stream, beside its upstreams"
	}
	return ""
}

// durations parses one or two durations above 0.
func durations(d *caddyfile.Dispenser, expected string, to ...*caddy.Duration) error {
	setting := d.Val()
	args, err := option.Arguments(d, len(to), expected)
	if err != nil {
		return err
	}
	for i, arg := range args {
		if *to[i], err = option.ParseDuration(d, setting, arg); err != nil {
			return err
		}
		if *to[i] == 0 { // in JSON, that is the default
			return d.Errf("%s: %s is too short, it must be at least %s", setting, arg, leastDuration)
		}
	}
	return nil
}
