package main

import "testing"

// TestExperiments makes sure that every case can be told from the others, and
// that every target will find its figures.
func TestExperiments(t *testing.T) {
	all := systems()
	for _, s := range []scale{{level: short, runs: 1}, {level: medium, runs: 5, busy: loopCounts{0, 1}}, {level: full, runs: 5, busy: loopCounts{0, 1}}} {
		known := map[figure]bool{}
		cases := 0
		for _, e := range experiments(s) {
			if len(e.cases) == 0 || e.runs == 0 {
				t.Errorf("level %d: %s has no runs", s.level, e.name)
			}
			for _, c := range e.cases {
				if findSystem(all, c.system) == nil {
					t.Errorf("%s: there is no system %s", e.name, c.system)
				}
				if known[figure{e.name, c.label, c.system, ""}] {
					t.Errorf("%s: %s (%s) twice", e.name, c.system, c.label)
				}
				known[figure{e.name, c.label, c.system, ""}] = true
				for _, m := range e.metrics {
					if columns[m].unit == 0 {
						t.Errorf("%s: %s has no column", e.name, m)
					}
					known[figure{e.name, c.label, c.system, m}] = true
				}
			}
			cases += len(e.cases) * e.runs
		}
		t.Logf("level %d: %d runs", s.level, cases)
		if s.level == short {
			continue
		}
		for _, target := range targets() {
			for _, f := range []figure{target.figure, target.than} {
				if f.system != "" && !known[f] {
					t.Errorf("level %d: target %s: there is no %+v", s.level, target.what, f)
				}
			}
		}
	}
}
