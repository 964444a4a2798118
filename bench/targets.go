package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// verdict is a target and what became of it.
type verdict struct {
	what    string
	figure  string
	bound   string
	met     bool
	unknown bool // a figure is missing
}

func (v verdict) outcome() string {
	switch {
	case v.unknown:
		return "not measured"
	case v.met:
		return "met"
	default:
		return "**missed**"
	}
}

// figure finds a median.
type figure struct {
	experiment, label, system string
	metric                    metric
}

// target compares a figure with a factor of another one, or with a number.
type target struct {
	what    string
	figure  figure
	than    figure // none: factor is the bound itself
	factor  float64
	atLeast bool // the figure is not to be below the bound
	strict  bool // the figure is not to be equal to the bound
	or      *target
}

// targets are what this module is to reach.
func targets() []target {
	return slices.Concat(latencyTargets(), cpuTargets(), takenTargets(), otherTargets())
}

// at is a figure of an experiment that has one case for each system.
func at(experiment, system string, m metric) figure { return figure{experiment, "", system, m} }

// latencyTargets are those of a machine that is idle otherwise, and of one that has
// a busy loop to run as well.
func latencyTargets() []target {
	busy := beside("", 1)
	against := func(m metric, label, other string, factor float64) target {
		what := "latency " + columns[m].title
		if label != "" {
			what += ", " + label
		}
		return target{
			what:   what + ", against " + other,
			figure: figure{expLatency, label, "fanin", m}, than: figure{expLatency, label, other, m}, factor: factor,
		}
	}
	return []target{
		against(p50, "", "nchan", 1),
		against(p50, "", "proxy", 1),
		against(p50, "", "raw", 1.3),
		against(p99, "", "nchan", 1),
		against(p99, "", "proxy", 1),
		against(p99, "", "raw", 1.3),
		against(p99, busy, "nchan", 1),
		against(p99, busy, "raw", 1.3),
	}
}

func cpuTargets() []target {
	var all []target
	for _, e := range []string{expCPU, expCPUHalf, expLockstep} {
		all = append(
			all,
			target{what: e + " µs, against bare", figure: at(e, "fanin", cpuTotal), than: at(e, "bare", cpuTotal), factor: 1},
			target{what: e + " µs, against proxy", figure: at(e, "fanin", cpuTotal), than: at(e, "proxy", cpuTotal), factor: 1, strict: true},
			target{what: e + " µs, HTTP/2 against bare-h2", figure: at(e, "fanin-h2", cpuTotal), than: at(e, "bare-h2", cpuTotal), factor: 1.1},
		)
	}
	return append(all, target{
		what: expCPU + " µs, `coalesce 10ms` against bare-window, or bare", figure: at(expCPU, "fanin-coalesce", cpuTotal), than: at(expCPU, "bare-window", cpuTotal), factor: 0.65,
		or: &target{figure: at(expCPU, "fanin-coalesce", cpuTotal), than: at(expCPU, "bare", cpuTotal), factor: 0.6},
	})
}

// takenTargets are those of connections that are taken over, each with the bound
// that it has to keep and an ambitious one.
func takenTargets() []target {
	var all []target
	both := func(t target, ambitious float64) {
		all = append(all, t)
		t.what, t.factor = t.what+", ambitious", ambitious
		all = append(all, t)
	}
	both(target{what: "memory active KiB", figure: at(expMemory, "fanin", activeKiB), factor: 24}, 20)
	both(target{what: "memory active KiB, detached", figure: at(expMemory, "fanin-detach", activeKiB), factor: 7}, 4)
	both(target{what: "memory active KiB, detached, TLS", figure: at(expMemory, "fanin-detach-tls", activeKiB), factor: 25}, 17)
	for _, system := range []string{"fanin", "fanin-detach"} {
		of := func(experiment string, m metric, factor float64, atLeast bool) target {
			return target{
				what:   fmt.Sprintf("%s %s of %s, against bare", experiment, columns[m].title, system),
				figure: at(experiment, system, m), than: at(experiment, "bare", m), factor: factor, atLeast: atLeast,
			}
		}
		both(of(expLockstep, cpuTotal, 0.85, false), 0.72)
		both(of(expSaturation, perSecond, 1.4, true), 1.6)
		both(of(expLatency, p99, 1.05, false), 0.9)
		both(target{what: "exit s of " + system, figure: at(expExit, system, exitTime), factor: 1.5 * columns[exitTime].unit}, 0.5*columns[exitTime].unit)
	}
	return all
}

