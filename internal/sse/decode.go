// Package sse is the wire codec of Server-Sent Events, as WHATWG HTML section
// 9.2 defines them ("Server-sent events").
//
// The decoder is made for a long-lived connection to a peer that is not
// trusted: it accepts chunks cut anywhere, gives every event out as soon as it
// is complete, and holds a bounded amount of memory whatever the peer sends.
// Bytes that are not valid UTF-8 pass unchanged; whoever reads the merged
// stream replaces them as section 9.2.6 says.
package sse

import (
	"bytes"
	"slices"
	"time"
)

// Event is one dispatched SSE event. The slices are valid only until the yield
// function returns.
type Event struct {
	// The "event" field; empty when the event has none (a browser calls it
	// "message").
	Type []byte

	// The "data" fields, joined by LF.
	Data []byte

	// The last event ID in force when the event was dispatched. It is sticky:
	// an event without an "id" field has the ID of the one before it.
	ID []byte

	// HasID reports whether the event's own block had a valid "id" field. An
	// encoder does not look at it.
	HasID bool
}

// Decoder turns the bytes of an event stream into events (section 9.2.6). It is
// not safe for concurrent use, and the yield function must not call Decode,
// Reset or SetLastEventID.
//
// The size of an event is what its own fields hold: type, data (the LFs between
// its lines included) and ID, without an ID that is merely sticky. An event
// whose fields hold more than the limit at any moment is skipped; it costs no
// more than itself, and its ID is committed like any other, lest a client that
// resumes ask for it for ever. An ID that alone exceeds the limit makes its
// event too large and is not committed.
//
// Memory: type, data and the ID of the event in progress, one ID line being
// read and the last event ID, each at most the limit; the data, which is what
// makes events large, is there only once. Buffers above keepBuffer are given up
// as soon as a chunk leaves little in them. Comments and unknown fields are
// never held.
type Decoder struct {
	max int

	// The position within the stream. bom counts the bytes of the BOM that were
	// matched and is len(bom) once the question is settled. afterCR says that
	// the last byte was a CR, so that a LF now would belong to it.
	bom     int
	afterCR bool

	// The line in progress, if a chunk ended within one.
	state lineState
	field field         // whose value is being read, in lineValue
	head  [headLen]byte // the line's beginning, in lineHead
	nhead int

	// The event in progress; inEvent says that something of it was read. newID
	// is the ID line being read: it counts only when it turns out to be without
	// NUL.
	inEvent              bool
	typ, data, id, newID value
	hasData, hasID       bool
	tooLarge             bool
	newIDNul, newIDLong  bool

	// The "retry" line being read, in milliseconds.
	newRetry   int64
	newRetryOK bool

	lastID   value
	retry    time.Duration
	hasRetry bool
	skipped  uint64

	event Event // what yield gets; here so that it is not allocated each time
}

const (
	// keepBuffer is the largest buffer that is kept after an event, 32 KiB, a
	// common size of reads. An idle connection keeps at most five of them.
	keepBuffer = 32 << 10

	// maxRetry is what a larger "retry" counts as, in milliseconds: 100 years,
	// far enough from the end of time.Duration (292 years) to calculate with.
	maxRetry = 100 * 365 * 24 * 60 * 60 * 1000
)

const bom = "\xEF\xBB\xBF"

var lineFeed = []byte{'\n'}

// lineState says what is known of a line that began in an earlier chunk.
type lineState uint8

const (
	lineStart lineState = iota // nothing of it was read
	lineHead                   // too little was read to know the field
	lineValue                  // the field's value is being read
	lineSkip                   // a comment or an unknown field
)

// NewDecoder returns a decoder for one source. Events larger than maxEventSize
// bytes are skipped; see Decoder for what counts.
func NewDecoder(maxEventSize int) *Decoder {
	return &Decoder{max: maxEventSize}
}

