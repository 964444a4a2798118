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

// maxHere bounds what a caller of Commit writes itself, in bytes: little more than
// the events of one read from an upstream.
const maxHere = 64 << 10

// maxRounds bounds how often a caller of Commit writes what others have added
// meanwhile.
const maxRounds = 4

// commit writes what is appended, and keeps the bounds. The store owns it; it
// ends when the store is closed. It holds the output but while it waits for
// something to do, and from its end on.
func (s *Store) commit() {
	defer close(s.done)
	defer s.finish()
	if !s.insist(s.prepare) {
		return
	}
	for {
		b, ok := s.next()
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
		s.spare = b
	}
}

// commitHere commits what was added in the goroutine of who calls it, where that
// takes a write and no more; otherwise it has the committer do so. It returns at
// once if somebody else holds the output, or is about to, who looks for more
// before giving it up.
func (s *Store) commitHere() {
	s.mu.Lock()
	if s.held || s.wanted {
		s.mu.Unlock()
		return
	}
	for range maxRounds {
		to := s.hereLocked()
		if to == nil {
			break
		}
		s.held = true
		b := s.takeLocked()
		at, term, clean := to.size, s.meta.Term, s.dirty.IsZero()
		s.mu.Unlock()
		err := s.writeHere(&b, to, at, term)
		if err == nil {
			s.publish(&b)
			b.reset()
			s.spare = b
		} else {
			s.left = b
		}
		s.mu.Lock()
		s.held = false
		if clean || s.unflushedLocked() {
			s.rouse() // it is to be forced to disk in time
		}
		if len(s.overdueLocked()) > 0 {
			s.changed = true
			s.rouse()
		}
	}
	if len(s.pending.records) > 0 || len(s.left.records) > 0 {
		s.rouse()
	}
	s.cond.Broadcast() // the committer may wait for the output
	s.mu.Unlock()
}

// hereLocked returns the segment to which a caller of Commit may write what is
// pending; nil if that is nothing, or for the committer.
func (s *Store) hereLocked() *segment {
	size := int64(len(s.pending.frames))
	if size == 0 || size > min(maxHere, s.segmentSizeLocked()) || len(s.segments) == 0 ||
		len(s.left.records) > 0 || s.wanted {
		return nil
	}
	to := s.segments[len(s.segments)-1]
	if s.closing || s.stalled || s.suspect || s.unsaved || s.promised || s.every == SyncAlways ||
		s.writing == nil || s.name != to.name || s.fullSegmentLocked(to, s.pending.records[0].Time) {
		return nil
	}
	return to
}

// writeHere writes records to the newest segment, which is open and ends at at.
func (s *Store) writeHere(b *batch, to *segment, at int64, term uint64) error {
	if err := s.writeFrames(b, at); err != nil {
		return err
	}
	if err := s.noteHead(head{last: b.records[len(b.records)-1].Offset, term: term}); err != nil {
		return err
	}
	return s.record(b, to, false)
}

// takeLocked takes what is pending, to commit it.
func (s *Store) takeLocked() batch {
	b := s.pending
	s.pending, s.spare = s.spare, batch{}
	s.inFlight, s.taken, s.bodies = len(b.records), b.memory(), b.bytes
	return b
}

// hold waits until nobody holds the output, and takes it.
func (s *Store) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = true
	for s.held {
		s.cond.Wait()
	}
	s.held, s.wanted = true, false
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
func (s *Store) next() (b batch, ok bool) {
	for {
		due := s.flushDue()
		s.mu.Lock()
		if len(s.left.records) > 0 {
			b, s.left = s.left, batch{}
			s.mu.Unlock()
			s.abandon() // as after every failure; see insist
			return b, true
		}
		if len(s.pending.records) > 0 {
			b = s.takeLocked()
			s.mu.Unlock()
			return b, true
		}
		work := s.changed || s.unsaved
		s.changed = false
		if work || s.closing {
			s.mu.Unlock()
			return b, work
		}
		if s.bounds.Age > 0 {
			due = min(due, evictEvery)
		}
		flushing := s.flushing
		s.held = false // in one step with the look
		s.mu.Unlock()
		if s.wait(due, flushing) {
			return b, true
		}
	}
}

// wait waits, without the output, until something may have happened; true if it is
// something to do besides what next looks for.
func (s *Store) wait(after time.Duration, flushing <-chan error) bool {
	var due <-chan time.Time
	if after < never {
		timer := time.NewTimer(after)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-s.wake:
		s.hold()
		return false
	case <-s.quit:
		s.hold()
		return false
	case err := <-flushing:
		s.hold()
		s.flushed(err)
		return true
	case <-due:
		s.hold()
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
		time.Sleep(min(left, s.o.retry, closeTimeout/20))
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