func otherTargets() []target {
	return []target{
		{what: "saturation deliveries/s, against nchan", figure: at(expSaturation, "fanin", perSecond), than: at(expSaturation, "nchan", perSecond), factor: 10, atLeast: true},
		{what: "memory idle KiB, against idle", figure: at(expMemory, "fanin", idleKiB), than: at(expMemory, "idle", idleKiB), factor: 1},
		{what: "memory idle KiB, HTTP/2 against idle-h2", figure: at(expMemory, "fanin-h2", idleKiB), than: at(expMemory, "idle-h2", idleKiB), factor: 1},
		{what: "memory active KiB, HTTP/2", figure: at(expMemory, "fanin-h2", activeKiB), factor: 23},
		{what: "storm p99 ms", figure: at(expStorm, "fanin", p99), factor: 250 * columns[p99].unit, strict: true},
		{
			what: "CPU of 256 upstreams, against one", figure: figure{expUpstreams, upstreamsLabel(256), "fanin", cpuTotal},
			than: figure{expUpstreams, upstreamsLabel(1), "fanin", cpuTotal}, factor: 1.3,
		},
		{what: "resumption p50 ms to the first byte, from anywhere", figure: figure{expResume, resumeAnywhere, "fanin", firstByteP50}, factor: 1 * columns[firstByteP50].unit},
		{what: "resumption p99 ms to the first byte, from anywhere", figure: figure{expResume, resumeAnywhere, "fanin", firstByteP99}, factor: 1 * columns[firstByteP99].unit},
		{what: "resumption p99 ms to the first byte, from near the end", figure: figure{expResume, resumeNearEnd, "fanin", firstByteP99}, factor: 1 * columns[firstByteP99].unit},
	}
}

// judge looks which targets are met.
func judge(results []*result) []verdict {
	all := targets()
	verdicts := make([]verdict, 0, len(all))
	for _, t := range all {
		v := t.judge(results)
		if t.or != nil && !v.met {
			if w := t.or.judge(results); w.met || v.unknown {
				w.what = v.what
				v = w
			}
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

func (t *target) judge(results []*result) verdict {
	v := verdict{what: t.what, figure: "–", bound: "–", unknown: true}
	unit := columns[t.figure.metric].unit
	value, ok := t.figure.find(results)
	if ok {
		v.figure = number(value / unit)
	}
	bound, sign := t.factor, "≤"
	if t.than.system != "" {
		base, found := t.than.find(results)
		ok = ok && found
		bound *= base
	}
	if t.atLeast {
		sign = "≥"
	} else if t.strict {
		sign = "<"
	}
	if !ok {
		return v
	}
	v.unknown = false
	v.bound = fmt.Sprintf("%s %s", sign, number(bound/unit))
	if t.than.system != "" && t.factor != 1 {
		v.bound += fmt.Sprintf(" = %g × %s's %s", t.factor, t.than.system, number(bound/t.factor/unit))
	}
	switch {
	case t.atLeast:
		v.met = value >= bound
	case t.strict:
		v.met = value < bound
	default:
		v.met = value <= bound
	}
	return v
}

// find returns the median of a row without faults.
func (f figure) find(results []*result) (float64, bool) {
	for _, res := range results {
		if res.experiment.name != f.experiment {
			continue
		}
		for _, r := range res.rows {
			if r.system == f.system && r.label == f.label && r.build == "" && r.why() == "" {
				s := spreadOf(r.runs, f.metric)
				return s.median, s.runs > 0
			}
		}
	}
	return 0, false
}

// printTargets writes the targets that were measured.
func printTargets(w io.Writer, verdicts []verdict) {
	fmt.Fprintln(w, "\nTargets")
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range verdicts {
		if !v.unknown {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", v.what, v.figure, v.bound, v.outcome())
		}
	}
	_ = table.Flush()
}
