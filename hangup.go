package ssefanin

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// closeGrace is how long after a deadline the connection is closed if the
// deadline had no effect.
const closeGrace = 500 * time.Millisecond

// clientConnection is shared by the requests of one connection over TCP or a
// unix socket.
//
// A deadline over HTTP/2 is one of the stream, and resets it: that is right
// where the client takes no more of this stream but goes on with others. Where
// it does not read its socket, the reset waits behind the write that is blocked,
// and all streams of the connection do. Then the connection has to be closed.
// Over HTTP/1.1 it is the last resort when the process exits.
//
// Its methods are safe for concurrent use, on nil too: over HTTP/3, whose
// streams do not block each other, and in servers that are not Caddy's.
type clientConnection struct {
	conn   net.Conn
	server *acceptedConnections
	closed atomic.Bool // by cut

	mu        sync.Mutex  // protects what follows
	idleSince time.Time   // zero: there are requests
	late      *time.Timer // see acceptedConnections; nil before it is needed
	overtaken bool        // it got a request long after its server began to shut down
}

// connectionKey is the key of a request's context for its *clientConnection.
type connectionKey struct{}

func connectionOf(r *http.Request) *clientConnection {
	if r.ProtoMajor > 2 {
		return nil
	}
	c, _ := r.Context().Value(connectionKey{}).(*clientConnection)
	return c
}

// cut closes the connection without a word: TLS would wait for its own to be
// written.
func (c *clientConnection) cut() {
	if c == nil || c.closed.Swap(true) {
		return
	}
	_ = belowTLS(c.conn).Close() // nobody is left to notify
}

// setIdle notes that the connection has requests, or that it has none any more.
func (c *clientConnection) setIdle(idle bool) {
	if c.noteIdle(idle) {
		c.cut()
	}
}

// noteIdle reports whether the connection is to be closed now.
func (c *clientConnection) noteIdle(idle bool) (end bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idleSince = time.Time{}
	switch {
	case !idle:
		c.overtaken = c.overtaken || c.server.overdue()
	case c.overtaken:
		return true
	default:
		c.idleSince = time.Now()
	}
	c.watchLocked()
	return false
}

// watch is called when the server begins to shut down.
func (c *clientConnection) watch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchLocked()
}

// watchLocked has the connection closed when it has been idle for long enough,
// if its server shuts down.
func (c *clientConnection) watchLocked() {
	switch {
	case c.idleSince.IsZero():
		if c.late != nil {
			c.late.Stop()
		}
	case !c.server.shuttingDown():
	case c.late == nil:
		c.late = time.AfterFunc(idleGrace, c.cutIdle)
	default:
		c.late.Reset(idleGrace)
	}
}

func (c *clientConnection) cutIdle() {
	c.mu.Lock()
	idle := !c.idleSince.IsZero() && time.Since(c.idleSince) >= idleGrace // or it has been active meanwhile
	c.mu.Unlock()
	if idle {
		c.cut()
	}
}

// wasCut reports whether cut was called.
func (c *clientConnection) wasCut() bool {
	return c != nil && c.closed.Load()
}

// cutUnlessEnded closes the connection at a time, unless the response has been
// written to its end by then, the end that net/http writes after the handler has
// returned included. It is called before that, with the response's writer, and
// does nothing but over HTTP/2.
func (c *clientConnection) cutUnlessEnded(w http.ResponseWriter, r *http.Request, at time.Time) {
	if c == nil || r.ProtoMajor != 2 {
		return
	}
	ended := responseEnd(w)
	if ended == nil {
		return
	}
	cut := c.cutIfOpen()
	time.AfterFunc(time.Until(at), func() {
		select {
		case <-ended:
		default:
			cut()
		}
	})
}

// cutIfOpen returns cut for a timer, which does not keep the connection: the
// timer may be due long after the connection's end, and Go's runtime may keep even
// one that was stopped until then. Over TLS a connection keeps the configuration
// of its server, with all streams.
func (c *clientConnection) cutIfOpen() func() {
	open := weak.Make(c)
	return func() { open.Value().cut() }
}

// responseEnd returns a channel that gets a value when a stream of HTTP/2 has
// ended; nil if that cannot be known. Nobody else may read from it: the value
// comes once.
func responseEnd(w http.ResponseWriter) <-chan bool {
	if response, ok := innermost(w).(interface{ CloseNotify() <-chan bool }); ok { // deprecated, but nothing else distinguishes the end of a stream from its handler's
		return response.CloseNotify()
	}
	return nil
}

// innermost returns the writer that others pass everything on to: net/http's.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = outer.Unwrap()
	}
}
