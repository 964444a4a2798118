package ssetest

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// endKind is how the origin ends a connection.
type endKind int

const (
	endNone  endKind = iota
	endClean         // terminating chunk, END_STREAM
	endCut           // transport closed, stream reset
	endGone          // the client left
)

// originConn is one request being served. Fields are protected by the origin's
// monitor unless noted.
type originConn struct {
	origin *Origin
	next   uint64 // position to send next; the handler's own
	live   uint64 // entries before it are replay; immutable
	end    endKind
	sink   sink // nil until the response has begun
	ctx    context.Context
	cancel context.CancelFunc
}

// endLocked asks the handler to end; the first reason counts.
func (c *originConn) endLocked(kind endKind) {
	if c.end == endNone {
		c.end = kind
	}
}

// ending notes that the handler ends the connection.
func (c *originConn) ending(kind endKind) {
	o := c.origin
	o.mon.Lock()
	defer o.mon.Unlock()
	c.endLocked(kind)
	o.mon.signalLocked()
}

// abort unblocks the handler whatever it does.
func (c *originConn) abort() {
	c.origin.mon.Lock()
	s := c.sink
	c.origin.mon.Unlock()
	c.cancel()
	if s != nil {
		s.abort()
	}
}

// gone notes that the client left.
func (c *originConn) gone() {
	o := c.origin
	o.mon.Lock()
	c.endLocked(endGone)
	o.mon.signalLocked()
	o.mon.Unlock()
	c.cancel()
}

// handle serves one request.
func (o *Origin) handle(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	c := &originConn{origin: o, ctx: ctx, cancel: cancel}

	o.mon.Lock()
	if o.server == nil {
		o.mon.Unlock()
		panic(http.ErrAbortHandler)
	}
	o.recordLocked(r)
	fault := o.takeFaultLocked(false)
	c.live = o.log.head
	c.next = o.startLocked(r.Header.Get("Last-Event-ID"))
	if fault != nil && fault.Kind == Respond {
		c.endLocked(endClean)
	}
	o.conns[c] = struct{}{}
	o.serving.Add(1)
	o.mon.signalLocked()
	o.mon.Unlock()
	defer o.leave(c)

	if fault == nil {
		o.serveEvents(c, w, r, nil)
		return
	}
	switch fault.Kind {
	case Drop:
		panic(http.ErrAbortHandler)
	case Hang:
		c.hang()
	case EndAtOnce, Endless:
		o.serveEvents(c, w, r, fault)
	case Respond:
		for k, v := range fault.Header {
			w.Header()[http.CanonicalHeaderKey(k)] = v
		}
		w.WriteHeader(fault.Status)
		_, _ = w.Write(fault.Body)
	case Wire:
		o.serveWire(c, w, fault)
	case Override:
		fault.Handler.ServeHTTP(w, r.WithContext(ctx))
	default:
		panic(http.ErrAbortHandler)
	}
}

func (o *Origin) leave(c *originConn) {
	o.mon.Lock()
	delete(o.conns, c)
	o.mon.signalLocked()
	o.mon.Unlock()
	o.serving.Done()
}

// startLocked is the position a new connection begins at.
func (o *Origin) startLocked(lastEventID string) uint64 {
	start, ok := o.log.head, false
	switch {
	case o.resume == ReplayAll:
		return o.log.oldest()
	case o.resume == LiveOnly || lastEventID == "":
		return start
	case o.ids != nil:
		start, ok = o.log.after(lastEventID)
	default:
		if n, err := strconv.ParseUint(lastEventID, 10, 64); err == nil {
			start, ok = o.log.afterNumber(n)
		}
	}
	if !ok {
		return o.log.head
	}
	for k := o.overlap; k > 0 && start > o.log.oldest(); k-- {
		start--
	}
	return start
}

// hang does nothing until the client leaves or the origin cuts it.
func (c *originConn) hang() {
	<-c.ctx.Done()
	panic(http.ErrAbortHandler)
}

