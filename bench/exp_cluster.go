package main

import (
	"context"
)

// clusterMetrics are those of a cluster with more than one node.
var clusterMetrics = []metric{
	p50, p99, followerP50, followerP99,
	cpuWriterEvent, cpuServer, cpuFollowerEvent, cpuFollower, cpuStoreEvent, originLag,
}

// cluster measures what a log that nodes share costs: with one client on each
// node, what an event costs is not hidden by what its deliveries cost.
func (s scale) cluster() experiment {
	e := experiment{
		name: expCluster, title: "A log that nodes share", runs: s.runs, metrics: clusterMetrics,
		conditions: "so many clients on each node, evenly paced, " + s.window() + "; latency at the node that writes the log, and at the slowest of those that follow; CPU of a node for each event and for each delivery, of all servers of NATS together for each event",
	}
	for _, clients := range []int{1, 1000} {
		for _, rate := range []float64{50, 1000} {
			w := s.workload(clients, rate, 200)
			if s.level == short && (clients == 1 || rate > 50) {
				continue
			}
			for _, name := range []string{"fanin", "fanin-file", "fanin-jetstream", "fanin-cluster-1", "fanin-cluster-2", "fanin-cluster-3"} {
				e.cases = append(e.cases, testCase{label: w.String(), system: name, run: func(ctx context.Context, sys *system) (figures, error) {
					return measureCluster(ctx, sys, w)
				}})
			}
		}
	}
	return e
}

// measureCluster runs a workload on each node of a system.
func measureCluster(ctx context.Context, s *system, w workload) (figures, error) {
	r, err := newRig(ctx, s, w, w.retain())
	if err != nil {
		return figures{}, err
	}
	defer r.close()
	loads := []*process{r.clients} // by node, the writer's first
	for _, f := range r.server.followers {
		load := r.loadConfig(w.clients)
		load.Addr = f.addr
		p, err := r.connectMore(ctx, load)
		if err != nil {
			return figures{}, err
		}
		loads = append(loads, p)
	}
	if err := r.connect(ctx); err != nil { // the last, because it waits
		return figures{}, err
	}
	began, err := r.writerTerm(ctx)
	if err != nil {
		return figures{}, err
	}
	length := w.warmup + w.duration
	if err := r.publish(ctx, publishConfig{Rate: w.rate, Count: uint64(w.rate * length.Seconds())}); err != nil {
		return figures{}, err
	}
	if err := sleep(ctx, w.warmup); err != nil {
		return figures{}, err
	}
	before, err := r.clusterAccount()
	if err != nil {
		return figures{}, err
	}
	for _, p := range loads {
		if err := p.call(ctx, "mark", none{}, nil); err != nil {
			return figures{}, err
		}
	}
	var sent published
	if err := r.origin.call(ctx, "wait", none{}, &sent); err != nil {
		return figures{}, err
	}
	reports := make([]loadReport, len(loads))
	for i, p := range loads {
		if err := p.call(ctx, "settle", settleConfig{Sent: sent.Sent, Timeout: settleTimeout}, &reports[i]); err != nil {
			return figures{}, err
		}
	}
	after, err := r.clusterAccount()
	if err != nil {
		return figures{}, err
	}
	ended, err := r.writerTerm(ctx)
	if err != nil {
		return figures{}, err
	}
	f := summarizeCluster(reports, sent, before, after, w.clients)
	if f.Faults == "" && ended != began {
		f = figures{Faults: "another node has taken over"}
	}
	return f, nil
}

// writerTerm returns since when the first node writes, which it should do all the
// time. It is zero where no node follows.
func (r *rig) writerTerm(ctx context.Context) (logStatus, error) {
	if len(r.server.store) == 0 {
		return logStatus{}, nil
	}
	log, err := logOf(ctx, r.server.addr)
	log.Error = "" // it may have had one before
	return log, err
}

// clusterAccount is what the nodes, the writer first, and then the processes that
// keep the log have used at a moment.
func (r *rig) clusterAccount() ([]usage, error) {
	parts := make([][]int, 0, len(r.server.followers)+2)
	parts = append(parts, r.server.pids)
	for _, f := range r.server.followers {
		parts = append(parts, []int{f.pid})
	}
	parts = append(parts, r.server.storePids)
	used := make([]usage, len(parts))
	for i, pids := range parts {
		var err error
		if used[i], err = usageOf(pids); err != nil {
			return nil, err
		}
	}
	return used, nil
}

// summarizeCluster makes figures of a window.
func summarizeCluster(reports []loadReport, sent published, before, after []usage, clients int) figures {
	var lost faults
	for _, report := range reports {
		lost.add(report.Faults)
	}
	f := figures{Faults: lost.String()}
	if f.Faults == "" && reports[0].Events == 0 {
		f.Faults = "no events"
	}
	if f.Faults != "" {
		return f
	}
	deliveries := float64(reports[0].Events) // on each node: all clients have everything
	events := deliveries / float64(clients)
	cpu := func(part int) float64 { return micros(after[part].minus(before[part]).cpu) }
	f.Values = map[metric]float64{
		p50:            micros(reports[0].Latency.P50),
		p99:            micros(reports[0].Latency.P99),
		cpuWriterEvent: cpu(0) / events,
		cpuServer:      cpu(0) / deliveries,
		originLag:      micros(sent.MaxLag) / 1000,
	}
	if store := cpu(len(after) - 1); store > 0 {
		f.Values[cpuStoreEvent] = store / events
	}
	followers := reports[1:]
	if len(followers) == 0 {
		return f
	}
	var used float64
	for i, report := range followers {
		f.Values[followerP50] = max(f.Values[followerP50], micros(report.Latency.P50))
		f.Values[followerP99] = max(f.Values[followerP99], micros(report.Latency.P99))
		used += cpu(i + 1)
	}
	used /= float64(len(followers))
	f.Values[cpuFollowerEvent] = used / events
	f.Values[cpuFollower] = used / deliveries
	return f
}
