package ssefanin

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

const (
	// headTimeout bounds an attempt from the dial to the end of the response's
	// header, redirects included.
	headTimeout = 30 * time.Second

	// readBuffer is how much is read from an upstream at once, in bytes.
	readBuffer = 32 << 10

	// maxResumeID is the longest Last-Event-ID that is sent. Servers limit
	// their request headers to 8 KiB and more, all fields together; beyond the
	// limit some close the connection without an answer, so that an upstream
	// with an endless id could never be reconnected.
	maxResumeID = 4 << 10
)

// reason is why a connection ended; a fixed set, for logs and metrics.
type reason string

const (
	reasonEOF         reason = "eof"         // the upstream ended the stream
	reasonError       reason = "error"       // of the network
	reasonCertificate reason = "certificate" // not accepted, here or there
	reasonTLS         reason = "tls"         // on one side only
	reasonUnknownHost reason = "unknown_host"
	reasonHeadTimeout reason = "head_timeout" // no answer in time
	reasonIdle        reason = "idle_timeout"
	reasonStatus      reason = "status"
	reasonType        reason = "content_type"
	reasonFinished    reason = "finished" // 204
	reasonRedirect    reason = "redirect" // refused
	reasonRequest     reason = "request"  // could not be built
	reasonRefusedID   reason = "refused_id"
	reasonClosed      reason = "closed"  // by us
	reasonRemoved     reason = "removed" // from the configuration
)

var (
	errHeadTimeout = fmt.Errorf("no answer within %s", headTimeout)
	errIdle        = errors.New("nothing was received for the idle_timeout")
)

// ending is how an attempt ended, and what follows from it.
type ending struct {
	reason   reason
	status   int    // of the response, if that was the reason
	err      error  // more about it, or nil
	url      string // redacted; the last one of a chain of redirects
	wait     time.Duration
	hint     string // where to look for the cause
	wasUp    bool   // it was a stream
	mistake  bool   // most likely in a configuration
	slow     bool   // wait is the slow retry's
	finished bool   // not to be dialled again
}

// text is the ending in words, to compare and to show.
func (e ending) text() string {
	switch {
	case e.err != nil:
		return string(e.reason) + ": " + e.detail()
	case e.status != 0:
		return string(e.reason) + ": " + strconv.Itoa(e.status)
	}
	return string(e.reason)
}

// detail is the ending in words, without the reason.
func (e ending) detail() string {
	switch {
	case e.err != nil && e.hint != "":
		return e.err.Error() + "; " + e.hint
	case e.err != nil:
		return e.err.Error()
	case e.status != 0:
		return "status " + strconv.Itoa(e.status)
	}
	return ""
}

// lastEventID returns the id to resume from, if it can be sent.
func (r *runner) lastEventID() string {
	if r.spec.Resume == resumeOff || r.withoutID {
		return ""
	}
	id := r.decoder.LastEventID()
	if id == "" || (len(id) <= maxResumeID && sendable(id)) {
		r.badIDLogged = false
		return id
	}
	if !r.badIDLogged {
		r.badIDLogged = true
		r.source.logger().Warn("the last event id cannot be sent in a header; events may be missed over this reconnect",
			zap.Int("id_length", len(id)))
	}
	return ""
}

// sendable reports whether net/http sends the value: no control characters.
func sendable(id string) bool {
	for i := 0; i < len(id); i++ {
		if (id[i] < ' ' && id[i] != '\t') || id[i] == 0x7f {
			return false
		}
	}
	return true
}

// attempt dials a replica once and reads until the stream ends, and returns how
// it ended. ctx ends it. run calls it.
func (r *runner) attempt(ctx context.Context, cancel context.CancelCauseFunc, env *environment, rep *replica) ending {
	id := r.lastEventID()
	if from, ok := r.source.intake.resumeElsewhere(r.slot); ok && !r.withoutID && len(from) <= maxResumeID && sendable(from) {
		id = from
	}
	r.withoutID = false
	headTimer := time.AfterFunc(headTimeout, func() { cancel(errHeadTimeout) })
	resp, end := env.fetch(ctx, rep, id)
	headTimer.Stop()
	if resp == nil {
		if errors.Is(context.Cause(ctx), errHeadTimeout) {
			end.reason, end.err = reasonHeadTimeout, errHeadTimeout
		}
		return rep.next(end)
	}
	defer resp.Body.Close()

	end.reason, end.status = reasonStatus, resp.StatusCode
	switch resp.StatusCode {
	case http.StatusOK:
		body, err := streamBody(resp)
		if err != nil {
			end.reason, end.status, end.err, end.slow = reasonType, 0, err, true
			break
		}
		end.status = 0
		return rep.next(r.read(ctx, cancel, body, rep, end))
	case http.StatusNoContent:
		end.reason, end.finished = reasonFinished, true
	case http.StatusBadRequest, http.StatusPreconditionFailed,
		http.StatusRequestEntityTooLarge, http.StatusRequestHeaderFieldsTooLarge:
		if id != "" {
			r.withoutID = true
			end.reason = reasonRefusedID
			end.err = fmt.Errorf("status %d to a request with a Last-Event-ID of %d bytes; trying once without it, events may be missed", resp.StatusCode, len(id))
			return end
		}
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone:
		end.slow = true
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		end.wait = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	return rep.next(end)
}

// next adds the wait that follows from an ending, unless it has one.
func (rep *replica) next(end ending) ending {
	switch {
	case end.finished:
	case end.slow:
		end.wait = rep.backoff.slow()
	case end.wait == 0:
		end.wait = rep.backoff.next()
	}
	return end
}

// streamBody checks that a response is an event stream and returns its body,
// decoded.
func streamBody(resp *http.Response) (io.Reader, error) {
	contentType := resp.Header.Get("Content-Type")
	// ParseMediaType is stricter about parameters than the type needs
	mediaType, _, _ := mime.ParseMediaType(contentType)
	if mediaType == "" {
		mediaType, _, _ = strings.Cut(contentType, ";")
	}
	if !strings.EqualFold(strings.TrimSpace(mediaType), "text/event-stream") {
		return nil, fmt.Errorf("the answer is of type %.100q, not text/event-stream", contentType)
	}
	switch encoding := resp.Header.Get("Content-Encoding"); strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
		return resp.Body, nil
	case "gzip", "x-gzip":
		return &gzipBody{body: resp.Body}, nil
	default:
		return nil, fmt.Errorf("the answer is encoded as %.100q, though identity was asked for", encoding)
	}
}

