package eventlog

import (
	"errors"
	"sort"
	"sync/atomic"
	"time"
)

// maxPassed is how many events NextMatching looks at in one go without finding a
// wanted one, some 300 µs of work with the filter's map: what a client wants is
// its own choice, and the writer has others to serve.
const maxPassed = 16 << 10

// ErrOvertaken is returned by a Reader whose next event has been evicted.
var ErrOvertaken = errors.New("position in the log was evicted")

// Reader is one client's position in a log. It is used by one goroutine, except
// for Position, which any may call. It needs no closing: the log does not know
// its readers. It keeps one segment of the log alive, the one it last read from.
//
// What it returns belongs to the log and is shared by all readers: it must not
// be modified, and stays as it is for as long as it is held.
type Reader struct {
	log *Log
	seg *segment // holds the event at next, or the one before it; nil: to be looked up
	pos uint32   // where in seg the event at next begins

	next atomic.Uint64 // stored by the owner only
}

// NewReader returns a reader of the log. See Reader.Begin.
func (l *Log) NewReader(next uint64) *Reader {
	r := new(Reader)
	r.Begin(l, next)
	return r
}

// Begin makes the reader, a new one or that of another log, one of a log whose
// first event is the one at next, an offset from After, Since, Last or Tail. Where
// that is evicted, reading begins with ErrOvertaken; where it is beyond the log's
// end, it is taken for the end.
func (r *Reader) Begin(l *Log, next uint64) {
	r.log, r.seg = l, nil
	r.next.Store(min(max(next, 1), l.head.Load()+1))
}

// Position returns the offset of the next event. Safe for concurrent use.
func (r *Reader) Position() uint64 {
	return r.next.Load()
}

// Next returns the events at the position in one piece, as many as fit into limit
// bytes but at least one, and moves on. A piece never spans segments, so there
// may be more at once. A nil chunk without an error: the reader has caught up.
// ErrOvertaken: the position is evicted and stays where it is; call Skip.
func (r *Reader) Next(limit int) (chunk []byte, events int, err error) {
	first, committed, end, err := r.locate()
	if committed == first || err != nil {
		return nil, 0, err
	}
	if int64(end-r.pos) > int64(limit) {
		committed, end = r.cut(first, committed, limit)
	}
	return r.take(end), r.advance(committed-first, end), nil
}

// NextMatching is Next for a client that wants only the events that want accepts,
// by their tag and by what is stored of them: a piece is a run of wanted events without an unwanted one between
// them. Unwanted events are passed over, also where it returns nil because
// nothing wanted is left, or because it has passed over many and more are to be
// looked at: the position is not beyond the log's head then. want is called
// without a lock, and must give the same answer when it is asked about an event
// again.
func (r *Reader) NextMatching(limit int, want func(tag uint32, stored []byte) bool) (chunk []byte, events int, err error) {
	for passed := 0; passed < maxPassed; {
		first, committed, _, err := r.locate()
		if committed == first || err != nil {
			return nil, 0, err
		}
		index := (*r.seg.index.Load())[:committed]
		start := first
		begin := r.pos
		for start < committed && !want(index[start].tag, r.seg.buf[begin:index[start].end]) {
			begin = index[start].end
			start++
		}
		if start > first {
			passed += r.advance(start-first, r.seg.end(start))
		}
		if start == committed {
			continue
		}
		stop := start + 1
		for stop < committed && int64(index[stop].end-r.pos) <= int64(limit) && want(index[stop].tag, r.seg.buf[index[stop-1].end:index[stop].end]) {
			stop++
		}
		end := index[stop-1].end
		return r.take(end), r.advance(stop-start, end), nil
	}
	return nil, 0, nil
}

