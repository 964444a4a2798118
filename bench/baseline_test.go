package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestDividedBy makes sure that each run is compared with that of its own round,
// and of its own conditions.
func TestDividedBy(t *testing.T) {
	ms := func(values ...float64) (runs []figures) {
		for _, v := range values {
			runs = append(runs, figures{Values: map[metric]float64{p99: 1000 * v}})
		}
		return runs
	}
	busy := beside("", 1)
	res := &result{
		experiment: &experiment{name: expLatency, title: "Latency", metrics: []metric{p99, cpuServer}},
		rows: []*row{
			{testCase: testCase{system: "fanin"}, runs: ms(12, 30, 22)},
			{testCase: testCase{system: "fanin"}, build: "other", runs: ms(1, 1, 1)},
			{testCase: testCase{system: "raw"}, runs: ms(10, 20, 20)},
			{testCase: testCase{system: "fanin", label: busy}, runs: ms(80, 90)},
			{testCase: testCase{system: "raw", label: busy}, runs: append(ms(40), figures{Faults: "lost 1"})},
			{testCase: testCase{system: "bare", label: "alone"}, runs: ms(5)},
		},
	}
	want := [][]string{
		{"fanin", "1.20 (1.10–1.50)", "–"},
		{"fanin (" + busy + ")", "2.00 (2.00–2.00)", "–"},
	}
	got := res.dividedBy("raw")
	if len(got) != len(want) {
		t.Fatalf("%q", got)
	}
	for i := range want {
		if strings.Join(got[i], "|") != strings.Join(want[i], "|") {
			t.Errorf("%q, want %q", got[i], want[i])
		}
	}
	var printed bytes.Buffer
	res.printDivided(&printed, "raw")
	if !strings.Contains(printed.String(), "Divided by raw's of the same round") || !strings.Contains(printed.String(), "1.20 (1.10–1.50)") {
		t.Error(printed.String())
	}
	var markdown strings.Builder
	res.markdownDivided(&markdown, "raw")
	if !strings.Contains(markdown.String(), "| fanin | 1.20 (1.10–1.50) | – |\n") {
		t.Error(markdown.String())
	}
	printed.Reset()
	res.printDivided(&printed, "nchan")
	if printed.Len() > 0 {
		t.Error(printed.String())
	}
}
