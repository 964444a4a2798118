package main

import (
	"bytes"
	"fmt"
	"strings"
)

const (
	// maxHeld is how many bytes of a line are kept when it comes in several
	// reads: its field and what matters of the value, an id or three numbers.
	maxHeld = 96

	// maxMissing bounds the missing events that one verifier remembers to tell
	// late ones from doubled ones.
	maxMissing = 4096
)

var (
	fieldData  = []byte("data: ")
	fieldEvent = []byte("event: ")
	fieldID    = []byte("id: ")
	typeGap    = []byte("fanin.gap")
)

// faults is what went wrong. A run with any has no figures.
type faults struct {
	Lost         uint64 // events that never came, though later ones did
	Doubled      uint64 // events that came again
	Reordered    uint64 // events that came after later ones
	Malformed    uint64 // events that are none of the origin's, or cut short
	Gaps         uint64 // announced gaps
	Disconnected uint64 // connections that ended, or never got a response
	Behind       uint64 // events at the end that had not come when time was up
}

func (f *faults) add(g faults) {
	f.Lost += g.Lost
	f.Doubled += g.Doubled
	f.Reordered += g.Reordered
	f.Malformed += g.Malformed
	f.Gaps += g.Gaps
	f.Disconnected += g.Disconnected
	f.Behind += g.Behind
}

// String names what there is, and is empty if there is nothing.
func (f faults) String() string {
	var text []string
	for _, fault := range []struct {
		name  string
		count uint64
	}{
		{"lost", f.Lost},
		{"doubled", f.Doubled},
		{"reordered", f.Reordered},
		{"malformed", f.Malformed},
		{"gaps", f.Gaps},
		{"disconnected", f.Disconnected},
		{"behind", f.Behind},
	} {
		if fault.count > 0 {
			text = append(text, fmt.Sprintf("%s %d", fault.name, fault.count))
		}
	}
	return strings.Join(text, ", ")
}

// verifier reads the event stream of one connection and checks that the
// numbers of each source rise by one, from 1. It parses by hand, and only what
// the origin sends: the clients share the machine with what is measured. Not
// safe for concurrent use.
type verifier struct {
	payload int  // bytes of an event's data
	anyNext bool // the first event of a source may have any number

	// Called for every event that is the next of its source.
	got func(source int, seq uint64, at int64)

	last    []uint64              // number of the newest event, by source
	missing map[numbered]struct{} // skipped so far; nil until there are any
	faults  faults
	id      []byte // of the newest event, if keepID
	keepID  bool

	// The line that is not complete: its beginning and its length so far.
	line   [maxHeld]byte
	length int

	// The event that is not complete.
	pending bool // it has data
	gap     bool
	source  int
	seq     uint64
	at      int64
}

// numbered is an event.
type numbered struct {
	source int
	seq    uint64
}

func newVerifier(sources, payload int) *verifier {
	return &verifier{payload: payload, last: make([]uint64, sources)}
}

// feed takes the next bytes of the stream.
func (v *verifier) feed(p []byte) {
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			v.hold(p)
			return
		}
		if v.length == 0 {
			v.onLine(p[:end], end)
		} else {
			v.hold(p[:end])
			v.onLine(v.line[:min(v.length, maxHeld)], v.length)
			v.length = 0
		}
		p = p[end+1:]
	}
}

// hold keeps a part of a line.
func (v *verifier) hold(p []byte) {
	if v.length < maxHeld {
		copy(v.line[v.length:], p)
	}
	v.length += len(p)
}

// onLine takes a line of which all or the beginning is given.
func (v *verifier) onLine(line []byte, length int) {
	switch {
	case length == 0:
		v.onBlank()
	case bytes.HasPrefix(line, fieldData):
		var ok bool
		v.source, v.seq, v.at, ok = parseData(line[len(fieldData):])
		if !v.gap && (!ok || v.source >= len(v.last) || v.pending || length != len(fieldData)+v.payload) {
			v.faults.Malformed++
			return
		}
		v.pending = !v.gap
	case bytes.HasPrefix(line, fieldEvent):
		v.gap = bytes.HasPrefix(line[len(fieldEvent):], typeGap)
	case v.keepID && bytes.HasPrefix(line, fieldID):
		v.id = append(v.id[:0], line[len(fieldID):]...)
	}
}

// onBlank ends an event.
func (v *verifier) onBlank() {
	pending, gap := v.pending, v.gap
	v.pending, v.gap = false, false
	if gap {
		v.faults.Gaps++
	}
	if !pending {
		return
	}
	last := v.last[v.source]
	switch {
	case v.seq == last+1 || v.anyNext && last == 0:
	case v.seq > last:
		v.skipped(last+1, v.seq)
	default:
		v.again()
		return
	}
	v.last[v.source] = v.seq
	v.got(v.source, v.seq, v.at)
}

// skipped notes that the events from first to before next have not come.
func (v *verifier) skipped(first, next uint64) {
	v.faults.Lost += next - first
	if v.missing == nil {
		v.missing = make(map[numbered]struct{})
	}
	for seq := first; seq < next && len(v.missing) < maxMissing; seq++ {
		v.missing[numbered{v.source, seq}] = struct{}{}
	}
}

// again takes an event that is not newer than the newest: it is late or came
// twice.
func (v *verifier) again() {
	event := numbered{v.source, v.seq}
	if _, late := v.missing[event]; late {
		delete(v.missing, event)
		v.faults.Lost--
		v.faults.Reordered++
		return
	}
	v.faults.Doubled++
}

// behind is how many of the events that were sent came neither themselves nor
// later ones.
func (v *verifier) behind(sent []uint64, sources []int) uint64 {
	n := uint64(0)
	for _, source := range sources {
		if v.last[source] < sent[source] {
			n += sent[source] - v.last[source]
		}
	}
	return n
}
