package filestore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// segment is one file of the log, and what is known of it. The store's mutex
// protects it; what is read from the file afterwards needs none, since a frame
// that was committed never changes.
type segment struct {
	name string // of the file, with its path

	first, next uint64 // offsets of its first record, and of the one after its last
	size        int64  // bytes up to the end of its last record, the header included
	firstTime   int64  // arrival of its first record, Unix ms
	lastTime    int64

	term uint64 // of its last record; 0 if that was not read

	// full has the next record go to another segment. Behind damage in the newest
	// one nothing is appended.
	full bool

	// index has an entry for every indexStep bytes or so.
	index []indexEntry
}

const (
	segmentSuffix = ".log"
	indexSuffix   = ".index"
)

func segmentName(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d", first)+segmentSuffix)
}

// firstOf returns the offset in the name of a segment; false for other files.
func firstOf(name string) (first uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first > 0
}

func (s *segment) indexName() string {
	return strings.TrimSuffix(s.name, segmentSuffix) + indexSuffix
}

func (s *segment) events() uint64 { return s.next - s.first }

// add notes a record whose frame begins at the end of the segment.
func (s *segment) add(r *logstore.Record, size int) {
	if n := len(s.index); n == 0 || s.size-s.index[n-1].position >= indexStep {
		s.index = append(s.index, indexEntry{offset: r.Offset, time: r.Time, position: s.size})
	}
	if s.next == s.first {
		s.firstTime = r.Time
	}
	s.lastTime, s.term = r.Time, r.Term
	s.next = r.Offset + 1
	s.size += int64(size)
}

// scan reads a whole segment. It returns what is whole, and, as a *DamageError, why
// the rest is not; the damage wraps errTorn where nothing but the end is missing.
// Bytes that a newer program has written are no damage. sources takes the records
// into account.
func scan(d disk, name string, first uint64, sources *logstore.Sources) (*segment, error) {
	f, err := d.open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s, at, err := scanBytes(f, info.Size(), first, sources)
	s.name = name
	switch {
	case err == nil:
		return s, nil
	case errors.Is(err, errTorn), errors.Is(err, errDamaged):
		return s, &DamageError{name, at, err}
	}
	return nil, fmt.Errorf("reading %s at byte %d: %w", name, at, err)
}

// scanBytes is scan of what a file of some size holds. at is where err is.
func scanBytes(f io.ReaderAt, size int64, first uint64, sources *logstore.Sources) (s *segment, at int64, err error) {
	s = &segment{first: first, next: first, size: headerSize}
	header := make([]byte, min(headerSize, size))
	if n, err := f.ReadAt(header, 0); n < len(header) {
		return s, 0, err
	}
	if err := checkHeader(header, first); err != nil {
		if errors.Is(err, errVersion) || errors.Is(err, errTorn) {
			return s, 0, err
		}
		return s, 0, fmt.Errorf("%w: %w", errDamaged, err)
	}
	frames := frames{file: f, at: headerSize, end: size, offset: first}
	for {
		r, n, err := frames.next()
		switch {
		case err == nil:
			s.add(&r, n)
			sources.Note(&r)
			continue
		case errors.Is(err, io.EOF):
			return s, frames.at, nil
		case errors.Is(err, errVersion), !broken(err):
			return s, frames.at, err
		}
		rest := make([]byte, max(min(size-frames.at-1, maxRest), 0))
		n, readErr := f.ReadAt(rest, frames.at+1)
		if n < len(rest) && !errors.Is(readErr, io.EOF) {
			return s, frames.at, readErr
		}
		if laterFrame(rest[:n], s.next) {
			return s, frames.at, errDamaged // if it seems to be cut off, its length is
		}
		if errors.Is(err, errDamaged) {
			err = errTornEnd
		}
		return s, frames.at, err
	}
}

// maxRest bounds what is searched for records behind a broken one, in bytes: a
// whole segment, or nearly.
const maxRest = 64 << 20
