package pattern

import (
	"iter"
	"maps"
	"slices"
	"strings"
)

// Set is a list of patterns, compiled once. Nil is no list, which matches every
// name. Immutable.
type Set struct {
	names map[string]struct{} // the patterns without a wildcard
	wild  []Pattern           // the others
	key   string
}

// NewSet returns the set of patterns; of equal ones, one counts.
func NewSet(patterns []Pattern) *Set {
	s := &Set{names: make(map[string]struct{})}
	wild := make(map[string]Pattern)
	for _, p := range patterns {
		if name, ok := p.Name(); ok {
			s.names[name] = struct{}{}
		} else {
			wild[p.key()] = p
		}
	}
	keys := slices.Sorted(maps.Keys(wild))
	for _, key := range keys {
		s.wild = append(s.wild, wild[key])
	}
	for _, name := range slices.Sorted(maps.Keys(s.names)) {
		keys = append(keys, Pattern{[]string{name}}.key())
	}
	s.key = strings.Join(keys, " ")
	return s
}

// ParseSet returns the set of the patterns that texts are. Nil if there are none.
func ParseSet(texts []string) *Set {
	if len(texts) == 0 {
		return nil
	}
	patterns := make([]Pattern, len(texts))
	for i, text := range texts {
		patterns[i] = Parse(text)
	}
	return NewSet(patterns)
}

// Match reports whether a pattern of the set matches a name.
func (s *Set) Match(name string) bool {
	if s == nil {
		return true
	}
	if _, ok := s.names[name]; ok {
		return true
	}
	for i := range s.wild {
		if s.wild[i].Match(name) {
			return true
		}
	}
	return false
}

// Names returns the names that are in the set as such.
func (s *Set) Names() iter.Seq[string] { return maps.Keys(s.names) }

// Wild returns the patterns with a wildcard. They are not to be changed.
func (s *Set) Wild() []Pattern { return s.wild }

// Key returns a text that only sets of the same patterns have.
func (s *Set) Key() string {
	if s == nil {
		return "any"
	}
	return s.key
}
