package ssefanin

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/lastvalue"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// lastValues are the last values of a stream's log. The streamLog owns them.
//
// Safe for concurrent use.
type lastValues struct {
	log     *streamLog
	tags    *tags          // of the hub
	evicted *atomic.Uint64 // counts the values that the bounds drop

	// Changed under mu, read without.
	def   atomic.Pointer[lastValueDef] // nil: none are kept
	until atomic.Uint64                // where the log's tail may be without passed having anything to do

	// mu makes appending an event of a wanted type and noting it one step: whoever
	// holds it finds every such event that is in the log noted.
	mu      sync.Mutex // protects the fields below; taken before streamLog.mu
	values  *lastvalue.Values
	counted uint64         // of those that the bounds have dropped
	taken   []*takenValues // that clients hold, oldest first

	// restored is the offset up to which the values are known from where the log is
	// kept; it may be beyond the head. doubtful says that some of these were lost there,
	// and older ones may count. missing is the offset from which on values have been
	// noted, where those of the events before are not known; 0: they are.
	restored uint64
	doubtful bool
	missing  uint64

	// renamed are the names that sources were given while the log has events from
	// before, oldest first.
	renamed []renaming

	// keep reports whether values of a source are kept; nil: of all.
	keep func(number uint32) bool
}

func (v *lastValues) init(l *streamLog) {
	v.log, v.evicted = l, new(atomic.Uint64)
	v.values = lastvalue.New(lastvalue.Bounds{})
	v.until.Store(lastvalue.NoOffset)
}

// kept reports whether last values are kept.
func (v *lastValues) kept() bool { return v.def.Load() != nil }

// adjust makes the values those of a definition. Values of types that are new are
// those that the log in memory has. It reports whether the values may be other ones.
func (v *lastValues) adjust(def *lastValueDef) (changed bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old := v.def.Load()
	switch {
	case def == nil && old == nil, def != nil && old != nil && def.same(old):
		return false
	case def == nil:
		v.def.Store(nil)
		v.values.Clear()
	default:
		v.def.Store(def) // before the log is read: see append
		v.values.SetBounds(def.bounds)
		if old == nil || old.text() != def.text() {
			v.reviewLocked(old != nil && old.by == def.by)
		}
	}
	v.changedLocked()
	return true
}

// append has the log store an event. typ is its type as clients get it.
func (v *lastValues) append(now time.Time, tag uint32, typ, body, id []byte) {
	def := v.def.Load()
	if def == nil || !def.wants(typ) {
		v.log.store(now, tag, body, id)
		if v.def.Load() != def {
			v.review() // it may have missed this event
		} else if def != nil {
			v.passed()
		}
		return
	}
	key := v.keyOf(def, tag, body)
	v.mu.Lock()
	defer v.mu.Unlock()
	offset, stored := v.log.store(now, tag, body, id)
	switch {
	case v.def.Load() != def || v.doubtful && offset > v.restored:
		v.reviewLocked(true)
	case offset > v.restored:
		v.values.Put(offset, tag, key, stored)
	}
	v.values.Passed(v.log.memory.Tail())
	v.changedLocked()
}

// passed copies the values of the events that the log has evicted, and revokes snapshots.
// It is cheap if there are none.
func (v *lastValues) passed() {
	if v.log.memory.Tail() <= v.until.Load() {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values.Passed(v.log.memory.Tail())
	v.changedLocked()
}

// changedLocked follows every change of the values.
func (v *lastValues) changedLocked() {
	v.revokeLocked()
	if n := v.values.Stats().Evicted; n != v.counted {
		v.evicted.Add(n - v.counted)
		v.counted = n
	}
}

// review makes the values those that the definition in use has of the values so far
// and of the log in memory.
func (v *lastValues) review() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.reviewLocked(true)
	v.changedLocked()
}

// keyOf returns the key of an event under a tag, as the log has it.
func (v *lastValues) keyOf(def *lastValueDef, tag uint32, event []byte) []byte {
	return def.keyOf(event, tag>>tagTypeBits, v.tags)
}

