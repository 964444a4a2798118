// Package eventlog keeps the retained log of one stream.
//
// Events are stored once, already encoded, in append-only segments. A client is
// a Reader: a position in the log, without a queue and without a copy of
// anything. What a client costs is therefore independent of how slow it is; one
// that falls behind what the log retains is told so (ErrOvertaken) and goes on.
package eventlog

import (
	"math"
	"math/bits"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// The largest event in bytes. Positions within a segment are 32 bits, and an
// id line is at most 4 + 40 + 1.
const maxBody = math.MaxUint32 - (4 + maxCursorLen + 1)

// Options are a log's bounds. Whichever is reached first evicts the oldest
// events.
type Options struct {
	// How many events are retained. 0 is no bound.
	MaxEvents int

	// How many bytes of memory the retained events may take, with the unused
	// ends of segments and the index. Only an event that is larger than that
	// on its own is over it: the newest is always kept. Events are dropped by
	// whole segments of about a sixteenth of the bound at most.
	MaxBytes int64

	// How long an event is retained. 0 is no bound.
	MaxAge time.Duration

	// Write "id: <cursor>\n" before every event. Fixed for the log's life.
	IDs bool
}

// CursorState is what After found out about a cursor.
type CursorState uint8

const (
	// Unknown: the cursor is of another epoch.
	Unknown CursorState = iota
	// Known: everything after the cursor is retained.
	Known
	// Expired: some of what comes after the cursor has been evicted.
	Expired
	// Ahead: the cursor is beyond the log's end. Where the log is fed from a
	// store, that may be because it has not got there yet.
	Ahead
)

func (s CursorState) String() string {
	switch s {
	case Known:
		return "known"
	case Expired:
		return "expired"
	case Ahead:
		return "ahead"
	default:
		return "unknown"
	}
}

// Stats describe a log at one instant.
type Stats struct {
	Head   uint64    // offset of the newest event, 0 if there never was one
	Tail   uint64    // offset of the oldest retained event, Head+1 if there is none
	Events uint64    // retained
	Bytes  int64     // of the retained events, ids included
	Memory int64     // what counts against MaxBytes
	Oldest time.Time // arrival of the oldest retained event, zero if there is none
	Newest time.Time // arrival of the newest retained event, zero if there is none
}

// Log is the retained log of one stream. All its methods are safe for
// concurrent use. None waits for a reader, calls back or does any I/O.
//
// Appending, eviction and positioning take turns under mu. Reading does not
// take part: Readers take mu only to move from one segment to another.
type Log struct {
	ids      bool
	appended chan struct{}

	// Changed under mu, read without.
	head atomic.Uint64 // offset of the newest event
	tail atomic.Uint64 // offset of the oldest retained event, else head+1

	mu        sync.Mutex // protects what follows, and the writing to segments
	epochs    []logstore.Epoch
	maxEvents uint64
	maxBytes  int64
	maxAge    int64      // ms, 0 is no bound
	maxCap    int        // largest capacity of a shared segment, a power of two
	nextCap   int        // capacity of the next shared segment, a power of two
	segments  []*segment // oldest first, without holes; none is empty
	payload   int64      // committed bytes in segments
	memory    int64      // cost of segments
	newest    int64      // arrival of the newest event, Unix ms; outlives it
	dropped   int64      // as evictedLocked, for the segments that are gone
	evicted   evictions
	taken     []stretch // offsets that no event has, oldest first; some may be evicted
}

// stretch is a row of offsets.
type stretch struct{ first, last uint64 }

// New returns an empty log with a new random epoch.
func New(o Options) *Log {
	l := &Log{
		ids:    o.IDs,
		epochs: []logstore.Epoch{{ID: logstore.NewEpochID(), First: 1}},
		// One signal says "there is something"; more would say the same.
		appended: make(chan struct{}, 1),
		nextCap:  firstSegment,
		dropped:  noneEvicted,
	}
	l.tail.Store(1)
	l.SetOptions(o)
	return l
}

// Restore has the log go on where a store is: next is the offset of the event
// that is appended next, epochs are the store's, one at least. What the log
// retained is dropped; readers of it are overtaken. When what is before next
// arrived is not known.
func (l *Log) Restore(epochs []logstore.Epoch, next uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epochs = slices.Clone(epochs)
	l.segments, l.payload, l.memory, l.taken = nil, 0, 0, nil
	l.dropped = noneEvicted
	if next > 1 {
		l.dropped = anyEvicted
	}
	l.evicted.restart(next)
	l.head.Store(next - 1)
	l.tail.Store(next)
}

// Epoch returns the random id of the log's present incarnation.
func (l *Log) Epoch() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epochs[len(l.epochs)-1].ID
}

