package ssefanin

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// writeDeadline bounds the writes to one client. Setting a deadline at each
// write would cost a tenth of it, over HTTP/2 a third; so a write only notes
// when it began, and the deadline is set by the hub's notifier when the write
// has not ended for a while. Where it has no effect, the connection is closed;
// see clientConnection.
//
// It sets the deadline below Caddy's writers, which are not made for other
// goroutines. startWrite and endWrite are the writing goroutine's; the rest is
// safe for concurrent use.
type writeDeadline struct {
	writing atomic.Int64 // when the write in progress began, monotonic ns; 0: there is none; negative: its deadline is set
	timeout time.Duration

	hard time.Time                    // when the server cuts the response off, which nothing moves; zero if it does not
	idle *caddyhttp.IdleTimeoutWriter // nil where the server has none
	conn *clientConnection            // nil where there is none to be closed

	mu  sync.Mutex            // protects set, and orders its calls
	set func(time.Time) error // of the connection; nil once the handler has returned
}

// init is called once, before the subscriber is known to others.
func (d *writeDeadline) init(w http.ResponseWriter, r *http.Request, timeout time.Duration) {
	d.timeout, d.conn = timeout, connectionOf(r)
	if _, d.idle = caddyhttp.IdleTimeoutsFromContext(r.Context()); d.idle != nil {
		d.hard, w = d.idle.Deadline.HardDeadline, d.idle.ResponseWriter
	} else if s, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); s != nil && s.WriteTimeout > 0 {
		// Without Caddy's idle writer, clearing our own deadline lifts it.
		d.hard = time.Now().Add(time.Duration(s.WriteTimeout))
	}
	d.set = http.NewResponseController(w).SetWriteDeadline
}

// own keeps Caddy's idle writer from setting deadlines at every write and
// flush, for the rest of the response. It is called before the first write.
func (d *writeDeadline) own() {
	if d.idle != nil {
		d.idle.Ctrl = http.NewResponseController(noDeadlines{})
	}
}

// startWrite is called before a write, with the time.
func (d *writeDeadline) startWrite(now time.Time) {
	d.writing.Store(monotonic(now))
}

// endWrite is called after each write. A deadline left armed would end an idle
// HTTP/2 stream.
func (d *writeDeadline) endWrite() {
	if d.writing.Swap(0) < 0 {
		d.setNow(d.hard)
	}
}

// overdue reports whether there is something to enforce, and when to look
// again, in monotonic ns: at the latest after half the time, so that no write
// can begin and be late in between. A write gets its deadline when it has been
// in progress for a quarter of its time, and the connection is closed when the
// deadline is long past.
func (d *writeDeadline) overdue(now int64) (next int64, enforce bool) {
	begun := d.writing.Load()
	switch {
	case begun > 0:
		next = begun + int64(d.timeout/4)
	case begun < 0 && d.conn != nil && !d.conn.wasCut():
		next = -begun + int64(d.timeout+d.grace())
	default:
		return now + int64(d.timeout/2), false
	}
	return next, next <= now
}

// grace is how long after its deadline a write may go on before the connection
// is closed. A connection that is slow, but read, takes the reset of one stream
// within that time, and the others go on.
func (d *writeDeadline) grace() time.Duration {
	return max(closeGrace, d.timeout/4)
}

// enforce sets the deadline of the write in progress, if it has none, or closes
// the connection if overdue has found it past. It never blocks.
func (d *writeDeadline) enforce(now int64) {
	begun := d.writing.Load()
	if begun < 0 && -begun+int64(d.timeout+d.grace()) <= now {
		d.conn.cut()
		return
	}
	if begun <= 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// From here on the write's end waits for mu, and takes the deadline back.
	if d.writing.CompareAndSwap(begun, -begun) && d.set != nil {
		deadline := deadlineAt(begun + int64(d.timeout))
		if !d.hard.IsZero() && deadline.After(d.hard) {
			deadline = d.hard
		}
		_ = d.set(deadline) // a writer without deadlines cannot be helped
	}
}

// setNow sets the deadline of the write in progress, or of the next one.
func (d *writeDeadline) setNow(deadline time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.set != nil {
		_ = d.set(deadline)
	}
}

// take has deadlines set at a connection that was taken over from net/http, which
// takes its own back. It is called between two writes.
func (d *writeDeadline) take(conn net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.idle, d.set = nil, conn.SetWriteDeadline
	if !d.hard.IsZero() {
		_ = d.set(d.hard)
	}
}

// close is called before the handler returns: the connection is no longer its
// own. The deadline, if there is one, is that of the end of the response, which
// net/http writes, and no notifier looks after.
func (d *writeDeadline) close(w http.ResponseWriter, r *http.Request, deadline time.Time) {
	if d.release(deadline) {
		d.conn.cutUnlessEnded(w, r, deadline.Add(closeGrace))
	}
}

// release sets the last deadline, if there is one; then no other is set. It
// reports whether there is one that can be set.
func (d *writeDeadline) release(deadline time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	last := !deadline.IsZero() && d.set != nil
	if last {
		_ = d.set(deadline)
	}
	d.set = nil
	return last
}

// noDeadlines takes the deadlines of Caddy's idle writer instead of the
// connection: the writer gives up at the first.
type noDeadlines struct{ http.ResponseWriter }

func (noDeadlines) SetWriteDeadline(time.Time) error { return errOwnDeadlines }

var errOwnDeadlines = errors.New("sse_fanin sets the deadlines of its writes itself")
