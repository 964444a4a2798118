package ssefanin

import "github.com/sse-fanin/caddy-sse-fanin/internal/pattern"

// choice is a selection of events by source and type. The zero value is all of
// them. Immutable.
type choice struct {
	sources *pattern.Set // names of sources, or of the upstreams they are of; nil: all
	types   *pattern.Set // final types, `message` for unnamed ones; nil: all
}

// takesSource reports whether the choice has the events of a source. upstream is
// the one that it is one of several of, or "".
func (c *choice) takesSource(name, upstream string) bool {
	return c.sources.Match(name) || upstream != "" && c.sources.Match(upstream)
}

// takesType reports whether the choice has the events of a final type.
func (c *choice) takesType(typ string) bool {
	if typ == "" {
		typ = unnamedType
	}
	return c.types.Match(typ)
}

// takesAll reports whether the choice leaves nothing out.
func (c *choice) takesAll() bool { return c.sources == nil && c.types == nil }

// scope is what one client gets of a stream: of what it may see, what it asks
// for. Immutable.
type scope struct {
	only  choice // what the handler lets it see, see ClientSettings.Only
	asked choice // ?source= and ?type=
}

// takesSource reports whether events of a source may be among what the client
// gets.
func (s *scope) takesSource(name, upstream string) bool {
	return s.only.takesSource(name, upstream) && s.asked.takesSource(name, upstream)
}

// takesType reports whether events of a final type may be among what the client
// gets.
func (s *scope) takesType(typ string) bool {
	return s.only.takesType(typ) && s.asked.takesType(typ)
}

// bySource and byType report whether there is a choice of sources, or of types.
func (s *scope) bySource() bool { return s.only.sources != nil || s.asked.sources != nil }
func (s *scope) byType() bool   { return s.only.types != nil || s.asked.types != nil }

// key is a text that only equal scopes have.
func (s *scope) key() string {
	return s.only.sources.Key() + "\n" + s.only.types.Key() + "\n" + s.asked.sources.Key() + "\n" + s.asked.types.Key()
}
