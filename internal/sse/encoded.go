package sse

import "bytes"

// Encoded returns the type and the data of an event that AppendEvent has written,
// whether an "id" line stands before it or not. They are parts of the event, unless the
// data has several lines. It is for what this program has encoded itself; other
// streams are for a Decoder.
func Encoded(event []byte) (typ, data []byte) {
	for lines := 0; ; {
		line, rest, ended := bytes.Cut(event, []byte("\n"))
		if !ended || len(line) == 0 {
			return typ, data
		}
		event = rest
		switch field, value, _ := bytes.Cut(line, []byte(": ")); string(field) {
		case "event":
			typ = value
		case "data":
			switch lines++; lines {
			case 1:
				data = value
			case 2:
				data = append(append(bytes.Clone(data), '\n'), value...)
			default:
				data = append(append(data, '\n'), value...)
			}
		}
	}
}
