package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// dividedBy returns the table of an experiment's figures with those of each run
// divided by the figures of the base's run of the same round and conditions: the
// machine's speed changes between rounds, and much less within one.
func (res *result) dividedBy(base string) (table [][]string) {
	for _, r := range res.rows {
		at := slices.IndexFunc(res.rows, func(b *row) bool {
			return b.system == base && b.label == r.label && b.build == ""
		})
		if at < 0 || r.system == base || r.build != "" {
			continue
		}
		known := false
		cells := make([]string, 0, len(res.experiment.metrics)+1)
		cells = append(cells, r.name())
		for _, m := range res.experiment.metrics {
			cell := "–"
			if s := spreadOf(ratios(r.runs, res.rows[at].runs, m), m); s.runs > 0 {
				cell, known = fmt.Sprintf("%.2f (%.2f–%.2f)", s.median, s.low, s.high), true
			}
			cells = append(cells, cell)
		}
		if known {
			table = append(table, cells)
		}
	}
	return table
}

// baseTitle stands above such a table.
func baseTitle(base string) string {
	return fmt.Sprintf("Divided by %s's of the same round", base)
}

// printDivided writes that table for people's eyes.
func (res *result) printDivided(w io.Writer, base string) {
	rows := res.dividedBy(base)
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", baseTitle(base))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, cells := range append([][]string{res.header()}, rows...) {
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	_ = table.Flush()
}

// markdownDivided writes it as a table of the report.
func (res *result) markdownDivided(b *strings.Builder, base string) {
	rows := res.dividedBy(base)
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "\n**%s**\n\n", baseTitle(base))
	markdownTable(b, res.header())
	for _, cells := range rows {
		markdownRow(b, cells)
	}
}
