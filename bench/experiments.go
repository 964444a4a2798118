package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// scale is how much is measured.
type scale struct {
	level    level
	runs     int
	warmup   time.Duration
	duration time.Duration // of a window

	busy    loopCounts    // beside how many busy loops each case runs; none: beside none
	clients int           // of the experiment crowd; 0: as many as there may be
	soak    time.Duration // how long they are sent events
}

type level int

const (
	short  level = iota // does everything work?
	medium              // what the targets need
	full                // everything
)

// of returns n, or much less where all that counts is that it works.
func (s scale) of(n int) int {
	if s.level == short {
		return max(n/50, min(n, 20))
	}
	return n
}

// experiment is a table of figures.
type experiment struct {
	name       string
	title      string
	conditions string
	runs       int
	metrics    []metric // its columns
	cases      []testCase
	lasts      time.Duration // how long a run has to take, where that is longer than seconds
}

// testCase is a row of an experiment.
type testCase struct {
	label  string // under what conditions
	system string
	busy   int // busy loops beside it
	run    func(context.Context, *system) (figures, error)
}

// workloadCases returns a case for each system.
func workloadCases(label string, w workload, systems ...string) []testCase {
	cases := make([]testCase, 0, len(systems))
	for _, name := range systems {
		cases = append(cases, testCase{label: label, system: name, run: func(ctx context.Context, s *system) (figures, error) {
			return measure(ctx, s, w)
		}})
	}
	return cases
}

// Names of experiments, which the targets refer to.
const (
	expLatency    = "latency"
	expCPU        = "cpu"
	expCPUHalf    = "cpu-half"
	expLockstep   = "cpu-lockstep"
	expSaturation = "saturation"
	expShapes     = "shapes"
	expSources    = "sources"
	expUpstreams  = "upstreams"
	expMemory     = "memory"
	expStorm      = "storm"
	expResume     = "resume"
	expCatchup    = "catchup"
	expFiles      = "files"
	expCluster    = "cluster"
	expExit       = "exit"
	expCrowd      = "crowd"
)

// experiments are all there are.
func experiments(s scale) []experiment {
	all := []experiment{
		s.latency(),
		s.cpu(expCPU, 200),
		s.cpu(expCPUHalf, 100),
		s.lockstep(),
		s.saturation(),
		s.shapes(),
		s.sources(),
		s.upstreams(),
		s.memory(),
		s.storm(),
		s.resume(),
		s.catchup(),
		s.files(),
		s.cluster(),
		s.exit(),
		s.crowd(),
	}
	for i := range all {
		all[i].withNeighbours(s.busy)
	}
	return all
}

var (
	latencyMetrics = []metric{p50, p99, p999, maxLatency, cpuServer, cpuTotal, writes, bytesPerEvent, originLag}
	cpuMetrics     = []metric{cpuServer, cpuTotal, cpuLoad, writes, bytesPerEvent, upstreamConns, p50, p99}
	shapeMetrics   = []metric{perSecond, p50, p99, cpuServer, cpuTotal, writes}
)

// streaming are the systems that send events.
func (s scale) streaming() []string {
	names := []string{
		"fanin", "fanin-detach", "fanin-file", "fanin-file-always", "fanin-coalesce", "fanin-encode", "fanin-log", "fanin-h2",
		"proxy", "nchan", "bare", "bare-window", "bare-h2", "raw", "gosse",
	}
	if s.level == full {
		names = append(names, "fanin-metrics", "proxy-h2")
	}
	return names
}

// compared are the systems that are compared over a range of workloads.
var compared = []string{"fanin", "proxy", "nchan", "bare"}

// workload returns a workload of the scale's duration.
func (s scale) workload(clients int, rate float64, payload int) workload {
	return workload{clients: s.of(clients), rate: rate, payload: payload, warmup: s.warmup, duration: s.duration}
}

func (w workload) String() string {
	clients := "clients"
	if w.clients == 1 {
		clients = "client"
	}
	return fmt.Sprintf("%d %s × %g/s × %d B", w.clients, clients, w.rate, w.payload)
}

func (s scale) latency() experiment {
	w := s.workload(1000, 50, 250)
	return experiment{
		name: expLatency, title: "Latency", runs: s.runs, metrics: latencyMetrics,
		conditions: fmt.Sprintf("%s, evenly paced, %s", w, s.window()),
		cases:      workloadCases("", w, s.streaming()...),
	}
}

// cpu measures what a delivery costs at a rate. Where the machine cannot carry
// that rate with a write for each delivery, systems fall behind and write
// several events at once, the slow ones more of them: compare where they do not.
func (s scale) cpu(name string, rate float64) experiment {
	w := s.workload(1000, rate, 200)
	names := s.streaming()
	if s.level == short {
		names = []string{"fanin", "fanin-h2", "proxy", "nchan", "bare", "bare-h2"}
	}
	return experiment{
		name: name, title: "CPU for each delivery, paced", runs: s.runs, metrics: cpuMetrics,
		conditions: fmt.Sprintf("%s, evenly paced, %s", w, s.window()),
		cases:      workloadCases("", w, names...),
	}
}

