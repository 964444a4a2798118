package ssefanin

import (
	"hash/maphash"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
)

const (
	// maxNotedID is the longest upstream id, in bytes, that a gap event can carry.
	maxNotedID = 256

	// maxForgotten is how many ids of evicted events one append forgets at most,
	// some 100 µs of work: a segment that is evicted can have 64k of them.
	maxForgotten = 1 << 10
)

// streamLog is a stream's log, and what kind of ids its events carry. With
// `ids upstream` it also finds events by the upstream's id.
type streamLog struct {
	memory  *eventlog.Log // what clients read from
	ids     string
	durable *durable // where the log is kept besides memory; nil: nowhere
	values  lastValues

	// next is the log that came after this one; readers go through all of
	// them. Nil for the hub's current one.
	next atomic.Pointer[streamLog]

	// ended: the store has lost what this log has from some offset on, and goes on
	// in the next one.
	ended atomic.Bool

	// begins is the offset from which on readers of the log before go on in this
	// one. What is before it was there already. Stored before ready tells so.
	begins atomic.Uint64

	// earlier is when the newest event arrived that the stream had in the log before
	// this one and not in this one, Unix ms; 0: there is none. Stored before ready
	// tells so.
	earlier atomic.Int64

	// mu makes appending an event and noting its id one step.
	mu       sync.Mutex        // protects the fields below
	byID     map[uint64]uint64 // offset of the event that brought an id last, by the id's hash
	noted    []notedID         // the events that brought a new id, oldest first; some may be evicted
	lastHash uint64            // of the id in force
	lastID   string            // the id in force, empty if it is too long
	hasLast  bool
	evicted  string // the id in force before the oldest noted one
}

// notedID is an event that brought an id.
type notedID struct {
	offset uint64
	hash   uint64
	id     string // empty if too long
}

func newStreamLog(o eventlog.Options, ids string) *streamLog {
	l := &streamLog{memory: eventlog.New(o), ids: ids, byID: make(map[uint64]uint64)}
	l.begins.Store(1)
	l.values.init(l)
	return l
}

// ready reports whether positions in the log are known. A log that is kept
// besides memory has to be read first.
func (l *streamLog) ready() bool { return l.durable == nil || l.durable.loaded.Load() }

// takesEvents reports whether the sources are to be connected: the log can be
// written, or this node stands by.
func (l *streamLog) takesEvents() bool {
	d := l.durable
	switch {
	case d == nil:
		return true
	case d.writing.Load():
		return !d.held.Load()
	default:
		return d.loaded.Load() && d.standsBy()
	}
}

// shared reports whether several nodes serve the log.
func (l *streamLog) shared() bool { return l.durable != nil && l.durable.shared() }

// outOfReach reports whether other nodes may know more of the log than this one can
// at present.
func (l *streamLog) outOfReach() bool {
	return l.shared() && (!l.ready() || l.durable.watched().stalled)
}

// noteEarlier notes that the stream had another log before this one, which has
// none of its events.
func (l *streamLog) noteEarlier(before *streamLog) {
	l.earlier.Store(max(before.memory.Newest(), before.earlier.Load()))
}

// first returns the offset of the oldest event that can be had, from memory or
// from where the log is kept besides.
func (l *streamLog) first() uint64 {
	if l.durable == nil || l.ended.Load() || l.durable.older.over() {
		return l.memory.Tail()
	}
	return min(l.durable.first(), l.memory.Tail())
}

// following returns the log in which readers of this one go on; nil if there is
// none. One that another has followed before it was ready is passed over.
func (l *streamLog) following() *streamLog {
	if l.durable != nil && !l.durable.over.Load() && !l.ended.Load() {
		return nil // what was handed over to the store is still to come
	}
	next := l.next.Load()
	for next != nil && !next.ready() && next.next.Load() != nil {
		next = next.next.Load()
	}
	return next
}

// after is After, with the events that memory no longer holds.
func (l *streamLog) after(c eventlog.Cursor) (next uint64, state eventlog.CursorState) {
	next, state = l.memory.After(c)
	if state != eventlog.Expired || l.durable == nil {
		return next, state
	}
	if first := l.first(); c.Offset+1 < first {
		return first, eventlog.Expired
	}
	return c.Offset + 1, eventlog.Known
}