// serveWire writes bytes that are a whole response, or not even that.
func (o *Origin) serveWire(c *originConn, w http.ResponseWriter, f *Fault) {
	s, err := openWire(c, w, nil, o.cfg)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer s.close()
	s.chunked = false
	if s.write(f.Body) == nil && s.flush() == nil && f.Hold {
		<-c.ctx.Done()
	}
}

// serveEvents answers with the event stream; fault is nil, EndAtOnce or
// Endless.
func (o *Origin) serveEvents(c *originConn, w http.ResponseWriter, r *http.Request, fault *Fault) {
	header := http.Header{"Content-Type": {"text/event-stream"}, "Cache-Control": {"no-cache"}}
	for k, v := range o.cfg.Header {
		header[http.CanonicalHeaderKey(k)] = v
	}
	var s sink
	if r.ProtoMajor == 1 {
		wire, err := openWire(c, w, header, o.cfg)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer wire.close()
		s = wire
	} else {
		h2 := openH2(c, w, header, o.cfg)
		stop := context.AfterFunc(r.Context(), c.gone)
		defer stop()
		defer h2.close()
		s = h2
	}
	preface := o.cfg.Preface
	if o.cfg.Retry > 0 {
		retry := "retry: " + strconv.FormatInt(o.cfg.Retry.Milliseconds(), 10) + o.cfg.Newline + o.cfg.Newline
		preface = append(slices.Clip(preface), retry...)
	}
	if s.write(preface) != nil || s.flush() != nil {
		s.fail()
		return
	}
	if fault != nil && fault.Kind == Endless {
		c.endless(s, fault)
		return
	}
	c.stream(s, fault != nil)
}

// batchSize is how many entries are taken under one lock and flushed at once.
const batchSize = 64

// stream sends entries from the connection's position on, until one side ends
// it or, with replayOnly, until there is nothing left to replay.
func (c *originConn) stream(s sink, replayOnly bool) {
	o := c.origin
	batch := make([]entry, 0, batchSize)
	for {
		o.mon.Lock()
		for c.end == endNone && (o.stalled || c.next == o.log.head) {
			if replayOnly {
				c.end = endClean
				break
			}
			changed := o.mon.changedLocked()
			o.mon.Unlock()
			<-changed
			o.mon.Lock()
		}
		end := c.end
		batch = batch[:0]
		first := c.next
		if end == endNone {
			if oldest := o.log.oldest(); first < oldest {
				o.overruns += oldest - first
				first = oldest
			}
			for c.next = first; c.next < o.log.head && len(batch) < batchSize; c.next++ {
				batch = append(batch, *o.log.at(c.next))
			}
		}
		o.mon.Unlock()

		switch end {
		case endNone:
		case endClean:
			_ = s.finish()
			return
		default:
			s.fail()
			return
		}
		for i, e := range batch {
			pos := first + uint64(i)
			if e.raw && pos < c.live {
				continue
			}
			if e.cut && pos >= c.live {
				c.ending(endCut)
				_ = s.writeCut(e.wire, cutAt(e))
				s.fail()
				return
			}
			if s.write(e.wire) != nil {
				s.fail()
				return
			}
		}
		if s.flush() != nil {
			s.fail()
			return
		}
	}
}

// cutAt is how many bytes of a cut event are sent: at least one, never all.
// It differs from event to event, but not from run to run.
func cutAt(e entry) int {
	return 1 + int(e.n*2654435761>>7%uint64(len(e.wire)-1))
}

// endless writes one line that does not end.
func (c *originConn) endless(s sink, f *Fault) {
	const tick = 10 * time.Millisecond
	prefix := f.Body
	if prefix == nil {
		prefix = []byte("data: ")
	}
	size := 32 << 10
	if f.BytesPerSecond > 0 {
		size = max(f.BytesPerSecond/int(time.Second/tick), 1)
	}
	piece := make([]byte, size)
	for i := range piece {
		piece[i] = 'x'
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	err := s.write(prefix)
	for err == nil && c.ctx.Err() == nil {
		if err = s.write(piece); err == nil {
			err = s.flush()
		}
		if f.BytesPerSecond > 0 {
			select {
			case <-ticker.C:
			case <-c.ctx.Done():
			}
		}
	}
	s.fail()
}
