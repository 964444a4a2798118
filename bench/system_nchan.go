package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// nginxModule is where Debian's package puts nchan.
const nginxModule = "/usr/lib/nginx/modules/ngx_nchan_module.so"

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
	nginx, err := findNginx()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnavailable, err)
	}
	addr, err := ssetest.FreeAddr()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, "nginx.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, nchanConfig, nginxModule, b.dir, addr), 0o600); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	p, pid, err := startProgram(ctx, programConfig{File: nginx, Args: []string{"-p", b.dir, "-c", file, "-e", "stderr"}})
	if err != nil {
		return nil, err
	}
	r := &running{addr: addr, main: p}
	if err := r.feedNginx(ctx, b, pid); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// feedNginx waits until nginx serves, and starts what feeds it.
func (r *running) feedNginx(ctx context.Context, b *bed, pid int) error {
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

var errNoNchan = errors.New("not installed: apt-get install nginx libnginx-mod-nchan")

// findNginx returns the path of an nginx that has nchan.
func findNginx() (string, error) {
	program, err := exec.LookPath("nginx")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			return "", errNoNchan
		}
	}
	if _, err := os.Stat(nginxModule); err != nil {
		return "", errNoNchan
	}
	return program, nil
}
