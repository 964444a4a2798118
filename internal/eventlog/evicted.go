package eventlog

import (
	"maps"
	"slices"
)

const (
	// The most entries that a log notes of evicted events, some 40 bytes each:
	// 2.5 MiB, but at most about a sixth of what the log may retain.
	maxEvictedTags   = 64 << 10
	bytesPerEvicted  = 256
	leastEvictedTags = 256

	// The most stretches of evicted events that are kept apart, and how many
	// offsets one has at least.
	maxStretches = 64
	leastStretch = 1 << 10
)

// evictions note for each tag the newest event that was evicted from memory, so
// that a client which wants some tags only misses nothing for the others' sake.
//
// Where a store has events that memory no longer holds, they are noted stretch by
// stretch: which of them are gone is found out when somebody asks. The log's mu
// protects them.
type evictions struct {
	apart     bool             // a store may have events of it
	stretches []evictedStretch // oldest first
	length    uint64           // offsets of a stretch, where there are several
	entries   int              // of all stretches

	// unknown is the newest event that has no entry. Its time is 0 if it was
	// evicted before this log began.
	unknown evictedEvent
}

// evictedStretch is a row of evicted events.
type evictedStretch struct {
	first, last evictedEvent
	newest      map[uint32]evictedEvent // by tag
}

// evictedEvent is where an event was, and when it arrived, in Unix ms.
type evictedEvent struct {
	offset uint64
	time   int64
}

// restart forgets what was noted: nothing is known of the events before an offset.
func (v *evictions) restart(next uint64) {
	*v = evictions{apart: true, length: leastStretch, unknown: evictedEvent{offset: next - 1}}
}

// note notes the first n events of a segment, which are evicted. limit is how many
// entries there may be.
func (v *evictions) note(s *segment, n, limit int) {
	entries := s.entries()[:n]
	if n == 0 {
		return
	}
	at := func(i int) evictedEvent { return evictedEvent{s.base + uint64(i), entries[i].time} }
	end := len(v.stretches) - 1
	if end < 0 || v.apart && v.stretches[end].last.offset-v.stretches[end].first.offset >= v.length {
		v.stretches = append(v.stretches, evictedStretch{first: at(0), newest: make(map[uint32]evictedEvent)})
		end++
	}
	stretch := &v.stretches[end]
	stretch.last = at(n - 1)
	before := len(stretch.newest)
	later := -1 // the event noted last
	for i := n - 1; i >= 0; i-- {
		tag := entries[i].tag
		if later >= 0 && entries[later].tag == tag || s.size(i) == 0 {
			continue // a newer one is noted, or there is no event
		}
		if e := at(i); stretch.newest[tag].offset < e.offset {
			stretch.newest[tag] = e
		}
		later = i
	}
	v.entries += len(stretch.newest) - before
	for len(v.stretches) > maxStretches || v.entries > limit {
		v.shorten()
	}
}

// shorten makes each two stretches one, or forgets the older half of the only one.
func (v *evictions) shorten() {
	if len(v.stretches) > 1 {
		v.length *= 2
		joined := v.stretches[:0]
		for i := 0; i < len(v.stretches); i += 2 {
			one := v.stretches[i]
			if i+1 < len(v.stretches) {
				one.join(&v.stretches[i+1])
			}
			joined = append(joined, one)
		}
		clear(v.stretches[len(joined):])
		v.stretches = joined
	} else {
		only := &v.stretches[0]
		offsets := make([]uint64, 0, len(only.newest))
		for _, e := range only.newest {
			offsets = append(offsets, e.offset)
		}
		slices.Sort(offsets)
		middle := offsets[len(offsets)/2]
		for tag, e := range only.newest {
			if e.offset <= middle {
				delete(only.newest, tag)
				if e.offset > v.unknown.offset {
					v.unknown = e
				}
			}
		}
	}
	v.entries = 0
	for i := range v.stretches {
		v.entries += len(v.stretches[i].newest)
	}
}

// join adds the stretch that follows.
func (s *evictedStretch) join(next *evictedStretch) {
	s.last = next.last
	maps.Copy(s.newest, next.newest)
}

// gone joins the stretches that are wholly before an offset.
func (v *evictions) gone(before uint64) {
	for len(v.stretches) > 1 && v.stretches[1].last.offset < before {
		v.entries -= len(v.stretches[0].newest) + len(v.stretches[1].newest)
		v.stretches[0].join(&v.stretches[1])
		v.entries += len(v.stretches[0].newest)
		v.stretches = slices.Delete(v.stretches, 1, 2)
	}
}

// GoneBefore notes that a store has no event before an offset any more, which is
// never taken back: less is kept of those.
func (l *Log) GoneBefore(offset uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.evicted.gone(offset)
}

// taggedEvent is an evicted event, or one of a stretch of which it is not known
// whether it is in the part that is asked for.
type taggedEvent struct {
	evictedEvent
	tag uint32
}

// Evicted returns the newest event from offset from on and before another one that
// memory no longer holds and that want accepts by its tag, and when it arrived, in
// Unix ms. 0: there is none. It is rather one that may not be wanted than none:
// where tags are not known any more, or were not when the log began; and where
// before lies within a stretch that was noted as one. before is where a store has
// its first event, or Tail. want is called without a lock.
func (l *Log) Evicted(from, before uint64, want func(tag uint32) bool) (offset uint64, arrived int64) {
	newest, candidates := l.evictedBetween(from, before)
	for _, c := range candidates {
		if c.offset > newest.offset && want(c.tag) {
			newest = c.evictedEvent
		}
	}
	return newest.offset, newest.time
}

// evictedBetween returns what may be evicted of a row of offsets: the newest event
// without a known tag, and the newest of each tag.
func (l *Log) evictedBetween(from, before uint64) (unknown evictedEvent, all []taggedEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := &l.evicted
	before = min(before, l.tail.Load())
	if from >= before {
		return unknown, nil
	}
	last := before - 1
	if v.unknown.offset >= from {
		unknown = evictedEvent{min(v.unknown.offset, last), v.unknown.time}
		if unknown.time == 0 { // it came before what is known
			unknown.time = l.oldestLocked()
		}
	}
	for i := range v.stretches {
		stretch := &v.stretches[i]
		if stretch.last.offset < from || stretch.first.offset > last {
			continue
		}
		for tag, e := range stretch.newest {
			if e.offset >= from {
				all = append(all, taggedEvent{evictedEvent{min(e.offset, last), e.time}, tag})
			}
		}
	}
	if len(l.segments) > 0 { // the first one may be evicted in part
		s := l.segments[0]
		for i, e := range s.entries() {
			if o := s.base + uint64(i); o > last {
				break
			} else if o >= from && s.size(i) > 0 {
				all = append(all, taggedEvent{evictedEvent{o, e.time}, e.tag})
			}
		}
	}
	return unknown, all
}

// oldestLocked returns the arrival of the oldest event that is known.
func (l *Log) oldestLocked() int64 {
	switch {
	case len(l.evicted.stretches) > 0:
		return l.evicted.stretches[0].first.time
	case len(l.segments) > 0:
		return l.segments[0].entries()[0].time
	}
	return l.newest
}

// noteEvictedLocked notes the first n events of a segment that is about to go.
func (l *Log) noteEvictedLocked(s *segment, n int) {
	limit := min(maxEvictedTags, max(leastEvictedTags, int(l.maxBytes/bytesPerEvicted)))
	l.evicted.note(s, n, limit)
	if n > 0 {
		l.dropped = s.entries()[n-1].time
	}
}
