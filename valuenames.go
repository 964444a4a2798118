package ssefanin

import (
	"maps"
	"slices"
)

// This file has the last values follow the names of their sources: the log goes on to
// have the events under the names that these had.

// renaming is how sources were renamed at once.
type renaming struct {
	names map[uint32]uint32 // from number to number
	from  uint64            // offset of the newest event when none had its new name yet
	upTo  uint64            // and when all had
}

// to returns the tag by which an event is a value. False: its source has lost its name to
// another one.
func (r *renaming) to(offset uint64, tag uint32) (now uint32, keep bool) {
	source := tag >> tagTypeBits
	to, renamed := r.names[source]
	given := slices.Contains(slices.Collect(maps.Values(r.names)), source)
	switch {
	case offset > r.upTo, offset > r.from && given, !renamed && !given:
		return tag, true // it has its new name already, or keeps its own
	case renamed:
		return to<<tagTypeBits | tag&tagTypeMask, to != sharedSource
	default:
		return tag, false
	}
}

// noteRenamedLocked notes how sources were renamed, for as long as the log has events from
// before.
func (v *lastValues) noteRenamedLocked(r renaming) {
	tail := v.log.memory.Tail()
	v.renamed = append(slices.DeleteFunc(v.renamed, func(old renaming) bool { return old.upTo < tail }), r)
}

// renamedLocked returns the tag by which an event that the log has is a value. False: its
// source is gone.
func (v *lastValues) renamedLocked(offset uint64, tag uint32) (now uint32, keep bool) {
	for i := range v.renamed {
		if tag, keep = v.renamed[i].to(offset, tag); !keep {
			return 0, false
		}
	}
	return tag, true
}
