package filestore

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"sort"
)

// The index of a segment that gets no more records is a file beside it, which
// can be made again from the segment:
//
//	magic    8 bytes, "SSEFANIN"
//	version  uint32
//	crc      uint32, of all but itself
//	first, next, size, firstTime, lastTime: 8 bytes each, as in segment
//	entries  24 bytes each, as in indexEntry
//
// In memory every segment has one.

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
)

// writeIndex writes the index of a segment that gets no more records.
func (s *segment) writeIndex(d disk) error {
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
	binary.LittleEndian.PutUint32(body[12:], indexChecksum(body))
	return replaceFile(d, s.indexName(), body)
}

// readIndex reads the index of a segment; an error where it does not fit.
func readIndex(d disk, name string, first uint64) (*segment, error) {
	s := &segment{name: name, first: first}
	body, err := readFile(d, s.indexName())
	if err != nil {
		return nil, err
	}
	f, err := d.open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	if err := s.parseIndex(body, info.Size()); err != nil {
		return nil, &damage{s.indexName(), 0, err}
	}
	return s, nil
}

// parseIndex takes over what an index file holds, if it fits the name of the
// segment and the size of its file.
func (s *segment) parseIndex(body []byte, fileSize int64) error {
	if len(body) < indexHeaderSize || (len(body)-indexHeaderSize)%indexEntrySize != 0 || [8]byte(body[:8]) != magic ||
		indexChecksum(body) != binary.LittleEndian.Uint32(body[12:]) {
		return errDamaged
	}
	if binary.LittleEndian.Uint32(body[8:]) != formatVersion {
		return errVersion
	}
	number := func(i int) uint64 { return binary.LittleEndian.Uint64(body[16+8*i:]) }
	s.next, s.size, s.firstTime, s.lastTime = number(1), int64(number(2)), int64(number(3)), int64(number(4))
	// The file may be longer: behind damage there are bytes that are not served.
	if number(0) != s.first || s.next <= s.first || s.size > fileSize || len(body) == indexHeaderSize {
		return errors.New("it is not of this segment")
	}
	s.index = make([]indexEntry, 0, (len(body)-indexHeaderSize)/indexEntrySize)
	for rest := body[indexHeaderSize:]; len(rest) > 0; rest = rest[indexEntrySize:] {
		s.index = append(s.index, indexEntry{
			offset:   binary.LittleEndian.Uint64(rest),
			time:     int64(binary.LittleEndian.Uint64(rest[8:])),
			position: int64(binary.LittleEndian.Uint64(rest[16:])),
		})
	}
	return nil
}

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
