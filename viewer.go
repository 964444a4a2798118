package ssefanin

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// viewer writes to one client of the status stream.
type viewer struct {
	w    http.ResponseWriter
	rc   *http.ResponseController
	idle *caddyhttp.IdleTimeoutWriter // nil where the server has none

	mu       sync.Mutex              // protects what follows, and the order of setting deadlines
	deadline func(t time.Time) error // of the connection, from another goroutine; nil once the handler has returned
	ending   bool                    // nothing more is to be written
}

var errEnding = errors.New("the status stream is ending")

func newViewer(w http.ResponseWriter, r *http.Request) *viewer {
	_, idle := caddyhttp.IdleTimeoutsFromContext(r.Context())
	base := w
	if idle != nil {
		base = idle.ResponseWriter
	}
	return &viewer{w: w, rc: http.NewResponseController(w), idle: idle, deadline: http.NewResponseController(base).SetWriteDeadline}
}

// write sends a snapshot.
func (v *viewer) write(p []byte) error {
	if err := v.arm(time.Now().Add(statusTimeout)); err != nil {
		return err
	}
	_, err := v.w.Write(p)
	if err == nil {
		err = v.rc.Flush()
	}
	if err != nil {
		return err
	}
	return v.arm(time.Time{}) // one left armed would end an idle HTTP/2 stream
}

func (v *viewer) arm(deadline time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ending {
		return errEnding
	}
	if v.idle == nil { // which sets its own
		_ = v.rc.SetWriteDeadline(deadline)
	}
	return nil
}

// cut has the stream end, within exitTimeout where the client does not read.
// Safe to call from another goroutine.
func (v *viewer) cut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ending = true
	if v.deadline != nil {
		_ = v.deadline(time.Now().Add(exitTimeout)) // a writer without deadlines cannot be helped
	}
}

// close is called before the handler returns: the connection is no longer its
// own.
func (v *viewer) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.deadline = nil
}
