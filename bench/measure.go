package main

import (
	"context"
	"time"
)

// measure runs a workload on a system and returns its latency, rates and CPU.
func measure(ctx context.Context, s *system, w workload) (figures, error) {
	r, err := newRig(ctx, s, w, w.retain())
	if err != nil {
		return figures{}, err
	}
	defer r.close()
	if err := r.connect(ctx); err != nil {
		return figures{}, err
	}
	cfg := publishConfig{Rate: w.rate, Window: w.window, Duration: w.warmup + w.duration}
	if w.window == 0 {
		cfg.Count = uint64(w.rate * cfg.Duration.Seconds())
	}
	if err := r.publish(ctx, cfg); err != nil {
		return figures{}, err
	}
	if err := sleep(ctx, w.warmup); err != nil {
		return figures{}, err
	}
	before, err := r.account()
	if err != nil {
		return figures{}, err
	}
	if err := r.clients.call(ctx, "mark", none{}, nil); err != nil {
		return figures{}, err
	}
	report, sent, err := r.settle(ctx)
	if err != nil {
		return figures{}, err
	}
	after, err := r.account()
	if err != nil {
		return figures{}, err
	}
	conns, err := r.upstreams(ctx)
	if err != nil {
		return figures{}, err
	}
	return summarize(report, sent, before, after, conns), nil
}

// retain is what a fanin retains for the workload; "": its default.
func (w workload) retain() string {
	if w.rate < 1000 {
		return ""
	}
	return "events 200000\nsize 1GiB" // the default is seconds only at such a rate
}

// summarize makes figures of a window.
func summarize(report loadReport, sent published, before, after account, conns int) figures {
	f := figures{Faults: report.Faults.String()}
	switch {
	case f.Faults == "" && sent.Stalled:
		f.Faults = "stalled"
	case f.Faults == "" && report.Events == 0:
		f.Faults = "no events"
	}
	if f.Faults != "" {
		return f
	}
	deliveries := float64(report.Events)
	each := func(d time.Duration) float64 { return micros(d) / deliveries }
	server := after.server.minus(before.server)
	f.Values = map[metric]float64{
		p50:           micros(report.Latency.P50),
		p99:           micros(report.Latency.P99),
		p999:          micros(report.Latency.P999),
		maxLatency:    micros(report.Latency.Max),
		perSecond:     deliveries / report.Elapsed.Seconds(),
		cpuServer:     each(server.cpu),
		cpuTotal:      each(server.cpu + after.origin.minus(before.origin).cpu + after.feeder.minus(before.feeder).cpu),
		cpuLoad:       each(after.load.minus(before.load).cpu),
		bytesPerEvent: float64(report.Bytes) / deliveries,
		writes:        float64(server.writes) / deliveries,
		upstreamConns: float64(conns),
		originLag:     micros(sent.MaxLag) / 1000,
	}
	return f
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