// last returns the offset of the first of the newest n events that can be had.
func (l *streamLog) last(n uint64) uint64 {
	next, missing := l.memory.Last(n)
	if l.durable == nil || missing == 0 {
		return next
	}
	return next - min(missing, next-l.first())
}

// close ends what the log has besides memory, and waits for it. It is called
// without the locks of hub and inputs.
func (l *streamLog) close() {
	if l.durable != nil {
		l.durable.end()
	}
}

// resumable reports whether clients can come back with an id.
func (l *streamLog) resumable() bool { return l.ids != idsNone }

// append appends an event. typ is its type as clients get it; id is the upstream's id
// in force, which counts with `ids upstream` only: body has its line then.
func (l *streamLog) append(now time.Time, tag uint32, typ, body, id []byte) {
	l.values.append(now, tag, typ, body, id)
}

// store appends an event to the log in memory. It is for append.
func (l *streamLog) store(now time.Time, tag uint32, body, id []byte) (offset uint64, stored []byte) {
	if l.ids == idsUpstream {
		return l.appendWithID(now, tag, body, id)
	}
	return l.memory.Append(now, tag, body)
}

// expire evicts what is older than the log's bound on age.
func (l *streamLog) expire(now time.Time) {
	l.memory.Expire(now)
	l.values.passed()
}

// adjust changes the bounds, and which last values are kept.
func (l *streamLog) adjust(o eventlog.Options, values *lastValueDef) {
	l.memory.SetOptions(o)
	l.values.passed()
	if l.values.adjust(values) && l.durable != nil {
		l.durable.keeping.hasten()
	}
}

// appendWithID appends an event that carries the upstream's id. The id of an
// event that brought none of its own is the one before it: a client that has
// it is resumed after the event that brought it, as the upstream would do.
func (l *streamLog) appendWithID(now time.Time, tag uint32, body, id []byte) (offset uint64, stored []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	offset, stored = l.memory.Append(now, tag, body)
	hash := maphash.Bytes(tagSeed, id)
	if !l.hasLast || hash != l.lastHash {
		n := notedID{offset: offset, hash: hash}
		if len(id) <= maxNotedID {
			n.id = string(id)
		}
		l.noted = append(l.noted, n)
		l.byID[hash] = offset
		l.lastHash, l.lastID, l.hasLast = hash, n.id, true
	}
	l.forgetLocked()
	return offset, stored
}

// forgetLocked forgets ids of evicted events. A client that has the event before
// the oldest retained one has missed nothing, so that one is kept.
func (l *streamLog) forgetLocked() {
	tail := l.memory.Tail()
	for range maxForgotten {
		if len(l.noted) == 0 || l.noted[0].offset+1 >= tail {
			return
		}
		n := l.noted[0]
		l.noted[0] = notedID{} // its id may be long
		l.noted = l.noted[1:]
		l.evicted = n.id
		if l.byID[n.hash] == n.offset {
			delete(l.byID, n.hash)
		}
	}
}

// afterID returns the offset after the event that brought an id.
func (l *streamLog) afterID(id string) (next uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	offset, ok := l.byID[maphash.String(tagSeed, id)]
	if !ok || offset+1 < l.memory.Tail() {
		return 0, false
	}
	return offset + 1, true
}

// idBefore returns the id in force before an offset; empty if there is none,
// or none is known.
func (l *streamLog) idBefore(next uint64) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := sort.Search(len(l.noted), func(i int) bool { return l.noted[i].offset >= next })
	if n == 0 {
		return l.evicted
	}
	return l.noted[n-1].id
}

// newest calls each with the newest n events, oldest first: as stored, with the
// time of arrival in Unix ms. Events evicted meanwhile are left out.
func (l *streamLog) newest(n uint64, each func(stored []byte, arrived int64)) {
	next, _ := l.memory.Last(n)
	reader := l.memory.NewReader(next)
	for n > 0 {
		stored, _, err := reader.Next(1) // one event
		if stored == nil || err != nil {
			return
		}
		if len(stored) == 0 {
			continue // offsets that no event has
		}
		each(stored, reader.Arrived())
		n--
	}
}
