package filestore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// ending is how the newest segment was found.
type ending struct {
	cut     bool         // a record was not whole, and has been cut off
	damaged *DamageError // nothing but this can be read behind the last record
}

// recover reads what there is, cuts a torn end, and decides about the epoch. It
// leaves to the committer what has to be written: a disk that is full can still
// be read from.
func (s *Store) recover() error {
	var lost string // why a new epoch begins; empty if none does
	found, err := readMeta(s.o.disk, s.o.Dir)
	switch {
	case errors.Is(err, errMeta):
		lost = err.Error()
	case err != nil:
		return err
	}
	var last head
	var known bool
	if s.headFile, last, known, err = openHead(s.o.disk, s.o.Dir); err != nil {
		return err
	}
	end, err := s.loadSegments()
	if err != nil {
		return err
	}
	s.meta, s.offset = meta{Term: last.term}, last.last+1
	if found != nil {
		s.meta, s.orderly = *found, found.Orderly
		s.meta.Term = max(found.Term, last.term)
	}
	if n := len(s.segments); n > 0 {
		newest := s.segments[n-1]
		s.offset, s.lastTime = newest.next, newest.lastTime
		s.meta.Term = max(s.meta.Term, newest.term)
	} else if n := len(s.meta.Epochs); n > 0 {
		s.offset = max(s.offset, s.meta.Epochs[n-1].First)
	}
	if lost == "" {
		lost = s.lostLocked(found, last, known, end)
	}
	if lost != "" {
		s.err = errors.New(lost)
		s.o.Logger.Error("the log has lost events, or may have; a new epoch begins",
			zap.String("reason", lost), zap.Uint64("offset", s.offset))
	}
	switch {
	case found == nil:
		// No cursor has this epoch yet, so all that is retained can be of it.
		s.meta.Epochs = []logstore.Epoch{{ID: logstore.NewEpochID(), First: s.firstLocked()}}
	case lost != "":
		// Cursors beyond what is left name what is gone.
		s.meta.Epochs = slices.DeleteFunc(s.meta.Epochs, func(e logstore.Epoch) bool { return e.First > s.offset })
		s.meta.Epochs = append(s.meta.Epochs, logstore.Epoch{ID: logstore.NewEpochID(), First: s.offset})
	}
	if found != nil {
		learnSources(&s.sources, found.known, s.offset)
	}
	s.sources.Cut(s.offset)
	s.meta.Boot, s.meta.Synced, s.meta.Orderly = s.o.boot, s.every == SyncAlways, false
	s.forgetEpochsLocked()
	s.suspect = last.suspect
	return nil
}

// lostLocked returns why offsets may have been given that would be given again;
// empty if none can have been.
func (s *Store) lostLocked(found *meta, last head, known bool, end ending) string {
	newest := len(s.segments) - 1
	switch {
	case found == nil && newest < 0 && last.last == 0 && end.damaged == nil:
		return "" // a new log
	case found == nil:
		return "the file " + metaName + " is missing"
	case !known && newest < 0 && found.Term == 0:
		return "" // nothing was ever written to it
	case !known:
		return "the file " + headName + " is missing or damaged"
	case newest < 0 && last.last > 0:
		return "its segments are missing"
	case last.last >= s.offset:
		return fmt.Sprintf("offset %d was given, but the files end with %d", last.last, s.offset-1)
	}
	anotherBoot := s.o.boot == "" || s.o.boot != found.Boot
	switch {
	case anotherBoot && !found.Orderly && (!found.Synced || end.cut):
		return "the machine went down while the log was open"
	case end.damaged == nil:
		return ""
	case found.Epochs[len(found.Epochs)-1].First == s.offset && (found.Orderly || !anotherBoot):
		return "" // the epoch began when it was found, and has given nothing
	}
	return end.damaged.Error()
}

// loadSegments finds the segments. Of the older ones it reads the index, of the
// newest one everything. The sources of their records are known afterwards.
func (s *Store) loadSegments() (end ending, err error) {
	firsts, err := s.tidy()
	if err != nil {
		return end, err
	}
	for i, first := range firsts {
		name := segmentName(s.o.Dir, first)
		var seg *segment
		s.sources.Cut(first)
		if i == len(firsts)-1 {
			if seg, end, err = s.scanNewest(name, first); err != nil {
				return end, err
			}
			if seg == nil {
				break
			}
		} else if seg, err = s.loadOlder(name, first); err != nil {
			return end, err
		}
		if n := len(s.segments); n > 0 && s.segments[n-1].next != first {
			// What was before the hole cannot be reached from behind it. The end is as
			// it was, so that no offset is given twice.
			before := s.segments[n-1]
			bad := &DamageError{before.name, before.size, missing(before.next, first)}
			s.err = bad
			s.discardDamaged(s.segments, bad)
			s.segments = nil
		}
		s.segments = append(s.segments, seg)
	}
	return end, nil
}

