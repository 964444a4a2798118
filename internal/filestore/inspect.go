package filestore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// Report is what Inspect and Check find in the directory of a log.
type Report struct {
	Dir     string
	Holder  string // which process has the log open, such as "process 17"; empty if none has
	Orderly bool   // it was closed with everything on disk, and has not been opened since

	Epochs      []logstore.Epoch
	First, Last uint64 // offsets of the records; First is Last+1 if there are none
	Records     uint64
	Bytes       int64 // of the segments
	Oldest      int64 // arrival of the oldest record, Unix ms; 0 if there are none
	Newest      int64
	Segments    int
	Sources     map[string]logstore.Latest

	// Kept has the sizes of what is kept besides the log, by its name.
	Kept map[string]int64

	// Aside has the names of damaged segments that the store has put aside.
	Aside []string

	// Unfinished is a record at the end that was not committed: it is being
	// written, or the process died in between. Opening the log cuts it off.
	// Nil if there is none.
	Unfinished *DamageError

	// Damage is all that is wrong with the files that were read.
	Damage []*DamageError

	segments []*segment
	sources  logstore.Sources
	head     head
	hasHead  bool
}

// ErrNoLog is that of a directory in which there is no log.
var ErrNoLog = errors.New("there is no log")

var (
	errMissing = errors.New("the file is missing")
	errDiffers = errors.New("it does not fit the records of its segment")
)

// IsLog reports whether a directory has a log.
func IsLog(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	return hasLog(entries), err
}

func hasLog(entries []os.DirEntry) bool {
	for _, e := range entries {
		_, isSegment := firstOf(e.Name())
		if !e.IsDir() && (isSegment || e.Name() == metaName || e.Name() == headName) {
			return true
		}
	}
	return false
}

// Inspect looks at the log in a directory without changing anything, while a
// process has it open, too. Of the newest segment it reads the records, of the
// others the index, if that is whole. Damage is no error: what is behind it in
// its file is left out.
func Inspect(dir string) (*Report, error) { return inspect(dir, false) }

// Check is Inspect, but reads every record of every segment, and compares them
// with the indexes.
func Check(dir string) (*Report, error) { return inspect(dir, true) }

// maxLooks bounds how often a look begins anew because the segments that were
// listed have been dropped meanwhile.
const maxLooks = 100

func inspect(dir string, whole bool) (*Report, error) {
	for range maxLooks {
		r, err := look(dir, whole)
		if err != nil || r != nil {
			return r, err
		}
	}
	return nil, fmt.Errorf("looking into the log in %s: its events are dropped faster than they can be read", dir)
}

// look is inspect, once. nil: all that there was has been dropped meanwhile.
func look(dir string, whole bool) (*Report, error) {
	r := &Report{Dir: dir}
	var err error
	if r.Holder, err = holder(dir); err != nil {
		return nil, fmt.Errorf("looking into a log: %w", err)
	}
	// These come first: while the log is open, the segments have what they name.
	headErr := r.readHead()
	m, metaErr := readMeta(realDisk{}, dir)
	firsts, entries, overtaken, err := listSegments(dir)
	if err != nil {
		return nil, fmt.Errorf("looking into a log: %w", err)
	}
	if !hasLog(entries) {
		return nil, fmt.Errorf("%w in %s", ErrNoLog, dir)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), segmentSuffix+damagedSuffix) {
			r.Aside = append(r.Aside, e.Name())
		}
	}
	r.addKept(entries)
	for i, first := range firsts {
		r.add(first, i == len(firsts)-1, whole)
	}
	if overtaken || len(firsts) > 0 && len(r.segments) == 0 {
		return nil, nil
	}
	r.sum()
	r.judge(m, metaErr, headErr)
	return r, nil
}

// listSegments returns the first offsets of the segments in a directory, without
// a hole where the log is open, and everything that is there. overtaken: they
// have been dropped meanwhile.
func listSegments(dir string) (firsts []uint64, entries []os.DirEntry, overtaken bool, err error) {
	if entries, err = os.ReadDir(dir); err != nil {
		return nil, nil, false, err
	}
	// A list may lack what was made while it was read, and have what was made after
	// that. A second one has all that the first one lacks.
	before := segmentsIn(entries)
	if len(before) == 0 {
		return nil, entries, false, nil
	}
	newest := before[len(before)-1]
	if entries, err = os.ReadDir(dir); err != nil {
		return nil, nil, false, err
	}
	firsts = segmentsIn(entries)
	n, _ := slices.BinarySearch(firsts, newest+1)
	return firsts[:n], entries, n == 0, nil
}

