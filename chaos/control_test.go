package chaos

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// control is an upstream without ids whose events repeat, as the states of a
// switch do, and which ends each connection properly after some of them. No
// reload changes its stream, so what its client gets is exactly what it sent:
// its states recur so often that none can be taken for a repeat.
type control struct {
	server *http.Server
	addr   string
	done   chan struct{}

	mu    sync.Mutex // protects what follows
	sent  []string
	conns int
	quiet bool
}

var controlStates = []string{"on", "off", "on", "on", "tick", "off"}

func newControl() (*control, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &control{addr: ln.Addr().String(), done: make(chan struct{})}
	c.server = &http.Server{Handler: c, ReadHeaderTimeout: time.Minute}
	go c.serve(ln)
	return c, nil
}

// serve accepts connections until close, which waits for it.
func (c *control) serve(ln net.Listener) {
	defer close(c.done)
	_ = c.server.Serve(ln)
}

func (c *control) close() {
	_ = c.server.Close()
	<-c.done
}

// ServeHTTP sends states, and ends. The first connection gets enough for every
// state to have recurred.
func (c *control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.conns++
	n, pause := 20+c.conns%7, 40*time.Millisecond
	if c.conns == 1 {
		n, pause = 100, 5*time.Millisecond
	}
	c.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for range n {
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		}
		if !c.send(w) {
			<-r.Context().Done()
			return
		}
	}
}

// send sends the next state, unless there is to be quiet.
func (c *control) send(w http.ResponseWriter) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.quiet {
		return false
	}
	state := controlStates[len(c.sent)%len(controlStates)]
	if _, err := fmt.Fprintf(w, "data: %s\n\n", state); err != nil {
		return true
	}
	_ = http.NewResponseController(w).Flush()
	c.sent = append(c.sent, state)
	return true
}

func (c *control) hush() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quiet = true
	return slices.Clone(c.sent)
}

// compare says where what was got differs from what was sent.
func compareStates(sent []string, got []ssetest.Event) error {
	for i, e := range got {
		if i >= len(sent) || e.Data != sent[i] || e.Type != "message" {
			return fmt.Errorf("control: event %d is %s %q, sent were %q; got before %v", i, e.Type, e.Data,
				sent[max(i-8, 0):min(i+8, len(sent))], states(got[max(i-8, 0):i]))
		}
	}
	if len(got) < len(sent) {
		return fmt.Errorf("control: %d of %d events arrived", len(got), len(sent))
	}
	return nil
}

func states(events []ssetest.Event) []string {
	var data []string
	for _, e := range events {
		data = append(data, e.Data)
	}
	return data
}
