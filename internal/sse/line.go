package sse

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// field is a field that means something to a receiver.
type field uint8

const (
	fieldNone field = iota // a comment, an unknown field
	fieldData
	fieldEvent
	fieldID
	fieldRetry
)

// headLen is the length of the longest prefix that decides what a line is,
// "event: " and "retry: ": with as many bytes, the field is known or the line is
// of no use, and the blank after the colon has been seen.
const headLen = len("event: ")

// split returns the field of a line and its value, without the one space that
// may follow the colon. A line without a colon is all name (section 9.2.6). Of
// a line in progress it needs the first headLen bytes.
func split(line []byte) (field, []byte) {
	var f field
	var rest []byte
	switch {
	case len(line) >= 4 && string(line[:4]) == "data":
		f, rest = fieldData, line[4:]
	case len(line) >= 2 && string(line[:2]) == "id":
		f, rest = fieldID, line[2:]
	case len(line) >= 5 && string(line[:5]) == "event":
		f, rest = fieldEvent, line[5:]
	case len(line) >= 5 && string(line[:5]) == "retry":
		f, rest = fieldRetry, line[5:]
	default:
		return fieldNone, nil
	}
	switch {
	case len(rest) == 0:
		return f, nil
	case rest[0] != ':':
		return fieldNone, nil
	case len(rest) > 1 && rest[1] == ' ':
		return f, rest[2:]
	default:
		return f, rest[1:]
	}
}

// index returns the position of the first c in p from pos on, or len(p).
func index(p []byte, pos int, c byte) int {
	if i := bytes.IndexByte(p[pos:], c); i >= 0 {
		return pos + i
	}
	return len(p)
}

// nextLF is index for LF, fast where lines are short: the blank line and most
// "id" and "event" lines end within two words, before a search has begun.
func nextLF(p []byte, pos int) int {
	const (
		lows  = 0x0101010101010101
		highs = 0x8080808080808080
		lfs   = lows * '\n'
	)
	for range 2 {
		if len(p)-pos < 8 {
			break
		}
		// The lowest byte that is zero in x is the lowest that has its high
		// bit set in m.
		x := binary.LittleEndian.Uint64(p[pos:]) ^ lfs
		if m := (x - lows) &^ x & highs; m != 0 {
			return pos + bits.TrailingZeros64(m)/8
		}
		pos += 8
	}
	return index(p, pos, '\n')
}
