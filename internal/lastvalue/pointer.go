package lastvalue

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Pointer is a JSON pointer (RFC 6901) to a member or an element. The zero value
// points nowhere.
type Pointer struct {
	tokens []token
}

// token is one step of a pointer.
type token struct {
	name  string
	index int // of an array's element; -1: the name is no index
}

// ParsePointer reads a pointer. Empty text would be the whole document, which is no
// key.
func ParsePointer(text string) (Pointer, error) {
	if !strings.HasPrefix(text, "/") {
		return Pointer{}, fmt.Errorf("'%s' is no JSON pointer, it must begin with '/', such as /symbol", text)
	}
	var p Pointer
	for step := range strings.SplitSeq(text[1:], "/") {
		for i := range len(step) {
			if step[i] == '~' && (i+1 == len(step) || step[i+1] != '0' && step[i+1] != '1') {
				return Pointer{}, fmt.Errorf("'%s' is no JSON pointer: '~' must be followed by 0 (for ~) or 1 (for /)", text)
			}
		}
		t := token{strings.NewReplacer("~1", "/", "~0", "~").Replace(step), -1}
		if n, err := strconv.ParseUint(t.name, 10, 31); err == nil && strconv.FormatUint(n, 10) == t.name {
			t.index = int(n)
		}
		p.tokens = append(p.tokens, t)
	}
	return p, nil
}

// Scalar returns the string, number, boolean or null that the pointer points to in
// a JSON text: the text of the value, with strings in one form whatever escapes they
// are written with. Nil: there is none, or it is an object or an array, or the text is
// not one JSON value, as far as a scanner sees. Of members with the same name, the last
// counts, as in a browser.
func (p Pointer) Scalar(text []byte) []byte {
	if len(p.tokens) == 0 {
		return nil
	}
	for i, t := range p.tokens {
		s := scanner{text: text}
		value := s.find(t)
		if s.space(); value == nil || i == 0 && s.at < len(text) {
			return nil
		}
		text = value
	}
	if text[0] == '{' || text[0] == '[' {
		return nil
	}
	return canonical(text)
}

// canonical returns a scalar in the form that equal ones share. Numbers are equal
// if they are written alike.
func canonical(scalar []byte) []byte {
	if scalar[0] != '"' || bytes.IndexByte(scalar, '\\') < 0 {
		return scalar
	}
	var text string
	if json.Unmarshal(scalar, &text) != nil {
		return nil
	}
	return append(append([]byte{'"'}, text...), '"')
}

// maxDepth is how deep the values that are passed over may be nested.
const maxDepth = 1000

// scanner reads a JSON text. It finds the ends of values, and leaves it open whether what
// it passes over is JSON in every detail.
type scanner struct {
	text []byte
	at   int
}

func (s *scanner) space() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

// peek returns the next byte; 0 at the end.
func (s *scanner) peek() byte {
	if s.at < len(s.text) {
		return s.text[s.at]
	}
	return 0
}

// take reads a byte after space. False: there is another one.
func (s *scanner) take(c byte) bool {
	s.space()
	if s.peek() != c {
		return false
	}
	s.at++
	return true
}

// find passes over an object or an array and returns the value of one of its members or
// elements; nil if there is none.
func (s *scanner) find(t token) (value []byte) {
	if s.take('{') {
		for {
			s.space()
			start := s.at
			if s.peek() != '"' || !s.skipString() {
				return nil
			}
			name := s.text[start:s.at]
			if !s.take(':') {
				return nil
			}
			member := s.next()
			if isName(name, t.name) {
				value = member
			}
			switch {
			case member == nil:
				return nil
			case s.take('}'):
				return value
			case !s.take(','):
				return nil
			}
		}
	}
	if t.index < 0 || !s.take('[') {
		return nil
	}
	for n := 0; ; n++ {
		element := s.next()
		if n == t.index {
			value = element
		}
		switch {
		case element == nil:
			return nil
		case s.take(']'):
			return value
		case !s.take(','):
			return nil
		}
	}
}

// next passes over a value and returns it; nil if there is none.
func (s *scanner) next() []byte {
	s.space()
	start := s.at
	if !s.skip() {
		return nil
	}
	return s.text[start:s.at]
}

// isName reports whether a string in a JSON text is a name.
func isName(text []byte, name string) bool {
	if inner := text[1 : len(text)-1]; bytes.IndexByte(inner, '\\') < 0 {
		return string(inner) == name
	}
	var decoded string
	return json.Unmarshal(text, &decoded) == nil && decoded == name
}

// skip passes over a value. False: there is none.
func (s *scanner) skip() bool {
	depth := 0
	for {
		s.space()
		switch c := s.peek(); c {
		case '{', '[':
			if depth++; depth > maxDepth {
				return false
			}
			s.at++
			continue
		case '}', ']':
			if depth == 0 {
				return false
			}
			depth--
			s.at++
		case ',', ':':
			if depth == 0 {
				return false
			}
			s.at++
			continue
		case '"':
			if !s.skipString() {
				return false
			}
		default:
			if !s.skipLiteral() {
				return false
			}
		}
		if depth == 0 {
			return true
		}
	}
}

func (s *scanner) skipString() bool {
	for s.at++; s.at < len(s.text); s.at++ {
		switch s.text[s.at] {
		case '\\':
			s.at++
		case '"':
			s.at++
			return true
		}
	}
	return false
}

// skipLiteral passes over a number, true, false or null.
func (s *scanner) skipLiteral() bool {
	start := s.at
	for s.at < len(s.text) {
		c := s.text[s.at]
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c == '-' || c == '+' || c == '.' || c == 'E' {
			s.at++
			continue
		}
		break
	}
	return s.at > start && json.Valid(s.text[start:s.at])
}
