package main

import (
	"context"
	"fmt"
	"time"
)

// catchupConfig is what clients come back to.
type catchupConfig struct {
	connected int           // clients at the head
	returning int           // clients that come back to the oldest event, all at once
	events    uint64        // that are retained by then, most of them in files only
	rate      float64       // events per second, meanwhile
	window    time.Duration // in which the clients at the head are measured
}

func (s scale) catchup() experiment {
	cfg := catchupConfig{connected: 1000, events: 200_000, rate: 50, window: s.duration}
	returning := 1000
	if s.level == short {
		cfg.connected, cfg.events, returning = 50, 20_000, 50
	}
	e := experiment{
		name: expCatchup, title: "Catching up", runs: s.runs, metrics: []metric{p50, p99, maxLatency},
		conditions: fmt.Sprintf("%d clients get %g events/s of 250 B, with %d events before in files, 4 MiB of them in memory: the latency of those clients while nobody else is there, and from when %d more come back at once to the oldest event, for %s",
			cfg.connected, cfg.rate, cfg.events, returning, cfg.window),
	}
	for _, n := range []int{0, returning} {
		cfg.returning = n
		e.cases = append(e.cases, testCase{label: catchupLabel(n > 0), system: "fanin-file", run: func(ctx context.Context, sys *system) (figures, error) {
			return measureCatchup(ctx, sys, cfg, s.warmup)
		}})
	}
	return e
}

// catchupLabel names the case.
func catchupLabel(returning bool) string {
	if returning {
		return "others come back"
	}
	return "nobody comes back"
}

// measureCatchup has many clients come back to a stream while others are at its
// head.
func measureCatchup(ctx context.Context, s *system, cfg catchupConfig, warmup time.Duration) (figures, error) {
	r, err := newRig(ctx, s, workload{clients: 1, payload: 250}, "events 0\nsize 4GiB")
	if err != nil {
		return figures{}, err
	}
	defer r.close()
	// one client shows that everything has arrived
	if err := r.connect(ctx); err != nil {
		return figures{}, err
	}
	if err := r.publish(ctx, publishConfig{Count: cfg.events}); err != nil {
		return figures{}, err
	}
	if _, _, err := r.settle(ctx); err != nil {
		return figures{}, err
	}
	head, err := r.more(ctx, cfg.connected, "/events", true)
	if err != nil {
		return figures{}, err
	}
	length := warmup + cfg.window
	if err := r.publish(ctx, publishConfig{Rate: cfg.rate, Count: uint64(cfg.rate * length.Seconds())}); err != nil {
		return figures{}, err
	}
	if err := sleep(ctx, warmup); err != nil {
		return figures{}, err
	}
	if err := head.call(ctx, "mark", none{}, nil); err != nil {
		return figures{}, err
	}
	var returning *process
	if cfg.returning > 0 {
		if returning, err = r.more(ctx, cfg.returning, oldestPath, false); err != nil {
			return figures{}, err
		}
	}
	_, sent, err := r.settle(ctx)
	if err != nil {
		return figures{}, err
	}
	var report loadReport
	if err := head.call(ctx, "settle", settleConfig{Sent: sent.Sent, Timeout: settleTimeout}, &report); err != nil {
		return figures{}, err
	}
	if returning != nil {
		var others loadReport // they have come as far as they have
		if err := returning.call(ctx, "settle", settleConfig{Timeout: settleTimeout}, &others); err != nil {
			return figures{}, err
		}
		report.Faults.add(others.Faults)
	}
	return figures{
		Faults: report.Faults.String(),
		Values: map[metric]float64{
			p50:        micros(report.Latency.P50),
			p99:        micros(report.Latency.P99),
			maxLatency: micros(report.Latency.Max),
		},
	}, nil
}

// more connects more clients, in a process of their own.
func (r *rig) more(ctx context.Context, clients int, path string, anyFirst bool) (*process, error) {
	load := r.loadConfig(clients)
	load.Streams[0].Path, load.AnyFirst = path, anyFirst
	return r.connectMore(ctx, load)
}
