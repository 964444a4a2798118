package ssefanin

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
)

const (
	// A tag is an event's entry in the log's index, to filter by: 15 bits for
	// the source and 17 for the type.
	tagTypeBits = 17
	tagTypeMask = 1<<tagTypeBits - 1
	tagSources  = 1 << (32 - tagTypeBits)

	// The types that have a number of their own, whatever upstreams invent: 32,768
	// of at most 256 bytes, 1 MiB together, with some 60 bytes each to find them
	// are 3 MiB a stream. Types beyond share the rest of the 17 bits by hash,
	// 98,304 values, and are told apart by what is in the log.
	tagTypes      = 32 << 10
	tagTypeLength = 256
	tagTypeBytes  = 1 << 20

	// sharedSource is the number of all sources for which there is none left.
	// Nobody who may see some sources only gets what comes under it.
	sharedSource = tagSources - 1
)

var tagSeed = maphash.MakeSeed()

// tags numbers the sources and types of one stream. The numbers stay for the
// stream's life, over reloads. Safe for concurrent use.
type tags struct {
	// generation counts the changes of what a number stands for. It is raised
	// before any event has the number in its new meaning.
	generation atomic.Uint64

	// retained returns the numbers of the sources that events in memory are of. It
	// is called without the lock. Nil: there are none.
	retained func() map[uint32]bool

	mu          sync.RWMutex      // protects the fields below
	sources     map[string]uint32 // number by name
	sourceNames []sourceName      // by number
	next        uint32            // number to give out again, once all were
	types       map[string]uint32
	typeNames   []string
	typeBytes   int // of all typeNames
}

// sourceName is a source's name, that of the upstream it is one of several of,
// if it is, how many subscriptions have it, and whether events of it come from a
// store, which may be read at any time.
type sourceName struct {
	name, upstream string
	uses           int
	stored         bool
}

func newTags() *tags {
	return &tags{sources: make(map[string]uint32), types: make(map[string]uint32)}
}

// source returns the number of a source, which stays its own until release.
// When all numbers were given out, those of the oldest sources that are not in
// use, and of which no event is left, are given out again.
func (t *tags) source(name, upstream string) uint32 {
	busy := t.busySources()
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.sources[name]
	if !ok {
		if n = t.numberLocked(busy); n == sharedSource {
			return n
		}
		t.sourceNames[n] = sourceName{name: name}
		t.sources[name] = n
	}
	s := &t.sourceNames[n]
	s.uses++
	if s.upstream != upstream {
		s.upstream = upstream
		t.generation.Add(1)
	}
	return n
}

// stored returns the number of a source that an event in the log is of, whether
// a configuration has it or not.
func (t *tags) stored(name string) uint32 {
	t.mu.RLock()
	n, ok := t.sources[name]
	ok = ok && t.sourceNames[n].stored
	t.mu.RUnlock()
	if ok {
		return n
	}
	busy := t.busySources()
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.sources[name]; ok {
		t.sourceNames[n].stored = true
		return n
	}
	if n = t.numberLocked(busy); n != sharedSource {
		t.sourceNames[n] = sourceName{name: name, stored: true}
		t.sources[name] = n
	}
	return n
}

// busySources returns the numbers that cannot be given out again; nil as long as
// there are others.
func (t *tags) busySources() map[uint32]bool {
	t.mu.RLock()
	full := len(t.sourceNames) == sharedSource
	t.mu.RUnlock()
	if !full || t.retained == nil {
		return nil
	}
	return t.retained()
}

// numberLocked returns a number to give out, or sharedSource if there is none.
func (t *tags) numberLocked(busy map[uint32]bool) uint32 {
	if n := uint32(len(t.sourceNames)); n < sharedSource {
		t.sourceNames = append(t.sourceNames, sourceName{})
		return n
	}
	for range sharedSource {
		n := t.next
		t.next = (t.next + 1) % sharedSource
		if s := &t.sourceNames[n]; s.uses == 0 && !s.stored && !busy[n] {
			delete(t.sources, s.name)
			t.generation.Add(1)
			return n
		}
	}
	return sharedSource
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
	full := t.fullLocked(typ)
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
	if t.fullLocked(typ) {
		return hashedType(typ)
	}
	n = uint32(len(t.typeNames))
	t.typeNames = append(t.typeNames, string(typ))
	t.types[string(typ)] = n
	t.typeBytes += len(typ)
	return n
}

// fullLocked reports whether there is no number left for one more type.
func (t *tags) fullLocked(typ []byte) bool {
	return len(t.typeNames) >= tagTypes || t.typeBytes+len(typ) > tagTypeBytes
}

// hashedType is the number of a type that has none of its own.
func hashedType[T string | []byte](typ T) uint32 {
	return tagTypes + uint32(maphash.String(tagSeed, string(typ))%(tagTypeMask+1-tagTypes))
}

// sourceAt returns the name of a source by its number, and the upstream that it is
// one of several of, or "". ok is false for the number that several may share.
func (t *tags) sourceAt(number uint32) (name, upstream string, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if number == sharedSource || number >= uint32(len(t.sourceNames)) {
		return "", "", false
	}
	s := &t.sourceNames[number]
	return s.name, s.upstream, true
}

// typeAt returns a type by its number. ok is false for a number that several
// share.
func (t *tags) typeAt(number uint32) (typ string, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if number >= uint32(len(t.typeNames)) {
		return "", false
	}
	return t.typeNames[number], true
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
// upstream of that name, that is among those of a choice.
func (t *tags) knows(name string, among *choice) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n, ok := t.sources[name]; ok && among.takesSource(name, t.sourceNames[n].upstream) {
		return true
	}
	return slices.ContainsFunc(t.sourceNames, func(s sourceName) bool {
		return (s.name == name || s.upstream == name) && among.takesSource(s.name, s.upstream)
	})
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
