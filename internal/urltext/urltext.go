// Package urltext reads URLs as a configuration has them: with placeholders, and
// before it is known whether they can be parsed.
package urltext

import (
	"regexp"
	"strings"
)

// CutScheme finds the scheme of a URL. A "://" further on, as in
// {env.FEED_URL}?next=https://example.com, ends none.
func CutScheme(text string) (scheme, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(text, "://")
	if ok && IndexOutside(scheme, "/?#@:") >= 0 {
		return "", text, false
	}
	return scheme, rest, ok
}

// IndexOutside finds the first of some characters that is not within a
// placeholder.
func IndexOutside(text, chars string) int {
	depth := 0
	for i, c := range text {
		switch {
		case c == '{':
			depth++
		case c == '}':
			depth = max(depth-1, 0)
		case depth == 0 && strings.ContainsRune(chars, c):
			return i
		}
	}
	return -1
}

// Redact does the same for the text of a URL that may not be parseable. A
// password in it may hold any character.
func Redact(text string) string {
	scheme, rest, ok := CutScheme(text)
	if ok {
		scheme += "://"
	} else {
		scheme, rest = "", text
	}
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
	}
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		rest = rest[at+1:]
	} else if at := strings.LastIndexByte(rest, '@'); at >= 0 && !validPortText.MatchString(authority) {
		rest = rest[at+1:] // "user:pass/word@host"
	}
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest = rest[:i]
	}
	return scheme + rest
}

// validPortText matches a host without a port, or with one that is a number
// or a placeholder.
var validPortText = regexp.MustCompile(`^(\[[^\]]*\]|[^:]*)(:([0-9]*|\{[^{}]*\}))?$`)
