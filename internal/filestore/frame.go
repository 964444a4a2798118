package filestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// A segment is a file of records, named by the offset of its first. It begins
// with a header:
//
//	magic    8 bytes, "SSEFANIN"
//	version  uint32
//	crc      uint32, of all but itself
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
	// formatVersion is that of every file. It rises with that of logstore's
	// records, too: a program that meets a newer one refuses the log whole, and
	// cuts nothing off. The first 16 bytes of a header stay as they are.
	formatVersion = 1
	headerSize    = 8 + 4 + 4 + 8
	frameSize     = 4 + 4 + 8

	// maxRecord bounds a record, in bytes: what Append takes, and what the length
	// of a frame is believed. Events are at most some MiB, by max_event_size.
	maxRecord = 256 << 20
)

var (
	magic      = [8]byte{'S', 'S', 'E', 'F', 'A', 'N', 'I', 'N'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// errTorn is that of a frame which is not whole. errDamaged is that of bytes
// that nothing of ours has written. errVersion is that of what a newer program
// has written.
var (
	errTorn    = errors.New("the record is cut off")
	errDamaged = errors.New("the checksum does not match")
	errTornEnd = fmt.Errorf("%w, or damaged", errTorn) // with as many bytes as it should have
	errVersion = fmt.Errorf("its format is not version %d, which this program knows", formatVersion)
)

func appendHeader(dst []byte, first uint64) []byte {
	at := len(dst)
	dst = append(dst, magic[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, formatVersion)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, first)
	binary.LittleEndian.PutUint32(dst[at+12:], headerChecksum(dst[at:]))
	return dst
}

func headerChecksum(p []byte) uint32 {
	return crc32.Update(crc32.Checksum(p[:12], castagnoli), castagnoli, p[16:headerSize])
}

// checkHeader checks the header of the segment that begins with first.
func checkHeader(p []byte, first uint64) error {
	switch {
	case len(p) < headerSize:
		return errTorn
	case [8]byte(p[:8]) != magic || headerChecksum(p) != binary.LittleEndian.Uint32(p[12:]):
		return errDamaged
	case binary.LittleEndian.Uint32(p[8:]) != formatVersion:
		return errVersion
	case binary.LittleEndian.Uint64(p[16:]) != first:
		return fmt.Errorf("it begins with offset %d, its name means %d", binary.LittleEndian.Uint64(p[16:]), first)
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
		return r, size, fmt.Errorf("%w: %w", errVersion, err) // as it was written
	}
	r.Offset = offset
	return r, size, nil
}

// laterFrame reports whether there is a whole frame of a record after offset
// anywhere in p: what is broken before it is no torn end. It also reports true
// where that would take too long to find out.
func laterFrame(p []byte, offset uint64) bool {
	// Bytes that were never a frame look like the head of one now and then, and a
	// checksum of all that follows at each of them would take hours.
	budget := 4 * int64(len(p))
	for ; len(p) >= frameSize; p = p[1:] {
		length, at := binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint64(p[8:])
		if at <= offset || at-offset > maxBehind || int64(length) > int64(len(p)-frameSize) {
			continue
		}
		if budget -= 8 + int64(length); budget < 0 {
			return true
		}
		if crc32.Checksum(p[8:frameSize+int(length)], castagnoli) == binary.LittleEndian.Uint32(p[4:]) {
			return true
		}
	}
	return false
}

// maxBehind is how much higher the offset of a frame behind a broken one can
// be. A segment has fewer records.
const maxBehind = 1 << 32

// DamageError is what is wrong with a file of a log, and where in it.
type DamageError struct {
	File string // with its path
	At   int64  // the byte, from 0
	Err  error
}

// Error implements error.
func (d *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %v", d.File, d.At, d.Err)
}

// Unwrap returns Err.
func (d *DamageError) Unwrap() error { return d.Err }

// missing is the error of offsets that are not where they should be, from one
// that is missing up to one that is not.
func missing(from, to uint64) error {
	if to-from == 1 {
		return fmt.Errorf("offset %d is missing behind it", from)
	}
	return fmt.Errorf("offsets %d to %d are missing behind it", from, to-1)
}

// broken reports whether an error is that of the bytes, and not that of reading
// them.
func broken(err error) bool {
	return errors.Is(err, errTorn) || errors.Is(err, errDamaged) || errors.Is(err, errVersion)
}

// frames reads the frames of a segment one after the other.
type frames struct {
	file   io.ReaderAt
	at     int64  // of the frame that is next
	end    int64  // up to where to read
	offset uint64 // of the record that is next
	buf    []byte // bytes of the file from at on
	ahead  int    // how much is read from the file at once, in bytes; 0 is readAhead
}

// readAhead is how much is read from a file at once by default, in bytes.
const readAhead = 256 << 10

// skip goes on to the record at an offset without a look at those before it,
// but for their place. The errors are those of next.
func (f *frames) skip(to uint64) error {
	for f.offset < to {
		if f.at+frameSize > f.end {
			return errTorn
		}
		if len(f.buf) < frameSize {
			if err := f.fill(frameSize); err != nil {
				return err
			}
		}
		size := frameSize + int64(binary.LittleEndian.Uint32(f.buf))
		if f.at+size > f.end || binary.LittleEndian.Uint64(f.buf[8:]) != f.offset {
			return errDamaged
		}
		f.buf = f.buf[min(size, int64(len(f.buf))):]
		f.at += size
		f.offset++
	}
	return nil
}

// next returns the next record, whose bytes are the caller's. The error is
// io.EOF at the end, one of parseFrame, or that of reading.
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
	ahead := f.ahead
	if ahead == 0 {
		ahead = readAhead
	}
	want := min(int64(max(need, ahead)), f.end-f.at)
	window := make([]byte, want) // records that were returned are parts of the one before
	n := copy(window, f.buf)
	m, err := f.file.ReadAt(window[n:], f.at+int64(n))
	if n+m < need {
		if err == nil || errors.Is(err, io.EOF) {
			return errTorn // the file is shorter than it was
		}
		return err
	}
	f.buf = window[:n+m]
	return nil
}