// readHead reads the file head. It is written to while the log is open, so that
// what was read may be neither the old nor the new: then it waits a little, as the
// thread that writes may have to wait for a processor.
func (r *Report) readHead() error {
	tries := 1
	if r.Holder != "" {
		tries = headTries
	}
	for ; ; tries-- {
		body, err := readFile(realDisk{}, filepath.Join(r.Dir, headName))
		switch {
		case errors.Is(err, os.ErrNotExist):
			return errMissing
		case err != nil:
			return err
		}
		var whole bool
		if r.head, r.hasHead, whole = parseHead(body); whole {
			return nil
		}
		if tries == 1 {
			return errDamaged
		}
		time.Sleep(headPause)
	}
}

// How often the file head of a log that is open is read until it is whole, and the
// pause between: a second in all.
const (
	headTries = 100
	headPause = 10 * time.Millisecond
)

// found notes damage.
func (r *Report) found(file string, at int64, err error) {
	r.Damage = append(r.Damage, &DamageError{file, at, err})
}

// foundBehind notes what is wrong behind the last record of a segment: with the
// damage that is there, if it is known.
func (r *Report) foundBehind(seg *segment, err error) {
	for _, d := range r.Damage {
		if d.File == seg.name {
			d.Err = fmt.Errorf("%w; %w", d.Err, err)
			return
		}
	}
	r.found(seg.name, seg.size, err)
}

// busy reports whether a process has the log open, or has opened it meanwhile.
func (r *Report) busy() bool {
	if r.Holder == "" {
		r.Holder, _ = holder(r.Dir)
	}
	return r.Holder != ""
}

// add takes a segment into account.
func (r *Report) add(first uint64, newest, whole bool) {
	name := segmentName(r.Dir, first)
	r.sources.Cut(first)
	var indexed *segment
	var known map[string]logstore.Latest
	if !newest { // that of the newest is of an earlier time, if there is one
		var err error
		indexed, known, err = readIndex(realDisk{}, name, first)
		if _, statErr := os.Stat(name); errors.Is(statErr, os.ErrNotExist) && r.busy() {
			r.dropped()
			return
		}
		if err != nil {
			at, why := int64(0), err
			if bad, ok := errors.AsType[*DamageError](err); ok {
				at, why = bad.At, bad.Err
			} else if errors.Is(err, os.ErrNotExist) {
				why = errMissing
			}
			r.found((&segment{name: name}).indexName(), at, why)
		}
	}
	seg := indexed
	if seg == nil || whole {
		var own logstore.Sources
		var sound bool
		if seg, sound = r.scan(name, first, newest, &own); seg == nil {
			r.dropped()
			return
		}
		learnSources(&r.sources, own.All(), seg.next)
		if indexed != nil && sound && !indexed.fits(seg, known, own.All()) {
			r.found(seg.indexName(), 0, errDiffers)
		}
	}
	learnSources(&r.sources, known, seg.next)
	r.follow(seg)
	r.segments = append(r.segments, seg)
}

// dropped forgets the segments so far: the one after them has been dropped since
// it was listed.
func (r *Report) dropped() { r.segments = nil }

// scan reads a segment. It returns what is whole, and whether that is all of it;
// nil if the segment has been dropped meanwhile.
func (r *Report) scan(name string, first uint64, newest bool, sources *logstore.Sources) (seg *segment, sound bool) {
	f, err := os.Open(filepath.Clean(name))
	if errors.Is(err, os.ErrNotExist) && r.busy() {
		return nil, false
	}
	seg = &segment{first: first, next: first, size: headerSize}
	var at int64
	if err == nil {
		defer f.Close()
		var info os.FileInfo
		if info, err = f.Stat(); err == nil {
			seg, at, err = scanBytes(f, info.Size(), first, sources)
		}
	}
	seg.name = name
	switch {
	case err == nil:
		return seg, true
	case newest && (!r.hasHead || seg.next > r.head.last) && broken(err) && (errors.Is(err, errTorn) || r.busy()):
		r.Unfinished = &DamageError{name, at, err}
	default:
		r.found(name, at, err)
	}
	return seg, false
}

// fits reports whether an index is that of a segment that was read whole, and
// knows its sources.
func (s *segment) fits(read *segment, known, sources map[string]logstore.Latest) bool {
	if s.next != read.next || s.size != read.size || s.firstTime != read.firstTime || s.lastTime != read.lastTime ||
		len(s.index) != len(read.index) {
		return false
	}
	for i, e := range s.index {
		if e != read.index[i] {
			return false
		}
	}
	for source, l := range sources {
		if known[source] != l {
			return false
		}
	}
	return true
}

