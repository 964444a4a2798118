package filestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sort"
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
	size        int64  // committed bytes, the header included
	firstTime   int64  // arrival of its first record, Unix ms
	lastTime    int64

	// index has an entry for every indexStep bytes or so. Nil: it is in its file,
	// or has to be made.
	index []indexEntry
}

// indexEntry says where a record stands.
type indexEntry struct {
	offset   uint64
	time     int64 // arrival, Unix ms
	position int64 // of its frame in the file
}

const (
	// indexStep is about how many bytes of a segment there are from one entry of
	// its index to the next: what has to be read to find a record. An entry has
	// 24 bytes, so that the index of 20 GiB has 8 MiB.
	indexStep = 64 << 10

	indexEntrySize  = 24
	indexHeaderSize = 8 + 4 + 4 + 8*5
	segmentSuffix   = ".log"
	indexSuffix     = ".index"
	damagedSuffix   = ".damaged"
)

func segmentName(dir string, first uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d", first)+segmentSuffix)
}

// firstOf returns the offset that the name of a segment says; false for other
// files.
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
	s.lastTime = r.Time
	s.next = r.Offset + 1
	s.size += int64(size)
}

// scan reads a whole segment. It returns what is whole, and, as a *damage, why
// the rest is not; the damage wraps errTorn where nothing but the end is missing.
func scan(name string, first uint64) (*segment, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s := &segment{name: name, first: first, next: first, size: headerSize}
	header := make([]byte, min(headerSize, info.Size()))
	if _, err := io.ReadFull(f, header); err != nil {
		return nil, err
	}
	if err := checkHeader(header, first); err != nil {
		return s, &damage{name, 0, err}
	}
	frames := frames{file: f, at: headerSize, end: info.Size(), offset: first}
	for {
		r, size, err := frames.next()
		switch {
		case err == nil:
			s.add(&r, size)
			continue
		case errors.Is(err, io.EOF):
			return s, nil
		}
		if _, ok := errors.AsType[*os.PathError](err); ok {
			return nil, err // the disk's, which says nothing of the contents
		}
		at := frames.at
		if rest, readErr := readRest(f, at+1, info.Size()); readErr != nil {
			return nil, readErr
		} else if !laterFrame(rest, s.next) {
			err = errTorn
		} else if errors.Is(err, errTorn) {
			err = errDamaged // its length is
		}
		return s, &damage{name, at, err}
	}
}

// maxRest bounds what is searched for records behind a broken one, in bytes.
const maxRest = 64 << 20

func readRest(f *os.File, from, to int64) ([]byte, error) {
	rest := make([]byte, max(min(to-from, maxRest), 0))
	n, err := f.ReadAt(rest, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return rest[:n], nil
}

// writeIndex writes the index of a segment that gets no more records.
func (s *segment) writeIndex() error {
	body := make([]byte, 0, indexHeaderSize+len(s.index)*indexEntrySize)
	body = append(body, magic[:]...)
	body = binary.LittleEndian.AppendUint32(body, formatVersion)
	body = append(body, 0, 0, 0, 0) // the checksum
	for _, n := range [...]uint64{s.first, s.next, uint64(s.size), uint64(s.firstTime), uint64(s.lastTime)} {
		body = binary.LittleEndian.AppendUint64(body, n)
	}
	for _, e := range s.index {
		body = binary.LittleEndian.AppendUint64(body, e.offset)
		body = binary.LittleEndian.AppendUint64(body, uint64(e.time))
		body = binary.LittleEndian.AppendUint64(body, uint64(e.position))
	}
	binary.LittleEndian.PutUint32(body[12:], crc32.Checksum(body[16:], castagnoli))
	return replaceFile(s.indexName(), body)
}

// readIndex reads the index of a segment; an error where it does not fit.
func readIndex(name string, first uint64) (*segment, error) {
	s := &segment{name: name, first: first}
	body, err := os.ReadFile(s.indexName())
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if len(body) < indexHeaderSize || (len(body)-indexHeaderSize)%indexEntrySize != 0 || [8]byte(body[:8]) != magic ||
		binary.LittleEndian.Uint32(body[8:]) != formatVersion ||
		binary.LittleEndian.Uint32(body[12:]) != crc32.Checksum(body[16:], castagnoli) {
		return nil, &damage{s.indexName(), 0, errDamaged}
	}
	number := func(i int) uint64 { return binary.LittleEndian.Uint64(body[16+8*i:]) }
	s.next, s.size, s.firstTime, s.lastTime = number(1), int64(number(2)), int64(number(3)), int64(number(4))
	if number(0) != first || s.size != info.Size() || s.next <= first {
		return nil, &damage{s.indexName(), 0, errors.New("it is of another segment")}
	}
	for rest := body[indexHeaderSize:]; len(rest) > 0; rest = rest[indexEntrySize:] {
		s.index = append(s.index, indexEntry{
			offset:   binary.LittleEndian.Uint64(rest),
			time:     int64(binary.LittleEndian.Uint64(rest[8:])),
			position: int64(binary.LittleEndian.Uint64(rest[16:])),
		})
	}
	return s, nil
}

// before returns the last entry of the index at or before an offset.
func (s *segment) before(offset uint64) indexEntry {
	i := sort.Search(len(s.index), func(i int) bool { return s.index[i].offset > offset })
	if i == 0 {
		return indexEntry{offset: s.first, position: headerSize}
	}
	return s.index[i-1]
}

// beforeTime returns the last entry of the index whose record arrived before t.
func (s *segment) beforeTime(t int64) indexEntry {
	i := sort.Search(len(s.index), func(i int) bool { return s.index[i].time >= t })
	if i == 0 {
		return indexEntry{offset: s.first, position: headerSize}
	}
	return s.index[i-1]
}

// replaceFile writes a file so that there is either the old one or the new one,
// whatever happens. The caller syncs the directory.
func replaceFile(name string, body []byte) error {
	f, err := os.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	return err
}
