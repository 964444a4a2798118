package filestore

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"sort"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// The index of a segment that gets no more records is a file beside it, which
// can be made again from the segment:
//
//	magic    8 bytes, "SSEFANIN"
//	version  uint32
//	crc      uint32, of all but itself
//	first, next, size, firstTime, lastTime: 8 bytes each, as in segment
//	count    uint64, how many entries there are
//	entries  24 bytes each, as in indexEntry
//	sources  the rest, as appendSources writes it
//
// In memory every segment has the entries. The sources are all that are known up
// to the end of the segment, those of segments too that have been dropped: the
// index before the newest segment says what came before it.

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
	indexHeaderSize = 8 + 4 + 4 + 8*6
)

// writeIndex writes the index of a segment that gets no more records, with the
// sources that are known at its end.
func (s *segment) writeIndex(d disk, sources map[string]logstore.Latest) error {
	body := make([]byte, 0, indexHeaderSize+len(s.index)*indexEntrySize+sourcesSize(sources))
	return replaceFile(d, s.indexName(), s.appendIndex(body, sources))
}

func (s *segment) appendIndex(body []byte, sources map[string]logstore.Latest) []byte {
	body = append(body, magic[:]...)
	body = binary.LittleEndian.AppendUint32(body, formatVersion)
	body = append(body, 0, 0, 0, 0) // the checksum
	for _, n := range [...]uint64{s.first, s.next, uint64(s.size), uint64(s.firstTime), uint64(s.lastTime), uint64(len(s.index))} {
		body = binary.LittleEndian.AppendUint64(body, n)
	}
	for _, e := range s.index {
		body = binary.LittleEndian.AppendUint64(body, e.offset)
		body = binary.LittleEndian.AppendUint64(body, uint64(e.time))
		body = binary.LittleEndian.AppendUint64(body, uint64(e.position))
	}
	body = appendSources(body, sources)
	binary.LittleEndian.PutUint32(body[12:], indexChecksum(body))
	return body
}

// readIndex reads the index of a segment, and the sources that are known at its
// end; an error where it does not fit.
func readIndex(d disk, name string, first uint64) (*segment, map[string]logstore.Latest, error) {
	s := &segment{name: name, first: first}
	body, err := readFile(d, s.indexName())
	if err != nil {
		return nil, nil, err
	}
	f, err := d.open(name, os.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	_ = f.Close()
	if err != nil {
		return nil, nil, err
	}
	sources, err := s.parseIndex(body, info.Size())
	if err != nil {
		return nil, nil, &DamageError{s.indexName(), 0, err}
	}
	return s, sources, nil
}

// parseIndex takes over what an index file holds, if it fits the name of the
// segment and the size of its file, and returns its sources.
func (s *segment) parseIndex(body []byte, fileSize int64) (map[string]logstore.Latest, error) {
	if len(body) < indexHeaderSize || [8]byte(body[:8]) != magic ||
		indexChecksum(body) != binary.LittleEndian.Uint32(body[12:]) {
		return nil, errDamaged
	}
	if binary.LittleEndian.Uint32(body[8:]) != formatVersion {
		return nil, errVersion
	}
	number := func(i int) uint64 { return binary.LittleEndian.Uint64(body[16+8*i:]) }
	s.next, s.size, s.firstTime, s.lastTime = number(1), int64(number(2)), int64(number(3)), int64(number(4))
	count, rest := number(5), body[indexHeaderSize:]
	// The file may be longer: behind damage there are bytes that are not served.
	if number(0) != s.first || s.next <= s.first || s.size > fileSize ||
		count == 0 || count > uint64(len(rest)/indexEntrySize) {
		return nil, errIndex
	}
	s.index = make([]indexEntry, 0, count)
	for ; count > 0; count-- {
		s.index = append(s.index, indexEntry{
			offset:   binary.LittleEndian.Uint64(rest),
			time:     int64(binary.LittleEndian.Uint64(rest[8:])),
			position: int64(binary.LittleEndian.Uint64(rest[16:])),
		})
		rest = rest[indexEntrySize:]
	}
	sources, ok := parseSources(rest, s.next)
	if !ok {
		return nil, errIndex
	}
	return sources, nil
}

// errIndex is that of a file that is whole, and not what it should be.
var errIndex = errors.New("it does not fit the segment")

func indexChecksum(p []byte) uint32 {
	return crc32.Update(crc32.Checksum(p[:12], castagnoli), castagnoli, p[16:])
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
