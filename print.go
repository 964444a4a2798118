package ssefanin

import (
	"hash/maphash"
	"math/bits"

	"github.com/cespare/xxhash/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// print is the memory of an event, to recognise it: a hash of its own id, its
// type and its data. An id that is merely in force is not the event's own:
// whether it is in force differs between a replay and the first time.
//
// The highest bit marks events with an id of their own. They have 32 bits of
// the id's hash, so that how often an id occurred can be counted, and 31 of the
// rest; the others have 63 bits of type and data.
type print uint64

const ownIDBit print = 1 << 63

// printSeed makes prints hard to predict: no upstream shall be able to send an
// event that is taken for another.
var printSeed = maphash.MakeSeed()

func printOf(ev *sse.Event) print {
	content := maphash.Bytes(printSeed, ev.Data)
	if len(ev.Type) > 0 {
		content ^= ofType(maphash.Bytes(printSeed, ev.Type))
	}
	if !hasOwnID(ev) {
		return print(content >> 1)
	}
	return ownPrint(maphash.Bytes(printSeed, ev.ID), content)
}

// stablePrintOf is printOf for a stream whose log outlives the process: the
// same event has the same print in another one.
func stablePrintOf(ev *sse.Event) print {
	content := xxhash.Sum64(ev.Data)
	if len(ev.Type) > 0 {
		content ^= ofType(xxhash.Sum64(ev.Type))
	}
	if !hasOwnID(ev) {
		return print(content >> 1)
	}
	return ownPrint(xxhash.Sum64(ev.ID), content)
}

// ofType is a type's part of the hash of an event's content: rotated, lest type
// and data could be exchanged.
func ofType(hash uint64) uint64 { return bits.RotateLeft64(hash, 29) }

// ownPrint is the print of an event with an id of its own.
func ownPrint(id, content uint64) print {
	return ownIDBit | print(id>>32)<<31 | print(content>>33)
}

// id returns the part of the print that stands for the event's own id; false
// if it had none.
func (p print) id() (uint32, bool) {
	return uint32(p >> 31), p&ownIDBit != 0
}

// hasOwnID reports whether the event's own block had an id.
func hasOwnID(ev *sse.Event) bool {
	return ev.HasID && len(ev.ID) > 0
}