// follow notes what is missing between a segment and the one before.
func (r *Report) follow(seg *segment) {
	if len(r.segments) == 0 {
		return
	}
	before := r.segments[len(r.segments)-1]
	switch {
	case seg.first > before.next:
		r.foundBehind(before, missing(before.next, seg.first))
	case seg.first < before.next:
		r.found(seg.name, 0, fmt.Errorf("offsets %d to %d stand in the file before, too", seg.first, before.next-1))
	}
}

// sum sums up the segments.
func (r *Report) sum() {
	r.Last = r.head.last
	for _, seg := range r.segments {
		r.Records += seg.events()
		r.Bytes += seg.size
		if seg.events() == 0 {
			continue
		}
		if r.Oldest == 0 {
			r.Oldest = seg.firstTime
		}
		r.Newest = seg.lastTime
	}
	r.Segments = len(r.segments)
	if r.Segments > 0 {
		r.Last = r.segments[r.Segments-1].next - 1
	}
	r.First = r.Last + 1
	if r.Segments > 0 {
		r.First = r.segments[0].first
	}
}

// judge compares the segments with what log.json and head say.
func (r *Report) judge(m *meta, metaErr, headErr error) {
	metaFile, headFile := filepath.Join(r.Dir, metaName), filepath.Join(r.Dir, headName)
	// A process that has just begun, or died so early, has left files in the making.
	fresh := len(r.segments) == 0 && r.head.last == 0 && metaErr == nil && (m == nil || m.Term == 0)
	switch {
	case m != nil:
		r.Epochs, r.Orderly = m.Epochs, m.Orderly && r.Holder == ""
		learnSources(&r.sources, m.known, r.Last+1)
		if _, ok := logstore.EpochAt(m.Epochs, r.First); !ok {
			metaErr = fmt.Errorf("offset %d is of no epoch: the first begins with %d", r.First, m.Epochs[0].First)
		}
	case metaErr == nil && !fresh:
		metaErr = errMissing
	}
	if metaErr != nil {
		r.found(metaFile, 0, metaErr)
	}
	r.Sources = r.sources.All()
	if fresh {
		headErr = nil
	}
	// After a new epoch has begun, the head may name the record before it, which
	// is lost.
	begun := m != nil && m.Epochs[len(m.Epochs)-1].First == r.head.last+1
	switch n := len(r.segments); {
	case !r.hasHead || r.head.last == 0 || begun:
	case n == 0:
		headErr = fmt.Errorf("offset %d was committed, but there are no segments", r.head.last)
	case r.head.last > r.Last:
		r.foundBehind(r.segments[n-1], fmt.Errorf("offset %d was committed, but the files end with %d", r.head.last, r.Last))
	}
	if headErr != nil {
		r.found(headFile, 0, headErr)
	}
}

// Walk calls f with the records from an offset on that arrived at a time (Unix
// ms) or later, oldest first, until f returns an error, which it returns. The
// record is valid until f returns. Behind damage it goes on with the next
// segment; it returns what it has met. Records that were appended since the
// inspection are left out.
func (r *Report) Walk(from uint64, since int64, f func(*logstore.Record) error) ([]*DamageError, error) {
	var met []*DamageError
	for _, seg := range r.segments {
		if seg.events() == 0 || seg.next <= from || seg.lastTime < since {
			continue
		}
		at, err := seg.walk(from, since, f)
		var stop *stopped
		switch {
		case errors.As(err, &stop):
			return met, stop.err
		case errors.Is(err, os.ErrNotExist) && r.busy(): // it was dropped meanwhile
		case err != nil:
			met = append(met, &DamageError{seg.name, at, err})
		}
	}
	return met, nil
}

// stopped is what ends a walk on purpose.
type stopped struct{ err error }

func (s *stopped) Error() string { return s.err.Error() }

// walk is Walk of a segment. at is where the error is.
func (s *segment) walk(from uint64, since int64, f func(*logstore.Record) error) (at int64, err error) {
	begin := s.before(from)
	if e := s.beforeTime(since); e.offset > begin.offset {
		begin = e
	}
	file, frames, err := s.open(realDisk{}, begin)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for {
		at = frames.at
		r, _, err := frames.next()
		switch {
		case errors.Is(err, io.EOF):
			return at, nil
		case err != nil:
			return at, err
		case r.Offset < from || r.Time < since:
			continue
		}
		if err := f(&r); err != nil {
			return at, &stopped{err}
		}
	}
}
