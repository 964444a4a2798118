package filestore

import (
	"errors"
	"time"
)

// evictEvery is how often a log that gets nothing is looked through for what is
// too old.
const evictEvery = 30 * time.Second

// maxWrite bounds what is written, and handed over, at once, in bytes.
const maxWrite = 4 << 20

// commit writes what is appended, and keeps the bounds. The store owns it; it
// ends when the store is closed.
func (s *Store) commit() {
	defer close(s.done)
	defer s.finish()
	if !s.insist(s.prepare) {
		return
	}
	var spare batch
	for {
		b, ok := s.next(spare)
		if !ok {
			return
		}
		if s.suspect && !s.insist(s.repair) {
			return
		}
		if s.isUnsaved() && !s.insist(s.save) {
			return
		}
		for rest := b; len(rest.records) > 0; {
			var part batch
			part, rest = rest.split(s.partSize())
			if !s.insist(func() error { return s.write(&part) }) {
				return // closed before it could be
			}
			s.publish(&part)
		}
		if s.flushDue() <= 0 && !s.insist(s.startFlush) {
			return
		}
		s.evict()
		b.reset()
		spare = b
	}
}

// partSize is how much of a batch is written at once: not so much that the
// newest segment is more than what is retained.
func (s *Store) partSize() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(s.segmentSizeLocked(), maxWrite)
}

func (s *Store) isUnsaved() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unsaved
}

// next waits for something to do, and takes what was appended, if that is it.
// False: the store is to be closed, and nothing is left.
func (s *Store) next(spare batch) (b batch, ok bool) {
	for {
		s.mu.Lock()
		if n := len(s.pending.records); n > 0 {
			b, s.pending = s.pending, spare
			s.inFlight, s.taken, s.bodies = n, b.memory(), b.bytes
			s.mu.Unlock()
			return b, true
		}
		work := s.changed || s.unsaved
		s.changed = false
		closing, aging := s.closing, s.bounds.Age > 0
		s.mu.Unlock()
		if work || closing {
			return spare, work
		}
		if !s.wait(aging) {
			continue
		}
		return spare, true
	}
}

// wait waits until something may have happened; true if it is something to do
// besides what next looks for.
func (s *Store) wait(aging bool) bool {
	after := s.flushDue()
	if aging {
		after = min(after, evictEvery)
	}
	var due <-chan time.Time
	if after < never {
		timer := time.NewTimer(after)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-s.wake:
		return false
	case <-s.quit:
		return false
	case err := <-s.flushing:
		s.flushed(err)
		return true
	case <-due:
		return true
	}
}

// errDropped is that of a write to a segment which a reader has found damaged
// meanwhile. The records are to be written to another one.
var errDropped = errors.New("the segment was dropped")

// insist does something again and again until it succeeds. What the bounds do
// not allow is evicted in between, which may make room. False: the store is to
// be closed, and the disk takes nothing.
func (s *Store) insist(do func() error) bool {
	for {
		err := do()
		if err == nil {
			s.resume()
			return true
		}
		// What an fsync that failed has done with the pages is not known, and the
		// directory may be another one now: the file is opened anew.
		s.abandon()
		if errors.Is(err, errDropped) {
			continue
		}
		s.stall(err)
		if !s.pause() {
			return false
		}
		s.evict()
	}
}

// pause waits before the next attempt. False: there is to be none.
func (s *Store) pause() bool {
	timer := time.NewTimer(s.o.retry)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.quit:
		s.mu.Lock()
		left := time.Until(s.closeBy)
		idle := len(s.pending.records) == 0 && s.inFlight == 0
		s.mu.Unlock()
		if left <= 0 || idle {
			return false
		}
		time.Sleep(min(left, s.o.retry, closeTimeout/20)) // quit is closed, and the disk may take it a moment later
	}
	return true
}

// publish hands records that are committed to the follower, if it has all that
// came before.
func (s *Store) publish(b *batch) {
	last := b.records[len(b.records)-1].Offset
	s.mu.Lock()
	f := s.follower
	// It may have read them from the file before it was live, or be waiting for
	// later ones.
	hand := f != nil && f.live && !f.closed && f.next <= last
	var known uint64
	if hand {
		f.busy = true
		known = max(f.next, b.records[0].Offset) - b.records[0].Offset
	}
	s.mu.Unlock()
	if hand {
		f.apply(b.records[known:])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if hand {
		f.busy, f.next = false, last+1
	}
	s.inFlight -= len(b.records)
	s.taken -= b.memory()
	s.bodies -= b.bytes
	s.cond.Broadcast()
}
