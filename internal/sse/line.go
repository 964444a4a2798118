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

// plainField returns the field that p begins with and where its value begins, if
// it is one that most events have, written as most are; else fieldNone. Unlike
// split it needs no end of the line, and is small enough to be inlined.
func plainField(p []byte) (f field, start int) {
	switch {
	case len(p) > 5 && string(p[:5]) == "data:":
		f, start = fieldData, 5
	case len(p) > 3 && string(p[:3]) == "id:":
		f, start = fieldID, 3
	case len(p) > 6 && string(p[:6]) == "event:":
		f, start = fieldEvent, 6
	default:
		return fieldNone, 0
	}
	if p[start] == ' ' {
		start++
	}
	return f, start
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
	for range 2 {
		if len(p)-pos < wordLen {
			break
		}
		if i := wordLF(p[pos:]); i < wordLen {
			return pos + i
		}
		pos += wordLen
	}
	return index(p, pos, '\n')
}

// wordLen is how many bytes wordLF looks at.
const wordLen = 8

// wordLF returns the position of the first LF in the first wordLen bytes of p,
// or wordLen.
func wordLF(p []byte) int {
	const (
		lows  = 0x0101010101010101
		highs = 0x8080808080808080
		lfs   = lows * '\n'
	)
	// The lowest byte that is zero in x is the lowest with its high bit set in
	// the mask; of a mask without bits, 64 are zero.
	x := binary.LittleEndian.Uint64(p) ^ lfs
	return bits.TrailingZeros64((x-lows)&^x&highs) / 8
}

// loneCR returns the position of the first CR in p from pos on that no LF
// follows, or len(p). At the end of p, nothing follows.
func loneCR(p []byte, pos int) int {
	for {
		pos = index(p, pos, '\r')
		if pos+1 >= len(p) || p[pos+1] != '\n' {
			return pos
		}
		pos += 2
	}
}
