package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Record is one event of a stream, or a fence.
type Record struct {
	Offset uint64 // its place in the log; the store's
	Term   uint64 // of who appended it; the store's
	Time   int64  // arrival in Unix ms, not before that of the record before

	Source string // name of the upstream
	Type   string // as clients get it
	ID     string // the upstream's id in force after the event

	// Hash is of the upstream's id, type and data, the same in every process, so
	// that what an upstream sends again is recognised by another one.
	Hash uint64

	// Body is the event as clients get it, up to and including its blank line,
	// without an id line of the stream's. Empty: a fence, which takes an offset
	// so that no earlier term can go on, and which no client is sent.
	Body []byte
}

// Fence reports whether the record is no event.
func (r *Record) Fence() bool { return len(r.Body) == 0 }

// recordVersion is the first byte of an encoded record.
const recordVersion = 1

// ErrRecord is wrapped by every error of DecodeRecord.
var ErrRecord = errors.New("logstore: not a record")

// AppendTo appends the record to dst in a form that DecodeRecord reads, without
// its Offset, which is the store's to know:
//
//	version  1 byte
//	hash     8 bytes, little-endian
//	term     uvarint
//	time     uvarint
//	source, type, id: each a uvarint with its length, then its bytes
//	body     the rest
//
// A Time before 1970 becomes 1970.
func (r *Record) AppendTo(dst []byte) []byte {
	dst = append(dst, recordVersion)
	dst = binary.LittleEndian.AppendUint64(dst, r.Hash)
	dst = binary.AppendUvarint(dst, r.Term)
	dst = binary.AppendUvarint(dst, uint64(max(r.Time, 0)))
	for _, text := range [...]string{r.Source, r.Type, r.ID} {
		dst = binary.AppendUvarint(dst, uint64(len(text)))
		dst = append(dst, text...)
	}
	return append(dst, r.Body...)
}

// DecodeRecord reads what AppendTo wrote. The record's Body is a part of p; its
// Offset is 0.
func DecodeRecord(p []byte) (Record, error) {
	var r Record
	if len(p) < 1+8 {
		return r, fmt.Errorf("%w: %d bytes are too few", ErrRecord, len(p))
	}
	if p[0] != recordVersion {
		return r, fmt.Errorf("%w: version %d, this program knows %d", ErrRecord, p[0], recordVersion)
	}
	r.Hash = binary.LittleEndian.Uint64(p[1:])
	rest := p[9:]
	number := func(what string) (n uint64, err error) {
		n, size := binary.Uvarint(rest)
		if size <= 0 {
			return 0, fmt.Errorf("%w: its %s does not end", ErrRecord, what)
		}
		rest = rest[size:]
		return n, nil
	}
	var err error
	if r.Term, err = number("term"); err != nil {
		return r, err
	}
	t, err := number("time")
	if err != nil {
		return r, err
	}
	if r.Time = int64(t); r.Time < 0 {
		return r, fmt.Errorf("%w: its time is out of range", ErrRecord)
	}
	for _, field := range [...]struct {
		name string
		text *string
	}{{"source", &r.Source}, {"type", &r.Type}, {"id", &r.ID}} {
		n, err := number(field.name)
		if err != nil {
			return r, err
		}
		if n > uint64(len(rest)) {
			return r, fmt.Errorf("%w: its %s has %d bytes, but %d are left", ErrRecord, field.name, n, len(rest))
		}
		*field.text, rest = string(rest[:n]), rest[n:]
	}
	r.Body = rest
	return r, nil
}