// Scan calls each with the events at the position, limit at most, as they are
// stored, and moves on. It returns how many there were; 0 without an error: the
// reader has caught up. There may be more at once. each is called without a lock.
func (r *Reader) Scan(limit int, each func(offset uint64, tag uint32, stored []byte)) (events int, err error) {
	first, committed, _, err := r.locate()
	if committed == first || err != nil {
		return 0, err
	}
	stop := min(committed, first+limit)
	begin := r.pos
	for i, e := range (*r.seg.index.Load())[first:stop] {
		each(r.seg.base+uint64(first+i), e.tag, r.seg.buf[begin:e.end])
		begin = e.end
	}
	return r.advance(stop-first, begin), nil
}

// Cursor returns the cursor of a client that has everything before the position;
// see Log.CursorBefore.
func (r *Reader) Cursor(now time.Time) Cursor {
	next := r.next.Load()
	c := r.log.CursorBefore(next, now)
	if r.seg != nil && r.seg.apart && next >= r.seg.base && next < r.seg.next() {
		c.Time = r.seg.entries()[next-r.seg.base].time
	}
	return c
}

// Arrived returns when the event before the position arrived, in Unix ms. It is
// for after Next or NextMatching has returned events; otherwise it may be 0.
func (r *Reader) Arrived() int64 {
	if r.seg == nil {
		return 0
	}
	i := int64(r.next.Load()) - 1 - int64(r.seg.base)
	if entries := r.seg.entries(); i >= 0 && i < int64(len(entries)) {
		return entries[i].time
	}
	return 0
}

// Skip moves an overtaken reader to the oldest retained event, or to the end if
// nothing is retained, and returns how many events it missed; 0 if it was not
// overtaken.
func (r *Reader) Skip() (missed uint64) {
	next := r.next.Load()
	tail := r.log.tail.Load()
	if tail <= next {
		return 0
	}
	r.next.Store(tail)
	r.seg = nil
	return tail - next
}

// locate makes sure that the reader stands in the segment of its next event.
// It returns the event's number in that segment, and how many events and bytes
// are committed there. first == committed: the reader has caught up.
func (r *Reader) locate() (first, committed int, end uint32, err error) {
	next := r.next.Load()
	if r.seg != nil {
		events, bytes := r.seg.load()
		first, committed = int(next-r.seg.base), int(events)
		if first < committed {
			// Loaded after committed, so whatever was evicted before these
			// events were appended is seen as evicted.
			if r.log.tail.Load() > next && !r.seg.apart {
				return 0, 0, 0, ErrOvertaken
			}
			return first, committed, bytes, nil
		}
	}
	// The head is stored after the segment's events are committed and before
	// the append is signalled: who comes for a signal does not stop here.
	if next > r.log.head.Load() {
		return 0, 0, 0, nil
	}
	if !r.seek(next) {
		return 0, 0, 0, ErrOvertaken
	}
	events, bytes := r.seg.load()
	return int(next - r.seg.base), int(events), bytes, nil
}

// seek looks up the segment of the event at next, which is not beyond the head.
// False: it is evicted.
func (r *Reader) seek(next uint64) bool {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	if next < r.log.tail.Load() {
		return false
	}
	r.seg = r.log.findLocked(next)
	r.pos = r.seg.end(int(next - r.seg.base))
	return true
}

// cut returns how many events from the segment's beginning end within limit bytes
// of the position, at least first+1, and where they end.
func (r *Reader) cut(first, committed, limit int) (stop int, end uint32) {
	index := (*r.seg.index.Load())[first:committed]
	n := sort.Search(len(index), func(i int) bool { return int64(index[i].end-r.pos) > int64(limit) })
	if n == 0 {
		n = 1
	}
	return first + n, index[n-1].end
}

// take returns the bytes from the position to end, capped so that appending to
// them copies.
func (r *Reader) take(end uint32) []byte {
	return r.seg.buf[r.pos:end:end]
}

// advance moves the position by events that end at end.
func (r *Reader) advance(events int, end uint32) int {
	r.pos = end
	r.next.Add(uint64(events))
	return events
}
