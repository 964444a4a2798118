package filestore

import (
	"math"
	"os"
	"slices"
	"time"

	"go.uber.org/zap"
)

// output is what the committer writes to, and what it knows of the newest
// segment.
type output struct {
	headFile *headFile
	writing  file   // the newest segment; nil if it is not open
	name     string // of that file

	// Up to where the newest segment of the list is on disk: the position, and
	// the offset of the record there.
	synced       int64
	syncedOffset uint64

	dirty    time.Time  // since when something is not; zero if all is, or is being synced
	flushing chan error // brings the result of the fsync that goes on; nil if none does
	flushTo  int64      // what that fsync will have synced
	flushOff uint64

	promised bool // log.json says that every commit waits for the disk

	unread  int  // how often that could not be read which has to be written again
	suspect bool // an fsync has failed; see head
	orderly bool // how the log was closed before it was opened
}

const never = time.Duration(math.MaxInt64)

// unsyncedMax bounds what is left to the system with SyncOff, in bytes, so that
// ending a segment does not take long.
const unsyncedMax = 16 << 20

// newest returns a copy of what is known of the newest segment; nil if there is
// none.
func (s *Store) newest() *segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.segments); n > 0 {
		seg := *s.segments[n-1]
		return &seg
	}
	return nil
}

// prepare makes the files so that records can be appended: what is known of
// earlier ones holds, whatever happens from now on.
func (s *Store) prepare() error {
	if last := s.newest(); last != nil {
		s.synced, s.syncedOffset = headerSize, last.first
		switch {
		case s.suspect:
			if err := s.repair(); err != nil {
				return err
			}
		case s.orderly:
			s.synced, s.syncedOffset = last.size, last.next
		case s.syncEvery() == SyncAlways:
			// from now on a power cut is believed to cost nothing
			if err := s.openNewest(last); err != nil {
				return err
			}
			if err := s.sync(last); err != nil {
				return err
			}
		default:
			s.dirty = time.Now()
		}
	}
	if err := s.save(); err != nil {
		return err
	}
	return s.headFile.prepare(s.head())
}

// save writes meta.
func (s *Store) save() error {
	s.mu.Lock()
	m := s.meta
	m.Epochs, m.known = slices.Clone(m.Epochs), s.sources.All()
	s.unsaved = false
	s.mu.Unlock()
	err := m.write(s.o.disk, s.o.Dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.unsaved = true
		return err
	}
	s.saved, s.promised = m.Term, m.Synced
	s.cond.Broadcast()
	return nil
}

// head returns what the file head is to hold.
func (s *Store) head() head {
	s.mu.Lock()
	defer s.mu.Unlock()
	return head{last: s.offset - 1, term: s.meta.Term, suspect: s.suspect}
}

// writeHead notes the newest committed record.
func (s *Store) writeHead() error { return s.headFile.write(s.head()) }

// openNewest has the newest segment open for writing.
func (s *Store) openNewest(last *segment) error {
	if s.writing != nil && s.name == last.name {
		return nil
	}
	s.abandon()
	f, err := s.o.disk.open(last.name, os.O_RDWR)
	if err == nil {
		s.writing, s.name = f, last.name
	}
	return err
}

// abandon closes the newest segment's file, once nothing syncs it.
func (s *Store) abandon() {
	if s.flushing != nil {
		s.flushed(<-s.flushing)
	}
	if s.writing != nil {
		_ = s.writing.Close()
		s.writing, s.name = nil, ""
	}
}

