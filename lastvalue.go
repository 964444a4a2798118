package ssefanin

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/sse-fanin/caddy-sse-fanin/internal/lastvalue"
	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
	"github.com/sse-fanin/caddy-sse-fanin/internal/pattern"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// LastValue configures which last values a stream keeps: of each source, type and
// key the newest event, for longer than events are retained.
type LastValue struct {
	// The types of the events, as clients get them: with the `prefix` of their
	// upstream, and `message` for unnamed ones. `*` stands for any characters, also
	// for none.
	Types []string `json:"types,omitempty"`

	// What tells the events of one type apart: a JSON pointer (RFC 6901) to a
	// string, number, boolean or null in the data as the upstream sends it, such as
	// `/symbol`. Events without it have one value together.
	// Default: none, one value for each source and type.
	Key string `json:"key,omitempty"`

	// The largest number of values; beyond it, the least recently changed go.
	// Default: 10000.
	Max int `json:"max,omitempty"`
}

// mostLastValues bounds what one snapshot costs, 8 bytes a value, and the time for
// which making one holds up the stream's events: some 30 ms.
const mostLastValues = 1_000_000

// mostLastTypes bounds what an event costs: its type is compared with each.
const mostLastTypes = 100

func (l *LastValue) validate() error {
	if len(l.Types) == 0 {
		return fmt.Errorf("last_value: it has no types; give the types of the events whose newest is kept, '%s' for unnamed ones", unnamedType)
	}
	if len(l.Types) > mostLastTypes {
		return fmt.Errorf("last_value: it has %d types, but there may be %d", len(l.Types), mostLastTypes)
	}
	for i, typ := range l.Types {
		switch {
		case typ == "" || strings.ContainsAny(typ, "\r\n"):
			return fmt.Errorf("last_value: '%s' is not the type of an event; unnamed events are '%s'", typ, unnamedType)
		case strings.HasPrefix(typ, controlPrefix):
			return fmt.Errorf("last_value: '%s' begins with '%s', which is kept for the module's own events; an upstream's are renamed to '%s%s'", typ, controlPrefix, renamed, typ)
		case slices.Contains(l.Types[:i], typ):
			return fmt.Errorf("last_value: the type '%s' is given twice", typ)
		}
	}
	if l.Key != "" {
		if _, err := lastvalue.ParsePointer(l.Key); err != nil {
			return fmt.Errorf("last_value: key: %w", err)
		}
	}
	if l.Max < 0 || l.Max > mostLastValues {
		return fmt.Errorf("last_value: max: %d is out of range, it must be from 1 to %d", l.Max, mostLastValues)
	}
	return nil
}

// lastValueDef is which last values a stream keeps. Immutable.
type lastValueDef struct {
	types  []string          // that have no wildcard, as clients get them, "" for unnamed ones; sorted
	wild   *pattern.Set      // the others; nil: there are none
	key    lastvalue.Pointer // in the data as the upstream sends it
	bounds lastvalue.Bounds
	by     string // the key, as it is configured

	envelope bool // the log has the data in one, but that of events before a reload
}

// lastValues returns which last values a definition keeps, nil for none. The configuration
// has been validated.
func (d *definition) lastValues(l *LastValue) *lastValueDef {
	if l == nil {
		return nil
	}
	def := &lastValueDef{bounds: lastvalue.Bounds{Max: l.Max, Bytes: d.inMemory().MaxBytes}}
	if def.bounds.Max == 0 {
		def.bounds.Max = defaultLastValues
	}
	var wild []string
	for _, typ := range l.Types {
		if strings.Contains(typ, "*") {
			wild = append(wild, typ)
			continue
		}
		if typ == unnamedType {
			def.types = append(def.types, "")
		}
		def.types = append(def.types, typ) // an upstream may also name it so
	}
	slices.Sort(def.types)
	def.wild = pattern.ParseSet(wild)
	if l.Key != "" {
		def.key, _ = lastvalue.ParsePointer(l.Key)
	}
	def.by, def.envelope = l.Key, d.shape.envelope
	return def
}

// judge validates that the upstreams may send what is to be kept.
func (l *LastValue) judge(def *definition) error {
	if l == nil || slices.ContainsFunc(l.Types, func(typ string) bool { return strings.Contains(typ, "*") || def.maySend(typ) }) {
		return nil
	}
	return fmt.Errorf("last_value: there would be none, since 'events' and 'prefix' of the upstreams leave no events of %s", quoted(l.Types))
}

// quoted lists types in an error.
func quoted(types []string) string { return "'" + strings.Join(types, "', '") + "'" }

// digested is the part of the stream's identity; nil for none.
func (d *lastValueDef) digested() any {
	if d == nil {
		return nil
	}
	return []any{d.text(), d.bounds.Max}
}

// text is the same for those that keep the same values, if there is room for them.
func (d *lastValueDef) text() string {
	return strings.Join(append(slices.Clone(d.types), d.wild.Key(), d.by), "\n")
}

// same reports whether nothing is to change.
func (d *lastValueDef) same(other *lastValueDef) bool {
	return d.text() == other.text() && d.bounds == other.bounds && d.envelope == other.envelope
}

// keyOf returns the key of an event as the log has it; nil if it has none. It is the same
// whether the event is in an envelope or not, since the log has events of both forms after
// a reload. source is the number of the event's source.
func (d *lastValueDef) keyOf(event []byte, source uint32, names *tags) []byte {
	typ, data := sse.Encoded(event)
	from, inner, wrapped := unwrap(data, typ)
	switch {
	case !wrapped:
		return d.key.Scalar(data)
	case d.envelope:
		return d.key.Scalar(inner)
	}
	// It is of before the reload, or the upstream sends such envelopes, as another fan-in
	// does: that one's sources have names of their own.
	if name, _, ok := names.sourceAt(source); ok && isJSONString(from, name) {
		if key := d.key.Scalar(inner); key != nil {
			return key
		}
	}
	return d.key.Scalar(data)
}

// wants reports whether the newest event of a type, as clients get it, is kept.
func (d *lastValueDef) wants(typ []byte) bool {
	if slices.Contains(d.types, string(typ)) { // they are few: a hash would cost more
		return true
	}
	if d.wild == nil {
		return false
	}
	if len(typ) == 0 {
		return d.wild.Match(unnamedType)
	}
	return d.wild.Match(string(typ))
}

// unmarshalLastValue parses: last_value <type>... { key <json-pointer> max <n> }
func (s *Stream) unmarshalLastValue(d *caddyfile.Dispenser) error {
	s.LastValue = &LastValue{Types: d.RemainingArgs()}
	if len(s.LastValue.Types) == 0 {
		return d.Err("last_value: missing argument, expected last_value <type>...")
	}
	_, err := option.Block(d, func() (err error) {
		switch d.Val() {
		case "key":
			if s.LastValue.Key, err = option.Argument(d, "<json-pointer>"); err == nil && s.LastValue.Key == "" {
				err = d.Err("last_value: key: it is empty, expected a JSON pointer such as /symbol")
			}
		case "max":
			s.LastValue.Max, err = option.Number(d, 1, "<n>")
		default:
			err = unrecognized(d, " of last_value", valueWords)
		}
		if err != nil {
			return err
		}
		return option.Wrap(d, s.LastValue.validate())
	})
	if err != nil {
		return err
	}
	return option.Wrap(d, s.LastValue.validate())
}
