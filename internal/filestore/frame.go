package filestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// A segment is a file of records, named by the offset of its first. It begins
// with a header:
//
//	magic    8 bytes, "SSEFANIN"
//	version  uint32
//	crc      uint32, of what follows
//	first    uint64, offset of the first record
//
// after which each record has a frame:
//
//	length   uint32, of the record
//	crc      uint32, of offset and record
//	offset   uint64
//	record   as logstore.Record.AppendTo writes it
//
// Numbers are little-endian, checksums CRC-32C. The offset stands in each frame
// and under its checksum, so that no record can be taken for another one.
const (
	formatVersion = 1
	headerSize    = 8 + 4 + 4 + 8
	frameSize     = 4 + 4 + 8

	// maxRecord bounds what the length of a frame is believed, in bytes. Events
	// are at most some MiB, by max_event_size.
	maxRecord = 1 << 30
)

var (
	magic      = [8]byte{'S', 'S', 'E', 'F', 'A', 'N', 'I', 'N'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// errTorn is that of a frame which is not whole. errDamaged is that of bytes
// that nothing of ours has written.
var (
	errTorn    = errors.New("the record is cut off")
	errDamaged = errors.New("the checksum does not match")
)

func appendHeader(dst []byte, first uint64) []byte {
	var tail [8]byte
	binary.LittleEndian.PutUint64(tail[:], first)
	dst = append(dst, magic[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, formatVersion)
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(tail[:], castagnoli))
	return append(dst, tail[:]...)
}

// checkHeader checks the header of the segment that begins with first.
func checkHeader(p []byte, first uint64) error {
	switch {
	case len(p) < headerSize:
		return errTorn
	case [8]byte(p[:8]) != magic:
		return errors.New("it is not a segment of a log")
	case binary.LittleEndian.Uint32(p[8:]) != formatVersion:
		return fmt.Errorf("it has format version %d, this program knows %d", binary.LittleEndian.Uint32(p[8:]), formatVersion)
	case crc32.Checksum(p[16:24], castagnoli) != binary.LittleEndian.Uint32(p[12:]):
		return errDamaged
	case binary.LittleEndian.Uint64(p[16:]) != first:
		return fmt.Errorf("it begins with offset %d, its name says %d", binary.LittleEndian.Uint64(p[16:]), first)
	}
	return nil
}

func appendFrame(dst []byte, r *logstore.Record) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, frameSize)...)
	dst = r.AppendTo(dst)
	frame := dst[at:]
	binary.LittleEndian.PutUint32(frame, uint32(len(frame)-frameSize))
	binary.LittleEndian.PutUint64(frame[8:], r.Offset)
	binary.LittleEndian.PutUint32(frame[4:], crc32.Checksum(frame[8:], castagnoli))
	return dst
}

// parseFrame reads the frame of the record at offset from the beginning of p.
// size is the whole frame's. The record's Body is a part of p.
func parseFrame(p []byte, offset uint64) (r logstore.Record, size int, err error) {
	if len(p) < frameSize {
		return r, 0, errTorn
	}
	length := binary.LittleEndian.Uint32(p)
	if length > maxRecord {
		return r, 0, errDamaged
	}
	size = frameSize + int(length)
	if size > len(p) {
		return r, size, errTorn
	}
	frame := p[:size]
	if crc32.Checksum(frame[8:], castagnoli) != binary.LittleEndian.Uint32(frame[4:]) ||
		binary.LittleEndian.Uint64(frame[8:]) != offset {
		return r, size, errDamaged
	}
	if r, err = logstore.DecodeRecord(frame[frameSize:]); err != nil {
		return r, size, err
	}
	r.Offset = offset
	return r, size, nil
}

// laterFrame reports whether there is a whole frame of a record after offset
// anywhere in p: what is broken before it is no torn end.
func laterFrame(p []byte, offset uint64) bool {
	for ; len(p) >= frameSize; p = p[1:] {
		length, at := binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint64(p[8:])
		// offsets close by first: a checksum at every byte would take long
		if at > offset && at-offset <= uint64(len(p)) && int64(length) <= int64(len(p)-frameSize) &&
			crc32.Checksum(p[8:frameSize+int(length)], castagnoli) == binary.LittleEndian.Uint32(p[4:]) {
			return true
		}
	}
	return false
}

// damage is an error that names where in which file.
type damage struct {
	file string
	at   int64
	err  error
}

func (d *damage) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %v", d.file, d.at, d.err)
}

func (d *damage) Unwrap() error { return d.err }

// frames reads the frames of a segment one after the other.
type frames struct {
	file   *os.File
	at     int64  // of the frame that is next
	end    int64  // up to where to read
	offset uint64 // of the record that is next
	buf    []byte // bytes of the file from at on
	window []byte // what buf is a part of
}

// readAhead is how much is read from a file at once, in bytes.
const readAhead = 256 << 10

// next returns the next record. Its bytes are valid until the call after it.
// The error is io.EOF at the end, errTorn, or another one of parseFrame.
func (f *frames) next() (r logstore.Record, size int, err error) {
	if f.at >= f.end {
		return r, 0, io.EOF
	}
	need := frameSize
	for {
		if len(f.buf) >= need {
			r, size, err = parseFrame(f.buf, f.offset)
			if !errors.Is(err, errTorn) {
				break
			}
			need = max(size, need+1)
		}
		if f.at+int64(need) > f.end {
			return r, size, errTorn
		}
		if err := f.fill(need); err != nil {
			return r, 0, err
		}
	}
	if err != nil {
		return r, size, err
	}
	f.buf = f.buf[size:]
	f.at += int64(size)
	f.offset++
	return r, size, nil
}

// fill reads at least need bytes from at on.
func (f *frames) fill(need int) error {
	want := min(int64(max(need, readAhead)), f.end-f.at)
	window := make([]byte, want) // records that were returned are parts of the one before
	n := copy(window, f.buf)
	m, err := f.file.ReadAt(window[n:], f.at+int64(n))
	if n+m < need {
		if err == nil || errors.Is(err, io.EOF) {
			return errTorn // the file is shorter than it was
		}
		return err
	}
	f.window, f.buf = window, window[:n+m]
	return nil
}
