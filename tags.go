package ssefanin

import (
	"hash/maphash"
	"slices"
	"sync"
)

const (
	// A tag is an event's entry in the log's index, to filter by: 12 bits for
	// the source and 20 for the type.
	tagTypeBits = 20
	tagTypeMask = 1<<tagTypeBits - 1
	tagSources  = 1 << (32 - tagTypeBits)

	// The types that have a number of their own: 4096 of at most 256 bytes are
	// 1 MiB a stream, whatever upstreams invent. Types beyond share the rest of
	// the 20 bits by hash, about a million values.
	tagTypes      = 4 << 10
	tagTypeLength = 256
)

var tagSeed = maphash.MakeSeed()

// tags numbers the sources and types of one stream. The numbers stay for the
// stream's life, over reloads. Safe for concurrent use.
type tags struct {
	mu          sync.RWMutex      // protects the fields below
	sources     map[string]uint32 // number by name
	sourceNames []sourceName      // by number
	next        uint32            // number to give out again, once all were
	types       map[string]uint32
	typeNames   []string
}

// sourceName is a source's name, that of the upstream it is one of several of,
// if it is, and how many subscriptions have it.
type sourceName struct {
	name, upstream string
	uses           int
}

func newTags() *tags {
	return &tags{sources: make(map[string]uint32), types: make(map[string]uint32)}
}

// source returns the number of a source, which stays its own until release.
// When 4096 have been seen, the numbers of the oldest that are not in use are
// given out again: by then nothing of them is retained.
func (t *tags) source(name, upstream string) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.sources[name]; ok {
		t.sourceNames[n].uses++
		t.sourceNames[n].upstream = upstream
		return n
	}
	n := t.numberLocked()
	t.sourceNames[n] = sourceName{name, upstream, 1}
	t.sources[name] = n
	return n
}

// stored returns the number of a source that an event in the log is of, whether
// a configuration has it or not.
func (t *tags) stored(name string) uint32 {
	t.mu.RLock()
	n, ok := t.sources[name]
	t.mu.RUnlock()
	if ok {
		return n
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.sources[name]; ok {
		return n
	}
	n = t.numberLocked()
	t.sourceNames[n] = sourceName{name: name}
	t.sources[name] = n
	return n
}

// sourceName returns the name of the source that has a number.
func (t *tags) sourceName(number uint32) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.sourceNames[number].name
}

// numberLocked returns a number to give out.
func (t *tags) numberLocked() uint32 {
	n := uint32(len(t.sourceNames))
	if n < tagSources {
		t.sourceNames = append(t.sourceNames, sourceName{})
	} else {
		for range tagSources { // were all in use, two would share one
			n = t.next
			t.next = (t.next + 1) % tagSources
			if t.sourceNames[n].uses == 0 {
				break
			}
		}
		delete(t.sources, t.sourceNames[n].name)
	}
	return n
}

// noteUnused notes that a source is no longer in use. It is known until its
// number is given out again.
func (t *tags) noteUnused(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.sources[name]; ok {
		t.sourceNames[n].uses--
	}
}

// tag returns the tag of an event.
func (t *tags) tag(number uint32, typ []byte) uint32 {
	return number<<tagTypeBits | t.typeNumber(typ)
}

// typeNumber returns the number of a type: its own, as long as there are any to
// give out, or a shared one.
func (t *tags) typeNumber(typ []byte) uint32 {
	t.mu.RLock()
	n, ok := t.types[string(typ)]
	full := len(t.typeNames) >= tagTypes
	t.mu.RUnlock()
	if ok {
		return n
	}
	if full || len(typ) > tagTypeLength {
		return hashedType(typ)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.types[string(typ)]; ok {
		return n
	}
	if len(t.typeNames) >= tagTypes {
		return hashedType(typ)
	}
	n = uint32(len(t.typeNames))
	t.typeNames = append(t.typeNames, string(typ))
	t.types[string(typ)] = n
	return n
}

// hashedType is the number of a type that has none of its own.
func hashedType[T string | []byte](typ T) uint32 {
	return tagTypes + uint32(maphash.String(tagSeed, string(typ))%(tagTypeMask+1-tagTypes))
}

// matches reports whether a tag is of the sources and types wanted; an empty
// set is all.
func (t *tags) matches(tag uint32, sources, types map[string]bool) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	number, typ := tag>>tagTypeBits, tag&tagTypeMask
	if s := t.sourceNames[number]; len(sources) > 0 && !sources[s.name] && (s.upstream == "" || !sources[s.upstream]) {
		return false
	}
	if len(types) == 0 {
		return true
	}
	if typ < tagTypes {
		return types[t.typeNames[typ]]
	}
	for name := range types {
		// An event of a type that has a number of its own has that one.
		if _, own := t.types[name]; !own && hashedType(name) == typ {
			return true
		}
	}
	return false
}

// countTypes returns how many of some tags have which type, by name. Types that
// have no number of their own are left out.
func (t *tags) countTypes(all []uint32) map[string]int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	counts := make(map[string]int)
	for _, tag := range all {
		n := tag & tagTypeMask
		if n >= uint32(len(t.typeNames)) {
			continue
		}
		name := t.typeNames[n]
		if name == "" {
			name = unnamedType
		}
		counts[name]++
	}
	return counts
}

// knows reports whether a source of that name was ever seen, or one of an
// upstream of that name.
func (t *tags) knows(name string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if _, ok := t.sources[name]; ok {
		return true
	}
	return slices.ContainsFunc(t.sourceNames, func(s sourceName) bool { return s.upstream == name })
}

// upstreamOf returns the upstream that a source is one of several of, or "".
func (t *tags) upstreamOf(name string) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n, ok := t.sources[name]; ok {
		return t.sourceNames[n].upstream
	}
	return ""
}
