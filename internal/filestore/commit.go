package filestore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// term is the time in which this process appends. The store's mutex protects
// its fields, but for number and done.
type term struct {
	store  *Store
	number uint64
	done   chan struct{} // closed when the term is over
	over   error         // why it is
	newest int64         // arrival of the record appended last, Unix ms
}

func (t *term) endLocked(why error) {
	if t.over == nil {
		t.over = why
		close(t.done)
	}
}

// Number implements logstore.Term.
func (t *term) Number() uint64 { return t.number }

// Done implements logstore.Term.
func (t *term) Done() <-chan struct{} { return t.done }

// Err implements logstore.Term.
func (t *term) Err() error {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	return t.over
}

// Append implements logstore.Term.
func (t *term) Append(r *logstore.Record) error {
	s := t.store
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case t.over != nil:
		return fmt.Errorf("%w: %w", logstore.ErrOver, t.over)
	case s.fullLocked():
		return logstore.ErrNoRoom
	}
	b := &s.pending
	own := *r
	own.Term = t.number
	own.Offset = s.appendedLocked() + 1
	if len(b.records) == 0 && len(s.segments) > 0 {
		t.newest = max(t.newest, s.segments[len(s.segments)-1].lastTime)
	}
	t.newest = max(t.newest, own.Time)
	own.Time = t.newest
	at := len(b.frames)
	b.frames = appendFrame(b.frames, &own)
	b.sizes = append(b.sizes, len(b.frames)-at)
	b.bodies = append(b.bodies, len(own.Body))
	b.bytes += int64(len(own.Body))
	own.Body = nil // it is in the frame; see batch.fill
	b.records = append(b.records, own)
	s.cond.Broadcast()
	return nil
}

// fullLocked reports whether what waits to be committed fills the buffer. One
// record always fits.
func (s *Store) fullLocked() bool {
	return s.inFlight+int64(len(s.pending.frames)) >= int64(s.o.Buffer)
}

// appendedLocked is the offset of the newest record, committed or not.
func (s *Store) appendedLocked() uint64 {
	if n := len(s.pending.records); n > 0 {
		return s.pending.records[n-1].Offset
	}
	return s.taken
}

// Wait implements logstore.Term.
func (t *term) Wait(ctx context.Context) error {
	s := t.store
	stop := context.AfterFunc(ctx, s.cond.Broadcast)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case t.over != nil:
			return fmt.Errorf("%w: %w", logstore.ErrOver, t.over)
		case !s.fullLocked():
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		s.cond.Wait()
	}
}

var errReleased = errors.New("it was released")

// Release implements logstore.Term.
func (t *term) Release(ctx context.Context) error {
	s := t.store
	stop := context.AfterFunc(ctx, s.cond.Broadcast)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	t.endLocked(errReleased)
	for s.term == t && (len(s.pending.records) > 0 || s.inFlight > 0) && s.state != logstore.Closed && ctx.Err() == nil {
		s.cond.Wait()
	}
	if s.term == t {
		s.pending = batch{} // what could not be committed was never shown
		s.term = nil
		if s.state == logstore.Writing {
			s.setStateLocked(logstore.Following, nil)
		}
	}
	s.cond.Broadcast()
	return ctx.Err()
}

// commit writes what is appended, and keeps the bounds. The store owns it; it
// ends when the store is closed.
func (s *Store) commit() {
	defer close(s.done)
	defer s.finish()
	var spare batch
	var dirty time.Time // since when there is something that is not on disk; zero if all is
	for {
		b, ok := s.next(spare, dirty)
		if !ok {
			return
		}
		if len(b.records) > 0 {
			if !s.persist(&b) {
				return // closed before it could be
			}
			if dirty.IsZero() {
				dirty = time.Now()
			}
			s.publish(&b)
		}
		if s.o.Sync > 0 && !dirty.IsZero() && time.Since(dirty) >= s.o.Sync {
			s.syncNow()
			dirty = time.Time{}
		}
		s.evict()
		b.reset()
		spare = b
	}
}

