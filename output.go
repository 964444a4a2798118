package ssefanin

import (
	"net/http"
	"time"

	"go.uber.org/zap"
)

// output is where a client's stream goes: all that knows how bytes get to it.
// The writer whose turn it is calls all methods but end.
type output interface {
	// begin writes the header of the response. It is called once, before all
	// others.
	begin()

	// write writes a piece of the stream, which is not empty, and sends it. f is
	// the buffer of the writer. A constant piece is one of the log, whose bytes
	// never change.
	write(f *frame, p []byte, constant bool) error

	// next returns the output to go on with: itself, or a better one. It is called
	// once, when the first write has succeeded.
	next() output

	// over has the client's end taken care of: end called, and the client taken
	// off its stream. It is called once, after the last turn, and never blocks.
	over()

	// end ends the response by the deadline, which may block until then. Zero:
	// what has been written is all that the client gets. It is called once, after
	// over.
	end(deadline time.Time)
}

// responseOutput is the output through net/http and what Caddy has put before
// it. The goroutine of the request waits for the client's end meanwhile.
type responseOutput struct {
	w     http.ResponseWriter
	chain http.ResponseWriter // w, or Caddy's idle writer above it
	r     *http.Request
	sub   *subscriber
	body  *unwantedBody // nil: the request has none
	first *firstBlock   // nil: the connection cannot be taken over

	accessLogger *zap.Logger // of the server
}

// newResponseOutput returns the output of a request. The subscriber is made
// before.
func newResponseOutput(sub *subscriber, svc *service, w http.ResponseWriter, r *http.Request) *responseOutput {
	return &responseOutput{w: w, chain: w, r: r, sub: sub, body: bodyOf(w, r), accessLogger: svc.accessLogger}
}

func (o *responseOutput) begin() {
	idle := o.sub.deadline.idle
	o.first = watchFirstBlock(idle, o.r)
	if o.chain == http.ResponseWriter(idle) {
		o.w = idle.ResponseWriter // deadlines are all that it is for
	}
	o.sub.deadline.own()
	writeHeader(o.w)
	o.body.start(func() { o.sub.endNow(endClient) })
}

func (o *responseOutput) write(_ *frame, p []byte, _ bool) error {
	o.first.expect(p)
	if _, err := o.w.Write(p); err != nil {
		return err
	}
	return http.NewResponseController(o.w).Flush()
}

func (o *responseOutput) over() { close(o.sub.left) }

// end leaves the response so that net/http can write its end, which may block,
// too: nobody looks after that write but the deadline.
func (o *responseOutput) end(deadline time.Time) {
	o.body.stop()
	o.sub.deadline.close(o.w, o.r, deadline)
}

// writeHeader writes the header of every stream.
func writeHeader(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store, no-transform")
	header.Set("X-Accel-Buffering", "no")
	header.Del("Content-Length")
	w.WriteHeader(http.StatusOK)
}

// Interface guards
var _ output = (*responseOutput)(nil)
