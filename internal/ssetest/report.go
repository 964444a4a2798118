package ssetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxViolations bounds the violations kept as text; all are counted.
const maxViolations = 20

// Counts is what one client, or all together, saw.
type Counts struct {
	Events   uint64 // all
	Numbered uint64 // with source and number
	Control  uint64 // fanin.*
	Other    uint64 // the rest

	Lost       uint64 // numbers that never came, without a gap event
	Doubled    uint64 // numbers that came again
	OutOfOrder uint64 // numbers that came late
	Order      uint64 // neighbours in the total order that differ between clients
	Differing  uint64 // events whose id, type or data differ between clients

	Gaps      uint64 // gap events
	GapMissed uint64 // sum of their "missed"
	Announced uint64 // numbers skipped after a gap event
	Repeated  uint64 // numbers repeated after a gap event
}

func (c *Counts) add(d Counts) {
	c.Events += d.Events
	c.Numbered += d.Numbered
	c.Control += d.Control
	c.Other += d.Other
	c.Lost += d.Lost
	c.Doubled += d.Doubled
	c.OutOfOrder += d.OutOfOrder
	c.Order += d.Order
	c.Differing += d.Differing
	c.Gaps += d.Gaps
	c.GapMissed += d.GapMissed
	c.Announced += d.Announced
	c.Repeated += d.Repeated
}

// Report is the state of a Verifier.
type Report struct {
	Clients int
	Counts
	GapEvents  []Gap    // the first 100 of every client
	Violations []string // the first 20
}

func (r Report) String() string {
	return fmt.Sprintf("%d clients, %d events (%d numbered, %d control, %d other): %d lost, %d doubled, %d out of order, "+
		"%d order conflicts, %d differing; %d gaps (missed %d, skipped %d, repeated %d)",
		r.Clients, r.Events, r.Numbered, r.Control, r.Other, r.Lost, r.Doubled, r.OutOfOrder,
		r.Order, r.Differing, r.Gaps, r.GapMissed, r.Announced, r.Repeated)
}

// Report sums up what was seen so far.
func (v *Verifier) Report() Report {
	v.mu.RLock()
	tracks := slices.Clone(v.tracks)
	r := Report{Clients: len(tracks), Violations: slices.Clone(v.violations)}
	v.mu.RUnlock()
	for _, t := range tracks {
		t.mu.Lock()
		r.add(t.counts)
		r.GapEvents = append(r.GapEvents, t.gaps...)
		t.mu.Unlock()
	}
	return r
}

// Err is nil while everything is right; else it has the sums and the first
// violations. An account without one numbered event is an error too: nothing
// was verified.
func (v *Verifier) Err() error {
	r := v.Report()
	if len(r.Violations) > 0 {
		return fmt.Errorf("%s\n\t%s", r, strings.Join(r.Violations, "\n\t"))
	}
	if r.Numbered == 0 {
		return errors.New("no numbered event was seen")
	}
	return nil
}

// Counts is what this client saw so far.
func (t *Track) Counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts
}

func (v *Verifier) violate(format string, args ...any) {
	v.mu.RLock()
	full := len(v.violations) >= maxViolations
	v.mu.RUnlock()
	if full {
		return
	}
	text := fmt.Sprintf(format, args...)
	if len(text) > 1000 {
		text = text[:1000] + "…"
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.violations) < maxViolations {
		v.violations = append(v.violations, text)
	}
}

// WaitSeen waits until every client that is not finished has seen number n of
// source: the end of a run, after the origin's rate was set to 0. The error
// names clients that lack it.
func (v *Verifier) WaitSeen(ctx context.Context, source string, n uint64) error {
	v.waiting.Add(1)
	defer v.waiting.Add(-1)
	if err := v.mon.wait(ctx, func() bool { return len(v.behind(source, n, 1)) == 0 }); err != nil {
		return fmt.Errorf("waiting for %s:%d everywhere: %w; behind: %s",
			source, n, err, strings.Join(v.behind(source, n, 10), ", "))
	}
	return nil
}

// Settle lets the origins send no more, waits until every client has it all, and
// returns Err.
func (v *Verifier) Settle(ctx context.Context, origins ...*Origin) error {
	for _, o := range origins {
		o.SetRate(0)
	}
	for _, o := range origins {
		if err := v.WaitSeen(ctx, o.Source(), o.Last()); err != nil {
			return err
		}
	}
	return v.Err()
}

// behind names clients, limit at most, that have not seen number n.
func (v *Verifier) behind(source string, n uint64, limit int) []string {
	v.mu.RLock()
	tracks := slices.Clone(v.tracks)
	v.mu.RUnlock()
	var names []string
	for _, t := range tracks {
		t.mu.Lock()
		s := t.sources[source]
		switch {
		case t.finished:
		case s == nil:
			names = append(names, t.name+" (none)")
		case s.last < n:
			names = append(names, fmt.Sprintf("%s (at %d)", t.name, s.last))
		}
		t.mu.Unlock()
		if len(names) == limit {
			break
		}
	}
	return names
}

func (v *Verifier) wake() {
	v.mon.Lock()
	defer v.mon.Unlock()
	v.mon.signalLocked()
}

// ErrIfAny is Err, but not an error while no numbered event was seen yet: for
// checks in the middle of a run.
func (v *Verifier) ErrIfAny() error {
	v.mu.RLock()
	none := len(v.violations) == 0
	v.mu.RUnlock()
	if none {
		return nil
	}
	return v.Err()
}