// next waits for something to do: records, a bound that was changed, an fsync
// that is due. False: the store is closed.
func (s *Store) next(spare batch, dirty time.Time) (b batch, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case len(s.pending.records) > 0:
			b, s.pending = s.pending, spare
			s.inFlight, s.taken = int64(len(b.frames)), b.records[len(b.records)-1].Offset
			return b, true
		case s.closing:
			return b, false
		case s.changed:
			s.changed = false
			return spare, true
		}
		wait := evictEvery
		if s.o.Sync > 0 && !dirty.IsZero() {
			if wait = min(wait, s.o.Sync-time.Since(dirty)); wait <= 0 {
				return spare, true
			}
		} else if s.bounds.Age == 0 {
			s.cond.Wait()
			continue
		}
		s.waitLocked(wait)
		if s.bounds.Age > 0 && len(s.pending.records) == 0 && !s.closing {
			return spare, true
		}
	}
}

// evictEvery is how often a log that gets nothing is looked through for what is
// too old.
const evictEvery = 30 * time.Second

func (b *batch) reset() {
	if cap(b.frames) > 1<<20 {
		*b = batch{}
		return
	}
	clear(b.records)
	*b = batch{frames: b.frames[:0], sizes: b.sizes[:0], bodies: b.bodies[:0], records: b.records[:0]}
}

// fill gives the records their bodies, which stand in the frames.
func (b *batch) fill() {
	rest := b.frames
	for i, size := range b.sizes {
		b.records[i].Body = rest[size-b.bodies[i] : size : size]
		rest = rest[size:]
	}
}

// persist writes a batch, again and again where it cannot be. False: the store
// is to be closed, and the disk takes nothing.
func (s *Store) persist(b *batch) bool {
	for {
		err := s.write(b)
		s.mu.Lock()
		if err == nil {
			s.resumeLocked()
			s.mu.Unlock()
			return true
		}
		s.stallLocked(err)
		late := s.closing && !time.Now().Before(s.closeBy)
		if !late {
			s.waitLocked(retryEvery)
		}
		s.mu.Unlock()
		// What an fsync that failed has done with the pages is not known: the
		// records are written again, to the file opened anew.
		s.abandon()
		if late {
			return false
		}
	}
}

// write appends a batch to the newest segment, or to a new one.
func (s *Store) write(b *batch) error {
	first := b.records[0].Offset
	s.mu.Lock()
	var last *segment
	if n := len(s.segments); n > 0 {
		last = s.segments[n-1]
	}
	size := s.segmentSizeLocked()
	full := last != nil && (last.size >= size || s.tooManyLocked(last) || s.tooOldLocked(last, b.records[0].Time))
	s.mu.Unlock()
	if last != nil && s.writing == nil && !full {
		f, err := s.o.disk.open(last.name)
		if err != nil {
			return err
		}
		s.writing = f
	}
	at := int64(headerSize)
	if last == nil || full {
		if err := s.seal(last); err != nil {
			return err
		}
		f, err := s.o.disk.create(segmentName(s.o.Dir, first))
		if err != nil {
			return err
		}
		s.writing = f
		if _, err := f.WriteAt(appendHeader(nil, first), 0); err != nil {
			return err
		}
		if err := syncDir(s.o.Dir); err != nil {
			return err
		}
		last = nil
	} else {
		at = last.size
	}
	if _, err := s.writing.WriteAt(b.frames, at); err != nil {
		_ = s.writing.Truncate(at) // what was written of it; the next attempt overwrites the rest
		return err
	}
	if s.o.Sync == SyncAlways {
		if err := s.writing.Sync(); err != nil {
			return err
		}
	}
	if err := s.head.write(b.records[len(b.records)-1].Offset); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if last == nil {
		last = &segment{name: segmentName(s.o.Dir, first), first: first, next: first, size: headerSize}
		s.segments = append(s.segments, last)
	}
	for i := range b.records {
		last.add(&b.records[i], b.sizes[i])
	}
	return nil
}

