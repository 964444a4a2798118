package ssefanin

import (
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const (
	// unwantedWait is how long net/http may wait at the end of a response for
	// the rest of a request's body.
	unwantedWait = time.Second

	// maxUnwanted is how much of such a body is read during a stream, in bytes:
	// as much as net/http would.
	maxUnwanted = 256 << 10
)

// ignoreBody has a request answered as if it had no body. Over HTTP/1 net/http
// reads the rest of one before it writes a response's header, and again at the
// response's end, without a deadline of its own. If the connection is to be
// closed, it leaves out the first, and a read deadline bounds the second.
//
// Over HTTP/2 and HTTP/3 a response does not wait for its request. It is called
// before the header is written.
func ignoreBody(w http.ResponseWriter, r *http.Request) {
	if !withBody(r) {
		return
	}
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(unwantedWait)) // a writer without deadlines cannot be helped
}

// withBody reports whether the connection carries a body of the request's.
func withBody(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.ContentLength != 0
}

// unwantedBody is the body of a request for an endless response. As long as
// anything of one has not come, net/http does not notice that the client
// leaves; so run reads it, and does. Nil is none.
type unwantedBody struct {
	body io.Reader
	rc   *http.ResponseController
	left func()
	done chan struct{} // closed by run; nil until it was started
}

// bodyOf returns the body of a request, nil if it has none.
func bodyOf(w http.ResponseWriter, r *http.Request) *unwantedBody {
	if !withBody(r) {
		return nil
	}
	if idle, _ := caddyhttp.IdleTimeoutsFromContext(r.Context()); idle != nil {
		idle.Override(longest, 0) // that nothing comes is no fault
	}
	return &unwantedBody{body: r.Body, rc: http.NewResponseController(w)}
}

// start has the body read until the client leaves, and then left called. It is
// called once, with the header written: a body that waits for "100 Continue" is
// not to be asked for.
func (b *unwantedBody) start(left func()) {
	if b == nil {
		return
	}
	b.left, b.done = left, make(chan struct{})
	_ = b.rc.SetReadDeadline(time.Time{})
	go b.run()
}

// run reads the body until its end, maxUnwanted, or the end of the connection.
// The handler owns it, and waits for it in stop.
func (b *unwantedBody) run() {
	defer close(b.done)
	buf := make([]byte, 512)
	for n := 0; n < maxUnwanted; {
		k, err := b.body.Read(buf)
		if err != nil {
			if hungUp(err) {
				b.left()
			}
			return
		}
		n += k
	}
}

// stop is called before the handler returns: nothing is to wait for the rest of
// the body.
func (b *unwantedBody) stop() {
	if b == nil {
		return
	}
	_ = b.rc.SetReadDeadline(time.Unix(1, 0))
	if b.done != nil {
		<-b.done
	}
}

// hungUp reports whether a body's error is that its connection has ended. The
// body may be wrong, too large or late instead.
func hungUp(err error) bool {
	if network, ok := errors.AsType[net.Error](err); ok {
		return !network.Timeout()
	}
	return errors.Is(err, io.ErrUnexpectedEOF)
}
