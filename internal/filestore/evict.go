package filestore

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"
)

const (
	// The size of a segment, in bytes: a sixteenth of the bound, so that about as
	// much is dropped early. Opening reads one segment, so it is not too large.
	segmentsPerLog = 16
	minSegment     = 1 << 20
	maxSegment     = 64 << 20

	// minEvents keeps a log of few events from being as many files.
	minEvents = 1000

	// mostHeld is how many bytes more than the bounds allow are held at most. It is a
	// second's worth of a stream of 32 MB/s, and storing last values takes less.
	mostHeld = 32 << 20
)

// segmentSizeLocked is the size from which on a segment is full.
func (s *Store) segmentSizeLocked() int64 {
	if s.o.segment > 0 {
		return s.o.segment
	}
	if s.bounds.Bytes == 0 {
		return maxSegment
	}
	return max(min(max(s.bounds.Bytes/segmentsPerLog, minSegment), maxSegment, s.bounds.Bytes/2), 1)
}

// fullSegmentLocked reports whether the record that arrived at now begins another
// segment. A segment ends early so that what is too many or too old can be
// dropped.
func (s *Store) fullSegmentLocked(seg *segment, now int64) bool {
	return seg.full || seg.size >= s.segmentSizeLocked() ||
		s.bounds.Events > 0 && seg.events() >= max(s.bounds.Events/segmentsPerLog, minEvents) ||
		s.bounds.Age > 0 && now-seg.firstTime > max(s.bounds.Age/segmentsPerLog, time.Second).Milliseconds()
}

// evict drops the oldest segments that the bounds do not allow.
func (s *Store) evict() {
	s.mu.Lock()
	dropped := s.overdueLocked()
	if len(dropped) > 0 {
		s.leaveOutLocked(len(dropped))
	}
	unsaved := s.unsaved && len(dropped) > 0
	s.mu.Unlock()
	if unsaved {
		_ = s.save() // if it fails, the next record waits for it; this may make room
	}
	s.discard(dropped)
}

// overdueLocked returns the segments that are to go.
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
	for held := int64(0); n > 0 && s.segments[n-1].next > s.held; n-- {
		if held += s.segments[n-1].size; held > mostHeld {
			break
		}
	}
	return s.segments[:n:n]
}

// leaveOutLocked takes the oldest segments from the list. What only they have is
// to be saved.
func (s *Store) leaveOutLocked(n int) {
	s.segments = slices.Clone(s.segments[n:]) // a reader may have the list
	before := len(s.meta.Epochs)
	s.forgetEpochsLocked()
	if len(s.meta.Epochs) != before || len(s.segments) <= fewSegments {
		s.unsaved = true
		s.rouse()
	}
}

// dropDamaged drops the segment that begins with first, in which damage was
// found, and what is older: nobody comes past it. Nothing is done if somebody
// else has done so.
func (s *Store) dropDamaged(bad *DamageError, first uint64) {
	s.mu.Lock()
	i := slices.IndexFunc(s.segments, func(seg *segment) bool { return seg.first == first })
	if i < 0 {
		s.mu.Unlock()
		return
	}
	dropped := s.segments[: i+1 : i+1]
	s.leaveOutLocked(i + 1)
	s.err = bad
	s.mu.Unlock()
	s.discardDamaged(dropped, bad)
}

// discard removes the files of segments that are not in the list any more.
func (s *Store) discard(dropped []*segment) {
	for _, seg := range dropped {
		s.removeFile(seg.name)
		s.removeFile(seg.indexName())
	}
}

// discardDamaged is discard where the newest of the segments is damaged: that
// one is kept for people.
func (s *Store) discardDamaged(dropped []*segment, bad *DamageError) {
	s.o.Logger.Error("the log is damaged; what is older than the damage is gone",
		zap.String("file", bad.File), zap.Int64("byte", bad.At), zap.Error(bad.Err))
	older, newest := dropped[:len(dropped)-1], dropped[len(dropped)-1]
	s.discard(older)
	if s.o.disk.rename(newest.name, newest.name+damagedSuffix) != nil {
		s.removeFile(newest.name)
	}
	s.removeFile(newest.indexName())
	s.tidyDamaged()
}

func (s *Store) removeFile(name string) {
	if err := s.o.disk.remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.o.Logger.Warn("a file of the log could not be removed", zap.String("file", name), zap.Error(err))
	}
}

// keptDamaged bounds the damaged files that are kept.
const keptDamaged = 4

// tidyDamaged removes the oldest damaged files.
func (s *Store) tidyDamaged() {
	names, _ := filepath.Glob(filepath.Join(s.o.Dir, "*"+segmentSuffix+damagedSuffix))
	slices.Sort(names)
	for len(names) > keptDamaged {
		s.removeFile(names[0])
		names = names[1:]
	}
}
