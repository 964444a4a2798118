package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// TestMain lets the test binary be the processes of a measurement: they are
// this program again.
func TestMain(m *testing.M) {
	if runRole(os.Args[1:]) {
		return
	}
	ssetest.Main(m, ssetest.Suite{End: removePrograms})
}

// TestSystems runs each system with a few clients: there are figures, and
// nothing is lost.
func TestSystems(t *testing.T) {
	t.Parallel()
	for _, s := range systems() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			var (
				f    figures
				err  error
				want []metric
			)
			if s.idle {
				f, err = measureMemory(t.Context(), s, 20, 50*time.Millisecond, 0)
				want = []metric{idleKiB, emptyMiB}
			} else {
				f, err = measure(t.Context(), s, smokeWorkload())
				want = append(shapeMetrics, bytesPerEvent, upstreamConns, cpuLoad)
			}
			check(t, f, err, want)
		})
	}
}

func smokeWorkload() workload {
	return workload{clients: 20, sources: 2, rate: 100, payload: 100, warmup: 100 * time.Millisecond, duration: 300 * time.Millisecond}
}

func TestLockstep(t *testing.T) {
	w := smokeWorkload()
	w.sources, w.window = 1, 1
	f, err := measure(t.Context(), findSystem(systems(), "fanin"), w)
	check(t, f, err, shapeMetrics)
}

func TestStorm(t *testing.T) {
	cfg := stormConfig{connected: 10, newcomers: 20, within: 100 * time.Millisecond, rate: 100}
	f, err := measureStorm(t.Context(), findSystem(systems(), "fanin"), cfg, 100*time.Millisecond)
	check(t, f, err, []metric{p99, firstByteP99})
}

func TestResume(t *testing.T) {
	f, err := measureResume(t.Context(), findSystem(systems(), "fanin"), resumeConfig{Clients: 20, Events: 5000, Back: 4999})
	check(t, f, err, []metric{firstByteP99, firstEventP99})
}

// TestCluster looks at the clients of all nodes, where TestSystems has those of
// the one that writes.
func TestCluster(t *testing.T) {
	t.Parallel()
	f, err := measureCluster(t.Context(), findSystem(systems(), "fanin-cluster-2"), smokeWorkload())
	check(t, f, err, clusterMetrics)
}

// check fails unless there are figures.
func check(t *testing.T, f figures, err error, want []metric) {
	t.Helper()
	if errors.Is(err, errUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if f.Faults != "" {
		t.Fatal(f.Faults)
	}
	for _, m := range want {
		if v, ok := f.Values[m]; !ok || v < 0 || v == 0 && m != writes && m != idleKiB {
			t.Errorf("%s is %v", m, v)
		}
	}
}

// TestLossIsNoFigure makes sure that a run in which something was lost has no
// figures, in the table and for the targets.
func TestLossIsNoFigure(t *testing.T) {
	report := loadReport{Events: 100, Elapsed: time.Second, Faults: faults{Lost: 3, Doubled: 1}}
	f := summarize(report, published{}, account{}, account{}, 1)
	if f.Faults != "lost 3, doubled 1" || len(f.Values) > 0 {
		t.Fatalf("%+v", f)
	}
	e := experiment{name: expLatency, title: "Latency", conditions: "all the same", runs: 2, metrics: []metric{p50, p99}}
	good := figures{Values: map[metric]float64{p50: 1000, p99: 2000}}
	res := &result{experiment: &e, rows: []*row{
		{testCase: testCase{system: "fanin"}, runs: []figures{good, f}},
		{testCase: testCase{system: "proxy"}, runs: []figures{good, good}},
	}}
	var out bytes.Buffer
	res.print(&out)
	if !strings.Contains(out.String(), "lost 3, doubled 1 (1 run of 2)") || !strings.Contains(out.String(), "1.00 (1.00–1.00)") {
		t.Error(out.String())
	}
	for _, v := range judge([]*result{res}) {
		if !v.unknown {
			t.Errorf("%s: %+v", v.what, v)
		}
	}
}

// TestChildrenEnd makes sure that no process outlives the coordinator's hold
// on it.
func TestChildrenEnd(t *testing.T) {
	for _, role := range []string{"origin", "load", "bare"} {
		p, err := startProcess(role)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.call(context.Background(), "nonsense", none{}, nil); err == nil || !strings.Contains(err.Error(), "unknown command nonsense") {
			t.Errorf("%s: %v", role, err)
		}
		p.close()
		if !p.hasEnded() || p.cmd.ProcessState == nil {
			t.Errorf("%s has not ended", role)
		}
	}
}

func TestTargets(t *testing.T) {
	e := &experiment{name: expCPU}
	rows := func(values map[string]float64) []*result {
		res := &result{experiment: e}
		for system, v := range values {
			res.rows = append(res.rows, &row{testCase: testCase{system: system}, runs: []figures{{Values: map[metric]float64{cpuTotal: v}}}})
		}
		return []*result{res}
	}
	coalesce := func(results []*result) verdict {
		for _, v := range judge(results) {
			if strings.HasPrefix(v.what, expCPU+" µs, `coalesce") {
				return v
			}
		}
		t.Fatal("there is no such target")
		return verdict{}
	}
	for _, c := range []struct {
		name         string
		values       map[string]float64
		met, unknown bool
	}{
		{"first", map[string]float64{"fanin-coalesce": 6, "bare-window": 10, "bare": 9}, true, false},
		{"second", map[string]float64{"fanin-coalesce": 6, "bare-window": 8, "bare": 10}, true, false},
		{"neither", map[string]float64{"fanin-coalesce": 9, "bare-window": 10, "bare": 10}, false, false},
		{"only one known", map[string]float64{"fanin-coalesce": 5, "bare": 10}, true, false},
		{"unknown", map[string]float64{"bare": 10}, false, true},
	} {
		if v := coalesce(rows(c.values)); v.met != c.met || v.unknown != c.unknown {
			t.Errorf("%s: %+v", c.name, v)
		}
	}
}
