package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// report is everything that was measured.
type report struct {
	host    host
	started time.Time
	scale   scale
	base    string // as the flag
	results []*result
	targets []verdict
}

// columns are how metrics are shown.
var columns = map[metric]struct {
	title string
	unit  float64 // the value is divided by it
}{
	p50:           {"p50 ms", 1000},
	p99:           {"p99 ms", 1000},
	p999:          {"p99.9 ms", 1000},
	maxLatency:    {"max ms", 1000},
	perSecond:     {"deliveries/s", 1},
	cpuServer:     {"server µs", 1},
	cpuTotal:      {"server+origin+feeder µs", 1},
	cpuLoad:       {"clients µs", 1},
	bytesPerEvent: {"wire bytes", 1},
	writes:        {"writes", 1},
	upstreamConns: {"upstream conns", 1},
	originLag:     {"origin lag ms", 1},

	cpuWriterEvent:   {"writer µs/event", 1},
	cpuFollowerEvent: {"follower µs/event", 1},
	cpuFollower:      {"follower µs", 1},
	cpuStoreEvent:    {"NATS µs/event", 1},
	followerP50:      {"followers' p50 ms", 1000},
	followerP99:      {"followers' p99 ms", 1000},

	idleKiB:     {"idle KiB", 1},
	activeKiB:   {"active KiB", 1},
	emptyMiB:    {"server alone MiB", 1},
	connectTime: {"connected s", 1_000_000},
	kernelKiB:   {"kernel KiB", 1},
	perGiB:      {"clients per GiB", 1},
	growth:      {"growth", 1},
	reloadTime:  {"reload s", 1_000_000},
	reloadP99:   {"its p99 ms", 1000},
	reloadKiB:   {"KiB after it", 1},
	exitTime:    {"exit s", 1_000_000},

	firstByteP50:  {"first byte p50 ms", 1000},
	firstByteP99:  {"p99 ms", 1000},
	firstByteMax:  {"max ms", 1000},
	firstEventP50: {"first event p50 ms", 1000},
	firstEventP99: {"p99 ms", 1000},
	firstEventMax: {"max ms", 1000},
}

// number formats a figure with three digits that say something.
func number(v float64) string {
	switch {
	case v >= 100 || v <= -100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10 || v <= -10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1 || v == 0:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}

// cells are the columns of a row behind its name.
func (r *row) cells(metrics []metric) []string {
	cells := make([]string, len(metrics))
	if why := r.why(); why != "" {
		cells[0] = why
		return cells
	}
	for i, m := range metrics {
		s, unit := spreadOf(r.runs, m), columns[m].unit
		switch s.runs {
		case 0:
			cells[i] = "–"
		case 1:
			cells[i] = number(s.median / unit)
		default:
			cells[i] = fmt.Sprintf("%s (%s–%s)", number(s.median/unit), number(s.low/unit), number(s.high/unit))
		}
	}
	return cells
}

// why says why a row has no figures: every run has to be without a fault.
func (r *row) why() string {
	if r.unavailable != "" {
		return r.unavailable
	}
	if len(r.runs) == 0 {
		return "not run"
	}
	var failed []string
	for _, run := range r.runs {
		if run.Faults != "" {
			failed = append(failed, run.Faults)
		}
	}
	switch len(failed) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("%s (1 run of %d)", failed[0], len(r.runs))
	default:
		return fmt.Sprintf("%s (first of %d runs of %d)", failed[0], len(failed), len(r.runs))
	}
}

// header is the titles of an experiment's columns.
func (res *result) header() []string {
	titles := make([]string, 0, len(res.experiment.metrics)+1)
	titles = append(titles, "system")
	for _, m := range res.experiment.metrics {
		titles = append(titles, columns[m].title)
	}
	return titles
}

// print writes a table for people's eyes.
func (res *result) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s: %s\n", res.experiment.title, res.experiment.conditions)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	label := ""
	fmt.Fprintln(table, strings.Join(res.header(), "\t"))
	for _, r := range res.rows {
		if r.label != label {
			label = r.label
			_ = table.Flush() // columns of their own
			fmt.Fprintf(w, "%s\n", label)
		}
		fmt.Fprintln(table, r.title()+"\t"+strings.Join(r.cells(res.experiment.metrics), "\t"))
	}
	_ = table.Flush()
}

// markdown writes the whole report.
func (rep *report) markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Results\n\nWritten by `go run ./bench` on %s, after %s.\n\n", rep.started.UTC().Format("2006-01-02 15:04 UTC"), time.Since(rep.started).Round(time.Second))
	rep.host.markdown(&b)
	b.WriteString("\nEvery part of a measurement is a process of its own, and all of them share this machine. ")
	b.WriteString("Figures are medians, with the lowest and the highest in brackets, of interleaved runs; each starts fresh processes. ")
	b.WriteString("Latency is from the origin's publication of an event to its receipt by a client. ")
	b.WriteString("CPU is µs for each delivery, which is CPU-seconds for a million of them. Writes are write system calls of the server for each delivery. ")
	b.WriteString("Each client checks each event; a row in which any event was lost, came twice or out of order says so instead of figures.\n")
	if rep.scale.level == short {
		b.WriteString("\n**With `-short`: this shows that everything works. The figures say nothing.**\n")
	}
	b.WriteString("\n## Targets\n\n")
	markdownTable(&b, []string{"target", "figure", "bound", ""})
	for _, t := range rep.targets {
		markdownRow(&b, []string{t.what, t.figure, t.bound, t.outcome()})
	}
	b.WriteString("\n## Systems\n\n")
	markdownTable(&b, []string{"system", "what it is"})
	for _, s := range systems() {
		markdownRow(&b, []string{s.name, s.about})
	}
	for _, res := range rep.results {
		fmt.Fprintf(&b, "\n## %s\n\n%s. Runs: %d.\n", res.experiment.title, strings.ToUpper(res.experiment.conditions[:1])+res.experiment.conditions[1:], res.experiment.runs)
		label := "-"
		for _, r := range res.rows {
			if r.label != label {
				label = r.label
				b.WriteString("\n")
				if label != "" {
					fmt.Fprintf(&b, "**%s**\n\n", label)
				}
				markdownTable(&b, res.header())
			}
			markdownRow(&b, append([]string{r.title()}, r.cells(res.experiment.metrics)...))
		}
		res.markdownDivided(&b, rep.base)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func markdownTable(b *strings.Builder, header []string) {
	markdownRow(b, header)
	b.WriteString("|" + strings.Repeat("---|", len(header)) + "\n")
}

func markdownRow(b *strings.Builder, cells []string) {
	b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
}

// rawRow is the figures of every run of a case.
type rawRow struct {
	Experiment  string    `json:"experiment"`
	Label       string    `json:"label,omitempty"`
	System      string    `json:"system"`
	Build       string    `json:"build,omitempty"` // the other one's file
	Unavailable string    `json:"unavailable,omitempty"`
	Runs        []figures `json:"runs,omitempty"`
}

// raw is the report for programs.
func (rep *report) raw() any {
	var rows []rawRow
	for _, res := range rep.results {
		for _, r := range res.rows {
			rows = append(rows, rawRow{res.experiment.name, r.label, r.system, r.build, r.unavailable, r.runs})
		}
	}
	return struct {
		Started time.Time `json:"started"`
		Host    host      `json:"host"`
		Rows    []rawRow  `json:"rows"`
	}{rep.started, rep.host, rows}
}