// tidy returns the offsets of the segments that there are, and removes what
// only a process that died can have left.
func (s *Store) tidy() (firsts []uint64, err error) {
	entries, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return nil, err
	}
	firsts = segmentsIn(entries)
	for _, e := range entries {
		name, unfinished := strings.CutSuffix(e.Name(), newSuffix)
		stem, _ := strings.CutSuffix(name, indexSuffix)
		first, isIndex := firstOf(stem + segmentSuffix)
		_, used := slices.BinarySearch(firsts, first)
		if isIndex && name != stem && (unfinished || !used) || unfinished && (name == metaName || isKept(name)) {
			_ = s.o.disk.remove(filepath.Join(s.o.Dir, e.Name()))
		}
	}
	return firsts, nil
}

// segmentsIn returns the first offsets of the segments in a directory, in order.
func segmentsIn(entries []os.DirEntry) []uint64 {
	var firsts []uint64
	for _, e := range entries {
		if first, ok := firstOf(e.Name()); ok {
			firsts = append(firsts, first)
		}
	}
	slices.Sort(firsts)
	return firsts
}

// loadOlder reads what is known of a segment that gets no more records: its
// index, or for want of one the whole of it.
func (s *Store) loadOlder(name string, first uint64) (*segment, error) {
	seg, sources, err := readIndex(s.o.disk, name, first)
	if err == nil {
		learnSources(&s.sources, sources, seg.next)
		return seg, nil
	}
	s.o.Logger.Warn("reading a segment whole for want of its index", zap.String("file", name), zap.Error(err))
	seg, err = scan(s.o.disk, name, first, &s.sources)
	if bad, ok := errors.AsType[*DamageError](err); ok {
		// Where it ends early there is a hole, unless this was found when it was
		// the newest.
		s.o.Logger.Warn("reading a segment no further than to its damage", zap.String("file", name),
			zap.Int64("byte", bad.At), zap.Error(bad.Err))
		err = nil
	}
	if err == nil && seg.events() > 0 {
		_ = seg.writeIndex(s.o.disk, s.sources.All()) // it is made again where it cannot be kept
	}
	return seg, err
}

// scanNewest reads a segment and cuts off what is not whole. nil: nothing is
// left of it.
func (s *Store) scanNewest(name string, first uint64) (seg *segment, end ending, err error) {
	seg, err = scan(s.o.disk, name, first, &s.sources)
	bad, isDamage := errors.AsType[*DamageError](err)
	switch {
	case err == nil:
	case !isDamage:
		return nil, end, err
	case errors.Is(bad, errTorn):
		end.cut = true
		s.o.Logger.Warn("cutting off a record that was not written whole", zap.String("file", name),
			zap.Int64("byte", bad.At), zap.Uint64("offset", seg.next))
	default:
		end.damaged, seg.full = bad, true
		s.o.Logger.Error("the log is damaged; what comes after it is not served",
			zap.String("file", name), zap.Int64("byte", bad.At), zap.Uint64("offset", seg.next), zap.Error(bad.Err))
	}
	switch {
	case seg.events() > 0 && end.cut:
		return seg, end, s.truncate(name, seg.size)
	case seg.events() > 0:
		return seg, end, nil
	case end.damaged != nil: // the next segment has its name
		return nil, end, s.o.disk.rename(name, name+damagedSuffix)
	}
	return nil, end, s.o.disk.remove(name)
}

func (s *Store) truncate(name string, size int64) error {
	f, err := s.o.disk.open(name, os.O_RDWR)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// maxEpochs bounds the list, for machines that go down again and again while
// the log gets next to nothing.
const maxEpochs = 256

// forgetEpochsLocked drops the epochs that no cursor can be resumed from, but
// the newest.
func (s *Store) forgetEpochsLocked() {
	first, n := s.firstLocked(), 0
	epochs := s.meta.Epochs
	// a cursor may stand before the oldest record, as the last of an older epoch
	for n+1 < len(epochs) && (epochs[n+1].First < first || len(epochs)-n > maxEpochs) {
		n++
	}
	if n == 0 {
		return
	}
	epochs = slices.Clone(epochs[n:])
	// What is older has to be of some epoch, and no cursor of this one is there.
	epochs[0].First = min(epochs[0].First, first)
	s.meta.Epochs = epochs
}
