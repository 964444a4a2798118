package main

import (
	"context"
	"time"
)

// goSystems are those that are written in Go and no Caddy.
func goSystems() []*system {
	return []*system{
		{name: "bare", about: "a handler written by hand on net/http, which frames the chunks", start: goServer{role: "bare"}.start},
		{name: "bare-window", about: "the same, 10 ms after the first of some events", start: goServer{role: "bare", window: 10 * time.Millisecond}.start},
		{name: "bare-tls", about: "the same at once, over HTTP/1.1 and TLS", tls: true, start: goServer{role: "bare", tls: true}.start},
		{name: "bare-h2", about: "the same at once, over HTTP/2", http2: true, start: goServer{role: "bare", tls: true}.start},
		{name: "idle-bare", about: "net/http with a handler that sends the head and waits", idle: true, start: goServer{role: "bare"}.start},
		{name: "idle-bare-h2", about: "the same over HTTP/2", idle: true, http2: true, start: goServer{role: "bare", tls: true}.start},
		{name: "raw", about: "the floor: a loop of write(2), one for each client and event", start: goServer{role: "raw"}.start},
		{name: "gosse", about: "the server of tmaxmax/go-sse with its default provider", start: goServer{role: "gosse"}.start},
	}
}

// goServer is a role that serves by itself.
type goServer struct {
	role   string
	window time.Duration
	tls    bool
}

func (s goServer) start(ctx context.Context, b *bed) (*running, error) {
	p, err := startProcess(s.role)
	if err != nil {
		return nil, err
	}
	cfg := goServerConfig{Origins: b.origins, Window: s.window}
	if s.tls {
		cfg.CertFile, cfg.KeyFile = b.certFile, b.keyFile
	}
	var addr string
	if err := p.call(ctx, "start", cfg, &addr); err != nil {
		p.close()
		return nil, err
	}
	return &running{addr: addr, main: p, pids: []int{p.pid()}}, nil
}