// create begins a segment.
func (s *Store) create(first uint64) error {
	name := segmentName(s.o.Dir, first)
	f, err := s.o.disk.open(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	s.writing, s.name = f, name
	if _, err := f.WriteAt(appendHeader(nil, first), 0); err != nil {
		return err
	}
	return s.o.disk.syncDir(s.o.Dir)
}

// write appends records to the newest segment, or to a new one.
func (s *Store) write(b *batch) error {
	if s.suspect {
		if err := s.repair(); err != nil {
			return err
		}
	}
	first, last := b.records[0], b.records[len(b.records)-1]
	s.mu.Lock()
	var to *segment // nil: a new one
	if n := len(s.segments); n > 0 && !s.fullSegmentLocked(s.segments[n-1], first.Time) {
		to = s.segments[n-1]
	}
	term := s.meta.Term
	waits := s.every == SyncAlways || s.promised
	s.mu.Unlock()
	at := int64(headerSize)
	if to != nil {
		at = to.size // only the committer changes it
		if err := s.openNewest(to); err != nil {
			return err
		}
	} else {
		if err := s.seal(); err != nil {
			return err
		}
		if err := s.create(first.Offset); err != nil {
			return err
		}
	}
	if _, err := s.writing.WriteAt(b.frames, at); err != nil {
		_ = s.writing.Truncate(at) // what there was room for is none of the log's
		return err
	}
	if waits {
		if err := s.sync(nil); err != nil {
			_ = s.writing.Truncate(at)
			return err
		}
	}
	if err := s.headFile.write(head{last: last.Offset, term: term, suspect: s.suspect}); err != nil {
		return err
	}
	return s.record(b, to, waits)
}

// record takes over into a segment's description what was written to its file,
// and whether that is on disk.
func (s *Store) record(b *batch, to *segment, onDisk bool) error {
	b.fill()
	s.mu.Lock()
	defer s.mu.Unlock()
	if to == nil {
		to = &segment{name: s.name, first: b.records[0].Offset, next: b.records[0].Offset, size: headerSize}
		s.segments = append(s.segments, to)
		s.synced, s.syncedOffset = headerSize, to.first
	} else if n := len(s.segments); n == 0 || s.segments[n-1] != to {
		return errDropped
	}
	for i := range b.records {
		to.add(&b.records[i], b.sizes[i])
		s.sources.Note(&b.records[i])
	}
	s.offset, s.lastTime = to.next, to.lastTime
	if onDisk { // and so is all that was written to it before
		s.synced, s.syncedOffset, s.dirty = to.size, to.next, time.Time{}
	} else if s.dirty.IsZero() {
		s.dirty = time.Now()
	}
	return nil
}

// seal ends the newest segment: all of it is on disk, with its index.
func (s *Store) seal() error {
	last := s.newest()
	if last == nil {
		s.abandon()
		return nil
	}
	if s.flushing != nil {
		s.flushed(<-s.flushing)
	}
	if s.suspect || s.synced < last.size {
		if err := s.openNewest(last); err != nil {
			return err
		}
		if err := s.sync(last); err != nil {
			return err
		}
	}
	s.abandon()
	return last.writeIndex(s.o.disk, s.allSources())
}

// sync forces the file that is open to disk: all of the segment, if one is
// given.
func (s *Store) sync(whole *segment) error {
	if s.flushing != nil {
		s.flushed(<-s.flushing)
	}
	if err := s.writing.Sync(); err != nil {
		s.suspected()
		return err
	}
	if whole != nil {
		s.synced, s.syncedOffset, s.dirty = whole.size, whole.next, time.Time{}
	}
	return nil
}

// suspected notes that an fsync has failed, for a process, too, that comes
// after this one.
func (s *Store) suspected() {
	if !s.suspect {
		s.suspect = true
		_ = s.writeHead()
	}
}

// flushDue is when what was written has to be forced to disk from now on.
func (s *Store) flushDue() time.Duration {
	if s.flushing != nil || s.dirty.IsZero() {
		return never
	}
	if every := s.syncEvery(); every >= 0 { // what was written before SyncAlways was set, too
		return max(every-time.Since(s.dirty), 0)
	}
	if last := s.newest(); last != nil && last.size-s.synced >= unsyncedMax {
		return 0
	}
	return never
}

// startFlush forces the newest segment to disk while records are appended.
func (s *Store) startFlush() error {
	last := s.newest()
	if last == nil {
		s.dirty = time.Time{}
		return nil
	}
	if err := s.openNewest(last); err != nil {
		return err
	}
	s.flushing, s.flushTo, s.flushOff, s.dirty = make(chan error, 1), last.size, last.next, time.Time{}
	go flush(s.writing, s.flushing)
	return nil
}

// flush syncs a file. The committer owns it, and receives the result before it
// closes the file. result has room for it.
func flush(f file, result chan<- error) { result <- f.Sync() }

// flushed takes over the result of an fsync that went on meanwhile.
func (s *Store) flushed(err error) {
	s.flushing = nil
	if err != nil {
		s.suspected()
		s.o.Logger.Error("what was written last may not be on disk; it is written again", zap.Error(err))
		return
	}
	s.synced, s.syncedOffset = max(s.synced, s.flushTo), max(s.syncedOffset, s.flushOff)
}

// repair writes again what may not be on disk since an fsync failed: the system
// may regard those pages as written, and forget them. Where they cannot be read
// any more, their segment is dropped as damaged.
func (s *Store) repair() error {
	last := s.newest()
	if last == nil {
		s.suspect = false
		return s.writeHead()
	}
	s.abandon()
	if err := s.openNewest(last); err != nil {
		return err
	}
	if _, err := s.writing.WriteAt(appendHeader(nil, last.first), 0); err != nil {
		return err
	}
	frames := frames{file: s.writing, at: s.synced, end: last.size, offset: s.syncedOffset}
	var again []byte
	for at := frames.at; ; {
		r, _, err := frames.next()
		if unreturned(err) {
			s.unread++
		}
		if broken(err) || unreturned(err) && s.unread >= maxReadTries {
			s.abandon()
			s.dropDamaged(&DamageError{last.name, frames.at, err}, last.first)
			s.suspect = false
			return s.writeHead()
		}
		if err == nil {
			again = appendFrame(again, &r)
		} else if frames.at < frames.end {
			return err
		}
		if frames.at == frames.end || len(again) >= readAhead {
			if _, err := s.writing.WriteAt(again, at); err != nil {
				return err
			}
			at, again = frames.at, again[:0]
		}
		if frames.at == frames.end {
			break
		}
	}
	if err := s.sync(last); err != nil {
		return err
	}
	s.suspect, s.unread = false, 0
	return s.writeHead()
}

// closeOutput closes the files. All is on disk if there is no error, and
// everything is orderly.
func (s *Store) closeOutput(orderly bool) error {
	var err error
	if s.flushing != nil {
		s.flushed(<-s.flushing)
	}
	last := s.newest()
	switch {
	case !orderly || last == nil:
	case s.suspect:
		err = s.repair()
	case s.synced < last.size:
		if err = s.openNewest(last); err == nil {
			err = s.sync(last)
		}
	}
	s.abandon()
	if err == nil && orderly {
		err = s.headFile.sync(s.head())
	}
	return err
}
