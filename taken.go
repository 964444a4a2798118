package ssefanin

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// takenConn is a connection of HTTP/1.1 that was taken over from net/http. The
// writers write the chunks of the body themselves, and the connection ends with it.
// What comes from the client meanwhile is of no interest but for its end, which
// departures notices.
type takenConn struct {
	conn net.Conn
	sub  *subscriber

	bytes  uint64 // of the body, since it was taken over
	part   uint64 // of these, those of a piece that was not written to its end
	broken bool   // a write failed, so that the chunk may not be whole

	id    uint64       // with departures; 0: a goroutine reads
	heard atomic.Int64 // bytes that came after the request
}

// parkedOutput is the output to a connection that was taken over, while the
// goroutine of the request waits for the client's end, as it does with a response:
// so the access log, tracing and metrics are the same, and the count of bytes is made
// up for in the end.
type parkedOutput struct {
	takenConn
	response *responseOutput
}

// detachedOutput is the output to a connection that was taken over, and whose
// request has ended: nothing is kept of it but its line for the access log.
type detachedOutput struct {
	takenConn
	line *accessLine // nil: it gets none
}

// next takes the connection over, if what was written first has reached it as it is.
// The writer whose turn it is does so: nothing else is written meanwhile, and the
// stack of the request's goroutine, which may wait for as long as the stream lasts,
// stays small.
func (o *responseOutput) next() output {
	if !o.first.arrived() {
		o.first = nil // it only passes on from here
		return o
	}
	conn, rw, err := http.NewResponseController(o.first.ResponseWriter).Hijack()
	if err != nil {
		return o // what is written from now on fails, if the connection has
	}
	o.first.taken = true
	takenClients.Add(1)
	o.sub.deadline.take(conn)
	heard := int64(rw.Reader.Buffered())
	// net/http keeps both of these, with 4 KiB each, until its handler returns.
	*rw.Reader, *rw.Writer = bufio.Reader{}, bufio.Writer{}
	if !o.sub.client.settings.detach {
		parked := &parkedOutput{takenConn{conn: conn, sub: o.sub}, o}
		parked.follow(heard)
		return parked
	}
	detached := &detachedOutput{takenConn{conn: conn, sub: o.sub}, newAccessLine(o.accessLogger, o.chain, o.r, takenEnded)}
	detached.follow(heard)
	o.sub.client.forgetRequest()
	o.sub.left <- struct{}{} // from here on, the request is its goroutine's
	return detached
}

func takenEnded() { takenClients.Add(-1) }

// follow has the client's departure noticed. heard is how many bytes have come
// after the request.
func (o *takenConn) follow(heard int64) {
	o.heard.Store(heard)
	clientDepartures.follow(o)
}

func (*takenConn) begin() {}

func (o *takenConn) write(f *frame, p []byte, constant bool) error {
	chunk := f.chunk(p, constant)
	n, err := o.conn.Write(chunk)
	if err != nil {
		begin := len(chunk) - len(p) - len("\r\n")
		o.broken, o.part = true, uint64(min(max(n-begin, 0), len(p)))
		o.bytes += o.part
		return err
	}
	o.bytes += uint64(len(p))
	return nil
}

// end writes the last chunk and closes the connection.
func (o *takenConn) end(deadline time.Time) {
	clientDepartures.forget(o)
	o.sub.deadline.release(deadline)
	whole := !deadline.IsZero() && !o.broken
	if whole {
		_, err := o.conn.Write([]byte(lastChunk))
		whole = err == nil
	}
	o.close(whole, deadline)
}

func (o *parkedOutput) next() output { return o }

func (o *parkedOutput) over() { o.response.over() }

func (o *parkedOutput) end(deadline time.Time) {
	o.takenConn.end(deadline)
	o.response.first.account(o.response.chain, o.bytes)
	context.AfterFunc(o.response.r.Context(), takenEnded) // which is done when the handlers have returned
}

func (o *detachedOutput) next() output { return o }

// over has a goroutine end the client, since that may block.
func (o *detachedOutput) over() { go o.leave() }

// leave ends the client. over starts it; it belongs to the process, whose exit waits
// for it, and ends by the write timeout.
func (o *detachedOutput) leave() {
	c := o.sub.client
	c.leave()
	if o.line == nil {
		takenEnded()
		return
	}
	o.line.streamEnded(c.sent.bytes+o.part, time.Duration(monotonic(time.Now())-o.sub.came), c.logFields())
}

// close closes the connection, so that the client can read what was written to its
// end: one that has sent something since its request may otherwise get a reset
// instead.
func (o *takenConn) close(whole bool, deadline time.Time) {
	below := belowTLS(o.conn)
	if !whole {
		_ = below.Close() // TLS would wait for a word of its own to be written
		return
	}
	if below != o.conn { // for which it waits five seconds at most
		late := time.AfterFunc(time.Until(deadline), func() { _ = below.Close() })
		defer late.Stop()
	}
	if o.heard.Load() > 0 {
		o.linger()
	}
	_ = o.conn.Close()
}

// linger ends the connection's own direction, and waits for the client to end the
// other.
func (o *takenConn) linger() {
	for _, conn := range []net.Conn{o.conn, belowTLS(o.conn)} {
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}
	_ = o.conn.SetReadDeadline(time.Now().Add(closeGrace))
	_, _ = discard(o.conn, maxUnwanted)
}

// discard reads what comes, up to a number of bytes or the first error.
func discard(conn net.Conn, most int64) (n int64, err error) {
	buf := make([]byte, 512)
	for n < most && err == nil {
		var k int
		k, err = conn.Read(buf)
		n += int64(k)
	}
	return n, err
}

// belowTLS returns the connection that carries a connection over TLS; any other one
// is returned as it is.
func belowTLS(conn net.Conn) net.Conn {
	if secure, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return secure.NetConn()
	}
	return conn
}

// Interface guards
var (
	_ output = (*parkedOutput)(nil)
	_ output = (*detachedOutput)(nil)
)
