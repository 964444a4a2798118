package ssefanin

import (
	"bytes"
	"encoding/json"
	"strconv"
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

func appendMillis(dst []byte, t time.Time) []byte {
	return strconv.AppendInt(dst, t.UnixMilli(), 10)
}
