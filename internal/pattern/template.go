package pattern

import (
	"errors"
	"strings"
)

// Template is a pattern with placeholders, such as "user.{http.auth.user.id}.*".
// Their values are literal text: a '*' in a value matches a '*' and nothing else.
// Immutable.
type Template struct {
	parts []part
}

// part is a piece of a template: a placeholder, a wildcard, or literal text.
type part struct {
	text        string
	placeholder bool
	wildcard    bool
}

// ParseTemplate compiles the text of a template. The error says what is wrong
// with it.
func ParseTemplate(text string) (Template, error) {
	var t Template
	if text == "" {
		return t, errors.New("the pattern is empty")
	}
	if i := strings.IndexFunc(text, isControl); i >= 0 {
		return t, errors.New("the pattern has a control character, which no name has")
	}
	for text != "" {
		i := strings.IndexAny(text, "*{}")
		if i < 0 {
			i = len(text)
		}
		if i > 0 {
			t.parts = append(t.parts, part{text: text[:i]})
			text = text[i:]
			continue
		}
		switch text[0] {
		case '*':
			t.parts, text = append(t.parts, part{wildcard: true}), text[1:]
		case '{':
			name, rest, ok := strings.Cut(text[1:], "}")
			if !ok || name == "" || strings.ContainsAny(name, "{*") {
				return t, errors.New("a '{' begins no placeholder; expected {name}")
			}
			t.parts, text = append(t.parts, part{text: name, placeholder: true}), rest
		default:
			return t, errors.New("a '}' ends no placeholder; expected {name}")
		}
	}
	return t, nil
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// Fill returns the pattern with a value for each placeholder, which is asked for
// by name. An error of value's is returned as it is.
func (t Template) Fill(value func(name string) (string, error)) (Pattern, error) {
	pieces := []string{""}
	for _, p := range t.parts {
		text := p.text
		switch {
		case p.wildcard:
			pieces = append(pieces, "")
			continue
		case p.placeholder:
			var err error
			if text, err = value(p.text); err != nil {
				return Pattern{}, err
			}
		}
		pieces[len(pieces)-1] += text
	}
	return fromPieces(pieces), nil
}
