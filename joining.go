package ssefanin

import (
	"context"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	"go.uber.org/zap"
)

// This file makes the sources of a stream follow the configurations that use
// it. Its methods of inputs are called with the lock held, but for
// watchMembers.

// used has a stream's upstreams in each of the configurations in use, oldest
// first, with an upstream for each address where addresses are sources of their
// own.
type used [][]*upstreamDef

// wanted returns the upstreams by name. One that several configurations name
// differently is that of the oldest.
func (all used) wanted() map[string]*upstreamDef {
	wanted := make(map[string]*upstreamDef)
	for _, upstreams := range all {
		for _, u := range upstreams {
			if wanted[u.name] == nil {
				wanted[u.name] = u
			}
		}
	}
	return wanted
}

// newest returns the upstreams of the newest configuration.
func (all used) newest() []*upstreamDef {
	return all[len(all)-1]
}

// sourceOf is a source of a stream, by its name and key.
type sourceOf struct{ name, key string }

// environments returns the environments to dial each source with, oldest first.
func (all used) environments() map[sourceOf][]*environment {
	envs := make(map[sourceOf][]*environment)
	for _, upstreams := range all {
		for _, u := range upstreams {
			of := sourceOf{u.name, u.key}
			envs[of] = append(envs[of], u.env)
		}
	}
	return envs
}

