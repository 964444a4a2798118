// Package pattern matches names, of sources and of types of events, against
// patterns in which '*' stands for any run of characters, also for none.
package pattern

import (
	"slices"
	"strconv"
	"strings"
)

// Pattern is a compiled pattern. The zero value matches nothing. Immutable.
type Pattern struct {
	// pieces is the literal text before, between and after the wildcards: one
	// more than there are wildcards. A '*' in a piece is a character like any other.
	pieces []string
}

// Parse compiles a text in which every '*' is a wildcard.
func Parse(text string) Pattern { return fromPieces(strings.Split(text, "*")) }

// fromPieces returns the pattern with wildcards between the pieces. Wildcards
// side by side are one.
func fromPieces(pieces []string) Pattern {
	if last := len(pieces) - 1; last > 1 {
		pieces = append(append(pieces[:1:1], slices.DeleteFunc(slices.Clone(pieces[1:last]), isEmpty)...), pieces[last])
	}
	return Pattern{pieces}
}

func isEmpty(s string) bool { return s == "" }

// Name returns the only name that the pattern matches; false if it has a wildcard.
func (p Pattern) Name() (string, bool) {
	if len(p.pieces) != 1 {
		return "", false
	}
	return p.pieces[0], true
}

// Prefix returns the text that every matching name begins with.
func (p Pattern) Prefix() string {
	if len(p.pieces) == 0 {
		return ""
	}
	return p.pieces[0]
}

// Match reports whether the pattern matches a name as a whole. The piece between
// two wildcards is taken where it occurs first: what that leaves has all that any
// later place would leave. So each piece is searched for once.
func (p Pattern) Match(name string) bool {
	last := len(p.pieces) - 1
	switch {
	case last < 0:
		return false
	case last == 0:
		return name == p.pieces[0]
	}
	rest, ok := strings.CutPrefix(name, p.pieces[0])
	if !ok {
		return false
	}
	if rest, ok = strings.CutSuffix(rest, p.pieces[last]); !ok {
		return false
	}
	for _, piece := range p.pieces[1:last] {
		_, after, found := strings.Cut(rest, piece)
		if !found {
			return false
		}
		rest = after
	}
	return true
}

// key is a text that only equal patterns have.
func (p Pattern) key() string {
	var b []byte
	for i, piece := range p.pieces {
		if i > 0 {
			b = append(b, '*')
		}
		b = strconv.AppendQuote(b, piece)
	}
	return string(b)
}
