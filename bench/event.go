package main

import (
	"bytes"
	"strconv"
	"time"
)

// An event that the origin publishes has the sequence number of its source as
// id, and as data
//
//	<source> <sequence number> <publication in Unix ns> <letters>
//
// on one line. Sources count from 0, their events from 1.

// minPayload is the shortest data in bytes: room for the three numbers.
const minPayload = 40

// appendEvent appends an event whose data is payload bytes long.
func appendEvent(dst []byte, source int, seq uint64, at time.Time, payload int) []byte {
	dst = append(dst, "id: "...)
	dst = strconv.AppendUint(dst, seq, 10)
	dst = append(dst, "\ndata: "...)
	data := len(dst)
	dst = strconv.AppendInt(dst, int64(source), 10)
	dst = append(dst, ' ')
	dst = strconv.AppendUint(dst, seq, 10)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, at.UnixNano(), 10)
	dst = append(dst, ' ')
	for letter := byte('a'); len(dst)-data < payload; letter++ {
		if letter > 'z' {
			letter = 'a'
		}
		dst = append(dst, letter)
	}
	return append(dst, "\n\n"...)
}

// parseData reads the numbers at the beginning of an event's data.
func parseData(data []byte) (source int, seq uint64, at int64, ok bool) {
	var numbers [3]uint64
	for i := range numbers {
		digits := bytes.IndexByte(data, ' ')
		if digits <= 0 || digits > 19 {
			return 0, 0, 0, false
		}
		for _, c := range data[:digits] {
			if c < '0' || c > '9' {
				return 0, 0, 0, false
			}
			numbers[i] = numbers[i]*10 + uint64(c-'0')
		}
		data = data[digits+1:]
	}
	return int(numbers[0]), numbers[1], int64(numbers[2]), true
}
