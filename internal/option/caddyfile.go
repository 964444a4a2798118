package option

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
)

// The functions below read the subdirectives of a Caddyfile: each reads all
// arguments of the current one, and its errors name the expected ones.

// At returns a dispenser whose errors name the place of a token.
func At(token caddyfile.Token) *caddyfile.Dispenser {
	d := caddyfile.NewDispenser([]caddyfile.Token{token})
	d.Next()
	return d
}

// Wrap adds the place to an error, if there is one.
func Wrap(d *caddyfile.Dispenser, err error) error {
	if err == nil {
		return nil
	}
	return d.WrapErr(err)
}

// Once notes the current subdirective, which may not come again.
func Once(d *caddyfile.Dispenser, seen map[string]caddyfile.Token) error {
	if before, ok := seen[d.Val()]; ok {
		return d.Errf("%s is given twice, first at %s:%d", d.Val(), before.File, before.Line)
	}
	seen[d.Val()] = d.Token()
	return nil
}

// Block has each subdirective of the current block read, none of which may come
// twice, and returns how many there are.
func Block(d *caddyfile.Dispenser, read func() error) (n int, err error) {
	seen := make(map[string]caddyfile.Token)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := Once(d, seen); err != nil {
			return len(seen), err
		}
		if err := read(); err != nil {
			return len(seen), err
		}
	}
	return len(seen), nil
}

// Arguments returns the arguments of the current subdirective: at least one,
// none of them empty, and no block. expected describes them in the error.
func Arguments(d *caddyfile.Dispenser, most int, expected string) ([]string, error) {
	setting := d.Val()
	expected = fmt.Sprintf("expected %s %s", setting, expected)
	var args []string
	for d.NextArg() {
		switch {
		case len(args) == most:
			return nil, d.Errf("%s: unexpected '%s', %s", setting, urltext.Redact(d.Val()), expected)
		case d.Val() == "":
			return nil, d.Errf("%s: the argument is empty, %s", setting, expected)
		}
		args = append(args, d.Val())
	}
	if len(args) == 0 {
		return nil, d.Errf("%s: missing argument, %s", setting, expected)
	}
	return args, NoBlock(d, expected)
}

// NoBlock makes sure that no block follows.
func NoBlock(d *caddyfile.Dispenser, expected string) error {
	last := d.Token()
	if d.NextBlock(d.Nesting()) || d.Val() != last.Text || d.Line() != last.Line { // an empty one has been consumed
		return At(last).Errf("unexpected block, %s", expected)
	}
	return nil
}

func Argument(d *caddyfile.Dispenser, expected string) (string, error) {
	args, err := Arguments(d, 1, expected)
	if err != nil {
		return "", err
	}
	return args[0], nil
}

// Choice parses one of several words.
func Choice(d *caddyfile.Dispenser, to *string, words ...string) error {
	setting := d.Val()
	arg, err := Argument(d, strings.Join(words, "|"))
	if err != nil {
		return err
	}
	*to = arg
	return Wrap(d, CheckWord(setting, arg, words...))
}

func Number(d *caddyfile.Dispenser, least int, expected string) (int, error) {
	setting := d.Val()
	arg, err := Argument(d, expected)
	if err != nil {
		return 0, err
	}
	return ParseNumber(d, setting, arg, least)
}

func ParseNumber(d *caddyfile.Dispenser, setting, arg string, least int) (int, error) {
	n, err := strconv.ParseUint(arg, 10, 31)
	if err != nil || int(n) < least {
		return 0, d.Errf("%s: '%s' is not a whole number from %d to %d", setting, arg, least, math.MaxInt32)
	}
	return int(n), nil
}

func ParseDuration(d *caddyfile.Dispenser, setting, arg string) (caddy.Duration, error) {
	dur, err := caddy.ParseDuration(arg)
	if err != nil {
		return 0, d.Errf("%s: '%s' is not a duration such as 10s", setting, arg)
	}
	return caddy.Duration(dur), nil
}

// Duration parses a duration. With orOff, the word off stands for 0.
func Duration(d *caddyfile.Dispenser, orOff bool, to **caddy.Duration) error {
	setting := d.Val()
	expected := "<duration>"
	if orOff {
		expected += "|off"
	}
	arg, err := Argument(d, expected)
	if err != nil {
		return err
	}
	var dur caddy.Duration
	if !orOff || arg != "off" {
		if dur, err = ParseDuration(d, setting, arg); err != nil {
			return err
		}
	}
	*to = &dur
	return nil
}

// Size parses a number of bytes above 0.
func Size(d *caddyfile.Dispenser, to *int64) error {
	setting := d.Val()
	arg, err := Argument(d, "<size>")
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
