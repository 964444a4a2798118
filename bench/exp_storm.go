package main

import (
	"context"
	"fmt"
	"time"
)

// stormConfig is what a storm is.
type stormConfig struct {
	connected int           // clients that are there
	newcomers int           // clients that come
	within    time.Duration // evenly spread
	rate      float64       // events per second
}

func (s scale) storm() experiment {
	cfg := stormConfig{connected: 1000, newcomers: 5000, within: 5 * time.Second, rate: 100}
	names := []string{"fanin", "bare", "nchan", "proxy"}
	if s.level == short {
		cfg = stormConfig{connected: 50, newcomers: 200, within: 500 * time.Millisecond, rate: 100}
		names = []string{"fanin", "nchan"}
	}
	e := experiment{
		name: expStorm, title: "Storm", runs: s.runs,
		metrics: []metric{p50, p99, maxLatency, firstByteP50, firstByteP99, firstByteMax},
		conditions: fmt.Sprintf("%d clients get %g events/s of 250 B while %d more connect within %s: the latency of those that were there, from the first newcomer to a second after the last, and how long newcomers waited for the first byte",
			cfg.connected, cfg.rate, cfg.newcomers, cfg.within),
	}
	for _, name := range names {
		e.cases = append(e.cases, testCase{system: name, run: func(ctx context.Context, sys *system) (figures, error) {
			return measureStorm(ctx, sys, cfg, s.warmup)
		}})
	}
	return e
}

// measureStorm has many clients connect while others are served.
func measureStorm(ctx context.Context, s *system, cfg stormConfig, warmup time.Duration) (figures, error) {
	r, err := newRig(ctx, s, workload{clients: cfg.connected, payload: 250}, "")
	if err != nil {
		return figures{}, err
	}
	defer r.close()
	if err := r.connect(ctx); err != nil {
		return figures{}, err
	}
	newcomers, err := startProcess("load")
	if err != nil {
		return figures{}, err
	}
	r.others = append(r.others, newcomers)
	length := warmup + cfg.within + time.Second
	if err := r.publish(ctx, publishConfig{Rate: cfg.rate, Count: uint64(cfg.rate * length.Seconds())}); err != nil {
		return figures{}, err
	}
	if err := sleep(ctx, warmup); err != nil {
		return figures{}, err
	}
	if err := r.clients.call(ctx, "mark", none{}, nil); err != nil {
		return figures{}, err
	}
	load := r.loadConfig(cfg.newcomers)
	load.Spread, load.AnyFirst = cfg.within, true
	var firstByte quantiles
	if err := newcomers.call(ctx, "connect", load, &firstByte); err != nil {
		return figures{}, err
	}
	report, sent, err := r.settle(ctx)
	if err != nil {
		return figures{}, err
	}
	var others loadReport
	if err := newcomers.call(ctx, "settle", settleConfig{Sent: sent.Sent, Timeout: settleTimeout}, &others); err != nil {
		return figures{}, err
	}
	report.Faults.add(others.Faults)
	return figures{
		Faults: report.Faults.String(),
		Values: map[metric]float64{
			p50:          micros(report.Latency.P50),
			p99:          micros(report.Latency.P99),
			maxLatency:   micros(report.Latency.Max),
			firstByteP50: micros(firstByte.P50),
			firstByteP99: micros(firstByte.P99),
			firstByteMax: micros(firstByte.Max),
		},
	}, nil
}
