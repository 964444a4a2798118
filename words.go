package ssefanin

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// shellWord quotes a text for a shell where it is no plain word.
func shellWord(text string) string {
	plain := func(r rune) bool {
		return r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/:._-%@+,[]", r))
	}
	if text != "" && strings.IndexFunc(text, func(r rune) bool { return !plain(r) || r == '[' }) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// spanText is a duration in the words of the page.
func spanText(d time.Duration) string {
	s := int64(max(d, 0).Round(time.Second) / time.Second)
	switch m, h := s/60, s/3600; {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case m < 10 && s%60 != 0:
		return fmt.Sprintf("%d min %d s", m, s%60)
	case h < 1:
		return fmt.Sprintf("%d min", m)
	case h < 48 && m%60 != 0:
		return fmt.Sprintf("%d h %d min", h, m%60)
	case h < 48:
		return fmt.Sprintf("%d h", h)
	default:
		return fmt.Sprintf("%d days", h/24)
	}
}

func plural(n uint64, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return grouped(n) + " " + word + "s"
}

func was(n uint64, word string) string {
	if n == 1 {
		return "1 " + word + " was"
	}
	return plural(n, word) + " were"
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// sentence makes a hint one.
func sentence(hint string) string {
	first, size := utf8.DecodeRuneInString(hint)
	hint = string(unicode.ToUpper(first)) + hint[size:]
	if strings.HasSuffix(hint, "?") {
		return hint
	}
	return hint + "."
}

// grouped writes 12345 as 12,345.
func grouped(n uint64) string {
	text := strconv.FormatUint(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// naturally compares names as people do: shard-2 is before shard-10.
func naturally(a, b string) int {
	x, y := a, b
	for x != "" && y != "" {
		n, m := leadingDigits(x), leadingDigits(y)
		if n > 0 && m > 0 {
			p, q := strings.TrimLeft(x[:n], "0"), strings.TrimLeft(y[:m], "0")
			if c := cmp.Or(cmp.Compare(len(p), len(q)), cmp.Compare(p, q)); c != 0 {
				return c
			}
			x, y = x[n:], y[m:]
			continue
		}
		if c := cmp.Compare(x[0], y[0]); c != 0 {
			return c
		}
		x, y = x[1:], y[1:]
	}
	return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(a, b))
}

func leadingDigits(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }
