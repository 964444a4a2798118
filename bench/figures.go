package main

import "slices"

// metric names a figure of a run.
type metric string

const (
	p50           metric = "p50_us"
	p99           metric = "p99_us"
	p999          metric = "p999_us"
	maxLatency    metric = "max_us"
	perSecond     metric = "deliveries_per_s"
	cpuServer     metric = "cpu_server_us"  // for each delivery, which is CPU-seconds for a million
	cpuTotal      metric = "cpu_total_us"   // of server, origin and feeder, for each delivery
	cpuLoad       metric = "cpu_clients_us" // of the load process, for each delivery
	bytesPerEvent metric = "wire_bytes"
	writes        metric = "writes" // for each delivery
	upstreamConns metric = "upstream_conns"
	originLag     metric = "origin_lag_ms"

	cpuWriterEvent   metric = "cpu_writer_event_us"   // of the server that writes a log
	cpuFollowerEvent metric = "cpu_follower_event_us" // of each server that follows it, on average
	cpuFollower      metric = "cpu_follower_us"       // the same for each of its deliveries
	cpuStoreEvent    metric = "cpu_store_event_us"    // of all processes that keep the log
	followerP50      metric = "follower_p50_us"       // of the follower where it is highest
	followerP99      metric = "follower_p99_us"

	idleKiB   metric = "idle_kib"   // for each client
	activeKiB metric = "active_kib" // for each client
	emptyMiB  metric = "empty_mib"  // of the server without clients

	connectTime metric = "connect_us" // until all clients have the head of the response
	kernelKiB   metric = "kernel_kib" // for each client, besides the server's memory
	perGiB      metric = "clients_per_gib"
	growth      metric = "growth" // of the server's memory, as a factor
	reloadTime  metric = "reload_us"
	reloadP99   metric = "reload_p99_us" // of events meanwhile
	reloadKiB   metric = "reload_kib"    // for each client, after it
	exitTime    metric = "exit_us"

	firstByteP50  metric = "first_byte_p50_us"
	firstByteP99  metric = "first_byte_p99_us"
	firstByteMax  metric = "first_byte_max_us"
	firstEventP50 metric = "first_event_p50_us"
	firstEventP99 metric = "first_event_p99_us"
	firstEventMax metric = "first_event_max_us"
)

// figures are what one run has shown.
type figures struct {
	Values map[metric]float64 `json:"values,omitempty"`

	// Why there are none, or none that count: events that were lost, an error.
	Faults string `json:"faults,omitempty"`
}

// spread is what several runs have shown of one metric.
type spread struct {
	median, low, high float64
	runs              int
}

// spreadOf looks at the runs that have the metric.
func spreadOf(runs []figures, m metric) spread {
	var values []float64
	for _, run := range runs {
		if v, ok := run.Values[m]; ok && run.Faults == "" {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return spread{}
	}
	slices.Sort(values)
	s := spread{low: values[0], high: values[len(values)-1], runs: len(values)}
	middle := len(values) / 2
	s.median = values[middle]
	if len(values)%2 == 0 {
		s.median = (values[middle-1] + values[middle]) / 2
	}
	return s
}
