package sse

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// outcome is all that can be seen of decoding a stream.
type outcome struct {
	events  []event
	hasID   []bool // of the events
	lastID  string
	retry   time.Duration
	retryOK bool
	skipped uint64
}

func (o outcome) equal(p outcome) bool {
	return slices.Equal(o.events, p.events) && slices.Equal(o.hasID, p.hasID) && o.lastID == p.lastID &&
		o.retry == p.retry && o.retryOK == p.retryOK && o.skipped == p.skipped
}

func decodeAll(maxEventSize int, chunks []string) outcome {
	d := NewDecoder(maxEventSize)
	var o outcome
	o.events = collectWith(d, func(ev *Event) { o.hasID = append(o.hasID, ev.HasID) }, chunks...)
	o.lastID, o.skipped = d.LastEventID(), d.Skipped()
	o.retry, o.retryOK = d.TakeRetry()
	return o
}

var endOfLine = regexp.MustCompile("\r\n|\n|\r")

// reference decodes a whole connection, sentence by sentence after WHATWG HTML
// section 9.2.6, with nothing in common with the decoder but the rule about
// large events.
func reference(maxEventSize int, stream string) outcome {
	var o outcome

	// "strip one leading U+FEFF BYTE ORDER MARK, if any"
	stream = strings.TrimPrefix(stream, "\uFEFF")

	lines := endOfLine.Split(stream, -1)
	// "Once the end of the file is reached, any pending data must be discarded."
	lines = lines[:len(lines)-1]

	var typ, data, newID string
	var idSeen, tooLarge bool
	for _, line := range lines {
		// "If the line is empty (a blank line): Dispatch the event"
		if line == "" {
			// "Set the last event ID string of the event source to the value
			// of the last event ID buffer."
			if idSeen {
				o.lastID = newID
			}
			// "If the data buffer is an empty string, set the data buffer and
			// the event type buffer to the empty string and return."
			if data != "" {
				if tooLarge {
					o.skipped++
				} else {
					// "If the data buffer's last character is a U+000A LINE
					// FEED (LF) character, then remove the last character"
					o.events = append(o.events, event{typ, strings.TrimSuffix(data, "\n"), o.lastID})
					o.hasID = append(o.hasID, idSeen)
				}
			}
			typ, data, newID = "", "", ""
			idSeen, tooLarge = false, false
			continue
		}
		// "If the line starts with a U+003A COLON character (:): Ignore the line."
		if strings.HasPrefix(line, ":") {
			continue
		}
		// "Collect the characters on the line before the first colon, and let
		// field be that string. [...] after [...], and let value be that string.
		// If value starts with a U+0020 SPACE character, remove it from value."
		// Without a colon: "using the whole line as the field name, and the
		// empty string as the field value."
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "event":
			// "Set the event type buffer to field value."
			typ = value
		case "data":
			// "Append the field value to the data buffer, then append a single
			// U+000A LINE FEED (LF) character to the data buffer."
			data += value + "\n"
		case "id":
			// "If the field value does not contain U+0000 NULL, then set the
			// last event ID buffer to the field value. Otherwise, ignore"
			if !strings.Contains(value, "\x00") {
				// Ours: an ID above the limit is not committed.
				if len(value) > maxEventSize {
					tooLarge = true
				} else {
					newID, idSeen = value, true
				}
			}
		case "retry":
			// "If the field value consists of only ASCII digits, then interpret
			// the field value as an integer in base ten"
			if value != "" && strings.Trim(value, "0123456789") == "" {
				ms := int64(100 * 365 * 24 * time.Hour / time.Millisecond)
				if digits := strings.TrimLeft(value, "0"); len(digits) < 18 {
					n := int64(0)
					for _, c := range digits {
						n = 10*n + int64(c-'0')
					}
					ms = min(n, ms)
				}
				o.retry, o.retryOK = time.Duration(ms)*time.Millisecond, true
			}
		default:
			// "Otherwise: The field is ignored."
		}
		// Ours: the size of an event is what its fields hold.
		if len(typ)+len(strings.TrimSuffix(data, "\n"))+len(newID) > maxEventSize {
			tooLarge = true
		}
	}
	return o
}

// rechunk cuts s at random places; about one chunk in eight is empty.
func rechunk(rng *rand.Rand, s string) []string {
	var chunks []string
	largest := 1 + rng.IntN(max(1, min(len(s), 64)))
	for len(s) > 0 {
		n := min(rng.IntN(largest+1), len(s))
		if rng.IntN(8) == 0 {
			n = 0
		}
		chunks = append(chunks, s[:n])
		s = s[n:]
	}
	return chunks
}

func addStreams(f *testing.F, add func(stream string)) {
	f.Helper()
	for _, tc := range decodeCases {
		add(tc.in)
	}
	add("id: 1\nevent: a\ndata: " + strings.Repeat("x", 100) + "\n\ndata: y\n\n")
	add("id: " + strings.Repeat("x", 100) + "\x00\ndata: y\r\rretry: 1\r\n\r\n")
	add("data\n\r\ndata\rid\r\n\nretry\n:\n\uFEFFdata\n\n")
}

