// Package lastvalue keeps the newest event of each key of a stream, beyond what
// the stream's log retains.
//
// A key is a source, a type and a value in the event's data. A Snapshot is all
// values at one position of the log: a client that has it and every event from
// there on knows the present value of each key.
package lastvalue

import (
	"cmp"
	"math"
	"slices"
	"unsafe"
)

// Value is the newest event of a key. It is immutable.
type Value struct {
	Offset uint64
	Tag    uint32 // its source and type
	Key    string // see Pointer.Scalar; empty: it has none
	Event  []byte // as the log has it
}

// entryCost is what a value takes besides its event and its key: the entry 32, the
// value 56, its slot in the map 40 and what the map has free, an eighth at least
// and a half after it has grown.
const entryCost = int64(unsafe.Sizeof(entry{})+unsafe.Sizeof(Value{})) + 80

// NoOffset is beyond every offset.
const NoOffset = math.MaxUint64

// entry is a key's place in the list.
type entry struct {
	value      *Value
	prev, next *entry
	copied     bool // the event's bytes are its own
}

// id identifies a key: the tag has the source and the type.
type id struct {
	tag uint32
	key string
}

// Bounds say how many values are kept. Whichever is reached first, the least
// recently changed ones go.
type Bounds struct {
	Max   int
	Bytes int64 // of Memory
}

// Values are the last values of one log. Not safe for concurrent use, but for the
// Snapshots.
//
// They are in a list in the order of their offsets, the least recently changed
// first. The bytes of an event belong to the log as long as it retains the event;
// when its tail has passed the event they are copied, so that no segment of the log
// stays in memory for a few values. Since the tail passes them in the list's order,
// only the first that is not copied has to be looked at.
type Values struct {
	bounds  Bounds
	byID    map[id]*entry
	head    *entry // the oldest
	tail    *entry // the newest
	fresh   *entry // the oldest whose event is the log's
	memory  int64
	evicted uint64

	snapshot *Snapshot // of the values as they are; nil: there is none yet
}

// Snapshot is all values at one position of a log, in the order of their offsets.
// It is immutable.
type Snapshot struct {
	values []*Value
}

// New returns no values.
func New(b Bounds) *Values {
	return &Values{bounds: b, byID: make(map[id]*entry)}
}

// Put makes an event the newest of its key. Its offset is above all before. The
// event's bytes are kept as they are: they belong to the log, which never changes
// them. key is copied. It costs one hash.
func (v *Values) Put(offset uint64, tag uint32, key, event []byte) {
	v.snapshot = nil
	value := &Value{Offset: offset, Tag: tag, Event: event}
	e := v.byID[id{tag, string(key)}]
	if e == nil {
		e = new(entry)
		value.Key = string(key)
		v.byID[id{tag, value.Key}] = e
		v.memory += entryCost + int64(len(key))
	} else {
		value.Key = e.value.Key
		v.unlink(e)
	}
	e.value = value
	v.link(e)
	v.evict()
}

// link appends an entry whose event is the log's.
func (v *Values) link(e *entry) {
	e.prev, e.next, e.copied = v.tail, nil, false
	if v.tail != nil {
		v.tail.next = e
	} else {
		v.head = e
	}
	v.tail = e
	if v.fresh == nil {
		v.fresh = e
	}
}

// unlink takes an entry from the list.
func (v *Values) unlink(e *entry) {
	if v.fresh == e {
		v.fresh = e.next
	}
	if e.copied {
		v.memory -= int64(len(e.value.Event))
	}
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		v.head = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		v.tail = e.prev
	}
}

func (v *Values) remove(e *entry) {
	v.snapshot = nil
	v.unlink(e)
	v.memory -= entryCost + int64(len(e.value.Key))
	delete(v.byID, id{e.value.Tag, e.value.Key})
}

// evict applies the bounds.
func (v *Values) evict() {
	for v.head != nil && (len(v.byID) > v.bounds.Max || v.memory > v.bounds.Bytes) {
		v.remove(v.head)
		v.evicted++
	}
}

// Passed copies the events that the log does not retain any more: tail is the
// offset of the oldest that it does. It costs something once for each of them.
func (v *Values) Passed(tail uint64) {
	if v.fresh == nil || v.fresh.value.Offset >= tail {
		return
	}
	v.snapshot = nil // it would keep segments alive
	for e := v.fresh; e != nil && e.value.Offset < tail; e = e.next {
		own := *e.value
		own.Event = slices.Clone(own.Event)
		e.value = &own
		e.copied = true
		v.memory += int64(len(e.value.Event))
		v.fresh = e.next
	}
	v.evict()
}

// Fresh returns the offset of the oldest event whose bytes are the log's; NoOffset
// if there is none.
func (v *Values) Fresh() uint64 {
	if v.fresh == nil {
		return NoOffset
	}
	return v.fresh.value.Offset
}

// Clear drops all values. Those dropped by the bounds stay counted.
func (v *Values) Clear() {
	*v = Values{bounds: v.bounds, byID: make(map[id]*entry), evicted: v.evicted}
}

// SetBounds changes the bounds, and applies them.
func (v *Values) SetBounds(b Bounds) {
	v.bounds = b
	v.evict()
}

// Forget drops the values that keep does not accept.
func (v *Values) Forget(keep func(*Value) bool) {
	for e := v.head; e != nil; {
		next := e.next
		if !keep(e.value) {
			v.remove(e)
		}
		e = next
	}
}

// Retag gives values other tags, those of their sources by other names, and drops the
// values that change has none for. All change at once, so tags may be exchanged. Of values
// that become the same one, the newest stays.
func (v *Values) Retag(change func(*Value) (to uint32, keep bool)) {
	v.Forget(func(value *Value) bool { _, keep := change(value); return keep })
	var changed []*entry
	for e := v.head; e != nil; e = e.next {
		tag, _ := change(e.value)
		if tag == e.value.Tag {
			continue
		}
		delete(v.byID, id{e.value.Tag, e.value.Key})
		retagged := *e.value
		retagged.Tag = tag
		e.value = &retagged
		changed = append(changed, e)
	}
	for _, e := range changed {
		v.snapshot = nil
		key := id{e.value.Tag, e.value.Key}
		other := v.byID[key]
		if other != nil && other.value.Offset > e.value.Offset {
			e, other = other, e
		}
		if other != nil {
			v.remove(other)
		}
		v.byID[key] = e
	}
}

// Snapshot returns the values as they are: the same one until one of them changes.
func (v *Values) Snapshot() *Snapshot {
	if v.snapshot == nil {
		v.snapshot = &Snapshot{make([]*Value, 0, len(v.byID))}
		for e := v.head; e != nil; e = e.next {
			v.snapshot.values = append(v.snapshot.values, e.value)
		}
	}
	return v.snapshot
}

// Is reports whether a snapshot has the values as they are.
func (v *Values) Is(s *Snapshot) bool { return v.snapshot == s }

// Between returns the values of the events from offset from on and before offset to.
func (s *Snapshot) Between(from, to uint64) []*Value {
	at := func(offset uint64) int {
		n, _ := slices.BinarySearchFunc(s.values, offset, func(v *Value, offset uint64) int { return cmp.Compare(v.Offset, offset) })
		return n
	}
	return s.values[at(from):max(at(from), at(to))]
}

// Stats describe the values at one instant.
type Stats struct {
	Values  int
	Memory  int64  // that they take on top of the log's
	Evicted uint64 // by the bounds, so far
}

// Stats returns the numbers.
func (v *Values) Stats() Stats { return Stats{len(v.byID), v.memory, v.evicted} }
