package ssefanin

import (
	"slices"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// standbyMost bounds the bodies of events that wait to be found in the log, in
	// bytes: some seconds at full speed, as store buffers hold.
	standbyMost = 32 << 20

	// standbyStale is after how long an event that others have passed is given up:
	// the log has later ones of its source, so the writer will not bring it.
	standbyStale = time.Minute
)

// standby keeps what a node has read from the upstreams and not found in the log
// yet, where all nodes have them connected. The node that takes over appends it:
// upstreams that cannot resume do not send it again.
//
// What is in the log already when the node reads it is dropped before: the log is
// a replica of each source's mirror.
//
// The durable's mutex protects it.
type standby struct {
	waiting []logstore.Record // oldest first, with bodies of their own
	bytes   int
	intakes map[string]*intake // of the sources, by name
}

// keep keeps an event until the log has it. At the bound the oldest goes.
func (s *standby) keep(r *logstore.Record) {
	own := *r
	own.Body = slices.Clone(r.Body)
	s.waiting = append(s.waiting, own)
	s.bytes += len(own.Body)
	n := 0
	for s.bytes > standbyMost && n < len(s.waiting)-1 {
		s.bytes -= len(s.waiting[n].Body)
		n++
	}
	s.dropFirst(n)
}

// dropFirst takes the oldest n away, whose bytes are counted no more. The others
// stay where they are: there may be very many.
func (s *standby) dropFirst(n int) {
	clear(s.waiting[:n])
	if s.waiting = s.waiting[n:]; len(s.waiting) == 0 {
		s.waiting = nil
	}
}

// found takes note of an event that the log has.
func (s *standby) found(r *logstore.Record) {
	same := func(own logstore.Record) bool { return own.Hash == r.Hash && own.Source == r.Source }
	i := slices.IndexFunc(s.waiting, same)
	if i < 0 {
		return
	}
	at := s.waiting[i].Time
	s.bytes -= len(s.waiting[i].Body)
	n := i // what is before it and stays moves up to its place
	for j := i - 1; j >= 0; j-- {
		own := &s.waiting[j]
		if own.Source == r.Source && at-own.Time > standbyStale.Milliseconds() { // passed
			s.bytes -= len(own.Body)
			continue
		}
		s.waiting[n] = *own
		n--
	}
	s.dropFirst(n + 1)
}

// forget forgets what waits: the nodes do not stand by any more.
func (s *standby) forget() { s.waiting, s.bytes = nil, 0 }

// standsBy reports whether all nodes have the upstreams connected.
func (d *durable) standsBy() bool {
	sharer := d.sharer()
	return sharer != nil && sharer.Standby()
}

// goOn returns where a source goes on; nil if the log has nothing of it.
// Where the nodes stand by, its intake is told what the log gets from then on.
func (d *durable) goOn(one *input) *startPoint {
	d.mu.Lock()
	defer d.mu.Unlock()
	if one.source.spec.Standby {
		if d.standby.intakes == nil {
			d.standby.intakes = make(map[string]*intake)
		}
		d.standby.intakes[one.name] = &one.source.intake
	}
	return d.startOfLocked(one.name)
}

// detach has an intake told nothing any more.
func (d *durable) detach(name string, in *intake) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.standby.intakes[name] == in {
		delete(d.standby.intakes, name)
	}
}

// noteFound notes that an event is part of the log.
func (d *durable) noteFound(r *logstore.Record) {
	d.mu.Lock()
	d.noteStartLocked(r)
	in := d.standby.intakes[r.Source]
	d.mu.Unlock()
	// First the intake: what it has passed on before waits by then, and what comes
	// later it drops.
	if in != nil {
		in.logged(print(r.Hash), r.ID, time.UnixMilli(r.Time))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.standby.found(r)
}
