package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

const (
	// settleTimeout is how long events may take to arrive once the origin has
	// published the last one. A server that has more to do than it can takes
	// long; its latency says so.
	settleTimeout = 20 * time.Second

	// attachTime is left between the heads of the responses and the first
	// event: a server may have a client subscribe after it has sent the head.
	attachTime = 200 * time.Millisecond

	// runTimeout ends a run that hangs.
	runTimeout = 5 * time.Minute
)

// workload is what is sent to how many.
type workload struct {
	clients  int
	sources  int     // default: 1
	rate     float64 // events per second, of all sources together; 0: as fast as the window allows
	window   uint64  // events that not all clients have, at most; 0: no bound
	payload  int     // bytes of an event's data
	warmup   time.Duration
	duration time.Duration // after the warm-up
}

// rig is an origin, a system and the clients of one run.
type rig struct {
	system *system
	load   workload
	dir    string

	origin  *process
	started originStarted
	server  *running
	clients *process
	others  []*process // more clients
}

// newRig starts everything but the clients' connections. Close has to be
// called. retain is what a fanin retains.
func newRig(ctx context.Context, s *system, w workload, retain string) (r *rig, err error) {
	w.sources = max(w.sources, 1)
	w.payload = max(w.payload, minPayload)
	r = &rig{system: s, load: w}
	if err := r.enoughFiles(); err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.dir, err = os.MkdirTemp("", "sse-bench-"); err != nil {
		return r, fmt.Errorf("making a directory: %w", err)
	}
	if r.origin, err = startProcess("origin"); err != nil {
		return r, err
	}
	if err = r.origin.call(ctx, "start", originConfig{Sources: w.sources, Payload: w.payload}, &r.started); err != nil {
		return r, err
	}
	b := &bed{dir: r.dir, build: s.build, origin: r.started.URL, retain: retain}
	if !s.idle {
		b.origins = sourceURLs(r.started.URL, w.sources)
	}
	if s.overTLS() {
		if b.certFile, b.keyFile, err = ssetest.WriteCertificate(r.dir); err != nil {
			return r, err
		}
	}
	if r.server, err = s.start(ctx, b); err != nil {
		return r, err // it says what
	}
	if !s.idle && !s.direct {
		if err = r.waitForUpstreams(ctx, w.sources); err != nil {
			return r, err
		}
	}
	r.clients, err = startProcess("load")
	return r, err
}

// spareFiles is how many files a process has open besides its connections, with
// a margin.
const spareFiles = 100

// enoughFiles makes sure that the server may have as many connections as it
// will need.
func (r *rig) enoughFiles() error {
	if !r.system.direct {
		return nil // what is measured stays far below the usual limits
	}
	// the clients' and as many to the origin
	need := 2*r.load.clients*r.load.sources + spareFiles
	if limit := fileLimit(); uint64(need) > limit {
		return fmt.Errorf("%w: it needs %d open files, the system's limit is %d", errUnavailable, need, limit)
	}
	return nil
}

// close ends all processes.
func (r *rig) close() {
	for _, p := range append(r.others, r.clients) {
		if p != nil {
			p.close()
		}
	}
	if r.server != nil {
		r.server.close()
	}
	if r.origin != nil {
		r.origin.close()
	}
	if r.dir != "" {
		_ = os.RemoveAll(r.dir)
	}
}

// loadConfig describes clients of this rig.
func (r *rig) loadConfig(clients int) loadConfig {
	cfg := loadConfig{Addr: r.server.addr, Clients: clients, Sources: r.load.sources, Payload: r.load.payload, TLS: r.system.overTLS()}
	if r.system.http2 {
		cfg.StreamsPerConn = streamsPerConn
	}
	if r.load.window > 0 {
		cfg.Progress = r.started.Progress
	}
	all := loadStream{Path: "/events"}
	for source := range r.load.sources {
		if r.system.direct {
			cfg.Streams = append(cfg.Streams, loadStream{Path: sourcePath(source), Sources: []int{source}})
		}
		all.Sources = append(all.Sources, source)
	}
	if !r.system.direct {
		cfg.Streams = []loadStream{all}
	}
	return cfg
}

// connect connects all clients of the workload.
func (r *rig) connect(ctx context.Context) error {
	if err := r.clients.call(ctx, "connect", r.loadConfig(r.load.clients), nil); err != nil {
		return err
	}
	if r.system.direct {
		if err := r.waitForUpstreams(ctx, r.load.clients*r.load.sources); err != nil {
			return err
		}
	}
	return sleep(ctx, attachTime)
}

// connectMore connects other clients, in a process of their own.
func (r *rig) connectMore(ctx context.Context, load loadConfig) (*process, error) {
	p, err := startProcess("load")
	if err != nil {
		return nil, err
	}
	r.others = append(r.others, p)
	return p, p.call(ctx, "connect", load, nil)
}

// upstreams returns how many connections the origin has.
func (r *rig) upstreams(ctx context.Context) (n int, err error) {
	err = r.origin.call(ctx, "connections", none{}, &n)
	return n, err
}

// waitForUpstreams waits until the origin has so many connections.
func (r *rig) waitForUpstreams(ctx context.Context, want int) error {
	deadline := time.Now().Add(startTimeout)
	for {
		n, err := r.upstreams(ctx)
		if err != nil {
			return err
		}
		if n >= want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %d of %d connections to the origin", r.system.name, n, want)
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// account is what each part has used at a moment.
type account struct{ server, origin, feeder, load usage }

func (r *rig) account() (a account, err error) {
	for _, part := range []struct {
		into *usage
		pids []int
	}{
		{&a.server, r.server.pids},
		{&a.origin, []int{r.origin.pid()}},
		{&a.feeder, r.feederPids()},
		{&a.load, []int{r.clients.pid()}},
	} {
		if *part.into, err = usageOf(part.pids); err != nil {
			return a, err
		}
	}
	return a, nil
}

func (r *rig) feederPids() []int {
	if r.server.feeder == nil {
		return nil
	}
	return []int{r.server.feeder.pid()}
}

// publish starts the origin.
func (r *rig) publish(ctx context.Context, cfg publishConfig) error {
	return r.origin.call(ctx, "publish", cfg, nil)
}

// settle waits until the origin has published everything and the clients have
// it.
func (r *rig) settle(ctx context.Context) (loadReport, published, error) {
	var (
		sent   published
		report loadReport
	)
	if err := r.origin.call(ctx, "wait", none{}, &sent); err != nil {
		return report, sent, err
	}
	err := r.clients.call(ctx, "settle", settleConfig{Sent: sent.Sent, Timeout: settleTimeout}, &report)
	return report, sent, err
}

// sleep waits, but not longer than ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
