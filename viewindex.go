package ssefanin

import (
	"math"
	"slices"

	"github.com/sse-fanin/caddy-sse-fanin/internal/pattern"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// maxKnownViews is how many entries the lists of views by tag have together, 8
// bytes each: 2 MiB.
const maxKnownViews = 256 << 10

// viewIndex finds the views that have an event without asking each: by its type,
// and by the text that their patterns begin with. So an event of one user of a
// thousand costs about as much as one of a stream with one view. Not safe for
// concurrent use.
type viewIndex struct {
	tags *tags

	byName   map[string][]*view // by a type that they have as such
	byPrefix map[string][]*view // by what a pattern of types begins with; "": any type
	lengths  []int              // of the prefixes, ascending, each once

	known      map[uint32][]*view // found before, by tags that say all
	knownViews int                // entries of the lists in known
	generation uint64             // of the tags, for known
	found      []*view            // scratch
	searches   uint64
}

func (x *viewIndex) init(t *tags) {
	x.tags = t
	x.byName, x.byPrefix, x.known = make(map[string][]*view), make(map[string][]*view), make(map[uint32][]*view)
}

// keyTypes returns the set of types that a view is found by: of the two that an
// event's type must be in, the one whose patterns begin with more text.
func keyTypes(v *view) *pattern.Set {
	if leastPrefix(v.only.types) >= leastPrefix(v.asked.types) {
		return v.only.types
	}
	return v.asked.types
}

// leastPrefix returns the length of the shortest prefix of a set's patterns.
func leastPrefix(types *pattern.Set) int {
	if types == nil {
		return 0
	}
	least := math.MaxInt
	for _, p := range types.Wild() {
		least = min(least, len(p.Prefix()))
	}
	return least
}

// places calls each with the places of the index where a view stands.
func (x *viewIndex) places(v *view, each func(list map[string][]*view, key string)) {
	types := keyTypes(v)
	if types == nil {
		each(x.byPrefix, "")
		return
	}
	for name := range types.Names() {
		each(x.byName, name)
	}
	for _, p := range types.Wild() {
		each(x.byPrefix, p.Prefix())
	}
}

// add adds a view.
func (x *viewIndex) add(v *view) {
	x.places(v, func(list map[string][]*view, key string) {
		if !slices.Contains(list[key], v) {
			list[key] = append(list[key], v)
		}
	})
	x.changed()
}

// remove removes a view.
func (x *viewIndex) remove(v *view) {
	x.places(v, func(list map[string][]*view, key string) {
		left := slices.DeleteFunc(list[key], func(other *view) bool { return other == v })
		if list[key] = left; len(left) == 0 {
			delete(list, key)
		}
	})
	x.changed()
}

// changed forgets what depends on which views there are.
func (x *viewIndex) changed() {
	x.forget()
	x.lengths = x.lengths[:0]
	for prefix := range x.byPrefix {
		if !slices.Contains(x.lengths, len(prefix)) {
			x.lengths = append(x.lengths, len(prefix))
		}
	}
	slices.Sort(x.lengths)
	clear(x.found)
	x.found = x.found[:0]
}

func (x *viewIndex) forget() {
	clear(x.known)
	x.knownViews = 0
}

// find returns the views that have an event, as the log has stored it under a tag.
// The result is valid until the next call, and not to be changed.
func (x *viewIndex) find(tag uint32, stored []byte) []*view {
	if len(stored) == 0 {
		return nil // an offset that no event has
	}
	if now := x.tags.generation.Load(); now != x.generation { // before the names are asked for
		x.generation = now
		x.forget()
	}
	if list, ok := x.known[tag]; ok {
		return list
	}
	typ, own := x.tags.typeAt(tag & tagTypeMask)
	if !own {
		typ = string(sse.EncodedType(stored))
	}
	if typ == "" {
		typ = unnamedType
	}
	found := x.match(tag, typ)
	if own {
		if x.knownViews += len(found) + 1; x.knownViews > maxKnownViews {
			x.forget()
		}
		x.known[tag] = slices.Clone(found)
	}
	return found
}

// match returns the views that have events of a tag's source and of a type.
func (x *viewIndex) match(tag uint32, typ string) []*view {
	x.searches++
	x.found = x.found[:0]
	name, upstream, ok := x.tags.sourceAt(tag >> tagTypeBits)
	add := func(candidates []*view) {
		for _, v := range candidates {
			if v.search == x.searches {
				continue // it was found by another of its patterns
			}
			v.search = x.searches
			if v.takesType(typ) && (!v.bySource() || ok && v.takesSource(name, upstream)) {
				x.found = append(x.found, v)
			}
		}
	}
	add(x.byName[typ])
	for _, n := range x.lengths {
		if n > len(typ) {
			break
		}
		add(x.byPrefix[typ[:n]])
	}
	return x.found
}
