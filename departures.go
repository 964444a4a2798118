package ssefanin

import (
	"errors"
	"net"
	"os"
	"time"
)

// clientDepartures notices the clients of the process that leave.
var clientDepartures departures

// read reads what comes from a client until its connection ends. It is for
// connections that departures cannot follow, and ends when the connection is closed.
func (o *takenConn) read() {
	if n, err := discard(o.conn, maxUnwanted); err != nil {
		o.hear(n, err)
	}
}

// readSome reads what has come from a client, and waits a moment for the rest of it:
// over TLS, bytes that came need not be all of a record. departures starts it, and
// follows the connection again when it has ended.
func (o *takenConn) readSome() {
	_ = o.conn.SetReadDeadline(time.Now().Add(closeGrace))
	n, err := discard(o.conn, maxUnwanted-o.heard.Load())
	if o.hear(n, err) {
		clientDepartures.followOn(o)
	}
}

// hear notes what was read of a client. It reports whether there may come more.
func (o *takenConn) hear(n int64, err error) bool {
	o.heard.Add(n)
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	if !errors.Is(err, net.ErrClosed) {
		o.sub.lost()
	}
	return false
}