// reviewLocked is review. sameKeys says that the values so far have the keys that they
// should have.
func (v *lastValues) reviewLocked(sameKeys bool) {
	def := v.def.Load()
	before := v.values.Snapshot()
	v.values.Clear()
	v.restored, v.doubtful = 0, false // what is beyond the head comes with its event
	if def == nil {
		return
	}
	reader := v.log.memory.NewReader(v.log.memory.Tail())
	tail := reader.Position()
	known := before.Between(tail, lastvalue.NoOffset)
	for _, value := range before.Between(0, tail) {
		typ, _ := sse.Encoded(value.Event)
		key := []byte(value.Key)
		if !sameKeys {
			key = v.keyOf(def, value.Tag, value.Event)
		}
		if def.wants(typ) {
			v.values.Put(value.Offset, value.Tag, key, value.Event)
		}
	}
	v.values.Passed(tail)
	for {
		var tag uint32
		event, _, err := reader.NextMatching(1, func(of uint32, _ []byte) bool { tag = of; return true })
		if err != nil {
			reader.Skip() // it is evicted meanwhile
			continue
		}
		if event == nil {
			break
		}
		typ, _ := sse.Encoded(event)
		if len(event) == 0 || !def.wants(typ) {
			continue
		}
		offset, key, keep := reader.Position()-1, v.keyOf(def, tag, event), true
		for len(known) > 0 && known[0].Offset < offset {
			known = known[1:]
		}
		if len(known) > 0 && known[0].Offset == offset {
			tag = known[0].Tag // its source may have been renamed before a restart
		} else {
			tag, keep = v.renamedLocked(offset, tag)
		}
		if keep {
			v.values.Put(offset, tag, key, event)
		}
	}
	v.values.Passed(v.log.memory.Tail())
	v.forgetLocked()
}

// keepSources has the values kept of those sources only that keep accepts, by their
// number, which is called with a lock held.
func (v *lastValues) keepSources(keep func(number uint32) bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keep = keep
	v.forgetLocked()
	v.changedLocked()
}

func (v *lastValues) forgetLocked() {
	if keep := v.keep; keep != nil {
		v.values.Forget(func(value *lastvalue.Value) bool { return keep(value.Tag >> tagTypeBits) })
	}
}

// renameSources has the values of sources be those of other ones: their other names, by
// number. It happens at once, as names may be exchanged. Whoever has a name that another
// one gets, and no other name, has no values any more. from is the log's head before any
// source had its new name; all have it.
func (v *lastValues) renameSources(names map[uint32]uint32, from uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	// Where the log is still read, there are values of events to come.
	r := renaming{names, max(from, v.restored), max(v.log.memory.Head(), v.restored)}
	v.values.Retag(func(value *lastvalue.Value) (uint32, bool) { return r.to(value.Offset, value.Tag) })
	v.noteRenamedLocked(r)
	v.changedLocked()
}

// restore has the values be those that were found. afresh says that the log in memory is
// about to go on elsewhere; otherwise newer ones stay. False: those that were stored are
// too old for these.
func (v *lastValues) restore(found *foundValues, afresh bool) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	var newer []*lastvalue.Value
	if !afresh {
		if found.upTo+1 < v.missing {
			return false
		}
		newer = v.values.Snapshot().Between(found.upTo+1, lastvalue.NoOffset)
	}
	def := v.def.Load()
	v.values.Clear()
	v.restored, v.doubtful, v.missing = found.upTo, found.doubtful, 0
	for i := range found.all {
		value := &found.all[i]
		typ, _ := sse.Encoded(value.event)
		if value.offset <= found.upTo && def != nil && def.wants(typ) {
			tag, key := v.tags.tag(v.tags.stored(value.source), typ), value.key
			if found.rekeyed {
				key = v.keyOf(def, tag, value.event)
			}
			v.values.Put(value.offset, tag, key, value.event)
		}
	}
	v.values.Passed(found.upTo + 1) // they are part of what was read
	v.putLocked(newer)
	if len(newer) > 0 {
		v.values.Passed(v.log.memory.Tail())
	}
	if !afresh && v.doubtful && v.restored <= v.log.memory.Head() {
		v.reviewLocked(true)
	}
	v.forgetLocked()
	v.changedLocked()
	return true
}

