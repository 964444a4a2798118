package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

const testPayload = 60

// testStream encodes events written as source:number, separated by spaces,
// and anything else as it is.
func testStream(t *testing.T, text string) []byte {
	t.Helper()
	var b []byte
	for word := range strings.FieldsSeq(text) {
		source, seq, ok := strings.Cut(word, ":")
		k, err := strconv.Atoi(source)
		n, err2 := strconv.ParseUint(seq, 10, 64)
		switch {
		case word == "gap":
			b = append(b, "id: x-1-y\nevent: fanin.gap\ndata: {\"reason\":\"expired\",\"missed\":8}\n\n"...)
		case word == "heartbeat":
			b = append(b, ":\n\n"...)
		case word == "other":
			b = append(b, "data: something else\n\n"...)
		case word == "cut":
			b = append(b, "id: 9\ndata: 0 9 1 too short\n\n"...)
		case ok && err == nil && err2 == nil:
			b = appendEvent(b, k, n, time.Unix(0, 1), testPayload)
		default:
			t.Fatalf("no event: %s", word)
		}
	}
	return b
}

func TestVerifier(t *testing.T) {
	for _, c := range []struct {
		name, stream string
		got          int
		want         faults
	}{
		{"all", "0:1 0:2 0:3", 3, faults{}},
		{"heartbeats", "heartbeat 0:1 heartbeat 0:2", 2, faults{}},
		{"two sources", "0:1 1:1 1:2 0:2", 4, faults{}},
		{"lost", "0:1 0:2 0:5", 3, faults{Lost: 2}},
		{"first lost", "0:2", 1, faults{Lost: 1}},
		{"lost of one source", "0:1 1:1 0:2 1:3", 4, faults{Lost: 1}},
		{"doubled", "0:1 0:2 0:2 0:3", 3, faults{Doubled: 1}},
		{"old one doubled", "0:1 0:2 0:3 0:1", 3, faults{Doubled: 1}},
		{"reordered", "0:1 0:3 0:2 0:4", 3, faults{Reordered: 1}},
		{"reordered and doubled", "0:1 0:3 0:2 0:2", 2, faults{Reordered: 1, Doubled: 1}},
		{"gap", "0:1 gap 0:4", 2, faults{Gaps: 1, Lost: 2}},
		{"other", "0:1 other 0:2", 2, faults{Malformed: 1}},
		{"cut", "0:1 cut 0:2", 2, faults{Malformed: 1}},
		{"unknown source", "0:1 7:1", 1, faults{Malformed: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			stream := testStream(t, c.stream)
			for size := 1; size <= len(stream); size++ {
				got := 0
				v := newVerifier(2, testPayload)
				v.got = func(int, uint64, int64) { got++ }
				for part := range bytes.Lines(stream) {
					for len(part) > 0 {
						n := min(size, len(part))
						v.feed(part[:n])
						part = part[n:]
					}
				}
				if got != c.got || v.faults != c.want {
					t.Fatalf("in pieces of %d: %d events, %+v; want %d, %+v", size, got, v.faults, c.got, c.want)
				}
			}
		})
	}
}

func TestVerifierHasTheNumbers(t *testing.T) {
	at := time.Now()
	v := newVerifier(3, testPayload)
	v.keepID, v.anyNext = true, true
	var got string
	v.got = func(source int, seq uint64, at int64) { got = fmt.Sprint(source, seq, at) }
	v.feed(appendEvent(nil, 2, 17, at, testPayload))
	if want := fmt.Sprint(2, 17, at.UnixNano()); got != want || string(v.id) != "17" {
		t.Errorf("got %s with id %s, want %s", got, v.id, want)
	}
	if n := v.behind([]uint64{0, 3, 20}, []int{1, 2}); n != 3+3 {
		t.Errorf("behind %d", n)
	}
}

func TestDechunker(t *testing.T) {
	events := testStream(t, "0:1 0:2 0:3 0:4")
	var stream []byte
	for rest := events; len(rest) > 0; {
		n := min(len(rest), 70)
		stream = fmt.Appendf(stream, "%x;extension=1\r\n%s\r\n", n, rest[:n])
		rest = rest[n:]
	}
	for size := 1; size <= len(stream); size++ {
		got := 0
		v := newVerifier(1, testPayload)
		v.got = func(int, uint64, int64) { got++ }
		d := newDechunker()
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			if err := d.feed(rest[:n], v); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if got != 4 || v.faults != (faults{}) {
			t.Fatalf("in pieces of %d: %d events, %+v", size, got, v.faults)
		}
	}
	if err := newDechunker().feed([]byte("0\r\n\r\n"), newVerifier(1, testPayload)); err != errLastChunk {
		t.Errorf("the end: %v", err)
	}
	if err := newDechunker().feed([]byte("HTTP"), newVerifier(1, testPayload)); err != errChunk {
		t.Errorf("no chunk: %v", err)
	}
}
