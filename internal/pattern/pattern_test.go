package pattern

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true},
		{"a", "ab", false},
		{"a", "", false},
		{"", "", true},
		{"*", "", true},
		{"*", "anything", true},
		{"a*", "a", true},
		{"a*", "abc", true},
		{"a*", "ba", false},
		{"*a", "ba", true},
		{"*a", "ab", false},
		{"a*a", "a", false}, // the two are not the same character
		{"a*a", "aa", true},
		{"a**b", "ab", true},
		{"ab*ba", "aba", false},
		{"*ab*ab*", "ab", false},
		{"*ab*ab*", "xabyabz", true},
		{"*a*b", "abab", true},
		{"a*b*c", "abbbc", true},
		{"a*b*c", "acb", false},
		{"user.*", "user.", true},
		{"user.1.*", "user.12.x", false},
		{"ä*", "äö", true},
	} {
		if got := Parse(c.pattern).Match(c.name); got != c.want {
			t.Errorf("%q against %q: %t, want %t", c.pattern, c.name, got, c.want)
		}
	}
	if (Pattern{}).Match("") {
		t.Error("no pattern matches the empty name")
	}
}

func TestSet(t *testing.T) {
	s := ParseSet([]string{"b", "user.*", "a", "b", "user.*"})
	for name, want := range map[string]bool{"a": true, "b": true, "user.x": true, "c": false, "": false, "user": false, "user.*": true} {
		if s.Match(name) != want {
			t.Errorf("%q: %t", name, !want)
		}
	}
	if len(s.Wild()) != 1 || !slices.Equal(slices.Sorted(s.Names()), []string{"a", "b"}) {
		t.Errorf("it has %v and %v", slices.Collect(s.Names()), s.Wild())
	}
	if none := ParseSet(nil); none != nil || !none.Match("x") || !none.Match("") {
		t.Error("no list does not match every name")
	}
	if ParseSet([]string{"a", "user.*", "b"}).Key() != s.Key() {
		t.Error("the order of the patterns makes another key")
	}
	if NewSet(nil).Match("") {
		t.Error("an empty list matches")
	}
}

// Different selections must never share a key: the clients of one would get the
// events of the other.
func TestKeysDiffer(t *testing.T) {
	literalStar, err := mustTemplate(t, "{x}").Fill(func(string) (string, error) { return "*", nil })
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{(*Set)(nil).Key(): -1}
	for i, s := range []*Set{
		NewSet(nil), ParseSet([]string{"a"}), ParseSet([]string{"a", "b"}), ParseSet([]string{"a b"}), ParseSet([]string{`a" "b`}),
		ParseSet([]string{"*"}), NewSet([]Pattern{literalStar}), ParseSet([]string{`"*"`}), ParseSet([]string{"a*"}), ParseSet([]string{"a*", ""}),
		ParseSet([]string{"any"}), ParseSet([]string{"\xff"}), ParseSet([]string{"\ufffd"}),
	} {
		if before, ok := seen[s.Key()]; ok {
			t.Errorf("sets %d and %d have the key %s", before, i, s.Key())
		}
		seen[s.Key()] = i
	}
}

func mustTemplate(t *testing.T, text string) Template {
	t.Helper()
	tmpl, err := ParseTemplate(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return tmpl
}

func TestTemplate(t *testing.T) {
	values := map[string]string{"id": "1", "star": "*", "two": "a*b", "open": "{id}", "nl": "a\nb", "comma": "1,2"}
	fill := func(text string) Pattern {
		p, err := mustTemplate(t, text).Fill(func(name string) (string, error) { return values[name], nil })
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct {
		template, name string
		want           bool
	}{
		{"user.{id}.*", "user.1.x", true},
		{"user.{id}.*", "user.2.x", false},
		{"user.{star}.*", "user.1.x", false},
		{"user.{star}.*", "user.*.x", true},
		{"{star}", "1", false},
		{"{two}", "axb", false},
		{"{two}*", "a*bc", true},
		{"{open}", "1", false},
		{"{open}", "{id}", true},
		{"{comma}", "1", false},
		{"{id}{id}", "11", true},
		{"{nl}", "a", false},
		{"*{id}", "x1", true},
	} {
		if got := fill(c.template).Match(c.name); got != c.want {
			t.Errorf("%q against %q: %t, want %t", c.template, c.name, got, c.want)
		}
	}
	missing := errors.New("missing")
	if _, err := mustTemplate(t, "a{id}").Fill(func(string) (string, error) { return "", missing }); !errors.Is(err, missing) {
		t.Errorf("the error is %v", err)
	}
}

func TestTemplateMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"":        "empty",
		"a\nb":    "control character",
		"a\x7f":   "control character",
		"{":       "begins no placeholder",
		"{}":      "begins no placeholder",
		"{a{b}}":  "begins no placeholder",
		"{a*}":    "begins no placeholder",
		"user.a}": "ends no placeholder",
	} {
		if _, err := ParseTemplate(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// reference matches by trying everything.
func reference(pattern, name string) bool {
	if pattern == "" {
		return name == ""
	}
	if pattern[0] == '*' {
		return reference(pattern[1:], name) || name != "" && reference(pattern, name[1:])
	}
	return name != "" && name[0] == pattern[0] && reference(pattern[1:], name[1:])
}

func FuzzMatch(f *testing.F) {
	for _, seed := range []string{"a*b|ab", "*a*|bab", "**|", "a*a|a", "*ab*ab*|abab", "|"} {
		pattern, name, _ := strings.Cut(seed, "|")
		f.Add(pattern, name)
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 12 || len(name) > 16 {
			t.Skip("the reference takes exponential time")
		}
		want := reference(pattern, name)
		if got := Parse(pattern).Match(name); got != want {
			t.Fatalf("%q against %q: %t, want %t", pattern, name, got, want)
		}
		set := ParseSet([]string{pattern})
		if set.Match(name) != want {
			t.Fatalf("the set of %q against %q: %t", pattern, name, !want)
		}
		if want && !strings.HasPrefix(name, Parse(pattern).Prefix()) {
			t.Fatalf("%q matches %q, which does not begin with its prefix", pattern, name)
		}
	})
}

// A value from outside is literal text, whatever it is.
func FuzzTemplate(f *testing.F) {
	f.Add("1", "user.1.x")
	f.Add("*", "user.1.x")
	f.Add("{id}", "user.1.x")
	f.Add("1.*", "user.1.x")
	f.Fuzz(func(t *testing.T, value, name string) {
		p, err := mustTemplate(t, "user.{id}.*").Fill(func(string) (string, error) { return value, nil })
		if err != nil {
			t.Fatal(err)
		}
		if got, want := p.Match(name), strings.HasPrefix(name, "user."+value+"."); got != want {
			t.Fatalf("the value %q against %q: %t, want %t", value, name, got, want)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	s := ParseSet([]string{"user.4711.*", "public.*", "news"})
	for b.Loop() {
		s.Match("user.815.message")
	}
}
