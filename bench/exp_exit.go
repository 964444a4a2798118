package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// exitWait is how long a server may take to end before that counts as a failure.
const exitWait = 30 * time.Second

func (s scale) exit() experiment {
	clients := s.of(2000)
	e := experiment{
		name: expExit, title: "Exit", runs: s.runs, metrics: []metric{exitTime},
		conditions: fmt.Sprintf("%d clients get 10 events/s of 250 B when the server is sent SIGTERM, without a `grace_period`: the time until its process has ended. A run in which the response of a client was cut off instead of ended has no figures", clients),
	}
	for _, name := range []string{"fanin", "fanin-detach", "fanin-tls", "fanin-detach-tls", "fanin-h2"} {
		e.cases = append(e.cases, testCase{system: name, run: func(ctx context.Context, sys *system) (figures, error) {
			return measureExit(ctx, sys, clients)
		}})
	}
	return e
}

// measureExit has a server end while it serves many clients.
func measureExit(ctx context.Context, s *system, clients int) (figures, error) {
	r, err := newRig(ctx, s, workload{clients: clients, payload: 250}, "")
	if err != nil {
		return figures{}, err
	}
	defer r.close()
	if err := r.connect(ctx); err != nil {
		return figures{}, err
	}
	// There are more events than time for them: the exit meets a stream that goes on.
	if err := r.publish(ctx, publishConfig{Rate: 10, Duration: exitWait}); err != nil {
		return figures{}, err
	}
	if err := sleep(ctx, time.Second); err != nil {
		return figures{}, err
	}
	took, ended, err := r.exit(ctx, r.clients)
	if err != nil {
		return figures{}, err
	}
	return figures{Faults: ended.String(), Values: map[metric]float64{exitTime: micros(took)}}, nil
}

// exit tells the server to end. It returns how long that took, and how the responses
// of its clients ended.
func (r *rig) exit(ctx context.Context, loads ...*process) (took time.Duration, ended ends, err error) {
	ctx, cancel := context.WithTimeout(ctx, exitWait)
	defer cancel()
	server := r.server.main
	began := time.Now()
	if err := syscall.Kill(server.pid(), syscall.SIGTERM); err != nil {
		return 0, ended, server.failed("ending", err)
	}
	select {
	case <-server.ended:
	case <-ctx.Done():
		return 0, ended, server.failed("ending", errors.New("it has not ended"))
	}
	took = time.Since(began)
	for _, load := range loads {
		var e ends
		if err := load.call(ctx, "ends", settleTimeout/2, &e); err != nil {
			return took, ended, err
		}
		ended.add(e)
	}
	return took, ended, nil
}
