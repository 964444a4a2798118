package main

import (
	"context"
	"fmt"
)

func (s scale) resume() experiment {
	events, clients := uint64(1_000_000), 200
	if s.level == short {
		events, clients = 20_000, 50
	}
	run := func(label string, back uint64) testCase {
		return testCase{label: label, system: "fanin", run: func(ctx context.Context, sys *system) (figures, error) {
			return measureResume(ctx, sys, resumeConfig{Clients: clients, Events: events, Back: back})
		}}
	}
	return experiment{
		name: expResume, title: "Resumption", runs: s.runs,
		metrics:    []metric{firstByteP50, firstByteP99, firstByteMax, firstEventP50, firstEventP99, firstEventMax},
		conditions: fmt.Sprintf("%d events of 50 B are retained; %d clients, one after the other, come back to a random place: the time from the request to the first byte and to the first event. Who comes back to anywhere is sent half of all events, as fast as it takes them, while it still waits for a processor to read the first byte with", events, clients),
		cases:      []testCase{run(resumeAnywhere, events-1), run(resumeNearEnd, min(events-1, 5000))},
	}
}

// The rows of the experiment.
const (
	resumeAnywhere = "anywhere"
	resumeNearEnd  = "among the newest 5000"
)

// measureResume fills a stream and has clients come back to it.
func measureResume(ctx context.Context, s *system, cfg resumeConfig) (figures, error) {
	cfg.Payload = 50
	r, err := newRig(ctx, s, workload{clients: 1, payload: cfg.Payload}, fmt.Sprintf("events %d\nsize 1GiB", cfg.Events))
	if err != nil {
		return figures{}, err
	}
	defer r.close()
	// one client shows that everything has arrived
	if err := r.connect(ctx); err != nil {
		return figures{}, err
	}
	if err := r.publish(ctx, publishConfig{Count: cfg.Events}); err != nil {
		return figures{}, err
	}
	all, _, err := r.settle(ctx)
	if err != nil {
		return figures{}, err
	}
	if text := all.Faults.String(); text != "" {
		return figures{Faults: "filling the stream: " + text}, nil
	}
	var report resumeReport
	cfg.Addr, cfg.Path = r.server.addr, "/events"
	if err := r.clients.call(ctx, "resume", cfg, &report); err != nil {
		return figures{}, err
	}
	return figures{
		Faults: report.Faults.String(),
		Values: map[metric]float64{
			firstByteP50:  micros(report.FirstByte.P50),
			firstByteP99:  micros(report.FirstByte.P99),
			firstByteMax:  micros(report.FirstByte.Max),
			firstEventP50: micros(report.FirstEvent.P50),
			firstEventP99: micros(report.FirstEvent.P99),
			firstEventMax: micros(report.FirstEvent.Max),
		},
	}, nil
}
