package eventlog

import (
	"sort"
	"sync/atomic"
	"unsafe"
)

const (
	// The largest capacity of a segment shared by several events. It is also
	// the most that one blocked client keeps alive beyond the log's bound,
	// events of more than half of it aside.
	maxSegment = 64 << 10

	// The smallest value of the largest capacity, for logs of a few KiB.
	minSegment = 256

	// The capacity of a log's first segment; the next ones double. A thousand
	// logs with a few events each cost 4 MiB, not 64.
	firstSegment = 4 << 10

	// A log has room for this many segments of the largest capacity at least,
	// so that dropping one drops at most a sixteenth of what is retained.
	segmentsPerLog = 16

	// What an event costs in the index: end 4, tag 4, time 8.
	entryCost = int64(unsafe.Sizeof(entry{})) // 16

	// What a segment costs beside its buffer and its index: the struct 48, the
	// header of the index 24, its slot in the log's queue 8, times two because
	// the queue grows by doubling, and 40 for what the allocator rounds up.
	segmentCost = int64(128)

	// Index entries are limited to one for so many bytes of capacity, which
	// makes the index at most as large as the buffer. Events this short do not
	// exist once ids are on.
	bytesPerEntry = 16

	// Index entries of a segment before anything is known about its events.
	firstEntries = 16
)

// segment holds a contiguous run of events: their bytes in buf, one after the
// other, and an entry in the index for each.
//
// One writer at a time (Append holds the log's mutex) fills it in place and
// publishes with the single store of committed; any number of readers use,
// without a lock, what committed covers: buf up to its bytes, the index up to
// its count. Nothing of that ever changes again. A segment points to no other
// segment, so a reader that stands in an evicted one keeps only that one alive.
type segment struct {
	base      uint64        // offset of the first event
	apart     bool          // it is a Run's, which the log does not retain
	buf       []byte        // never grows
	committed atomic.Uint64 // events<<32 | bytes

	// The entries, as long as there is room for. It is replaced by a longer
	// copy before an event is committed that needs it, therefore: load
	// committed first, then index.
	index atomic.Pointer[[]entry]
}

// entry is the index of one event.
type entry struct {
	end  uint32 // position in buf after the event's last byte
	tag  uint32
	time int64 // arrival, Unix ms; never less than the previous event's
}

func newSegment(base uint64, capacity, entries int) *segment {
	s := &segment{base: base, buf: make([]byte, capacity)}
	index := make([]entry, entries)
	s.index.Store(&index)
	return s
}

// cost is what the segment counts in the log's memory bound.
func (s *segment) cost() int64 {
	return costOf(len(s.buf), len(*s.index.Load()))
}

func costOf(capacity, entries int) int64 {
	return int64(capacity) + int64(entries)*entryCost + segmentCost
}

// load returns how many events and bytes are committed.
func (s *segment) load() (events, bytes uint32) {
	word := s.committed.Load()
	return uint32(word >> 32), uint32(word)
}

// next returns the offset after the segment's last committed event.
func (s *segment) next() uint64 {
	return s.base + s.committed.Load()>>32
}

// entries returns the index of the committed events.
func (s *segment) entries() []entry {
	events, _ := s.load()
	return (*s.index.Load())[:events]
}

// end returns the position in buf after the first n events.
func (s *segment) end(n int) uint32 {
	if n == 0 {
		return 0
	}
	return (*s.index.Load())[n-1].end
}

// size returns how many bytes the event numbered i has.
func (s *segment) size(i int) uint32 { return s.end(i+1) - s.end(i) }

// sinceTime returns how many events are older than t.
func (s *segment) sinceTime(t int64) int {
	entries := s.entries()
	return sort.Search(len(entries), func(i int) bool { return entries[i].time >= t })
}

// lastTime returns the newest event's arrival. Segments are never empty.
func (s *segment) lastTime() int64 {
	entries := s.entries()
	return entries[len(entries)-1].time
}

// fits reports whether the buffer has room for size bytes more.
func (s *segment) fits(size int) bool {
	_, bytes := s.load()
	return len(s.buf)-int(bytes) >= size
}

// indexRoom returns how many entries there is room for, and how many after
// growing; equal when the index is at its limit.
func (s *segment) indexRoom() (now, grown int) {
	now = len(*s.index.Load())
	return now, max(now, min(2*now, maxEntries(len(s.buf))))
}

// growIndex makes room for n entries.
func (s *segment) growIndex(n int) {
	index := make([]entry, n)
	copy(index, s.entries())
	s.index.Store(&index)
}

// append stores and publishes one event, and returns its bytes there. The caller
// has made sure of the room.
func (s *segment) append(id, body []byte, tag uint32, t int64) (stored []byte) {
	events, bytes := s.load()
	start := bytes
	bytes += uint32(copy(s.buf[bytes:], id))
	bytes += uint32(copy(s.buf[bytes:], body))
	(*s.index.Load())[events] = entry{end: bytes, tag: tag, time: t}
	s.committed.Store(uint64(events+1)<<32 | uint64(bytes))
	return s.buf[start:bytes:bytes]
}

// newest returns a full segment of exactly the newest events whose cost stays
// within limit, but at least one and none before the event numbered from.
func (s *segment) newest(from int, limit int64) *segment {
	entries := s.entries()
	total := s.end(len(entries))
	first := len(entries) - 1
	for first > from && costOf(int(total-s.end(first-1)), len(entries)-first+1) <= limit {
		first--
	}
	start := s.end(first)
	short := newSegment(s.base+uint64(first), int(total-start), len(entries)-first)
	for _, e := range entries[first:] {
		short.append(nil, s.buf[start:e.end], e.tag, e.time)
		start = e.end
	}
	return short
}

// maxEntries returns the most index entries for a segment of that capacity.
func maxEntries(capacity int) int {
	return max(1, capacity/bytesPerEntry)
}
