package ssefanin

import (
	"context"
	"slices"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// keepPrints is after how many looks the events of sources that no upstream has
// are forgotten, again and again: a minute, in which addresses are looked up.
const keepPrints = 60

// startPoint is where a source goes on that has events in the log, or that takes the
// place of another.
type startPoint struct {
	id     string  // the id in force after the newest
	prints []print // of the newest, oldest first
	times  []int64 // their arrivals, Unix ms
}

// noteStart notes where the source of an event is to go on.
func (d *durable) noteStart(r *logstore.Record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.noteStartLocked(r)
}

func (d *durable) noteStartLocked(r *logstore.Record) {
	p := d.starts[r.Source]
	if p == nil {
		p = new(startPoint)
		d.starts[r.Source] = p
	}
	p.add(r)
}

func (p *startPoint) add(r *logstore.Record) {
	p.id = r.ID
	if len(p.prints) == 2*mirrorWindow {
		p.prints = p.prints[:copy(p.prints, p.prints[mirrorWindow:])]
		p.times = p.times[:copy(p.times, p.times[mirrorWindow:])]
	}
	p.prints = append(p.prints, print(r.Hash))
	p.times = append(p.times, r.Time)
}

// startOf returns where a source goes on when it is connected for the first
// time; nil if the log has nothing of it, or, where no other node can write, it
// was asked for before.
func (d *durable) startOf(name string) *startPoint {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.startOfLocked(name)
}

func (d *durable) startOfLocked(name string) *startPoint {
	p := d.starts[name]
	if p == nil || !d.shared() {
		delete(d.starts, name)
		return p
	}
	return &startPoint{id: p.id, prints: slices.Clone(p.prints), times: slices.Clone(p.times)}
}

// addLatest adds the sources whose newest event is no longer held in memory.
func (d *durable) addLatest(store logstore.Store) {
	latest, err := store.Latest(d.ctx)
	if d.ctx.Err() != nil {
		return
	}
	if err != nil {
		d.logger().Error("where upstreams are to be resumed is not known", zap.Error(err))
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, l := range latest {
		if d.starts[name] == nil {
			d.starts[name] = &startPoint{id: l.ID}
		}
	}
}

// committed returns where a source goes on after what the store has of it.
func (d *durable) committed(name string) *startPoint {
	store := d.opened()
	if store == nil {
		return nil
	}
	latest, err := store.Latest(context.Background())
	if l, ok := latest[name]; err == nil && ok {
		return &startPoint{id: l.ID}
	}
	return nil
}

// forgetPrints frees the memory of sources that nobody has asked for. Where to
// resume them stays known. Where another node may write, the sources that are
// configured may be asked for at any time.
func (d *durable) forgetPrints() {
	var kept map[string]bool
	if d.shared() {
		kept = d.hub.inputs.names()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, p := range d.starts {
		if !kept[name] {
			p.prints, p.times = nil, nil
		}
	}
}