// Decode reads the next bytes of the stream, cut anywhere, and calls yield for
// each event they complete. Nothing that is complete is held back. p is not
// kept, but the slices of an event may point into it.
func (d *Decoder) Decode(p []byte, yield func(*Event)) {
	if d.bom < len(bom) {
		p = d.skipBOM(p)
	}
	if d.afterCR && len(p) > 0 {
		d.afterCR = false
		if p[0] == '\n' {
			p = p[1:]
		}
	}

	// The lines before lone end with LF or CRLF. It is kept, so that each byte
	// is looked at once for a CR, however the stream ends its lines.
	lone := loneCR(p, 0)
	for pos := 0; pos < len(p); {
		if !d.inEvent {
			if pos += d.readPlain(p[pos:lone], yield); pos == len(p) {
				break
			}
			d.inEvent = true
		}

		end := nextLF(p[:lone], pos)
		if end == len(p) {
			d.readPart(p[pos:])
			break
		}
		line, next := p[pos:end], end+1
		if end == lone {
			// What it ends is given out now, also where a LF may follow with
			// the next chunk.
			d.afterCR = next == len(p)
			lone = loneCR(p, next)
		} else if end > pos && p[end-1] == '\r' {
			line = p[pos : end-1]
		}
		switch {
		case d.state != lineStart:
			d.readPart(line)
			d.endPart()
		case len(line) > 0:
			d.readLine(line)
		default:
			d.endEvent(yield)
		}
		pos = next
	}
	d.own()
	d.trim()
}

// Reset begins a new connection: what was read of an event that did not end is
// dropped, its ID included, and a BOM is accepted again. The last event ID, the
// last retry and the counter live on. (Section 9.2.6 blanks the ID buffer with
// each connection; browsers carry it over, and web-platform-tests want it so.)
func (d *Decoder) Reset() {
	d.bom, d.afterCR = 0, false
	d.state = lineStart
	d.clearEvent()
	d.newID.clear()
	d.trim()
}

// LastEventID returns the last event ID that a blank line has committed, to be
// sent as Last-Event-ID; an empty one must not be sent.
func (d *Decoder) LastEventID() string { return string(d.lastID.bytes()) }

// SetLastEventID sets the last event ID, as if the stream had committed it.
func (d *Decoder) SetLastEventID(id string) {
	d.lastID.clear()
	d.lastID.buf = append(d.lastID.buf, id...)
	d.trim()
}

// TakeRetry returns the reconnection time of the last valid "retry" line since
// the previous call, and whether there was one. It is between 0 and 100 years.
func (d *Decoder) TakeRetry() (time.Duration, bool) {
	retry, ok := d.retry, d.hasRetry
	d.retry, d.hasRetry = 0, false
	return retry, ok
}

// Skipped returns how many events were skipped because they were too large,
// over all connections. An event counts at its end, so one that never ends
// never counts.
func (d *Decoder) Skipped() uint64 { return d.skipped }

// skipBOM drops one BOM at the very start of the connection. Where the first
// bytes looked like one and were not, the line is an unknown field: no known
// name begins like that.
func (d *Decoder) skipBOM(p []byte) []byte {
	for d.bom < len(bom) && len(p) > 0 {
		if p[0] != bom[d.bom] {
			if d.bom > 0 {
				d.state, d.inEvent = lineSkip, true
			}
			d.bom = len(bom)
			break
		}
		d.bom++
		p = p[1:]
	}
	return p
}

// readPlain reads events from the beginning of text, all of whose lines end with
// LF or CRLF, for as long as they are plain: whole, and of the usual fields. It
// stops at the first line that is not; what its event has until there is left
// in d, for the general way to go on with. It returns how much it has read.
//
// The outcome is what the general way would come to. But nearly all events are
// plain, and with a few variables in place of a state that can be left at any
// byte they take half the time.
func (d *Decoder) readPlain(text []byte, yield func(*Event)) int {
	var values [fieldID + 1][]byte // of the event's fields, nil without the field
	rest := text
	begin := len(rest) // rest where the event began
	for len(rest) > 0 {
		if rest[0] == '\n' || rest[0] == '\r' {
			if rest[0] == '\r' {
				rest = rest[1:] // then comes LF
			}
			rest = rest[1:]
			begin = len(rest)
			if id := values[fieldID]; id != nil {
				d.lastID.set(id)
			}
			if data := values[fieldData]; data != nil {
				d.dispatch(values[fieldEvent], data, values[fieldID] != nil, yield)
				if len(d.data.buf) > 0 { // data of several lines
					d.data.clear()
				}
			}
			values = [len(values)][]byte{} // without the call that clear would be
			continue
		}

		f, start := plainField(rest)
		if f == fieldNone {
			break
		}
		v := rest[start:]
		end := wordLen
		if f != fieldData && len(v) >= wordLen {
			end = wordLF(v)
		}
		if end == wordLen {
			end = bytes.IndexByte(v, '\n')
		}
		// What the fields hold is less than the bytes they came in.
		if end < 0 || begin-len(v)+end >= d.max {
			break
		}
		next := v[end+1:]
		if end > 0 && v[end-1] == '\r' {
			end--
		}
		if f == fieldID && bytes.IndexByte(v[:end], 0) >= 0 {
			break
		}
		v = v[:end:end] // not nil; see value.set for the capacity
		if f == fieldData && values[f] != nil {
			d.data.join(values[f], v)
			v = d.data.buf
		}
		values[f] = v
		rest = next
	}

	d.inEvent = begin > 0
	if v := values[fieldEvent]; v != nil {
		d.typ.set(v)
	}
	if v := values[fieldData]; v != nil {
		if len(d.data.buf) == 0 {
			d.data.set(v)
		}
		d.hasData = true
	}
	if v := values[fieldID]; v != nil {
		d.id.set(v)
		d.hasID = true
	}
	return len(text) - len(rest)
}