func (s scale) lockstep() experiment {
	w := s.workload(1000, 200, 200)
	w.window = 1
	names := s.streaming()
	if s.level == short {
		names = []string{"fanin", "bare"}
	}
	return experiment{
		name: expLockstep, title: "CPU for each delivery, in lock-step", runs: s.runs, metrics: append([]metric{perSecond}, cpuMetrics...),
		conditions: fmt.Sprintf("%s at most: an event is published when all clients have the one before; %s", w, s.window()),
		cases:      workloadCases("", w, names...),
	}
}

func (s scale) saturation() experiment {
	w := s.workload(1000, 0, 250)
	w.window = saturationWindow
	names := []string{"fanin", "fanin-detach", "fanin-coalesce", "fanin-h2", "proxy", "nchan", "bare", "bare-h2", "raw", "gosse"}
	if s.level == short {
		names = []string{"fanin", "nchan", "bare", "raw"}
	}
	return experiment{
		name: expSaturation, title: "Saturation", runs: s.runs, metrics: shapeMetrics,
		conditions: fmt.Sprintf("%d clients × %d B, as fast as possible with %d events on their way at most; %s", w.clients, w.payload, w.window, s.window()),
		cases:      workloadCases("", w, names...),
	}
}

// saturationWindow is how many events may be on their way. Set by a flag.
var saturationWindow uint64 = 64

// window describes the time measured.
func (s scale) window() string {
	return fmt.Sprintf("%s after a warm-up of %s", s.duration, s.warmup)
}

// The bounds of the shapes that are measured: what one machine can carry.
const (
	maxShapeDeliveries = 100_000     // each second
	maxShapeBytes      = 210_000_000 // each second
)

func (s scale) shapes() experiment {
	e := experiment{
		name: expShapes, title: "Shapes", runs: s.runs, metrics: shapeMetrics,
		conditions: fmt.Sprintf("up to %d deliveries and %d MB per second, evenly paced, %s", maxShapeDeliveries, maxShapeBytes/1_000_000, s.window()),
	}
	for _, w := range s.shapeWorkloads() {
		e.cases = append(e.cases, workloadCases(w.String(), w, compared...)...)
	}
	return e
}

// shapeWorkloads are all combinations that fit, or one factor at a time.
func (s scale) shapeWorkloads() []workload {
	var (
		clients  = []int{1, 10, 100, 1000, 5000}
		rates    = []float64{10, 50, 200, 1000, 10000}
		payloads = []int{50, 250, 4096}
		all      []workload
	)
	for _, c := range clients {
		for _, r := range rates {
			for _, p := range payloads {
				deliveries := float64(c) * r
				if deliveries > maxShapeDeliveries*1.01 || deliveries*float64(p) > maxShapeBytes {
					continue
				}
				var differs int
				for _, d := range []bool{c != 1000, r != 50, p != 250} {
					if d {
						differs++
					}
				}
				corner := c == 1 && r == 10000 && p == 250 || c == 5000 && r == 10 && p == 250
				switch s.level {
				case full:
				case medium:
					if differs > 1 && !corner {
						continue
					}
				default:
					if !corner || c != 1 {
						continue
					}
				}
				all = append(all, s.workload(c, r, p))
			}
		}
	}
	return all
}

func (s scale) sources() experiment {
	e := experiment{
		name: expSources, title: "Several sources", runs: s.runs, metrics: cpuMetrics,
		conditions: "the same number of events from 1, 2 and 16 sources; where a system does not merge, each client connects once for each source; " + s.window(),
	}
	for _, w := range []workload{s.workload(100, 200, 250), s.workload(1000, 50, 250)} {
		for _, n := range []int{1, 2, 16} {
			if s.level == short && n != 2 || s.level != full && w.rate != 200 {
				continue
			}
			w.sources = n
			e.cases = append(e.cases, workloadCases(fmt.Sprintf("%s, sources: %d", w, n), w, compared...)...)
		}
	}
	return e
}

// upstreamsLabel names the case with so many upstreams.
func upstreamsLabel(n int) string { return fmt.Sprintf("upstreams: %d", n) }

func (s scale) upstreams() experiment {
	w := s.workload(100, 1000, 250)
	e := experiment{
		name: expUpstreams, title: "Many upstreams", runs: s.runs, metrics: cpuMetrics,
		conditions: fmt.Sprintf("%s, from one and from many upstreams together; %s", w, s.window()),
	}
	for _, n := range []int{1, 16, 64, 256} {
		if s.level == short && n > 16 || s.level == medium && n != 1 && n != 256 {
			continue
		}
		w.sources = n
		e.cases = append(e.cases, workloadCases(upstreamsLabel(n), w, "fanin")...)
	}
	return e
}

// files measures what an event's way through files costs: with one client, it is
// not hidden by what many clients cost.
func (s scale) files() experiment {
	e := experiment{
		name: expFiles, title: "A log in files", runs: s.runs, metrics: shapeMetrics,
		conditions: "one client, events of 200 B, evenly paced, " + s.window(),
	}
	for _, rate := range []float64{1000, 10_000} {
		w := s.workload(1, rate, 200)
		e.cases = append(e.cases, workloadCases(w.String(), w, "fanin", "fanin-file-off", "fanin-file", "fanin-file-always")...)
	}
	return e
}

// casesOf returns the cases of systems that are wanted.
func (e *experiment) casesOf(wanted func(string) bool) []testCase {
	return slices.DeleteFunc(slices.Clone(e.cases), func(c testCase) bool { return !wanted(c.system) })
}
