package ssetest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// parseAll feeds the pieces and writes what comes out, one word each.
func parseAll(t *testing.T, pieces ...string) (string, *parser) {
	t.Helper()
	var out []string
	p := &parser{
		event:   func(typ, data, id []byte) { out = append(out, fmt.Sprintf("%s(%q)%s", typ, data, id)) },
		comment: func(text []byte) { out = append(out, "#"+string(text)) },
		retry:   func(d time.Duration) { out = append(out, d.String()) },
	}
	for _, s := range pieces {
		must(t, p.feed([]byte(s)))
	}
	return strings.Join(out, " "), p
}

func TestParser(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"data", "data: a\n\n", `message("a")`},
		{"type", "event: e\ndata: a\n\n", `e("a")`},
		{"lines", "data: a\ndata\ndata:b\n\n", `message("a\n\nb")`},
		{"empty data", "data\n\n", `message("")`},
		{"no data", "event: e\n\ndata: a\n\n", `message("a")`},
		{"sticky id", "id: 1\ndata: a\n\ndata: b\n\n", `message("a")1 message("b")1`},
		{"id alone", "id: 2\n\ndata: b\n\n", `message("b")2`},
		{"id reset", "id: 1\n\nid\ndata: b\n\n", `message("b")`},
		{"id with NUL", "id: 1\n\nid: 2\x00\ndata: b\n\n", `message("b")1`},
		{"one space", "data:  a\n\n", `message(" a")`},
		{"case", "Data: a\n\n", ""},
		{"CR", "data: a\r\rdata: b\r\r", `message("a") message("b")`},
		{"CRLF", "data: a\r\ndata: b\r\n\r\n", `message("a\nb")`},
		{"LF CR", "data: a\n\rdata: b\n\r", `message("a") message("b")`},
		{"comment", ":\n: hb\n:x:y\n", "# #hb #x:y"},
		{"retry", "retry: 1500\n", "1.5s"},
		{"bad retry", "retry: +1\nretry: 1s\nretry\n", ""},
		{"huge retry", "retry: 99999999999999999999999999\n", "1h0m0s"},
		{"BOM", "\xEF\xBB\xBFdata: a\n\n", `message("a")`},
		{"second BOM", "\xEF\xBB\xBF\xEF\xBB\xBFdata: a\n\n", ""},
		{"late BOM", "\n\xEF\xBB\xBFdata: a\n\n", ""},
		{"unfinished", "data: a\n\ndata: b\n", `message("a")`},
		{"unknown field", "foo: 1\ndata: a\n\n", `message("a")`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, _ := parseAll(t, c.in); got != c.want {
				t.Errorf("whole: got %s, want %s", got, c.want)
			}
			if got, _ := parseAll(t, strings.Split(c.in, "")...); got != c.want {
				t.Errorf("characters: got %s, want %s", got, c.want)
			}
			var single []string
			for i := range len(c.in) {
				single = append(single, c.in[i:i+1])
			}
			if got, _ := parseAll(t, single...); got != c.want {
				t.Errorf("bytes: got %s, want %s", got, c.want)
			}
		})
	}
}

func TestParserKeepsIDOverConnections(t *testing.T) {
	_, p := parseAll(t, "id: 1\ndata: a\n\nid: 2\ndata: cut")
	if !p.partial() {
		t.Error("an unfinished event is not partial")
	}
	p.reset()
	if string(p.id) != "1" || p.partial() {
		t.Errorf("after reset: id %q, partial %t", p.id, p.partial())
	}
	var data string
	p.event = func(_, d, _ []byte) { data = string(d) }
	must(t, p.feed([]byte("\xEF\xBB\xBFdata: b\n\n")))
	if data != "b" {
		t.Error("a BOM at the start of the second connection")
	}
}

func TestParserDispatchesAtCR(t *testing.T) {
	if got, _ := parseAll(t, "data: a\r\r"); got != `message("a")` {
		t.Errorf("CR CR waits for another byte: %s", got)
	}
}
