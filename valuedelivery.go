package ssefanin

import (
	"sync"
	"time"
)

// valueDelivery is where a client is among the last values that it gets before it
// goes on in the log. It belongs to the client. Between turns, and while a write is under
// way, it refers to none of the values.
type valueDelivery struct {
	of    *lastValues
	taken *takenValues
	head  uint64 // of the log, at the time of the values
	next  uint64 // offset from which on they are still to come
	end   uint64 // offset before which they are

	buf     *[]byte // of the write that is under way, from valueBuffers; nil: there is none
	written int     // values in that write
}

// valueBuffers has what values are put together in for one write. They are not in
// one piece as the events of the log are, and a client's own buffer would be kept
// from one turn to the next.
var valueBuffers = sync.Pool{New: func() any { buf := make([]byte, 0, maxWrite); return &buf }}

// takeValues has the client get the last values of the events from an offset on and
// before its position, and then go on there. It returns how many it gets; nil if the stream
// keeps none.
func (c *client) takeValues(from uint64) (state *int) {
	c.returnValues()
	v := &c.at.log.values
	taken, head := v.take()
	if taken == nil {
		return nil
	}
	if c.at.reader.Position() > head+1 {
		c.at.seek(head + 1)
	}
	d := &valueDelivery{of: v, taken: taken, head: head, next: from, end: c.at.reader.Position()}
	state = new(int)
	all, _ := v.between(taken, d.next, d.end)
	for _, value := range all {
		if c.wants(value.Tag, value.Event) {
			*state++
		}
	}
	c.values, c.hasValues = d, true
	if *state == 0 {
		c.returnValues()
	}
	return state
}

// valuesFrom returns from which event on an overtaken client needs the last values.
// What it has got over this connection it need not get again: a client that is
// overtaken again and again has less and less to get.
func (c *client) valuesFrom() uint64 {
	switch {
	case c.values != nil:
		return c.values.next
	case c.hasValues:
		return c.at.reader.Position()
	default:
		return 0
	}
}

// nextValues returns the last values to write next, and after them the client's
// position, if it may have that without an event. Nothing: it has looked at many values
// that it does not want, or is through with all. The error is that of a client that was
// overtaken, and is not to go on.
func (c *client) nextValues(now time.Time) (p []byte, err error) {
	d := c.values
	if d.next >= d.end {
		c.returnValues()
		c.prime(c.at.reader.Position(), now)
		return c.buf, nil
	}
	rest, ok := d.of.between(d.taken, d.next, d.end)
	if !ok || d.head+1 < c.at.log.memory.Tail() {
		return c.skipAhead() // what comes after them is gone
	}
	for passed := 0; passed < maxPassedValues; {
		if len(rest) == 0 {
			d.next = d.end
			break
		}
		event := rest[0].Event
		if !c.wants(rest[0].Tag, event) {
			d.next, rest = rest[0].Offset+1, rest[1:]
			passed++
			continue
		}
		if d.buf == nil {
			if len(event) > maxWrite {
				d.next, d.written = rest[0].Offset+1, 1
				return event, nil
			}
			d.buf = valueBuffers.Get().(*[]byte)
		}
		if len(*d.buf)+len(event) > maxWrite {
			break
		}
		*d.buf = append(*d.buf, event...)
		d.next, rest = rest[0].Offset+1, rest[1:]
		d.written++
	}
	if d.buf == nil {
		return nil, nil
	}
	return *d.buf, nil
}

// maxPassedValues is how many values a turn passes over, as the log does with events.
const maxPassedValues = 16 << 10

// valuesWritten notes that the write which is under way has ended.
func (c *client) valuesWritten() {
	d := c.values
	if d == nil {
		return
	}
	c.countReplayed(uint64(d.written))
	d.written = 0
	d.free()
}

// free gives the buffer back.
func (d *valueDelivery) free() {
	if d.buf != nil {
		*d.buf = (*d.buf)[:0]
		valueBuffers.Put(d.buf)
		d.buf = nil
	}
}

// returnValues gives back the values that the client has not got, if there are any.
func (c *client) returnValues() {
	if d := c.values; d != nil {
		d.free()
		d.of.giveBack(d.taken)
		c.values = nil
	}
}