// abandon has the next batch written to a file that is opened anew.
func (s *Store) abandon() {
	if s.writing != nil {
		_ = s.writing.Close()
		s.writing = nil
	}
}

// seal ends a segment: all of it is on disk, with its index.
func (s *Store) seal(last *segment) error {
	if last == nil {
		s.abandon()
		return nil
	}
	if s.writing != nil {
		if err := s.writing.Sync(); err != nil {
			return err
		}
		s.abandon()
	}
	if err := last.writeIndex(); err != nil {
		return err
	}
	return syncDir(s.o.Dir)
}

// segmentSizeLocked is the size from which on a segment is full.
func (s *Store) segmentSizeLocked() int64 {
	if s.bounds.Bytes == 0 {
		return maxSegment
	}
	return min(max(s.bounds.Bytes/segmentsPerLog, minSegment), maxSegment)
}

// tooManyLocked reports whether a segment has to end for the number of its
// records, so that what is too many can be dropped.
func (s *Store) tooManyLocked(seg *segment) bool {
	return s.bounds.Events > 0 && seg.events() >= max(s.bounds.Events/segmentsPerLog, minEvents)
}

// minEvents keeps a log of few events from being as many files.
const minEvents = 1000

// tooOldLocked reports whether a segment has to end for its age, so that what
// is too old can be dropped.
func (s *Store) tooOldLocked(seg *segment, now int64) bool {
	if s.bounds.Age == 0 || seg.events() == 0 {
		return false
	}
	return now-seg.firstTime > max(s.bounds.Age/segmentsPerLog, time.Second).Milliseconds()
}

// syncNow forces the newest segment to disk.
func (s *Store) syncNow() {
	if s.writing == nil {
		return
	}
	if err := s.writing.Sync(); err != nil {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		s.o.Logger.Error("what was written last may not be on disk", zap.Error(err))
		s.abandon()
	}
}

// publish hands a batch that is committed to the follower, if it has all that
// came before.
func (s *Store) publish(b *batch) {
	s.mu.Lock()
	f := s.follower
	// It may have read the batch from the file before it was live.
	hand := f != nil && f.live && !f.closed && b.records[0].Offset >= f.next
	if hand {
		f.busy = true
	}
	s.mu.Unlock()
	if hand {
		b.fill()
		f.apply(b.records)
	}
	s.mu.Lock()
	s.inFlight = 0
	if hand {
		f.busy = false
	}
	s.mu.Unlock()
	s.cond.Broadcast()
}

// evict drops the oldest segments that the bounds do not allow.
func (s *Store) evict() {
	s.mu.Lock()
	dropped := s.overdueLocked()
	var epochs []logstore.Epoch
	if len(dropped) > 0 {
		before := len(s.meta.Epochs)
		s.forgetEpochsLocked()
		if len(s.meta.Epochs) != before {
			epochs = slices.Clone(s.meta.Epochs)
		}
	}
	m := s.meta
	s.mu.Unlock()
	for _, seg := range dropped {
		s.removeFiles(seg)
	}
	if epochs != nil {
		m.Epochs = epochs
		if err := m.write(s.o.Dir); err != nil {
			s.o.Logger.Warn("epochs that are gone could not be forgotten", zap.Error(err))
		}
	}
}

// overdueLocked takes the segments that are to go from the list.
func (s *Store) overdueLocked() []*segment {
	var bytes int64
	var events uint64
	for _, seg := range s.segments {
		bytes += seg.size
		events += seg.events()
	}
	oldest := time.Now().Add(-s.bounds.Age).UnixMilli()
	n := 0
	for ; n < len(s.segments)-1; n++ {
		seg := s.segments[n]
		over := s.bounds.Bytes > 0 && bytes > s.bounds.Bytes ||
			s.bounds.Events > 0 && events-seg.events() >= s.bounds.Events ||
			s.bounds.Age > 0 && seg.lastTime < oldest
		if !over {
			break
		}
		bytes -= seg.size
		events -= seg.events()
	}
	dropped := slices.Clone(s.segments[:n])
	s.segments = slices.Delete(s.segments, 0, n)
	return dropped
}