// reconcileLocked makes the sources and settings follow the configurations in
// use. If several name an upstream differently, the oldest one counts.
func (in *inputs) reconcileLocked() {
	in.reconcileWatchesLocked()
	all := in.expandLocked()
	wanted := all.wanted()
	var ofOtherLog []*input
	var stalled *durable
	if len(in.uses) > 0 {
		first := in.uses[0]
		in.hub.shaped.Store(&first.shape)
		ofOtherLog = in.leaveLogLocked(wanted)
		stalled = in.hub.applyLog(first)
	}
	postponed := in.renameSourcesLocked(all, wanted)
	for _, one := range ofOtherLog {
		in.succeedLocked(one, wanted[one.name], stalled)
	}
	if len(in.uses) > 0 {
		for name, one := range in.sources {
			u := wanted[name]
			switch {
			case u == nil:
				in.leaveLocked(one)
			case u.key != one.key:
				in.leaveLocked(one)
				in.succeedLocked(one, u, stalled)
			default:
				one.shape.Store(u.shape)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if in.sources[name] == nil && !postponed[name] {
			in.joinLocked(wanted[name])
		}
	}
	envs := all.environments()
	for name, one := range in.sources {
		one.source.setEnvironments(one.use, envs[sourceOf{name, one.key}])
	}
	if len(in.uses) > 0 {
		in.hub.counts.keep(in.countedNamesLocked())
	}
	in.keepValuesLocked()
	in.applyDemandLocked()
	in.hub.sourceChanged()
}

// keepValuesLocked has the last values kept of those sources only that there are, or
// may be once addresses have been found.
func (in *inputs) keepValuesLocked() {
	if len(in.uses) == 0 {
		return // clients are still leaving
	}
	names := make(map[string]bool, len(in.sources))
	for name := range in.sources {
		names[name] = true
	}
	var sought []string // upstreams whose addresses are not known yet
	for _, def := range in.uses {
		for _, u := range def.upstreams {
			if w := in.watches[u.key]; u.expands && (w == nil || len(w.addresses) == 0) {
				sought = append(sought, memberName(u.name, ""))
			}
		}
	}
	tags := in.hub.tags
	in.hub.log.Load().values.keepSources(func(number uint32) bool {
		name, _, ok := tags.sourceAt(number)
		return ok && names[name] || slices.ContainsFunc(sought, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	})
}

// expandLocked returns the upstreams of the configurations in use.
func (in *inputs) expandLocked() used {
	all := make(used, len(in.uses))
	for i, def := range in.uses {
		for _, u := range def.upstreams {
			if !u.expands {
				all[i] = append(all[i], u)
				continue
			}
			if w := in.watches[u.key]; w != nil {
				for _, address := range w.addresses {
					all[i] = append(all[i], u.member(address))
				}
			}
		}
	}
	return all
}

// reconcileWatchesLocked looks up addresses for the dynamic upstreams in use.
func (in *inputs) reconcileWatchesLocked() {
	if len(in.uses) == 0 {
		return // clients are still leaving; Destruct ends the look-ups
	}
	wanted := make(map[string]*upstreamDef)
	for _, def := range in.uses {
		for _, u := range def.upstreams {
			if u.expands && wanted[u.key] == nil {
				wanted[u.key] = u
			}
		}
	}
	before := maps.Clone(in.watches)
	for key, w := range in.watches {
		if wanted[key] == nil {
			w.cancel()
			delete(in.watches, key)
		}
	}
	for key, u := range wanted {
		if w := in.watches[key]; w != nil {
			w.upstream = u
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		w := &watch{upstream: u, look: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{})}
		// An upstream whose connections are configured differently is at the same
		// addresses: its sources are exchanged, and go on where they were.
		for _, old := range before {
			if old.upstream.name == u.name && reflect.DeepEqual(old.upstream.spec.Dynamic, u.spec.Dynamic) {
				w.addresses = old.addresses
			}
		}
		in.watches[key] = w
		go in.watchMembers(ctx, w)
	}
}

// watchMembers joins and leaves sources as their addresses come and go. inputs
// owns it; the watch's cancel ends it.
func (in *inputs) watchMembers(ctx context.Context, w *watch) {
	defer close(w.done)
	wanted := func() (*environment, bool) { return in.watchEnvironment(w) }
	logger := func() *zap.Logger { return in.watchLogger(w) }
	watchAddresses(ctx, wanted, w.look, logger, func(addresses []string) { in.found(ctx, w, addresses) })
}

// renameSourcesLocked finds the upstreams that only have another name in the
// newest configuration. They keep their connection, and are not joined beside
// their old names: every event would come twice. It returns the names that have
// to wait until the configuration with the old name has left.
func (in *inputs) renameSourcesLocked(all used, wanted map[string]*upstreamDef) (postponed map[string]bool) {
	if len(all) == 0 {
		return nil
	}
	stays := make(map[string]string) // key by name
	for _, u := range all.newest() {
		stays[u.name] = u.key
	}
	postponed = make(map[string]bool)
	renames := make(map[string]*input) // by new name
	taken := make(map[*input]bool)
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		key := wanted[name].key
		if one := in.sources[name]; one != nil && one.key == key {
			continue
		}
		for _, before := range slices.Sorted(maps.Keys(in.sources)) {
			one := in.sources[before]
			if one.key != key || stays[before] == key || taken[one] {
				continue
			}
			taken[one] = true
			if u := wanted[before]; u != nil && u.key == key {
				postponed[name] = true
			} else {
				renames[name] = one
			}
			break
		}
	}
	for _, one := range renames {
		delete(in.sources, one.name)
	}
	log, numbers := in.hub.log.Load(), make(map[uint32]uint32)
	head := log.memory.Head()
	for name, one := range renames {
		if other := in.sources[name]; other != nil {
			in.leaveLocked(other)
		}
		renamed := newInput(in.hub, one.source, wanted[name])
		in.hub.counts.addLeft(one.countedName(), one.count())
		renamed.use = one.source.exchange(one.use, renamed)
		numbers[one.sourceID] = renamed.sourceID
		in.hub.tags.noteUnused(one.name)
		in.sources[name] = renamed
	}
	if len(numbers) > 0 {
		log.values.renameSources(numbers, head)
		if log.durable != nil {
			log.durable.keeping.hasten()
		}
	}
	return postponed
}

// joinLocked subscribes to a source. The caller supplies the environments.
func (in *inputs) joinLocked(u *upstreamDef) {
	key := u.key
	if u.spec.Log != "" {
		// The stream of this name that a reload has removed may still have clients,
		// and where its source is, another log is.
		key += " " + in.hub.id
	}
	joined := newInput(in.hub, acquireSource(key, u.spec), u)
	joined.use = joined.source.subscribe(joined)
	in.sources[u.name] = joined
}

// leaveLocked gives up a source. It waits until the source has ended, if this
// was its last subscription, and takes over its events until then: events that
// the source has read count as received when another goes on where it was.
func (in *inputs) leaveLocked(one *input) {
	releaseSource(one.source)
	one.source.unsubscribe(one.use)
	if d := in.hub.log.Load().durable; d != nil {
		d.detach(one.name, &one.source.intake)
	}
	in.hub.counts.addLeft(one.countedName(), one.count())
	in.hub.tags.noteUnused(one.name)
	delete(in.sources, one.name)
}

// leaveLogLocked gives up the sources that are about to go on where another log ends,
// and returns them. All of their events are in the log that they leave: one that came
// into the next log would stand before those that the next source has sent again.
func (in *inputs) leaveLogLocked(wanted map[string]*upstreamDef) (left []*input) {
	for name, one := range in.sources {
		if u := wanted[name]; u != nil && u.spec.Log != one.source.spec.Log {
			in.leaveLocked(one)
			left = append(left, one)
		}
	}
	return left
}

// succeedLocked joins the source that takes the place of one that was left, as its
// connection is configured differently from now on. When the new source asks the same
// URLs, it goes on where the old one was; with stalled, after what that has committed.
func (in *inputs) succeedLocked(one *input, u *upstreamDef, stalled *durable) {
	old := one.source
	in.joinLocked(u)
	if !slices.Equal(old.spec.URLs, u.spec.URLs) {
		return
	}
	next := in.sources[u.name].source
	last := old.intake.lastID(one.use, math.MaxInt)
	if last == "" {
		last = one.from
	}
	in.sources[u.name].from = last
	if stalled != nil {
		if p := stalled.committed(one.name); p != nil {
			next.beginAt(func() *startPoint { return p })
			return
		}
	}
	if old.hasEnded() {
		next.inherit(old)
	} else { // another stream keeps the old one
		next.setSeed(last)
	}
}

// startAfresh has the sources go on after the newest of their events in the log,
// whoever has written these: what their connections brought last may not have
// become part of it. The counts go on, and event handlers notice nothing.
func (in *inputs) startAfresh() {
	in.mu.Lock()
	defer in.mu.Unlock()
	var left []*input
	announced := make(map[string]phase)
	for _, one := range in.sources {
		if one.source.dialled() {
			left = append(left, one)
		}
	}
	for _, one := range left { // all, before any is joined: two may have one source
		announced[one.name] = one.source.announcedTo(one.use)
		in.leaveLocked(one)
	}
	if len(left) > 0 {
		in.reconcileLocked()
	}
	for name, was := range announced {
		if one := in.sources[name]; one != nil {
			one.source.setAnnounced(one.use, was)
		}
	}
}

// wantsSourcesLocked reports whether the stream wants its sources connected.
func (in *inputs) wantsSourcesLocked() bool {
	return in.demandedLocked() && in.hub.log.Load().takesEvents()
}

// demandedLocked reports whether somebody wants the stream's events.
func (in *inputs) demandedLocked() bool { return in.demanded || !in.hub.shaped.Load().onDemand }

// applyDemandLocked notifies the sources, and the look-ups for their addresses,
// whether they are wanted.
func (in *inputs) applyDemandLocked() {
	seed := in.hub.audience.firstAsked()
	if in.hub.log.Load().memory.Head() > 0 {
		seed = "" // a source that comes later is not asked for all of it again
	}
	wanted := in.wantsSourcesLocked()
	durable := in.hub.log.Load().durable
	if durable != nil {
		durable.setDemand(in.demandedLocked())
	}
	for _, one := range in.sources {
		if durable != nil && wanted && !one.source.dialled() {
			one.source.beginAt(func() *startPoint { return durable.goOn(one) })
		}
		one.source.setDemand(one.use, wanted, seed)
	}
	for _, w := range in.watches {
		nudge(w.look)
	}
}