// epochLocked returns the id of the epoch that an offset is of.
func (l *Log) epochLocked(offset uint64) string {
	if newest := &l.epochs[len(l.epochs)-1]; offset >= newest.First {
		return newest.ID // as for every event that is appended
	}
	if e, ok := logstore.EpochAt(l.epochs, offset); ok {
		return e.ID
	}
	return l.epochs[0].ID
}

// SetOptions changes the bounds and evicts what they no longer allow. For want
// of a clock, a new MaxAge is at first applied as of the newest event's arrival;
// Expire does the rest. IDs is ignored.
func (l *Log) SetOptions(o Options) {
	l.mu.Lock()
	defer l.mu.Unlock()

	l.maxEvents = math.MaxUint64
	if o.MaxEvents > 0 {
		l.maxEvents = uint64(o.MaxEvents)
	}
	l.maxBytes = max(o.MaxBytes, 1)
	l.maxAge = 0
	if o.MaxAge > 0 {
		// Rounded up, so that a bound below 1ms is not taken for no bound.
		l.maxAge = (o.MaxAge - 1).Milliseconds() + 1
	}
	l.maxCap = maxSegment
	if share := l.maxBytes / segmentsPerLog; share < maxSegment {
		// A power of two is what the allocator hands out without rounding.
		l.maxCap = max(minSegment, 1<<bits.Len64(uint64(share))>>1)
	}
	l.nextCap = min(l.nextCap, l.maxCap)

	l.evictLocked(l.newest)
	l.shrinkLocked()
}

// Options returns the log's bounds.
func (l *Log) Options() Options {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := Options{
		MaxBytes: l.maxBytes,
		MaxAge:   time.Duration(l.maxAge) * time.Millisecond,
		IDs:      l.ids,
	}
	if l.maxEvents < math.MaxUint64 {
		o.MaxEvents = int(l.maxEvents)
	}
	return o
}

// Append stores an event, with an id line if the log writes them, and returns
// its offset, and its bytes as they are stored: they never change, and keep the
// segment that they are in alive for as long as they are held. body is the encoded event up to and including its blank line; it
// is copied. tag is the caller's, for NextMatching. An arrival before the
// previous event's counts as simultaneous with it. Append panics if body has
// 4 GiB or more; the caller's bound is far below.
func (l *Log) Append(now time.Time, tag uint32, body []byte) (offset uint64, stored []byte) {
	return l.append(now, tag, body, l.ids, false)
}

// Take takes an offset without an event: readers get nothing for it.
func (l *Log) Take(now time.Time) (offset uint64) {
	offset, _ = l.append(now, 0, nil, false, true)
	return offset
}

// noteTakenLocked notes that no event has an offset, the newest.
func (l *Log) noteTakenLocked(offset uint64) {
	tail := l.tail.Load()
	l.taken = slices.DeleteFunc(l.taken, func(s stretch) bool { return s.last < tail })
	if n := len(l.taken); n > 0 && l.taken[n-1].last+1 == offset {
		l.taken[n-1].last = offset
	} else {
		l.taken = append(l.taken, stretch{offset, offset})
	}
}

func (l *Log) append(now time.Time, tag uint32, body []byte, withID, taken bool) (offset uint64, stored []byte) {
	if uint64(len(body)) > maxBody {
		panic("eventlog: appending an event of 4 GiB or more")
	}
	var line [4 + maxCursorLen + 1]byte
	id := line[:0]

	l.mu.Lock()
	offset = l.head.Load() + 1
	l.newest = max(l.newest, millis(now))
	if withID {
		id = l.appendIDLocked(id, offset, l.newest)
	}
	size := len(id) + len(body)
	stored = l.reserveLocked(offset, size).append(id, body, tag, l.newest)
	l.payload += int64(size)
	l.head.Store(offset)
	if taken {
		l.noteTakenLocked(offset)
	}
	l.evictLocked(l.newest)
	l.mu.Unlock()

	select {
	case l.appended <- struct{}{}:
	default:
	}
	return offset, stored
}

// appendIDLocked appends an event's id line.
func (l *Log) appendIDLocked(dst []byte, offset uint64, t int64) []byte {
	dst = append(dst, "id: "...)
	dst = Cursor{Epoch: l.epochLocked(offset), Offset: offset, Time: t}.AppendTo(dst)
	return append(dst, '\n')
}

