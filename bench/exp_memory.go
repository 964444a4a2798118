package main

import (
	"context"
	"fmt"
	"time"
)

// memoryPause is how long connections are left alone before the memory of
// idle ones is read.
const memoryPause = 3 * time.Second

func (s scale) memory() experiment {
	clients, pause, rounds := 10_000, memoryPause, 4
	names := []string{"fanin", "fanin-detach", "fanin-tls", "fanin-detach-tls", "fanin-h2", "idle", "idle-h2", "idle-line", "idle-line-h2", "idle-bare", "idle-bare-h2", "bare", "gosse", "nchan"}
	if s.level == short {
		clients, pause, rounds = 500, 200*time.Millisecond, 3
		names = []string{"fanin", "fanin-detach", "fanin-h2", "idle", "nchan"}
	}
	e := experiment{
		name: expMemory, title: "Memory", runs: s.runs, metrics: []metric{idleKiB, activeKiB, emptyMiB},
		conditions: fmt.Sprintf("%d clients, with HTTP/2 %d to a connection; resident memory of the server's processes for each client: connected for %s and never written to, then after %d events of 250 B, one a second",
			clients, streamsPerConn, pause, rounds),
	}
	for _, name := range names {
		e.cases = append(e.cases, testCase{system: name, run: func(ctx context.Context, sys *system) (figures, error) {
			return measureMemory(ctx, sys, clients, pause, rounds)
		}})
	}
	return e
}

// measureMemory reads a server's memory before clients connect, when they have
// and when each has been written to.
func measureMemory(ctx context.Context, s *system, clients int, pause time.Duration, rounds int) (figures, error) {
	r, err := newRig(ctx, s, workload{clients: clients, payload: 250}, "")
	if err != nil {
		return figures{}, err
	}
	defer r.close()
	if err := sleep(ctx, pause/3); err != nil { // what starting needs is over
		return figures{}, err
	}
	empty, err := residentOf(r.server.pids)
	if err != nil {
		return figures{}, err
	}
	if err := r.connect(ctx); err != nil {
		return figures{}, err
	}
	if err := sleep(ctx, pause); err != nil {
		return figures{}, err
	}
	idle, err := residentOf(r.server.pids)
	if err != nil {
		return figures{}, err
	}
	perClient := func(bytes uint64) float64 { return (float64(bytes) - float64(empty)) / 1024 / float64(clients) }
	f := figures{Values: map[metric]float64{idleKiB: perClient(idle), emptyMiB: float64(empty) / (1 << 20)}}
	if s.idle {
		return f, nil
	}
	if err := r.publish(ctx, publishConfig{Rate: 1, Count: uint64(rounds)}); err != nil {
		return figures{}, err
	}
	report, _, err := r.settle(ctx)
	if err != nil {
		return figures{}, err
	}
	active, err := residentOf(r.server.pids)
	if err != nil {
		return figures{}, err
	}
	f.Values[activeKiB] = perClient(active)
	f.Faults = report.Faults.String()
	return f, nil
}
