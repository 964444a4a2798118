package ssetest

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// rateState is how many numbered events are due. Not safe for concurrent use.
type rateState struct {
	perSecond float64
	since     time.Time
	emitted   uint64 // since then
}

func (r *rateState) set(perSecond float64) {
	*r = rateState{perSecond: max(perSecond, 0), since: time.Now()}
}

// due is the number of events to emit now.
func (r *rateState) due(now time.Time) uint64 {
	want := uint64(now.Sub(r.since).Seconds() * r.perSecond)
	if want <= r.emitted {
		return 0
	}
	n := want - r.emitted
	r.emitted = want
	return n
}

// interval is the time between two looks at due: one event each, but no more
// than 500 wake-ups per second.
func (r *rateState) interval() time.Duration {
	return max(time.Duration(float64(time.Second)/r.perSecond), 2*time.Millisecond)
}

// SetRate changes the number of numbered events per second; 0 ends them: none
// is emitted after it has returned.
func (o *Origin) SetRate(perSecond float64) {
	o.mon.Lock()
	o.rate.set(perSecond)
	o.mon.Unlock()
	select {
	case o.rateChanged <- struct{}{}:
	default: // one is pending
	}
}

// emit sends numbered events at the rate. NewOrigin starts it; Close ends it
// and waits for it.
func (o *Origin) emit() {
	defer o.emitting.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-o.quit:
			return
		case <-o.rateChanged:
		case <-timer.C:
		}
		o.mon.Lock()
		for range o.rate.due(time.Now()) {
			o.emitNumberedLocked()
		}
		if o.rate.perSecond > 0 {
			timer.Reset(o.rate.interval())
		}
		o.mon.Unlock()
	}
}

// Emit sends one event with the next id. An empty typ is an unnamed event.
// It does not count as a numbered event: from then on the ids are ahead of the
// numbers in the data.
func (o *Origin) Emit(typ, data string) {
	o.mon.Lock()
	defer o.mon.Unlock()
	o.emitLocked(typ, data)
}

// EmitNumbered sends k numbered events at once, whatever the rate.
func (o *Origin) EmitNumbered(k int) {
	o.mon.Lock()
	defer o.mon.Unlock()
	for range k {
		o.emitNumberedLocked()
	}
}

// Flood sends n numbered events and more, never more than 20 ahead of a reader,
// whose only origin this is.
func (o *Origin) Flood(ctx context.Context, reader *Client, n int) error {
	before := reader.Count()
	for sent := 0; sent < n; {
		sent += 20
		o.EmitNumbered(20)
		if err := reader.WaitCount(ctx, before+uint64(sent)); err != nil {
			return err
		}
	}
	return nil
}

// EmitAlike has origins of one source send the same events, ids included: those
// after number n, up to and including m. The numbered events that origins make
// themselves carry the time, and differ.
func EmitAlike(origins []*Origin, n, m int) {
	for n < m {
		n++
		for _, o := range origins {
			o.Emit("", fmt.Sprintf(`{"source":%q,"n":%d}`, o.Source(), n))
		}
	}
}

// Raw sends bytes as they are to the connections open now, in order with the
// events. They are not replayed.
func (o *Origin) Raw(p []byte) {
	o.mon.Lock()
	defer o.mon.Unlock()
	o.log.append(entry{n: o.log.last, raw: true, wire: bytes.Clone(p)})
	o.mon.signalLocked()
}

// Last is the number of the newest numbered event, 0 before the first.
func (o *Origin) Last() uint64 {
	o.mon.Lock()
	defer o.mon.Unlock()
	return o.log.numbered
}

func (o *Origin) emitNumberedLocked() {
	o.log.numbered++
	n := o.log.numbered
	var typ string
	if k := uint64(len(o.cfg.Types)); k > 0 {
		typ = o.cfg.Types[(n-1)%k]
	}
	b := make([]byte, 0, 80+len(o.cfg.Source)+o.cfg.Pad)
	b = append(b, `{"source":"`...)
	b = append(b, o.cfg.Source...)
	b = append(b, `","n":`...)
	b = strconv.AppendUint(b, n, 10)
	b = append(b, `,"at":`...)
	b = strconv.AppendInt(b, time.Now().UnixNano(), 10)
	if o.cfg.Pad > 0 {
		b = append(b, `,"pad":"`...)
		b = append(b, o.pad...)
		b = append(b, '"')
	}
	b = append(b, '}')
	o.emitLocked(typ, string(b))
}

func (o *Origin) emitLocked(typ, data string) {
	o.log.last++
	n := o.log.last
	var id string
	if o.ids != nil {
		id = o.ids(n)
	} else {
		id = strconv.FormatUint(n, 10)
	}
	o.log.append(entry{
		n:    n,
		id:   id,
		cut:  o.cutEvery > 0 && n%o.cutEvery == 0,
		wire: wireEvent(o.cfg.Newline, id, typ, data),
	})
	o.mon.signalLocked()
}

// wireEvent writes an event as a plain server would.
func wireEvent(newline, id, typ, data string) []byte {
	var b bytes.Buffer
	b.Grow(len(id) + len(typ) + len(data) + 32)
	if id != "" {
		b.WriteString("id: " + id + newline)
	}
	if typ != "" {
		b.WriteString("event: " + typ + newline)
	}
	for line := range strings.SplitSeq(data, "\n") {
		b.WriteString("data: ")
		b.WriteString(line)
		b.WriteString(newline)
	}
	b.WriteString(newline)
	return b.Bytes()
}