// FuzzDecode checks that the decoder agrees with the specification, and that
// chunks make no difference.
func FuzzDecode(f *testing.F) {
	addStreams(f, func(s string) {
		f.Add([]byte(s), uint64(1), uint16(1<<15))
		f.Add([]byte(s), uint64(2), uint16(8))
	})
	f.Fuzz(func(t *testing.T, p []byte, seed uint64, limit uint16) {
		stream := string(p)
		want := reference(int(limit), stream)
		if got := decodeAll(int(limit), []string{stream}); !got.equal(want) {
			t.Fatalf("stream %q, limit %d:\n got %#v\nwant %#v", stream, limit, got, want)
		}
		chunks := rechunk(rand.New(rand.NewPCG(seed, 0)), stream)
		if got := decodeAll(int(limit), chunks); !got.equal(want) {
			t.Fatalf("chunks %q, limit %d:\n got %#v\nwant %#v", chunks, limit, got, want)
		}
	})
}

// FuzzRoundTrip checks that what a decoder yields is encoded without loss, by
// means of the reference.
func FuzzRoundTrip(f *testing.F) {
	addStreams(f, func(s string) { f.Add([]byte(s)) })
	f.Fuzz(func(t *testing.T, p []byte) {
		NewDecoder(testMax).Decode(p, func(ev *Event) {
			want := event{string(ev.Type), string(ev.Data), string(ev.ID)}
			encoded := string(AppendEvent(nil, ev))
			if typ, data := Encoded([]byte(encoded)); string(typ) != want.Type || string(data) != want.Data {
				t.Fatalf("%q encoded as %q has type %q and data %q", want, encoded, typ, data)
			}
			for how, got := range map[string]outcome{
				"reference": reference(testMax, encoded),
				"decoder":   decodeAll(testMax, []string{encoded}),
			} {
				if len(got.events) != 1 || got.events[0] != want || got.lastID != want.ID || got.retryOK {
					t.Fatalf("%s: %q encoded as %q is %#v", how, want, encoded, got)
				}
			}
		})
	})
}

// FuzzEncodeArbitrary checks that no bytes whatever forge framing: each call
// gives what it says and nothing else, between two events that stay whole.
func FuzzEncodeArbitrary(f *testing.F) {
	for _, s := range []string{"", "a", "\n", "\r", "\r\n", "\n\n", "\r\r", "\x00", "a\nid: 1\n\ndata: x", " ", "\uFEFF", "\xFF\xEF\xBB"} {
		f.Add([]byte(s), []byte("data"), []byte("1"))
		f.Add([]byte("type"), []byte(s), []byte("1"))
		f.Add([]byte("type"), []byte("data"), []byte(s))
	}
	f.Fuzz(func(t *testing.T, typ, data, id []byte) {
		stream := AppendEvent(nil, &Event{ID: []byte("before")})
		stream = AppendComment(stream, string(data))
		stream = AppendRetry(stream, time.Duration(len(data)))
		stream = AppendEvent(stream, &Event{Type: typ, Data: data, ID: id})
		stream = AppendComment(stream, string(typ))
		stream = AppendID(stream, string(id))
		stream = append(stream, '\n')
		stream = AppendEvent(stream, &Event{Data: []byte("after")})

		blank := strings.NewReplacer("\r", " ", "\n", " ")
		want := []event{
			{"", "", "before"},
			{blank.Replace(string(typ)), endOfLine.ReplaceAllString(string(data), "\n"), blank.Replace(string(id))},
			{"", "after", blank.Replace(string(id))},
		}
		if len(id) == 0 {
			want[1].ID = "before" // AppendEvent has no empty ID, AppendID has
		}
		if strings.Contains(string(id), "\x00") {
			want[1].ID, want[2].ID = "before", "before"
		}
		for how, got := range map[string]outcome{
			"reference": reference(testMax, string(stream)),
			"decoder":   decodeAll(testMax, []string{string(stream)}),
		} {
			if !slices.Equal(got.events, want) {
				t.Fatalf("%s: %q is %q, want %q", how, stream, got.events, want)
			}
		}
	})
}

// TestRandomStreams is FuzzDecode with streams made of what matters to a
// decoder, which random bytes seldom hit.
func TestRandomStreams(t *testing.T) {
	tokens := []string{
		"\n", "\n", "\n", "\r", "\r", "\r\n", "\n\n", "data: x\n", "id: 1\n\n", "event: a\r",
		"data: x\ndata: y\n", "id: 1\nevent: a\n", "event: b\ndata: z\r\n\r\n",
		"data", "data:", "data: ", "id", "id:", "id: ", "event", "event:", "event: ", "retry", "retry: ",
		":", " ", "x", "1", "23", "\x00", "\uFEFF", "\xEF", "\xBB", "é", "0123456789",
	}
	for seed := range uint64(5_000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var b strings.Builder
		for range 1 + rng.IntN(40) {
			b.WriteString(tokens[rng.IntN(len(tokens))])
		}
		stream, limit := b.String(), rng.IntN(16)
		if rng.IntN(4) == 0 {
			limit = testMax
		}
		want := reference(limit, stream)
		for _, chunks := range [][]string{{stream}, rechunk(rng, stream), rechunk(rng, stream)} {
			if got := decodeAll(limit, chunks); !got.equal(want) {
				t.Fatalf("seed %d, chunks %q, limit %d:\n got %#v\nwant %#v", seed, chunks, limit, got, want)
			}
		}
	}
}
