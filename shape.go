package ssefanin

import (
	"bytes"
	"maps"
	"slices"
	"strings"
)

// shape is one stream's treatment of the events of one source. Immutable.
type shape struct {
	events map[string]bool // types that are taken over; nil: all
	prefix string
}

// shape merges the upstream's options with the stream's.
func (u *Upstream) shape(defaults *UpstreamOptions) *shape {
	s := &shape{prefix: wordOr(u.Prefix, defaults.Prefix)}
	events := u.Events
	if events == nil {
		events = defaults.Events
	}
	if len(events) > 0 {
		s.events = make(map[string]bool)
		for _, typ := range events {
			s.events[typ] = true
		}
	}
	return s
}

// text is the same for shapes that do the same.
func (s *shape) text() string {
	return strings.Join(append(slices.Sorted(maps.Keys(s.events)), s.prefix), "\n")
}

// takes reports whether an event of the upstream's type is taken over.
func (s *shape) takes(typ []byte) bool {
	if s.events == nil {
		return true
	}
	if len(typ) == 0 {
		return s.events[unnamedType]
	}
	return s.events[string(typ)]
}

// finalType is the type that clients see. It is valid until the next call.
func (s *shape) finalType(e *encoder, typ []byte) []byte {
	if s.prefix != "" {
		e.typ = append(e.typ[:0], s.prefix...)
		if len(typ) == 0 {
			typ = []byte(unnamedType)
		}
		e.typ = append(e.typ, typ...)
		typ = e.typ
	}
	if bytes.HasPrefix(typ, []byte(controlPrefix)) {
		e.typ = append([]byte(renamed), typ...)
		typ = e.typ
	}
	return typ
}
