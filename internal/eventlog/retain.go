package eventlog

import "math"

// What evictedLocked returns where it cannot be an arrival.
const (
	noneEvicted = -1            // nothing has been evicted
	anyEvicted  = math.MaxInt64 // when it arrived is not known
)

// reserveLocked returns the segment to append the event at offset to, with room
// for it, having evicted what had to go for it.
func (l *Log) reserveLocked(offset uint64, size int) *segment {
	var last *segment
	if n := len(l.segments); n > 0 {
		last = l.segments[n-1]
		if last.fits(size) && l.indexLocked(last) {
			return last
		}
	}
	capacity, entries := l.planLocked(last, size)
	cost := costOf(capacity, entries)
	for l.memory+cost > l.maxBytes && len(l.segments) > 0 {
		l.dropOldestLocked()
	}
	s := newSegment(offset, capacity, entries)
	l.addLocked(s)
	return s
}

// indexLocked makes sure that the newest segment's index has room for one more
// event. False: it must not grow, the event needs another segment.
func (l *Log) indexLocked(last *segment) bool {
	now, grown := last.indexRoom()
	if events, _ := last.load(); int(events) < now {
		return true
	}
	if grown == now {
		return false
	}
	more := int64(grown-now) * entryCost
	for l.memory+more > l.maxBytes && len(l.segments) > 1 {
		l.dropOldestLocked()
	}
	if l.memory+more > l.maxBytes {
		return false
	}
	last.growIndex(grown)
	l.memory += more
	return true
}

// planLocked decides the capacity and the index of a new segment for an event
// of that size. last is the newest segment so far, nil if there is none.
func (l *Log) planLocked(last *segment, size int) (capacity, entries int) {
	// Sharing would waste up to half of the segment. The next one starts small
	// again, or an alternation of large and small events would leave an almost
	// empty segment of the largest capacity behind each large one.
	if size > l.maxCap/2 {
		l.nextCap = min(firstSegment, l.maxCap)
		return size, 1
	}
	if last == nil {
		l.nextCap = min(firstSegment, l.maxCap)
	}
	capacity = l.nextCap
	for capacity < size {
		capacity *= 2
	}
	entries = firstEntries
	if last != nil {
		// As many as the last one would have held at this capacity and an
		// eighth more, which spares most segments from growing their index.
		events, bytes := last.load()
		guess := uint64(capacity) * uint64(events) / uint64(max(bytes, 1))
		entries = int(max(firstEntries, min(guess+guess/8, uint64(capacity))))
	}
	entries = min(entries, maxEntries(capacity))
	if costOf(capacity, entries) > l.maxBytes {
		return size, 1
	}
	l.nextCap = min(2*capacity, l.maxCap)
	return capacity, entries
}

func (l *Log) addLocked(s *segment) {
	l.segments = append(l.segments, s)
	l.memory += s.cost()
}

// shrinkLocked applies the bound on memory after it was lowered.
func (l *Log) shrinkLocked() {
	for l.memory > l.maxBytes && len(l.segments) > 1 {
		l.dropOldestLocked()
	}
	if l.memory <= l.maxBytes || len(l.segments) == 0 {
		return
	}
	// The only segment is over the bound and has the newest event in it, which
	// stays. Readers find its copy when they are through with the original.
	s := l.segments[0]
	short := s.newest(int(l.tail.Load()-s.base), l.maxBytes)
	l.noteEvictedLocked(s, int(short.base-s.base))
	l.tail.Store(short.base)
	l.segments[0] = short
	l.payload = int64(len(short.buf))
	l.memory = short.cost()
}

// evictLocked applies the bounds on events and age.
func (l *Log) evictLocked(now int64) {
	if head := l.head.Load(); head > l.maxEvents {
		l.advanceLocked(head + 1 - l.maxEvents)
	}
	if l.maxAge == 0 || len(l.segments) == 0 {
		return
	}
	oldest := l.segments[0]
	since := now - l.maxAge
	if oldest.entries()[l.tail.Load()-oldest.base].time < since {
		l.advanceLocked(l.sinceLocked(since))
	}
}

// advanceLocked moves the tail up to offset to and drops the segments that are
// wholly below it.
func (l *Log) advanceLocked(to uint64) {
	if to <= l.tail.Load() {
		return
	}
	l.tail.Store(to)
	for len(l.segments) > 0 && l.segments[0].next() <= to {
		l.dropOldestLocked()
	}
}

// dropOldestLocked drops the oldest segment with everything in it. The log
// forgets it entirely; it lives on only as long as readers stand in it.
func (l *Log) dropOldestLocked() {
	s := l.segments[0]
	events, bytes := s.load()
	l.noteEvictedLocked(s, int(events))
	l.payload -= int64(bytes)
	l.memory -= s.cost()
	if next := s.next(); next > l.tail.Load() {
		l.tail.Store(next)
	}
	l.segments[0] = nil
	l.segments = l.segments[1:]
	if len(l.segments) == 0 {
		l.segments = nil
	}
}

// evictedLocked returns when the newest evicted event arrived, in Unix ms. Nothing
// is noted for it when an event is evicted: the oldest segment has it, or it was
// the last one of the segment dropped last.
func (l *Log) evictedLocked() int64 {
	if len(l.segments) > 0 {
		oldest := l.segments[0]
		if gone := l.tail.Load() - oldest.base; gone > 0 {
			return oldest.entries()[gone-1].time
		}
	}
	return l.dropped
}
