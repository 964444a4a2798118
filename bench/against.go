package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// printRatios compares the systems with those of the other build: each run with
// the one that was its neighbour in time.
func (res *result) printRatios(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, r := range res.rows {
		if r.build == "" {
			continue
		}
		now := res.rows[i-1] // runExperiment puts it there
		for _, m := range res.experiment.metrics {
			if s := spreadOf(ratios(now.runs, r.runs, m), m); s.runs > 0 {
				fmt.Fprintf(table, "%s\t%s\t%.3f\t(%.3f–%.3f)\tin %d pairs of runs\n", now.name(), m, s.median, s.low, s.high, s.runs)
			}
		}
	}
	if len(res.rows) > 1 && res.rows[1].build != "" {
		fmt.Fprintln(w, "\nThis build's figures, divided by the other's")
	}
	_ = table.Flush()
}

// ratios divides a metric of each run by that of the other build's run of the
// same round, where neither has faults.
func ratios(now, other []figures, m metric) []figures {
	var all []figures
	for i := range min(len(now), len(other)) {
		a, b := now[i], other[i]
		if a.Faults == "" && b.Faults == "" && b.Values[m] > 0 {
			all = append(all, figures{Values: map[metric]float64{m: a.Values[m] / b.Values[m]}})
		}
	}
	return all
}
