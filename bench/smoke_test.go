package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
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

// TestExit also makes sure that a response which is cut off is told from one that has
// ended: the handler on net/http is killed by the same signal.
func TestExit(t *testing.T) {
	for _, name := range []string{"fanin", "fanin-detach", "fanin-tls", "fanin-detach-tls", "fanin-h2"} {
		f, err := measureExit(t.Context(), findSystem(systems(), name), 20)
		t.Run(name, func(t *testing.T) { check(t, f, err, []metric{exitTime}) })
	}
	f, err := measureExit(t.Context(), findSystem(systems(), "bare"), 20)
	if err != nil || f.Faults != "of 20 clients 20 were cut off, 0 never saw an end" {
		t.Errorf("bare: %+v, %v", f, err)
	}
}

func TestCrowd(t *testing.T) {
	for _, name := range []string{"fanin", "fanin-detach"} {
		f, err := measureCrowd(t.Context(), findSystem(systems(), name), crowdConfig{clients: 40, soak: 2 * time.Second, reload: time.Second})
		t.Run(name, func(t *testing.T) {
			check(t, f, err, []metric{connectTime, firstByteP99, p99, growth, reloadTime, reloadP99, exitTime})
		})
	}
}

// TestReload loads a configuration that is another one, whose effect is seen, and one
// that is none.
func TestReload(t *testing.T) {
	r, err := newRig(t.Context(), findSystem(systems(), "fanin"), smokeWorkload(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	text := "{\n\tadmin unix/" + r.server.admin + "\n}\n\nhttp://" + r.server.addr + " {\n\trespond anew\n}\n"
	if err := os.WriteFile(r.server.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.server.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.server.addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(body) != "anew" {
		t.Errorf("%q, %v", body, err)
	}
	if err := os.WriteFile(r.server.config, []byte("{\n\tnonsense\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.server.reload(t.Context()); err == nil || !strings.Contains(err.Error(), "reloading: 400 Bad Request: ") {
		t.Errorf("nonsense: %v", err)
	}
	if err := new(running).reload(t.Context()); !errors.Is(err, errUnavailable) {
		t.Errorf("a server that is no Caddy: %v", err)
	}
}

// TestCrowdConnect has more than one process and address.
func TestCrowdConnect(t *testing.T) {
	r, err := newRig(t.Context(), findSystem(systems(), "raw"), workload{clients: 5, payload: 100}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	loads, err := crowdOf(r, 2*crowdShare+1)
	if err != nil {
		t.Fatal(err)
	}
	if len(loads) != 3 {
		t.Fatalf("%d processes", len(loads))
	}
	if _, err := loads.connect(t.Context(), r.loadConfig(5)); err != nil {
		t.Fatal(err)
	}
	if err := loads.mark(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.publish(t.Context(), publishConfig{Rate: 100, Count: 3}); err != nil {
		t.Fatal(err)
	}
	report, err := loads.settle(t.Context(), r.origin)
	if err != nil || report.Events != 15 || report.Faults.String() != "" {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestChunks makes sure of what the targets presuppose: bodies over HTTP/1.1 are
// chunked, the bare handler's too.
func TestChunks(t *testing.T) {
	for name, chunked := range map[string]bool{"fanin": true, "bare": true, "raw": false} {
		r, err := newRig(t.Context(), findSystem(systems(), name), workload{clients: 1, payload: 100}, "")
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", r.server.addr)
		if err != nil {
			r.close()
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(connectTimeout))
		if _, err := io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: "+r.server.addr+"\r\n\r\n"); err != nil {
			t.Error(err)
		}
		if _, got, err := readHead(conn, make([]byte, headSize)); err != nil || got != chunked {
			t.Errorf("%s: chunked: %t, %v", name, got, err)
		}
		_ = conn.Close()
		r.close()
	}
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
