package ssefanin

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// deadlineRecorder is a connection's writer that notes the last deadline.
type deadlineRecorder struct {
	*httptest.ResponseRecorder
	onWrite  func() // called while something is written
	deadline time.Time
}

func (w *deadlineRecorder) SetWriteDeadline(deadline time.Time) error {
	w.deadline = deadline
	return nil
}

func (w *deadlineRecorder) Write(p []byte) (int, error) {
	w.onWrite()
	return w.ResponseRecorder.Write(p)
}

// Caddy's idle writer sets a deadline of its own at each write and flush.
func TestDeadlineOfAnEndingViewerStays(t *testing.T) {
	for name, clear := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			out := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
			idle := &caddyhttp.IdleTimeoutWriter{
				ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: out},
				Ctrl:                  http.NewResponseController(out),
				Deadline:              caddyhttp.IdleDeadline{Timeout: time.Minute},
				Logger:                zap.NewNop(),
				ClearBetweenWrites:    clear,
			}
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r = r.WithContext(caddyhttp.ContextWithIdleTimeouts(r.Context(), nil, idle))
			v := newViewer(idle, r)
			defer v.close()
			out.onWrite = func() {
				if left := time.Until(out.deadline); left <= 0 || left > statusTimeout {
					t.Errorf("a write may take %s, want %s", left, statusTimeout)
				}
			}
			if err := v.write([]byte("one")); err != nil || !out.deadline.IsZero() {
				t.Errorf("after a write: %v, deadline %s", err, out.deadline)
			}
			out.onWrite = v.cut // between a write and its flush, to the idle writer
			if err := v.write([]byte("another")); err == nil {
				t.Error("it goes on")
			}
			if left := time.Until(out.deadline); out.deadline.IsZero() || left > exitTimeout {
				t.Errorf("the deadline of the end is %s, in %s", out.deadline, left)
			}
		})
	}
}
