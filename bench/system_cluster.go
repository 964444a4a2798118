package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// clusterSystems are Caddys that have the log of their stream in JetStream.
func clusterSystems() []*system {
	return []*system{
		{name: "fanin-jetstream", about: "this module with `log jetstream` on one nats-server", start: cluster{servers: 1, nodes: 1}.start},
		{name: "fanin-cluster-1", about: "the same on three nats-servers with `sync_interval: always`", start: cluster{servers: 3, nodes: 1}.start},
		{name: "fanin-cluster-2", about: "the same, two Caddys", start: cluster{servers: 3, nodes: 2}.start},
		{name: "fanin-cluster-3", about: "the same, three Caddys", start: cluster{servers: 3, nodes: 3}.start},
	}
}

// cluster is how many there are of what.
type cluster struct {
	servers int // of NATS; a copy of the log on each
	nodes   int // Caddys
}

// start starts the servers and, one after the other, the Caddys: the first writes
// the log, the others follow.
func (c cluster) start(ctx context.Context, b *bed) (r *running, err error) {
	r = new(running)
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	urls, err := r.startNATS(ctx, b.dir, c.servers)
	if err != nil {
		return nil, err
	}
	options := fmt.Sprintf("stream bench\n\t\tlog jetstream {\n\t\t\tservers %s\n\t\t\treplicas %d\n\t\t}", strings.Join(urls, " "), c.servers)
	for i := range c.nodes {
		f, err := startNode(ctx, b, i, options)
		if err != nil {
			return nil, err
		}
		state := "following"
		if i == 0 {
			state = "writing"
			r.addr, r.main, r.pids = f.addr, f.main, []int{f.pid}
		} else {
			r.followers = append(r.followers, f)
		}
		if err := waitForLog(ctx, f, state); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// startNATS starts servers that know each other, and returns the URLs for
// clients.
func (r *running) startNATS(ctx context.Context, dir string, servers int) (urls []string, err error) {
	program, err := clusterProgram(natsProgram)
	if err != nil {
		return nil, err
	}
	addrs, routes := make([]string, 2*servers), make([]string, servers) // for clients and for each other, in turn
	for i := range addrs {
		if addrs[i], err = ssetest.FreeAddr(); err != nil {
			return nil, err
		}
	}
	for i := range servers {
		urls = append(urls, "nats://"+addrs[2*i])
		routes[i] = "nats://" + addrs[2*i+1]
	}
	for i := range servers {
		name := fmt.Sprintf("nats-%d", i)
		config := natsConfig(name, addrs[2*i], filepath.Join(dir, name), addrs[2*i+1], routes)
		file := filepath.Join(dir, name+".conf")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return nil, fmt.Errorf("writing the configuration: %w", err)
		}
		p, pid, err := startProgram(ctx, programConfig{File: program, Args: []string{"-c", file}})
		if err != nil {
			return nil, err
		}
		r.store, r.storePids = append(r.store, p), append(r.storePids, pid)
		if err := waitForServer(ctx, p, addrs[2*i]); err != nil {
			return nil, err
		}
	}
	return urls, nil
}

// natsConfig is that of a server alone, as it comes, or of one of several, which
// have everything on disk before they acknowledge it.
func natsConfig(name, addr, dir, routeAddr string, routes []string) string {
	if len(routes) == 1 {
		return fmt.Sprintf("server_name: %s\nlisten: %q\njetstream: {store_dir: %q}\n", name, addr, dir)
	}
	return fmt.Sprintf("server_name: %s\nlisten: %q\njetstream: {store_dir: %q, sync_interval: always}\ncluster: {name: bench, listen: %q, routes: [\"%s\"]}\n",
		name, addr, dir, routeAddr, strings.Join(routes, `", "`))
}

// nodeStatus is where a node has its status.
const nodeStatus = "/status"

// startNode starts a Caddy with these options of its stream.
func startNode(ctx context.Context, b *bed, number int, options string) (*follower, error) {
	program, err := clusterProgram(caddyProgram)
	if err != nil {
		return nil, err
	}
	addr, err := ssetest.FreeAddr()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, fmt.Sprintf("caddy-%d", number))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a directory: %w", err)
	}
	stream := faninHandler(options)
	site := caddySite{handler: func(b *bed) string { return stream(b) + "\tsse_fanin_status " + nodeStatus + "\n" }}
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(site.caddyfile(b, addr)), 0o600); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	p, pid, err := startProgram(ctx, programConfig{
		File: program,
		Args: []string{"run", "--config", file, "--adapter", "caddyfile"},
		Env:  []string{"XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir},
	})
	if err != nil {
		return nil, err
	}
	if err := waitForServer(ctx, p, addr); err != nil {
		p.close()
		return nil, err
	}
	return &follower{addr: addr, main: p, pid: pid}, nil
}

// logStatus is what a node knows of its stream's log.
type logStatus struct {
	State string
	Error string
	Term  uint64
}

// logOf asks a node.
func logOf(ctx context.Context, addr string) (logStatus, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+nodeStatus, nil)
	if err != nil {
		return logStatus{}, fmt.Errorf("asking for the status: %w", err)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return logStatus{}, fmt.Errorf("asking for the status: %w", err)
	}
	defer resp.Body.Close()
	var status struct {
		Streams []struct{ Log struct{ Store logStatus } }
	}
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		return logStatus{}, fmt.Errorf("reading the status: %w", err)
	}
	if len(status.Streams) != 1 {
		return logStatus{}, fmt.Errorf("reading the status: it has %d streams", len(status.Streams))
	}
	return status.Streams[0].Log.Store, nil
}

// logTimeout is how long a node may take to have the log: servers of NATS take
// seconds to agree on a leader.
const logTimeout = time.Minute

// waitForLog waits until a node does with the log what it should.
func waitForLog(ctx context.Context, f *follower, state string) error {
	deadline := time.Now().Add(logTimeout)
	for {
		log, err := logOf(ctx, f.addr)
		if err != nil || log.State == state {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("starting a cluster: the log is %s instead of %s: %s", log.State, state, log.Error)
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}
