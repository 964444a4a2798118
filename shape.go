package ssefanin

import (
	"bytes"
	"slices"
	"strings"

	"github.com/sse-fanin/caddy-sse-fanin/internal/pattern"
)

// shape is one stream's treatment of the events of one source. Immutable.
type shape struct {
	events *pattern.Set // types that are taken over; nil: all
	prefix string
}

// shape merges the upstream's options with the stream's.
func (u *Upstream) shape(defaults *UpstreamOptions) *shape {
	events := u.Events
	if events == nil {
		events = defaults.Events
	}
	return &shape{events: pattern.ParseSet(events), prefix: wordOr(u.Prefix, defaults.Prefix)}
}

// text is the same for shapes that do the same.
func (s *shape) text() string {
	return s.events.Key() + "\n" + s.prefix
}

// takes reports whether an event of the upstream's type is taken over.
func (s *shape) takes(typ []byte) bool {
	if len(typ) == 0 {
		return s.events.Match(unnamedType)
	}
	return s.events == nil || s.events.Match(string(typ))
}

// maySend reports whether clients may see events of a type.
func (s *shape) maySend(typ string) bool {
	if strings.HasPrefix(typ, renamed) {
		return true
	}
	original, ok := strings.CutPrefix(typ, s.prefix)
	return ok && s.takes([]byte(original))
}

// maySend reports whether clients may see events of a type.
func (d *definition) maySend(typ string) bool {
	return slices.ContainsFunc(d.upstreams, func(u *upstreamDef) bool { return u.shape.maySend(typ) })
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