// Appended returns the channel that is signalled after events were appended;
// one signal may stand for many. It has capacity 1 and is for one receiver.
func (l *Log) Appended() <-chan struct{} {
	return l.appended
}

// Expire evicts the events that are older than MaxAge. Append does so too; a
// log that nothing is appended to needs Expire to free its memory.
func (l *Log) Expire(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.evictLocked(millis(now))
}

// Head returns the offset of the newest event, 0 if there never was one.
func (l *Log) Head() uint64 {
	return l.head.Load()
}

// Tail returns the offset of the oldest retained event, Head()+1 if there is
// none.
func (l *Log) Tail() uint64 {
	return l.tail.Load()
}

// Stats returns the log's numbers, consistent with each other.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := Stats{
		Head:   l.head.Load(),
		Tail:   l.tail.Load(),
		Bytes:  l.payload,
		Memory: l.memory,
	}
	st.Events = st.Head + 1 - st.Tail
	if st.Events > 0 {
		oldest := l.segments[0]
		i := int(st.Tail - oldest.base)
		st.Bytes -= int64(oldest.end(i))
		st.Oldest = time.UnixMilli(oldest.entries()[i].time)
		st.Newest = time.UnixMilli(l.newest)
	}
	return st
}

// LastTags returns the tags of the last n retained events, oldest first.
func (l *Log) LastTags(n int) []uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	next, tail := l.head.Load()+1, l.tail.Load()
	var tags []uint32
	for at := next - min(uint64(max(n, 0)), next-tail); at < next; {
		s := l.findLocked(at)
		for _, e := range s.entries()[at-s.base:] {
			tags = append(tags, e.tag)
		}
		at = s.next()
	}
	return tags
}

// After returns the offset of the first event to read for a client with
// cursor c. Known: the event after c. Expired: the oldest retained event.
// Unknown and Ahead: 0, which is for the caller to replace. The client's cursor may be
// forged; the worst it gets is events that are retained anyway.
func (l *Log) After(c Cursor) (next uint64, state CursorState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tail := l.tail.Load()
	switch {
	case !logstore.Good(l.epochs, c.Epoch, c.Offset):
		return 0, Unknown
	case c.Offset > l.head.Load():
		return 0, Ahead
	case c.Offset+1 < tail:
		return tail, Expired
	default:
		return c.Offset + 1, Known
	}
}

// Since returns the offset of the first retained event that arrived at t (Unix
// ms) or later, Head()+1 if there is none. all reports whether every event that
// arrived at t or later is still retained; false also where that is not known,
// see Restore. An offset without an event counts as one.
func (l *Log) Since(t int64) (next uint64, all bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next = l.sinceLocked(t)
	return next, next > l.tail.Load() || l.evictedLocked() < max(t, 0)
}

// Newest returns when the newest event arrived, retained or not, in Unix ms; 0 if
// nothing has been appended.
func (l *Log) Newest() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest
}

// Last returns the offset of the first of the last n retained events, Head()+1
// for n = 0, and how many of the n there are not.
func (l *Log) Last(n uint64) (next, missing uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next = l.head.Load() + 1
	tail := l.tail.Load()
	for _, s := range slices.Backward(l.taken) {
		if s.last < tail || next-(s.last+1) >= n {
			break
		}
		n -= next - (s.last + 1)
		next = max(s.first, tail)
	}
	found := min(n, next-tail)
	return next - found, n - found
}

// CursorBefore returns the cursor that After answers with next. It carries the
// arrival of the event at next if that is retained, else now, so that another
// log, too, resumes with that event.
func (l *Log) CursorBefore(next uint64, now time.Time) Cursor {
	l.mu.Lock()
	defer l.mu.Unlock()
	head := l.head.Load()
	next = min(max(next, 1), head+1)
	c := Cursor{Epoch: l.epochLocked(next), Offset: next - 1, Time: millis(now)}
	if next >= l.tail.Load() && next <= head {
		s := l.findLocked(next)
		c.Time = s.entries()[next-s.base].time
	}
	return c
}

// findLocked returns the segment of a retained event.
func (l *Log) findLocked(offset uint64) *segment {
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].base > offset })
	return l.segments[i-1]
}

func (l *Log) sinceLocked(t int64) uint64 {
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].lastTime() >= t })
	if i == len(l.segments) {
		return l.head.Load() + 1
	}
	s := l.segments[i]
	return max(l.tail.Load(), s.base+uint64(s.sinceTime(t)))
}
