package sse

import (
	"bytes"
	"strconv"
	"time"
)

// AppendEvent appends ev in the format of WHATWG HTML section 9.2.5: "id" and
// "event" unless they are empty, one "data" line for each line of the data, and
// the blank line. Whatever bytes ev holds, exactly one event results, with at
// most these differences:
//
//   - every line end in the data (LF, CR or CRLF) becomes LF;
//   - CR and LF in type and ID become a space each;
//   - an ID with a NUL is left out, for a receiver would ignore it and a changed
//     one would be another ID. As with an empty ID, the event then has the ID
//     that was in force before it.
//
// An event from a Decoder has none of them and comes out as it went in.
func AppendEvent(dst []byte, ev *Event) []byte {
	if len(ev.ID) > 0 {
		dst = appendID(dst, ev.ID)
	}
	if len(ev.Type) > 0 {
		dst = append(dst, "event: "...)
		dst = appendLine(dst, ev.Type)
	}
	dst = appendData(dst, ev.Data)
	return append(dst, '\n')
}

// EncodedType returns the type of an event as AppendEvent has encoded it, empty if
// it has none. Lines with an id may stand before the event's own.
func EncodedType(encoded []byte) []byte {
	for {
		line, rest, ok := bytes.Cut(encoded, []byte{'\n'})
		if typ, found := bytes.CutPrefix(line, []byte("event: ")); found {
			return typ
		}
		if !ok || !bytes.HasPrefix(line, []byte("id: ")) {
			return nil
		}
		encoded = rest
	}
}

// AppendRetry appends a "retry" line, in whole milliseconds; a negative d is 0.
func AppendRetry(dst []byte, d time.Duration) []byte {
	dst = append(dst, "retry: "...)
	dst = strconv.AppendInt(dst, max(d.Milliseconds(), 0), 10)
	return append(dst, '\n')
}

// AppendComment appends text as one comment line; CR and LF in it become a
// space each.
func AppendComment(dst []byte, text string) []byte {
	dst = append(dst, ": "...)
	return appendLine(dst, text)
}

// AppendID appends an "id" line, which a blank line must follow to commit it.
// An empty ID resets the receiver's. CR and LF become a space each; for an ID
// with a NUL nothing is appended.
func AppendID(dst []byte, id string) []byte {
	return appendID(dst, id)
}

func appendID[T string | []byte](dst []byte, id T) []byte {
	n := len(dst)
	dst = append(dst, "id: "...)
	dst = appendLine(dst, id)
	if bytes.IndexByte(dst[n:], 0) >= 0 {
		return dst[:n]
	}
	return dst
}

// appendLine appends s and a LF; s cannot end the line.
func appendLine[T string | []byte](dst []byte, s T) []byte {
	n := len(dst)
	dst = append(dst, s...)
	for i, c := range dst[n:] {
		if c == '\n' || c == '\r' {
			dst[n+i] = ' '
		}
	}
	return append(dst, '\n')
}

// appendData appends a "data" line for each line of data. Data that ends with a
// line end has an empty last line; empty data is one empty line.
func appendData(dst, data []byte) []byte {
	// Decoded data has no CR. Where there is one, a search for LF alone would
	// run through the rest again for every line.
	hasCR := bytes.IndexByte(data, '\r') >= 0
	for {
		dst = append(dst, "data: "...)
		var end int
		if hasCR {
			end = bytes.IndexAny(data, "\r\n")
		} else {
			end = bytes.IndexByte(data, '\n')
		}
		if end < 0 {
			dst = append(dst, data...)
			return append(dst, '\n')
		}
		dst = append(dst, data[:end]...)
		dst = append(dst, '\n')
		if data[end] == '\r' && end+1 < len(data) && data[end+1] == '\n' {
			end++
		}
		data = data[end+1:]
	}
}