// readLine interprets a line that is whole and not empty (section 9.2.6,
// "process the field").
func (d *Decoder) readLine(line []byte) {
	f, v := split(line)
	// Most lines are set at once; what follows would come to the same.
	if d.size()+len(v) <= d.max && !d.tooLarge {
		switch {
		case f == fieldData && !d.hasData:
			d.data.set(v)
			d.hasData = true
			return
		case f == fieldEvent:
			d.typ.set(v)
			return
		case f == fieldID && bytes.IndexByte(v, 0) < 0:
			d.id.set(v)
			d.hasID = true
			return
		}
	}
	d.beginField(f)
	d.readValue(f, v)
	d.endField(f)
}

// readPart reads a part of a line, to its end or to the end of the chunk.
func (d *Decoder) readPart(p []byte) {
	switch d.state {
	case lineStart:
		if len(p) >= headLen {
			d.beginPart(p)
			return
		}
		d.state, d.nhead = lineHead, copy(d.head[:], p)
	case lineHead:
		n := copy(d.head[d.nhead:], p)
		if d.nhead += n; d.nhead == headLen {
			d.beginPart(d.head[:])
			d.own() // head will be used again
			d.readPart(p[n:])
		}
	case lineValue:
		d.readValue(d.field, p)
	case lineSkip:
	}
}

// beginPart begins a line of which at least headLen bytes are known.
func (d *Decoder) beginPart(p []byte) {
	f, v := split(p)
	if f == fieldNone {
		d.state = lineSkip
		return
	}
	d.state, d.field = lineValue, f
	d.beginField(f)
	d.readValue(f, v)
}

// endPart ends a line that was read in parts.
func (d *Decoder) endPart() {
	switch d.state {
	case lineHead:
		d.readLine(d.head[:d.nhead])
		d.own() // head will be used again
	case lineValue:
		d.endField(d.field)
	case lineStart, lineSkip:
	}
	d.state = lineStart
}

// beginField, readValue and endField interpret one field. Its value may come in
// pieces: until endField, only what no other outcome could need is overwritten.
func (d *Decoder) beginField(f field) {
	switch f {
	case fieldData:
		if d.hasData {
			d.grow(&d.data, lineFeed)
		}
		d.hasData = true
	case fieldEvent:
		d.typ.clear()
	case fieldID:
		d.newIDNul, d.newIDLong = false, false
	case fieldRetry:
		// A value of no digits is not a number.
		d.newRetry, d.newRetryOK = -1, true
	case fieldNone:
	}
}

func (d *Decoder) readValue(f field, v []byte) {
	switch f {
	case fieldData:
		d.grow(&d.data, v)
	case fieldEvent:
		d.grow(&d.typ, v)
	case fieldID:
		switch {
		case d.newIDNul:
		case bytes.IndexByte(v, 0) >= 0:
			d.newIDNul = true
		case d.newIDLong:
		case d.newID.len()+len(v) > d.max:
			// A NUL may still follow and make the line void.
			d.newIDLong = true
			d.newID.clear()
		default:
			d.newID.append(v)
		}
	case fieldRetry:
		for _, c := range v {
			if c < '0' || c > '9' {
				d.newRetryOK = false
				return
			}
			d.newRetry = min(max(d.newRetry, 0)*10+int64(c-'0'), maxRetry)
		}
	case fieldNone:
	}
}

