package main

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// goServerConfig describes a server written in Go that is no Caddy.
type goServerConfig struct {
	Origins  []string // URLs to read; none for a server that sends nothing
	CertFile string   // with KeyFile: HTTPS and HTTP/2
	KeyFile  string

	// How long to wait after an event for more of them before the clients are
	// written to. Default: not at all.
	Window time.Duration
}

// bareRole is the handler that one writes by hand. Command: start, which
// returns the address.
func bareRole(c *commands) error {
	handle(c, "start", func(cfg goServerConfig) (string, error) {
		if len(cfg.Origins) == 0 {
			return serveGo(http.HandlerFunc(serveIdle), cfg)
		}
		s := &bareStream{window: cfg.Window, changed: make(chan struct{})}
		if err := followAll(cfg.Origins, s.append); err != nil {
			return "", err
		}
		return serveGo(s, cfg)
	})
	return c.serve()
}

// serveGo serves a handler with net/http as long as the process lives, and
// returns the address.
func serveGo(handler http.Handler, cfg goServerConfig) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: handler} //nolint:gosec // no deadlines: the least that a server does
	if cfg.CertFile != "" {
		go func() { _ = server.ServeTLS(l, cfg.CertFile, cfg.KeyFile) }()
	} else {
		go func() { _ = server.Serve(l) }()
	}
	return l.Addr().String(), nil
}

// bareStream is a slice of events that clients wait for: no retention, no ids
// of its own, no deadlines, no counting.
type bareStream struct {
	window time.Duration

	mu      sync.RWMutex // protects what follows
	events  [][]byte     // encoded; never changed once they are in
	changed chan struct{}
	waiting bool // a timer will wake the clients
}

// append adds events and wakes the clients, or has a timer do so.
func (s *bareStream) append(events [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, event := range events {
		s.events = append(s.events, append([]byte(nil), event...))
	}
	switch {
	case s.window == 0:
		s.wakeLocked()
	case !s.waiting:
		s.waiting = true
		time.AfterFunc(s.window, s.wake)
	}
}

func (s *bareStream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = false
	s.wakeLocked()
}

func (s *bareStream) wakeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// after returns the events from a position on, and what will be closed when
// there are more.
func (s *bareStream) after(position int) ([][]byte, <-chan struct{}) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.events[position:], s.changed
}

// ServeHTTP writes everything that a client has not got, in one write, and
// waits for more.
func (s *bareStream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	events, changed := s.after(0)
	position := len(events)
	startEventStream(w)
	flusher := http.NewResponseController(w)
	var pending []byte
	for {
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
		if events, changed = s.after(position); len(events) == 0 {
			continue
		}
		position += len(events)
		out := events[0]
		if len(events) > 1 {
			pending = pending[:0]
			for _, event := range events {
				pending = append(pending, event...)
			}
			out = pending
		}
		if _, err := w.Write(out); err != nil {
			return
		}
		if err := flusher.Flush(); err != nil {
			return
		}
	}
}