// gzipBody decodes a body; the header of the encoding is read when the first
// bytes are, not when the response is judged, since it may be late.
type gzipBody struct {
	body io.Reader
	zr   *gzip.Reader
}

func (g *gzipBody) Read(p []byte) (int, error) {
	if g.zr == nil {
		zr, err := gzip.NewReader(g.body)
		if err != nil {
			return 0, fmt.Errorf("decoding gzip: %w", err)
		}
		g.zr = zr
	}
	return g.zr.Read(p)
}

// read takes over the events of a stream until it ends.
func (r *runner) read(ctx context.Context, cancel context.CancelCauseFunc, body io.Reader, rep *replica, end ending) ending {
	end.wasUp = true
	opened := time.Now()
	r.decoder.Reset()
	r.connected = true
	r.source.intake.opened(r, opened)
	defer r.source.intake.closed(r)
	r.up(rep, end.url) // what others send from now on is not taken for older
	if r.buf == nil {
		r.buf = make([]byte, readBuffer)
	}

	var idle *time.Timer
	if r.spec.IdleTimeout > 0 {
		idle = time.AfterFunc(r.spec.IdleTimeout, func() { cancel(errIdle) })
		defer idle.Stop()
	}
	var now time.Time
	counts, events := &r.source.counts, uint64(0)
	deliver := func(ev *sse.Event) {
		events++
		r.source.intake.receive(r, ev, now)
	}
	r.skippedSoFar = r.decoder.Skipped()
	loggedSkip := false
	for {
		if r.spec.Log != "" {
			r.awaitRoom(ctx, idle)
		}
		n, err := body.Read(r.buf)
		if n > 0 {
			now = time.Now()
			if idle != nil {
				idle.Reset(r.spec.IdleTimeout)
			}
			r.decoder.Decode(r.buf[:n], deliver)
			counts.bytes.Add(uint64(n))
			if events > 0 {
				counts.events.Add(events)
				counts.lastEvent.Store(now.UnixMilli())
				events = 0
			}
			if d, ok := r.decoder.TakeRetry(); ok {
				rep.backoff.setBase(d)
			}
			if skipped := r.decoder.Skipped(); skipped != r.skippedSoFar {
				counts.tooLarge.Add(skipped - r.skippedSoFar)
				r.skippedSoFar = skipped
				if !loggedSkip {
					loggedSkip = true
					r.source.logger().Warn("skipped an event larger than max_event_size; further ones of this connection are not logged",
						zap.Int64("max_event_size", r.spec.MaxEventSize))
				}
			}
		}
		if err == nil {
			continue
		}
		end.reason = reasonEOF
		if !errors.Is(err, io.EOF) {
			end.reason, end.err = reasonError, err
		}
		if errors.Is(context.Cause(ctx), errIdle) {
			end.reason, end.err = reasonIdle, errIdle
		}
		rep.backoff.noteEnd(time.Since(opened), r.broughtNew.Load())
		return end
	}
}

// awaitRoom waits until the stream's log takes events again, or ctx ends. What
// the upstream sends meanwhile stays with it. idle, which may be nil, does not
// run in that time.
func (r *runner) awaitRoom(ctx context.Context, idle *time.Timer) {
	for _, use := range r.source.intake.list() {
		room := use.to.hasRoom()
		if room == nil {
			continue
		}
		if idle != nil {
			idle.Stop()
		}
		select {
		case <-room:
		case <-ctx.Done():
		}
		if idle != nil {
			idle.Reset(r.spec.IdleTimeout)
		}
	}
}

// retryAfter is the wait that a Retry-After header asks for: seconds or a
// date, at most maxRetryAfter; 0 if there is none to obey.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if value == "" {
		return 0
	}
	var wait time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil {
		wait = time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if errors.Is(err, strconv.ErrRange) {
		wait = maxRetryAfter
	} else if date, err := http.ParseTime(value); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}
