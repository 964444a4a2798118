package ssefanin

import (
	"bytes"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// firstBlock is put below all of Caddy's writers, and finds out whether what a
// client's stream begins with reaches the connection as it was written: the bytes,
// the flush, and a header that leaves them what they are. Only then may the rest of
// the stream go past these writers. One that keeps the bytes back, encodes or
// replaces them would do the same with what follows, and it is not noticed by a
// hijack, which goes past every writer that can be unwrapped.
//
// When the connection has been taken over, nothing goes through it any more, and
// in the end it takes what account has the writers count.
//
// Whoever has the response uses it: the writer whose turn it is, and after the last
// turn the goroutine of the request.
type firstBlock struct {
	http.ResponseWriter // net/http's, or what passes everything on to it

	fits    bool   // the header does
	missing []byte // what has not arrived
	differs bool   // something else has
	flushed bool   // all of it

	taken    bool // the connection
	counting bool // see account
}

// watchFirstBlock puts a firstBlock below Caddy's writers, where there is a place for
// it and the connection can be taken over: with HTTP/1.1 and a server that has an
// idle writer (`write_idle_timeout`), for a request without a body, which net/http
// would read from the connection. Nil: it cannot.
func watchFirstBlock(idle *caddyhttp.IdleTimeoutWriter, r *http.Request) *firstBlock {
	if idle == nil || r.Method != http.MethodGet || r.ProtoMajor != 1 || !r.ProtoAtLeast(1, 1) || withBody(r) {
		return nil
	}
	first := &firstBlock{ResponseWriter: idle.ResponseWriter}
	idle.ResponseWriter = first
	return first
}

// expect is called before the block is written.
func (f *firstBlock) expect(block []byte) {
	if f != nil {
		f.missing = block
	}
}

// arrived reports whether the block has arrived, and nothing else. It is called
// when the block has been written and flushed.
func (f *firstBlock) arrived() bool {
	if f == nil {
		return false
	}
	ok := f.fits && f.flushed && !f.differs
	f.missing = nil // it is the client's
	return ok
}

// WriteHeader implements http.ResponseWriter. A response that may be taken over
// closes its connection: a client that took it for free after the end would send
// its next request in vain.
func (f *firstBlock) WriteHeader(status int) {
	if f.taken {
		return
	}
	if header := f.Header(); status == http.StatusOK && header.Get("Content-Encoding") == "" &&
		header.Get("Content-Length") == "" && header.Get("Transfer-Encoding") == "" && header.Get("Trailer") == "" {
		f.fits = true
		header.Set("Connection", "close")
	}
	f.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (f *firstBlock) Write(p []byte) (int, error) {
	if f.taken {
		if f.counting {
			return len(p), nil
		}
		return 0, http.ErrHijacked
	}
	if rest, ok := bytes.CutPrefix(f.missing, p); ok {
		f.missing = rest
	} else {
		f.differs = true
	}
	return f.ResponseWriter.Write(p)
}

// FlushError implements what http.ResponseController needs to flush. net/http's own
// would panic once the connection is taken.
func (f *firstBlock) FlushError() error {
	if f.taken {
		return http.ErrHijacked
	}
	err := http.NewResponseController(f.ResponseWriter).Flush()
	f.flushed = err == nil && len(f.missing) == 0
	return err
}

// Unwrap implements what http.ResponseController needs for everything else.
func (f *firstBlock) Unwrap() http.ResponseWriter { return f.ResponseWriter }

// account has all writers of a response count what was written past them, for the
// access log, tracing and metrics: they get as many bytes, which arrive here.
func (f *firstBlock) account(w http.ResponseWriter, n uint64) {
	f.counting = true
	for n > 0 {
		k, err := w.Write(uncounted[:min(n, uint64(len(uncounted)))])
		if err != nil {
			return // a writer that has given up counts no more
		}
		n -= uint64(k)
	}
}

// uncounted stands for bytes that were written elsewhere.
var uncounted [maxWrite]byte
