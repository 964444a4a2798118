package ssefanin

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// The functions below read the subdirectives of a Caddyfile: each reads all
// arguments of the current one, and its errors name the expected ones.

// at returns a dispenser whose errors name the place of a token.
func dispenserAt(token caddyfile.Token) *caddyfile.Dispenser {
	d := caddyfile.NewDispenser([]caddyfile.Token{token})
	d.Next()
	return d
}

// wrap adds the place to an error, if there is one.
func wrap(d *caddyfile.Dispenser, err error) error {
	if err == nil {
		return nil
	}
	return d.WrapErr(err)
}

// once notes the current subdirective, which may not come again.
func once(d *caddyfile.Dispenser, seen map[string]caddyfile.Token) error {
	if before, ok := seen[d.Val()]; ok {
		return d.Errf("%s is given twice, first at %s:%d", d.Val(), before.File, before.Line)
	}
	seen[d.Val()] = d.Token()
	return nil
}

// unrecognized is the error about a subdirective that is none of the known.
func unrecognized(d *caddyfile.Dispenser, where string, known ...[]string) error {
	if block := placeOf(d.Val()); block != "" {
		return d.Errf("%s belongs in %s", d.Val(), block)
	}
	words := slices.Concat(known...)
	slices.Sort(words)
	return d.Errf("unrecognized subdirective '%s'%s, expected one of %s", redactText(d.Val()), where, strings.Join(words, ", "))
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
	case slices.Contains(logWords, word):
		return "the block of log: log file { " + word + " ... }"
	case slices.Contains(sourceWords, word), slices.Contains(clientWords, word):
		return "the block of a stream, beside its upstreams"
	}
	return ""
}

// arguments returns the arguments of the current subdirective: at least one,
// none of them empty, and no block. expected describes them in the error.
func arguments(d *caddyfile.Dispenser, most int, expected string) ([]string, error) {
	setting := d.Val()
	expected = fmt.Sprintf("expected %s %s", setting, expected)
	var args []string
	for d.NextArg() {
		switch {
		case len(args) == most:
			return nil, d.Errf("%s: unexpected '%s', %s", setting, redactText(d.Val()), expected)
		case d.Val() == "":
			return nil, d.Errf("%s: the argument is empty, %s", setting, expected)
		}
		args = append(args, d.Val())
	}
	if len(args) == 0 {
		return nil, d.Errf("%s: missing argument, %s", setting, expected)
	}
	return args, noBlock(d, expected)
}

// noBlock makes sure that no block follows.
func noBlock(d *caddyfile.Dispenser, expected string) error {
	last := d.Token()
	if d.NextBlock(d.Nesting()) || d.Val() != last.Text || d.Line() != last.Line { // an empty one has been consumed
		return dispenserAt(last).Errf("unexpected block, %s", expected)
	}
	return nil
}

func argument(d *caddyfile.Dispenser, expected string) (string, error) {
	args, err := arguments(d, 1, expected)
	if err != nil {
		return "", err
	}
	return args[0], nil
}

// choice parses one of several words.
func choice(d *caddyfile.Dispenser, to *string, words ...string) error {
	setting := d.Val()
	arg, err := argument(d, strings.Join(words, "|"))
	if err != nil {
		return err
	}
	*to = arg
	return wrap(d, checkWord(setting, arg, words...))
}

func number(d *caddyfile.Dispenser, least int, expected string) (int, error) {
	setting := d.Val()
	arg, err := argument(d, expected)
	if err != nil {
		return 0, err
	}
	return parseNumber(d, setting, arg, least)
}

func parseNumber(d *caddyfile.Dispenser, setting, arg string, least int) (int, error) {
	n, err := strconv.ParseUint(arg, 10, 31)
	if err != nil || int(n) < least {
		return 0, d.Errf("%s: '%s' is not a whole number from %d to %d", setting, arg, least, math.MaxInt32)
	}
	return int(n), nil
}

func parseDuration(d *caddyfile.Dispenser, setting, arg string) (caddy.Duration, error) {
	dur, err := caddy.ParseDuration(arg)
	if err != nil {
		return 0, d.Errf("%s: '%s' is not a duration such as 10s", setting, arg)
	}
	return caddy.Duration(dur), nil
}

// duration parses a duration. With orOff, the word off stands for 0.
func duration(d *caddyfile.Dispenser, orOff bool, to **caddy.Duration) error {
	setting := d.Val()
	expected := "<duration>"
	if orOff {
		expected += "|off"
	}
	arg, err := argument(d, expected)
	if err != nil {
		return err
	}
	var dur caddy.Duration
	if !orOff || arg != "off" {
		if dur, err = parseDuration(d, setting, arg); err != nil {
			return err
		}
	}
	*to = &dur
	return nil
}

// durations parses one or two durations above 0.
func durations(d *caddyfile.Dispenser, expected string, to ...*caddy.Duration) error {
	setting := d.Val()
	args, err := arguments(d, len(to), expected)
	if err != nil {
		return err
	}
	for i, arg := range args {
		if *to[i], err = parseDuration(d, setting, arg); err != nil {
			return err
		}
		if *to[i] == 0 { // in JSON, that is the default
			return d.Errf("%s: %s is too short, it must be at least %s", setting, arg, leastDuration)
		}
	}
	return nil
}

// size parses a number of bytes above 0.
func size(d *caddyfile.Dispenser, to *int64) error {
	setting := d.Val()
	arg, err := argument(d, "<size>")
	if err != nil {
		return err
	}
	n, err := humanize.ParseBytes(arg)
	switch {
	case err != nil:
		return d.Errf("%s: '%s' is not a size such as 64MiB", setting, arg)
	case n == 0: // in JSON, that is the default
		return d.Errf("%s: '%s' is no size, it must be at least 1 byte", setting, arg)
	}
	*to = int64(min(n, math.MaxInt64))
	return nil
}
