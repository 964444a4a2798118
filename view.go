package ssefanin

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sse-fanin/caddy-sse-fanin/internal/pattern"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// judgedTags is how many tags a view keeps its judgements of, 8 bytes each. It
// is a power of two.
const judgedTags = 512

// maxNoted is how many of a view's events have their offsets noted: clients that
// are further behind look for themselves.
const maxNoted = 128

// view is one scope of a stream's events, and which of the latest are in it. The
// clients of one scope share it.
//
// Safe for concurrent use, but for the audience's fields.
type view struct {
	scope
	tags *tags

	// The audience's, protected by its mu.
	clients int
	windows []*window // of the clients
	touched bool      // it stands in views.touched
	search  uint64    // of the index that found it last

	// judged has the judgements of tags so far, each in the one place that its tag
	// may have, so that reading takes no lock. Nil until the first one.
	judged atomic.Pointer[[judgedTags]atomic.Uint64]

	mu    sync.Mutex // protects the fields below
	at    *judging   // in which the events below were judged
	since uint64     // from there on, noted is complete
	noted []uint64   // the offsets of the view's events, ascending
}

// A judgement is a word: the tag, the generation of the tags' meaning, and the
// answer. In an empty place, the answer is missing.
const (
	judgementTag        = 32 // position of the tag
	judgementGeneration = 2  // position of the generation
	judgementMade       = 1 << 1
	judgementWanted     = 1 << 0

	generationMask = 1<<(judgementTag-judgementGeneration) - 1
)

func newView(s *scope, t *tags) *view { return &view{scope: *s, tags: t} }

// protects reports whether there is something that the view's clients may not see.
// Nil is the whole stream.
func (v *view) protects() bool { return v != nil && !v.only.takesAll() }

// wants reports whether the view has an event, which the log has stored under a
// tag. A type that has no number of its own is taken from the event: of the types
// that share a number, some may be hidden from the view's clients.
func (v *view) wants(tag uint32, stored []byte) bool {
	if tag&tagTypeMask >= tagTypes && v.byType() {
		return v.takesType(string(sse.EncodedType(stored))) && v.wantsSourceOf(tag)
	}
	places := v.judged.Load()
	if places == nil {
		v.judged.CompareAndSwap(nil, new([judgedTags]atomic.Uint64))
		places = v.judged.Load()
	}
	// Loaded before the names: those may be newer, never older.
	known := uint64(tag)<<judgementTag | v.tags.generation.Load()&generationMask<<judgementGeneration | judgementMade
	place := &places[tag*0x9E3779B1>>23]
	if word := place.Load(); word&^judgementWanted == known {
		return word&judgementWanted != 0
	}
	wanted := v.judge(tag)
	if wanted {
		known |= judgementWanted
	}
	place.Store(known)
	return wanted
}

// judge reports whether the view has the events of a tag, whose type has a number
// of its own, or makes no difference.
func (v *view) judge(tag uint32) bool {
	if v.byType() {
		typ, ok := v.tags.typeAt(tag & tagTypeMask)
		if !ok || !v.takesType(typ) {
			return false
		}
	}
	return v.wantsSourceOf(tag)
}

// wantsSourceOf reports whether the view has events of a tag's source.
func (v *view) wantsSourceOf(tag uint32) bool {
	if !v.bySource() {
		return true
	}
	name, upstream, ok := v.tags.sourceAt(tag >> tagTypeBits)
	return ok && v.takesSource(name, upstream)
}

// mayWant reports whether the view may have had an event of which only the tag is
// left.
func (v *view) mayWant(tag uint32) bool {
	if number := tag & tagTypeMask; number >= tagTypes && v.byType() {
		return mayHave(v.only.types, number) && mayHave(v.asked.types, number) && v.wantsSourceOf(tag)
	}
	return v.judge(tag)
}

// mayHave reports whether a set has a type that shares a number.
func mayHave(types *pattern.Set, number uint32) bool {
	if types == nil || len(types.Wild()) > 0 {
		return true
	}
	for name := range types.Names() {
		if hashedType(name) == number {
			return true
		}
	}
	return false
}

// begin notes that events are judged for the view from now on.
func (v *view) begin(at *judging) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.at, v.since, v.noted = at, at.next.Load(), nil
}

// note notes an event of the view. It reports whether the view is to be noted as
// touched. The caller holds the audience's mu.
func (v *view) note(at *judging, offset uint64) (untouched bool) {
	v.mu.Lock()
	if v.at != at {
		v.at, v.since, v.noted = at, at.from, v.noted[:0]
	}
	if len(v.noted) == maxNoted {
		const half = maxNoted / 2
		v.since = v.noted[half-1] + 1
		v.noted = v.noted[:copy(v.noted, v.noted[half:])]
	}
	v.noted = append(v.noted, offset)
	v.mu.Unlock()
	untouched, v.touched = !v.touched, true
	return untouched
}

// next returns the offset of the view's first event at a position of a log or
// after it, and how many there are. None: the offset up to which there is none. Not
// known: the position is before all that was noted, or in another log.
func (v *view) next(at *judging, log *streamLog, position uint64) (offset uint64, events int, known bool) {
	if at == nil || at.log != log {
		return 0, 0, false
	}
	judged := at.next.Load() // before noted, which may have more by then
	v.mu.Lock()
	defer v.mu.Unlock()
	since, noted := v.since, v.noted
	switch {
	case v.at.number > at.number: // what was noted before is forgotten
		return 0, 0, false
	case v.at.number < at.number: // it had none of the events since
		since, noted = at.from, nil
	}
	if position < since {
		return 0, 0, false
	}
	i, _ := slices.BinarySearch(noted, position)
	if i == len(noted) {
		return max(judged, position), 0, true
	}
	return noted[i], len(noted) - i, true
}
