package ssefanin

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

const (
	// controlPrefix begins the types of the module's own events; an upstream's
	// that begins with it is renamed.
	controlPrefix = "fanin."

	// renamed is the prefix that such types are given.
	renamed = "upstream."

	// unnamedType is the type of an event without one, for browsers.
	unnamedType = "message"

	// keepScratch is the largest buffer, in bytes, that is kept for the next
	// event.
	keepScratch = 64 << 10
)

// encoder shapes and encodes events for the log. An event that several streams
// want encoded the same way is encoded once. Not safe for concurrent use.
type encoder struct {
	plain   []byte // the current event as it came; empty: not encoded yet
	shaped  []byte
	typ     []byte
	wrapped bytes.Buffer
}

// reset forgets the previous event.
func (e *encoder) reset() {
	for _, buf := range []*[]byte{&e.plain, &e.shaped} {
		if cap(*buf) > keepScratch {
			*buf = nil
		}
		*buf = (*buf)[:0]
	}
	if e.wrapped.Cap() > keepScratch {
		e.wrapped = bytes.Buffer{}
	}
}

// encode returns the event as the log stores it. typ is its final type,
// withID writes the upstream's id. The result is valid until the next call or
// reset.
func (e *encoder) encode(ev *sse.Event, typ []byte, from string, envelope, withID, resetID bool, now time.Time) []byte {
	if !envelope && !withID && bytes.Equal(typ, ev.Type) {
		if len(e.plain) == 0 {
			e.plain = sse.AppendEvent(e.plain, &sse.Event{Type: ev.Type, Data: ev.Data})
		}
		return e.plain
	}
	out := sse.Event{Type: typ, Data: ev.Data}
	e.shaped = e.shaped[:0]
	if withID {
		out.ID = ev.ID
		if len(ev.ID) == 0 && resetID {
			e.shaped = sse.AppendID(e.shaped, "")
		}
	}
	if envelope {
		out.Data = e.wrap(ev, typ, from, now)
	}
	e.shaped = sse.AppendEvent(e.shaped, &out)
	return e.shaped
}

// wrap returns the data in its envelope. Data that is JSON is embedded as it
// is, compacted, with every digit of its numbers; other data is a string.
func (e *encoder) wrap(ev *sse.Event, typ []byte, from string, now time.Time) []byte {
	if len(typ) == 0 {
		typ = []byte(unnamedType)
	}
	b := &e.wrapped
	b.Reset()
	b.WriteString(`{"source":`)
	writeJSONString(b, from)
	b.WriteString(`,"type":`)
	writeJSONString(b, string(typ))
	b.WriteString(`,"id":`)
	writeJSONString(b, string(ev.ID))
	b.WriteString(`,"time":`)
	b.Write(appendMillis(b.AvailableBuffer(), now))
	b.WriteString(`,"data":`)
	if end := b.Len(); json.Compact(b, ev.Data) != nil {
		b.Truncate(end)
		writeJSONString(b, string(ev.Data))
	} else if b.Len() == end { // blank data is no JSON
		writeJSONString(b, string(ev.Data))
	}
	b.WriteByte('}')
	return b.Bytes()
}

// writeJSONString writes s as a JSON string; for EventSource, not for HTML.
func writeJSONString(b *bytes.Buffer, s string) {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s)       // a string into a buffer cannot fail
	b.Truncate(b.Len() - 1) // Encode ends with a line end
}

// unwrap returns what wrap was given: the source, as a JSON string, and the data, if
// that was JSON; else it is a JSON string. They are parts of wrapped. typ is the event's
// final type. False: wrapped is not from wrap.
func unwrap(wrapped, typ []byte) (from, data []byte, ok bool) {
	if len(typ) == 0 {
		typ = []byte(unnamedType)
	}
	rest, ok := bytes.CutPrefix(wrapped, []byte(`{"source":`))
	if !ok {
		return nil, nil, false
	}
	from, rest = cutJSONString(rest)
	if rest, ok = bytes.CutPrefix(rest, []byte(`,"type":`)); !ok {
		return nil, nil, false
	}
	quoted, rest := cutJSONString(rest)
	if rest, ok = bytes.CutPrefix(rest, []byte(`,"id":`)); !ok || !isJSONString(quoted, string(typ)) {
		return nil, nil, false
	}
	_, rest = cutJSONString(rest)
	if rest, ok = bytes.CutPrefix(rest, []byte(`,"time":`)); !ok {
		return nil, nil, false
	}
	rest = bytes.TrimLeft(rest, "-0123456789")
	if rest, ok = bytes.CutPrefix(rest, []byte(`,"data":`)); !ok {
		return nil, nil, false
	}
	data, ok = bytes.CutSuffix(rest, []byte{'}'})
	return from, data, ok
}

// cutJSONString cuts text after the JSON string that it begins with; there is no rest
// if it does not begin with one.
func cutJSONString(text []byte) (quoted, rest []byte) {
	if len(text) == 0 || text[0] != '"' {
		return nil, nil
	}
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return text[:i+1], text[i+1:]
		}
	}
	return nil, nil
}

// isJSONString reports whether quoted is s, as writeJSONString writes it.
func isJSONString(quoted []byte, s string) bool {
	if n := len(quoted); n == len(s)+2 && string(quoted[1:n-1]) == s {
		return !strings.ContainsAny(s, `"\`)
	}
	var b bytes.Buffer
	writeJSONString(&b, s)
	return bytes.Equal(b.Bytes(), quoted)
}

func appendMillis(dst []byte, t time.Time) []byte {
	return strconv.AppendInt(dst, t.UnixMilli(), 10)
}
