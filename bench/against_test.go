package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestAgainst measures a build against itself: a Caddy is measured in both, in
// turn, and anything else only once.
func TestAgainst(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	measured := func(_ context.Context, s *system) (figures, error) {
		order = append(order, s.name+" "+s.build)
		return figures{Values: map[metric]float64{p50: float64(len(order))}}, nil
	}
	e := &experiment{name: expLatency, title: "Latency", runs: 2, metrics: []metric{p50}, cases: []testCase{
		{system: "fanin", run: measured}, {system: "bare", run: measured},
	}}
	res := runExperiment(t.Context(), e, func(string) bool { return true }, self, io.Discard)
	if want := []string{"fanin ", "fanin " + self, "bare ", "bare ", "fanin " + self, "fanin "}; !slices.Equal(order, want) {
		t.Errorf("measured in the order %q, want %q", order, want)
	}
	var out bytes.Buffer
	res.printRatios(&out)
	// 1/2 and 6/5
	if text := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(text, "fanin p50_us 0.850 (0.500–1.200) in 2 pairs of runs") || strings.Contains(text, "bare") {
		t.Error(out.String())
	}
}

// TestOtherBuild makes sure that another build is what serves.
func TestOtherBuild(t *testing.T) {
	s := *findSystem(systems(), "fanin")
	s.build = "no such file"
	if _, err := measure(t.Context(), &s, smokeWorkload()); err == nil || !strings.Contains(err.Error(), "starting caddy: ") {
		t.Errorf("a build that does not exist: %v", err)
	}
}

// TestRatiosWithoutFaults makes sure that a run in which something was lost is
// compared with nothing.
func TestRatiosWithoutFaults(t *testing.T) {
	run := func(v float64, faults string) figures {
		return figures{Values: map[metric]float64{p50: v}, Faults: faults}
	}
	now := []figures{run(1, ""), run(2, "lost 1"), run(3, "")}
	other := []figures{run(2, ""), run(2, ""), run(3, "stalled")}
	if all := ratios(now, other, p50); len(all) != 1 || all[0].Values[p50] != 0.5 {
		t.Errorf("%+v", all)
	}
}
