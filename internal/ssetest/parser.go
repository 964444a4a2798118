package ssetest

import (
	"bytes"
	"errors"
	"time"
)

// maxParsed bounds the bytes of one event or line, far above what a test
// sends: 64 MiB.
const maxParsed = 64 << 20

var errTooLarge = errors.New("event larger than 64 MiB")

// parser reads an event stream (WHATWG HTML, section 9.2.6) in pieces of any
// size. Bytes are passed on as they are: invalid UTF-8 is not replaced. The
// slices given to the callbacks are valid during the call only. Not safe for
// concurrent use.
type parser struct {
	event   func(typ, data, id []byte) // typ is "message" when unnamed
	comment func(text []byte)
	retry   func(time.Duration)

	line   []byte // the beginning of an unfinished line
	typ    []byte
	data   []byte
	idNext []byte // set by an id field, committed by a blank line
	id     []byte // the last event id
	hasID  bool   // idNext was set in this block
	fields bool   // this block has a line
	begun  bool   // the first bytes, a BOM perhaps, are behind
	skipLF bool   // the last line ended in CR: an LF belongs to it
}

var (
	bom     = []byte("\xEF\xBB\xBF")
	message = []byte("message")
)

// reset prepares for a new connection; the last event id stays.
func (p *parser) reset() {
	p.line = p.line[:0]
	p.begun, p.skipLF = false, false
	p.clear()
}

// clear ends a block.
func (p *parser) clear() {
	p.typ, p.data = p.typ[:0], p.data[:0]
	p.hasID, p.fields = false, false
}

// partial reports whether an event or a line has begun and not ended.
func (p *parser) partial() bool { return p.fields || len(p.line) > 0 }

// feed parses the next bytes of the connection.
func (p *parser) feed(b []byte) error {
	if !p.begun {
		// A BOM may come in pieces.
		p.line = append(p.line, b...)
		if len(p.line) < len(bom) && bytes.HasPrefix(bom, p.line) {
			return nil
		}
		p.begun = true
		b = bytes.TrimPrefix(bytes.Clone(p.line), bom)
		p.line = p.line[:0]
	}
	for len(b) > 0 {
		if p.skipLF {
			p.skipLF = false
			if b[0] == '\n' {
				b = b[1:]
				continue
			}
		}
		end := bytes.IndexByte(b, '\n')
		head := b
		if end >= 0 {
			head = b[:end]
		}
		if cr := bytes.IndexByte(head, '\r'); cr >= 0 {
			end = cr
			p.skipLF = true
		}
		if end < 0 {
			p.line = append(p.line, b...)
			break
		}
		line := b[:end]
		if len(p.line) > 0 {
			p.line = append(p.line, line...)
			line = p.line
		}
		p.parse(line)
		p.line = p.line[:0]
		b = b[end+1:]
	}
	if len(p.line)+len(p.data) > maxParsed {
		return errTooLarge
	}
	return nil
}

// parse handles one line without its end.
func (p *parser) parse(line []byte) {
	if len(line) == 0 {
		p.dispatch()
		return
	}
	name, value, _ := bytes.Cut(line, []byte{':'})
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	if len(name) == 0 && line[0] == ':' {
		if p.comment != nil {
			p.comment(value)
		}
		return
	}
	p.fields = true
	switch string(name) {
	case "data":
		p.data = append(append(p.data, value...), '\n')
	case "event":
		p.typ = append(p.typ[:0], value...)
	case "id":
		if bytes.IndexByte(value, 0) < 0 {
			p.idNext = append(p.idNext[:0], value...)
			p.hasID = true
		}
	case "retry":
		if d, ok := parseRetry(value); ok && p.retry != nil {
			p.retry(d)
		}
	}
}

// dispatch ends an event: commits its id, fires it if it has data.
func (p *parser) dispatch() {
	if p.hasID {
		p.id = append(p.id[:0], p.idNext...)
	}
	if len(p.data) > 0 && p.event != nil {
		typ := p.typ
		if len(typ) == 0 {
			typ = message
		}
		p.event(typ, p.data[:len(p.data)-1], p.id)
	}
	p.clear()
}

// parseRetry reads milliseconds: ASCII digits only, an hour at most.
func parseRetry(value []byte) (time.Duration, bool) {
	var ms int64
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, false
		}
		ms = min(ms*10+int64(c-'0'), time.Hour.Milliseconds())
	}
	return time.Duration(ms) * time.Millisecond, len(value) > 0
}