func (d *Decoder) endField(f field) {
	switch f {
	case fieldID:
		switch {
		case d.newIDNul:
		case d.newIDLong:
			d.setTooLarge()
		default:
			d.id, d.newID = d.newID, d.id
			d.hasID = true
			if d.size() > d.max {
				d.setTooLarge()
			}
		}
		d.newID.clear()
	case fieldRetry:
		if d.newRetryOK && d.newRetry >= 0 {
			d.retry, d.hasRetry = time.Duration(d.newRetry)*time.Millisecond, true
		}
	case fieldNone, fieldData, fieldEvent:
	}
}

// endEvent is the blank line (section 9.2.6, "dispatch the event"): the ID is
// committed whether or not there is something to dispatch.
func (d *Decoder) endEvent(yield func(*Event)) {
	if d.hasID {
		d.lastID.set(d.id.bytes())
		d.lastID.own() // the ID's buffer will be used again
	}
	switch {
	case !d.hasData:
	case d.tooLarge:
		d.skipped++
	default:
		d.dispatch(d.typ.bytes(), d.data.bytes(), d.hasID, yield)
	}
	d.clearEvent()
}

func (d *Decoder) dispatch(typ, data []byte, hasID bool, yield func(*Event)) {
	// Field by field, which spares a copy of the whole.
	d.event.Type, d.event.Data, d.event.ID, d.event.HasID = typ, data, d.lastID.bytes(), hasID
	yield(&d.event)
}

func (d *Decoder) clearEvent() {
	d.typ.clear()
	d.data.clear()
	d.id.clear()
	d.inEvent, d.hasData, d.hasID, d.tooLarge = false, false, false, false
}

// size is the size of the event so far; see Decoder.
func (d *Decoder) size() int {
	return d.typ.len() + d.data.len() + d.id.len()
}

// grow appends p to the type or the data, unless the event is too large.
func (d *Decoder) grow(v *value, p []byte) {
	if d.tooLarge {
		return
	}
	if d.size()+len(p) > d.max {
		d.setTooLarge()
		return
	}
	v.append(p)
}

// setTooLarge marks the event as skipped and lets go of all but its ID.
func (d *Decoder) setTooLarge() {
	d.tooLarge = true
	d.typ.clear()
	d.data.clear()
}

// own makes everything that is still needed independent of the chunk.
func (d *Decoder) own() {
	d.typ.own()
	d.data.own()
	d.id.own()
	d.newID.own()
	d.lastID.own()
	d.event = Event{}
}

// trim gives up large buffers that are not in use.
func (d *Decoder) trim() {
	d.typ.trim()
	d.data.trim()
	d.id.trim()
	d.newID.trim()
	if cap(d.lastID.buf) > keepBuffer && len(d.lastID.buf) <= keepBuffer {
		d.lastID.buf = bytes.Clone(d.lastID.buf)
	}
}

// value is the value of a field: a view of the chunk while that suffices, so
// that nothing is copied for an event that comes whole, else a buffer.
type value struct {
	view []byte // of memory that is not ours; if not nil, buf is empty
	buf  []byte
}

func (v *value) len() int { return len(v.view) + len(v.buf) }

func (v *value) bytes() []byte {
	if v.view != nil {
		return v.view
	}
	return v.buf
}

func (v *value) append(p []byte) {
	if v.len() == 0 {
		v.set(p)
		return
	}
	v.own()
	v.buf = append(v.buf, p...)
}

func (v *value) set(p []byte) {
	// Without spare capacity: who appends to an event must not write into the
	// rest of the chunk.
	v.view, v.buf = slices.Clip(p), v.buf[:0]
}

// join appends line to what came before it, which is v already if there is
// anything in v.
func (v *value) join(before, line []byte) {
	if len(v.buf) == 0 {
		v.buf = append(v.buf, before...)
	}
	v.buf = append(append(v.buf, '\n'), line...)
}

func (v *value) clear() {
	v.view, v.buf = nil, v.buf[:0]
}

// own makes the value independent of the memory it is a view of.
func (v *value) own() {
	if v.view != nil {
		v.buf = append(v.buf, v.view...)
		v.view = nil
	}
}

func (v *value) trim() {
	if len(v.buf) == 0 && cap(v.buf) > keepBuffer {
		v.buf = nil
	}
}