// putLocked notes values that another one has had, in the order of their offsets.
func (v *lastValues) putLocked(values []*lastvalue.Value) {
	for _, value := range values {
		v.values.Put(value.Offset, value.Tag, []byte(value.Key), value.Event)
	}
}

// loaded notes that the log in memory has all that the store had.
func (v *lastValues) loaded() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.doubtful {
		v.reviewLocked(true)
	}
	v.forgetLocked()
	v.changedLocked()
}

// inherit takes over the values of the log before, of which this one has lost what
// comes from an offset on.
func (v *lastValues) inherit(before *lastValues, next uint64) {
	before.mu.Lock()
	kept, def, keep, missing := before.values.Snapshot().Between(0, next), before.def.Load(), before.keep, before.missing
	before.mu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.def.Store(def)
	v.tags, v.keep, v.evicted, v.missing = before.tags, keep, before.evicted, missing
	if def != nil {
		v.values.SetBounds(def.bounds)
	}
	v.putLocked(kept)
	v.values.Passed(next)
	v.changedLocked()
}

// goesOn reports whether the values need nothing if the log goes on with another event
// than the next: what is before it is known, or has been missing already.
func (v *lastValues) goesOn(next uint64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.def.Load() == nil || v.missing > 0 || next > v.log.memory.Head() && next <= v.restored+1
}

// lost drops all values if events before an offset have gone from the log before they
// were read: any value may be an old one.
func (v *lastValues) lost(next uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if next <= v.restored+1 {
		return
	}
	v.values.Clear()
	v.restored, v.doubtful, v.missing = 0, false, next
	v.changedLocked()
}

// incomplete reports whether values are missing whose events were never read.
func (v *lastValues) incomplete() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.def.Load() != nil && v.missing > 0
}

// giveUp makes do with the values that there are: nobody has those that are missing.
func (v *lastValues) giveUp() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.missing = 0
}

// take returns the values for a client, and the head of the log at that time; nil if
// none are kept. The client gives them back.
func (v *lastValues) take() (taken *takenValues, head uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.def.Load() == nil {
		return nil, 0
	}
	return v.takeLocked()
}

// between returns the values that a client has taken of the events from offset from on
// and before offset to. False: they were revoked, as the log has evicted the event after
// them.
func (v *lastValues) between(taken *takenValues, from, to uint64) (values []*lastvalue.Value, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if taken.snapshot == nil {
		return nil, false
	}
	return taken.snapshot.Between(from, to), true
}

// snapshot returns the values, and the head of the log at that time; nil if none are kept.
func (v *lastValues) snapshot() (s *lastvalue.Snapshot, head uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.def.Load() == nil {
		return nil, 0
	}
	return v.values.Snapshot(), v.log.memory.Head()
}

// giveBack gives back what take has returned.
func (v *lastValues) giveBack(taken *takenValues) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if taken.clients--; taken.clients == 0 {
		v.taken = slices.DeleteFunc(v.taken, func(other *takenValues) bool { return other == taken })
		v.revokeLocked()
	}
}

// stats returns the numbers.
func (v *lastValues) stats() lastvalue.Stats {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.values.Stats()
}

// status returns the operators' view; nil if none are kept.
func (v *lastValues) status() *valuesStatus {
	def := v.def.Load()
	if def == nil {
		return nil
	}
	st := v.stats()
	return &valuesStatus{Values: st.Values, Memory: st.Memory, Evicted: v.evicted.Load(), Max: def.bounds.Max}
}
