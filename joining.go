package ssefanin

import (
	"context"
	"maps"
	"slices"

	"go.uber.org/zap"
)

// watch looks up the addresses of a dynamic upstream that are sources of
// their own. The hub owns it.
type watch struct {
	upstream  *upstreamDef // of the oldest configuration; the hub's lifeMu protects it and addresses
	addresses []string     // found last
	cancel    context.CancelFunc
	done      chan struct{}
}

// used is what the configurations in use make of a stream's upstreams: those of
// each of them, oldest first, with an upstream for each address where addresses
// are sources of their own.
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

// environments returns what each source can be dialled with, oldest first.
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

// reconcile makes the sources and settings those of the configurations in
// use. An upstream that several of them name differently is that of the
// oldest. The caller holds lifeMu.
func (h *hub) reconcile() {
	if len(h.uses) > 0 {
		first := h.uses[0]
		h.shaped.Store(&first.shape)
		h.applyRetain(first.retain, first.ids)
	}
	h.reconcileWatches()
	all := h.expand()
	wanted := all.wanted()
	postponed := h.renameSources(all, wanted)
	if len(h.uses) > 0 {
		for name, sub := range h.sources {
			u := wanted[name]
			switch {
			case u == nil:
				h.leave(sub)
			case u.key != sub.key:
				h.replace(sub, u)
			default:
				sub.shape.Store(u.shape)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if h.sources[name] == nil && !postponed[name] {
			h.join(wanted[name])
		}
	}
	envs := all.environments()
	for name, sub := range h.sources {
		sub.source.setEnvironments(sub, envs[sourceOf{name, sub.key}])
	}
	if len(h.uses) > 0 {
		h.counts.keep(h.countedNames())
	}
	h.applyDemand()
	h.sourceChanged()
}

// expand returns the upstreams of the configurations in use. The caller holds
// lifeMu.
func (h *hub) expand() used {
	all := make(used, len(h.uses))
	for i, def := range h.uses {
		for _, u := range def.upstreams {
			if !u.expands {
				all[i] = append(all[i], u)
				continue
			}
			if w := h.watches[u.key]; w != nil {
				for _, address := range w.addresses {
					all[i] = append(all[i], u.member(address))
				}
			}
		}
	}
	return all
}

// reconcileWatches looks up addresses for the dynamic upstreams in use. The
// caller holds lifeMu.
func (h *hub) reconcileWatches() {
	if len(h.uses) == 0 {
		return // clients are still leaving; Destruct ends the look-ups
	}
	wanted := make(map[string]*upstreamDef)
	for _, def := range h.uses {
		for _, u := range def.upstreams {
			if u.expands && wanted[u.key] == nil {
				wanted[u.key] = u
			}
		}
	}
	for key, w := range h.watches {
		if wanted[key] == nil {
			w.cancel()
			delete(h.watches, key)
		}
	}
	for key, u := range wanted {
		if w := h.watches[key]; w != nil {
			w.upstream = u
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		w := &watch{upstream: u, cancel: cancel, done: make(chan struct{})}
		h.watches[key] = w
		go h.watchMembers(ctx, w)
	}
}

// watchMembers joins and leaves sources as their addresses come and go. The
// hub owns it; the watch's cancel ends it.
func (h *hub) watchMembers(ctx context.Context, w *watch) {
	defer close(w.done)
	wanted := func() (*environment, bool) {
		h.lifeMu.Lock()
		defer h.lifeMu.Unlock()
		return w.upstream.env, len(h.uses) > 0 && h.wantsSources()
	}
	logger := func() *zap.Logger {
		h.lifeMu.Lock()
		defer h.lifeMu.Unlock()
		return w.upstream.env.logger.With(zap.String("upstream", w.upstream.name), zap.String("stream", h.label))
	}
	watchAddresses(ctx, wanted, logger, func(addresses []string) {
		h.lifeMu.Lock()
		defer h.lifeMu.Unlock()
		if ctx.Err() == nil {
			w.addresses = addresses
			h.reconcile()
		}
	})
}

// renameSources finds the upstreams that only have another name in the newest
// configuration. They keep their connection, and are not joined beside what
// they are renamed from: every event would come twice. It returns the names
// that have to wait until the configuration with the old name has left. The
// caller holds lifeMu.
func (h *hub) renameSources(all used, wanted map[string]*upstreamDef) (postponed map[string]bool) {
	if len(all) == 0 {
		return nil
	}
	stays := make(map[string]string) // key by name
	for _, u := range all.newest() {
		stays[u.name] = u.key
	}
	postponed = make(map[string]bool)
	renames := make(map[string]*subscription) // by new name
	taken := make(map[*subscription]bool)
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		key := wanted[name].key
		if sub := h.sources[name]; sub != nil && sub.key == key {
			continue
		}
		for _, before := range slices.Sorted(maps.Keys(h.sources)) {
			sub := h.sources[before]
			if sub.key != key || stays[before] == key || taken[sub] {
				continue
			}
			taken[sub] = true
			if u := wanted[before]; u != nil && u.key == key {
				postponed[name] = true
			} else {
				renames[name] = sub
			}
			break
		}
	}
	for _, sub := range renames {
		delete(h.sources, sub.name)
	}
	for name, sub := range renames {
		if other := h.sources[name]; other != nil {
			h.leave(other)
		}
		renamed := h.newSubscription(sub.source, wanted[name])
		h.counts.leave(h.countedName(sub), sub.count())
		sub.source.exchange(sub, renamed)
		h.tags.release(sub.name)
		h.sources[name] = renamed
	}
	return postponed
}

// join subscribes to a source. The caller holds lifeMu, and supplies the
// environments.
func (h *hub) join(u *upstreamDef) {
	sub := h.newSubscription(acquireSource(u.key, u.spec), u)
	sub.source.subscribe(sub)
	h.sources[u.name] = sub
}

func (h *hub) newSubscription(s *source, u *upstreamDef) *subscription {
	sub := &subscription{source: s, hub: h, name: u.name, key: u.key, sourceID: h.tags.source(u.name, u.upstream)}
	sub.since = s.countedSince()
	sub.shape.Store(u.shape)
	return sub
}

// leave gives up a source. It waits until the source has ended, if this was
// its last subscription, and takes over its events until then: what the source
// has read counts as received when another goes on where it was. The caller
// holds lifeMu.
func (h *hub) leave(sub *subscription) {
	releaseSource(sub.source)
	sub.source.unsubscribe(sub)
	h.counts.leave(h.countedName(sub), sub.count())
	h.tags.release(sub.name)
	delete(h.sources, sub.name)
}

// replace exchanges the source of an upstream whose connection is configured
// differently from now on. When the new source asks the same URLs, it goes on
// where the old one was. The caller holds lifeMu.
func (h *hub) replace(sub *subscription, u *upstreamDef) {
	old := sub.source
	h.leave(sub)
	h.join(u)
	if !slices.Equal(old.spec.URLs, u.spec.URLs) {
		return
	}
	if next := h.sources[u.name].source; old.ended() {
		next.inherit(old)
	} else { // another stream keeps the old one
		next.begin(string(sub.lastID))
	}
}

// wantsSources says whether the stream wants its sources connected. The
// caller holds lifeMu.
func (h *hub) wantsSources() bool {
	return h.demanded || !h.shaped.Load().onDemand
}

// applyDemand tells the sources whether they are wanted. The caller holds
// lifeMu.
func (h *hub) applyDemand() {
	h.mu.Lock()
	seed := h.seed
	h.mu.Unlock()
	if h.log.Load().Head() > 0 {
		seed = "" // a source that comes later is not asked for all of it again
	}
	wanted := h.wantsSources()
	for _, sub := range h.sources {
		sub.source.setDemand(sub, wanted, seed)
	}
}

// followDemand has the sources of a stream that is connected on demand wanted as
// long as there is a notifier: while there are clients, or were a linger ago. Of
// two calls the later one counts, whoever makes it: a notifier that ends takes
// nothing from the next one, which a client has started meanwhile.
func (h *hub) followDemand() {
	h.lifeMu.Lock()
	defer h.lifeMu.Unlock()
	h.mu.Lock()
	wanted := h.running
	h.mu.Unlock()
	if h.demanded != wanted {
		h.demanded = wanted
		h.applyDemand()
	}
}
