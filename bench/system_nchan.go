package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// nchanSystem is nginx with nchan, fed by a publisher: nchan does not read
// event streams itself. Several sources go into one channel.
func nchanSystem() *system {
	return &system{name: "nchan", about: "nginx with nchan, a worker for each CPU, fed by POST", start: startNchan}
}

// nchanConfig is nginx as one would set it up for this: a worker for each CPU,
// and buffers that lose nothing.
const nchanConfig = `load_module %[1]s;
user root;
daemon off;
pid %[2]s/nginx.pid;
error_log stderr error;
worker_processes auto;
worker_rlimit_nofile 20000;
events {
	worker_connections 20000;
}
http {
	access_log off;
	keepalive_requests 1000000000;
	client_body_temp_path %[2]s/body;
	proxy_temp_path %[2]s/proxy;
	fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi;
	scgi_temp_path %[2]s/scgi;
	nchan_shared_memory_size 512M;
	server {
		listen %[3]s backlog=4096;
		location = /events {
			nchan_subscriber eventsource;
			nchan_channel_id stream;
			nchan_subscriber_first_message newest;
		}
		location = /publish {
			nchan_publisher;
			nchan_channel_id stream;
			nchan_message_buffer_length 100000;
			nchan_message_timeout 5m;
		}
	}
}
`

func startNchan(ctx context.Context, b *bed) (*running, error) {
	if _, err := findNginx(); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnavailable, err)
	}
	addr, err := ssetest.FreeAddr()
	if err != nil {
		return nil, err
	}
	p, err := startProcess("nginx")
	if err != nil {
		return nil, err
	}
	r := &running{addr: addr, main: p}
	if err := r.startNginx(ctx, b); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// startNginx starts nginx and what feeds it.
func (r *running) startNginx(ctx context.Context, b *bed) error {
	var pid int
	cfg := nginxConfig{Dir: b.dir, Config: fmt.Sprintf(nchanConfig, nginxModule, b.dir, r.addr)}
	if err := r.main.call(ctx, "start", cfg, &pid); err != nil {
		return err
	}
	if err := waitForServer(ctx, r.main, r.addr); err != nil {
		return err
	}
	if err := r.waitForWorkers(ctx, pid); err != nil {
		return err
	}
	var err error
	if r.feeder, err = startProcess("publisher"); err != nil {
		return err
	}
	return r.feeder.call(ctx, "start", publisherConfig{Origins: b.origins, Addr: r.addr, Path: "/publish"}, nil)
}

// waitForWorkers waits until nginx's first process has started a worker for
// each CPU: it listens before that.
func (r *running) waitForWorkers(ctx context.Context, pid int) error {
	deadline := time.Now().Add(startTimeout)
	for {
		if r.pids = append([]int{pid}, childrenOf(pid)...); len(r.pids) > runtime.NumCPU() {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("starting nginx: it has %d workers", len(r.pids)-1)
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}
