package ssefanin

import (
	"errors"
	"net/http"
	"sync"
	"time"
)

// viewer writes to one client of the status stream. It sets a deadline at each
// write, which is once a second.
type viewer struct {
	w        http.ResponseWriter
	r        *http.Request
	rc       *http.ResponseController
	deadline writeDeadline
	late     *time.Timer // closes the connection where a deadline has no effect

	mu     sync.Mutex // protects ending, and the order of setting deadlines
	ending bool       // nothing more is to be written
}

var errEnding = errors.New("the status stream is ending")

// newViewer is called before anything is written.
func newViewer(w http.ResponseWriter, r *http.Request) *viewer {
	v := &viewer{w: w, r: r, rc: http.NewResponseController(w)}
	v.deadline.init(w, r, statusTimeout)
	v.deadline.own() // or the idle writer would take back that of cut, between a write and its flush
	v.late = time.AfterFunc(time.Hour, v.deadline.conn.cutIfOpen())
	v.late.Stop()
	return v
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
	return v.disarm()
}

// arm is called before a write, with its deadline.
func (v *viewer) arm(deadline time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ending {
		return errEnding
	}
	if hard := v.deadline.hard; !hard.IsZero() && deadline.After(hard) {
		deadline = hard
	}
	v.setLocked(deadline)
	return nil
}

// disarm is called after a write: a deadline left armed would end an idle
// HTTP/2 stream.
func (v *viewer) disarm() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ending {
		return errEnding
	}
	v.late.Stop()
	v.deadline.setNow(v.deadline.hard)
	return nil
}

// setLocked sets the deadline, and closes the connection where it has no
// effect.
func (v *viewer) setLocked(deadline time.Time) {
	v.deadline.setNow(deadline)
	v.late.Reset(time.Until(deadline) + closeGrace)
}

// cut has the stream end, within exitTimeout where the client does not read.
// Safe to call from another goroutine.
func (v *viewer) cut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.ending {
		v.ending = true
		v.setLocked(time.Now().Add(exitTimeout))
	}
}

// close is called before the handler returns: the connection is no longer its
// own.
func (v *viewer) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ending = true
	v.late.Stop()
	var deadline time.Time
	if v.r.Context().Err() == nil && (v.deadline.idle != nil || v.r.ProtoMajor > 1) { // as in client.leave
		deadline = time.Now().Add(exitTimeout)
	}
	v.deadline.close(v.w, v.r, deadline)
}
