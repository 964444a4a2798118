package ssefanin

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// connOutput is the output to a connection of HTTP/1.1 that was taken over from
// net/http: it writes the chunks of the body itself, and ends the connection with
// it. What comes from the client meanwhile is of no interest but for its end, which
// departures notices.
//
// The request's goroutine waits for the client's end, as it does with a response:
// so the access log, tracing and metrics are the same, and the count of bytes is made
// up for in the end.
type connOutput struct {
	conn  net.Conn
	sub   *subscriber
	first *firstBlock
	w     http.ResponseWriter // the first of the writers that first is below
	done  context.Context     // of the request: done when its handlers have returned

	bytes  uint64 // of the body, since it was taken over
	broken bool   // a write failed, so that the chunk may not be whole

	id    uint64       // with departures; 0: a goroutine reads
	heard atomic.Int64 // bytes that came after the request
}

// next takes the connection over, if what was written first has reached it as it is.
// The writer whose turn it is does so: nothing else is written meanwhile, and the
// stack of the request's goroutine, which waits for as long as the stream lasts,
// stays small.
func (o *responseOutput) next() output {
	if !o.first.arrived() {
		return o
	}
	conn, rw, err := http.NewResponseController(o.first.ResponseWriter).Hijack()
	if err != nil {
		return o // what is written from now on fails, if the connection has
	}
	o.first.taken = true
	taken := &connOutput{conn: conn, sub: o.sub, first: o.first, w: o.chain, done: o.r.Context()}
	taken.heard.Store(int64(rw.Reader.Buffered()))
	// net/http keeps both of these, with 4 KiB each, until its handler returns.
	*rw.Reader, *rw.Writer = bufio.Reader{}, bufio.Writer{}
	o.sub.deadline.take(conn)
	takenClients.Add(1)
	clientDepartures.follow(taken)
	return taken
}

func (*connOutput) begin() {}

func (o *connOutput) write(f *frame, p []byte, constant bool) error {
	if _, err := o.conn.Write(f.chunk(p, constant)); err != nil {
		o.broken = true
		return err
	}
	o.bytes += uint64(len(p))
	return nil
}

func (o *connOutput) next() output { return o }

func (o *connOutput) over() { close(o.sub.left) }

// end writes the last chunk and closes the connection.
func (o *connOutput) end(deadline time.Time) {
	clientDepartures.forget(o)
	o.sub.deadline.release(deadline)
	whole := !deadline.IsZero() && !o.broken
	if whole {
		_, err := o.conn.Write([]byte(lastChunk))
		whole = err == nil
	}
	o.close(whole, deadline)
	o.first.account(o.w, o.bytes)
	context.AfterFunc(o.done, func() { takenClients.Add(-1) })
}

// close closes the connection, so that the client can read what was written to its
// end: one that has sent something since its request may otherwise get a reset
// instead.
func (o *connOutput) close(whole bool, deadline time.Time) {
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
func (o *connOutput) linger() {
	for _, conn := range []net.Conn{o.conn, belowTLS(o.conn)} {
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}
	_ = o.conn.SetReadDeadline(time.Now().Add(closeGrace))
	discard(o.conn, maxUnwanted)
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
var _ output = (*connOutput)(nil)
