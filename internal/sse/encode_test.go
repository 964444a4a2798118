package sse

import (
	"strings"
	"testing"
	"time"
)

func TestAppendEvent(t *testing.T) {
	for _, tc := range []struct {
		name string
		ev   event
		want string
	}{
		{"data only", event{"", "x", ""}, "data: x\n\n"},
		{"all fields", event{"a", "x", "1"}, "id: 1\nevent: a\ndata: x\n\n"},
		{"empty data still fires", event{"", "", ""}, "data: \n\n"},
		{"lines", event{"", "x\ny", ""}, "data: x\ndata: y\n\n"},
		{"LF at the end is a line", event{"", "x\n", ""}, "data: x\ndata: \n\n"},
		{"LF alone", event{"", "\n", ""}, "data: \ndata: \n\n"},
		{"CR in data", event{"", "x\ry", ""}, "data: x\ndata: y\n\n"},
		{"CRLF in data is one line end", event{"", "x\r\ny", ""}, "data: x\ndata: y\n\n"},
		{"LF CR in data is two line ends", event{"", "x\n\ry", ""}, "data: x\ndata: \ndata: y\n\n"},
		{"CR at the end of data", event{"", "x\r", ""}, "data: x\ndata: \n\n"},
		{"blank line in data forges nothing", event{"", "x\n\nevent: y\r\rid: 1", ""}, "data: x\ndata: \ndata: event: y\ndata: \ndata: id: 1\n\n"},
		{"line ends in the type", event{"a\nb\rc\r\nd", "x", ""}, "event: a b c  d\ndata: x\n\n"},
		{"line ends in the id", event{"", "x", "1\n\ndata: y"}, "id: 1  data: y\ndata: x\n\n"},
		{"NUL in the id leaves it out", event{"", "x", "1\x002"}, "data: x\n\n"},
		{"NUL in data and type", event{"a\x00", "\x00", ""}, "event: a\x00\ndata: \x00\n\n"},
		{"leading space", event{" a", " x", " 1"}, "id:  1\nevent:  a\ndata:  x\n\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ev := Event{Type: []byte(tc.ev.Type), Data: []byte(tc.ev.Data), ID: []byte(tc.ev.ID)}
			if got := string(AppendEvent(nil, &ev)); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if string(ev.Type)+string(ev.Data)+string(ev.ID) != tc.ev.Type+tc.ev.Data+tc.ev.ID {
				t.Error("the event was changed")
			}
		})
	}
}

func TestEncodedType(t *testing.T) {
	for encoded, want := range map[string]string{
		"":                                     "",
		"data: x\n\n":                          "",
		"event: a\ndata: x\n\n":                "a",
		"id: 1\nevent: a b\ndata: x\n\n":       "a b",
		"id: \nid: 1\nevent: a\ndata: x\n\n":   "a",
		"id: event: b\nevent: a\ndata: x\n\n":  "a",
		"id: 1\ndata: event: a\ndata: \n\n":    "",
		"data: x\nevent: a\n\n":                "",
		"event: event: a\ndata: \n\n":          "event: a",
		"id: 1\ndata: \ndata: id: 1\nevent: a": "",
	} {
		if got := string(EncodedType([]byte(encoded))); got != want {
			t.Errorf("%q: got %q, want %q", encoded, got, want)
		}
	}
}

func TestAppendKeepsWhatIsThere(t *testing.T) {
	b := []byte("\x00\r\n")
	b = AppendEvent(b, &Event{ID: []byte("1")})
	b = AppendRetry(b, time.Second)
	b = AppendComment(b, "c")
	b = AppendID(b, "2")
	b = AppendID(b, "\x00")
	if want := "\x00\r\nid: 1\ndata: \n\nretry: 1000\n: c\nid: 2\n"; string(b) != want {
		t.Errorf("got %q, want %q", b, want)
	}
}

func TestAppendRetry(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                       "retry: 0\n",
		2500 * time.Millisecond: "retry: 2500\n",
		1999 * time.Microsecond: "retry: 1\n",
		-time.Second:            "retry: 0\n",
	} {
		if got := string(AppendRetry(nil, d)); got != want {
			t.Errorf("%v: got %q, want %q", d, got, want)
		}
	}
}

func TestAppendComment(t *testing.T) {
	for text, want := range map[string]string{
		"":                  ": \n",
		"hi":                ": hi\n",
		"a\n\ndata: b\r\rc": ": a  data: b  c\n",
	} {
		if got := string(AppendComment(nil, text)); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestAppendID(t *testing.T) {
	for id, want := range map[string]string{
		"":          "id: \n",
		"1":         "id: 1\n",
		"1\n\ndata": "id: 1  data\n",
		"1\x00":     "",
	} {
		if got := string(AppendID(nil, id)); got != want {
			t.Errorf("%q: got %q, want %q", id, got, want)
		}
	}
}

func TestEncodingDoesNotAllocate(t *testing.T) {
	ev := &Event{Type: []byte("a"), Data: []byte("x\ny\r\nz"), ID: []byte("1")}
	buf := make([]byte, 0, 1<<10)
	n := testing.AllocsPerRun(20, func() {
		b := AppendEvent(buf, ev)
		b = AppendRetry(b, time.Second)
		b = AppendComment(b, "c")
		AppendID(b, "1")
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestEncodingManyLinesIsLinear would take far longer if each line searched the
// rest of the data.
func TestEncodingManyLinesIsLinear(t *testing.T) {
	for _, eol := range []string{"\n", "\r", "\r\n"} {
		ev := &Event{Data: []byte(strings.Repeat(eol, 1<<19))}
		if got, want := len(AppendEvent(nil, ev)), len("data: \n")*(1<<19+1)+1; got != want {
			t.Errorf("%q: %d bytes, want %d", eol, got, want)
		}
	}
}
