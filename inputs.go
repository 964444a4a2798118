package ssefanin

import (
	"context"
	"slices"
	"sync"

	"go.uber.org/zap"
)

// inputs has the configurations that use one stream, and the sources that it
// has therefore. The hub owns it.
//
// Its lock is held while sources start and end, never on the way of an event.
// On a client's way, only questions about the sources (their states, a filter's
// names) take it.
//
// Safe for concurrent use.
type inputs struct {
	hub *hub

	mu       sync.Mutex        // protects the fields below; taken before the audience's, and before the sources'
	uses     []*definition     // configurations that use the stream, oldest first
	sources  map[string]*input // by upstream name
	watches  map[string]*watch // by source key: dynamic upstreams whose addresses are sources of their own
	demanded bool              // the sources are wanted
	attached bool              // a configuration that uses the stream was started at least once
}

// watch looks up the addresses of a dynamic upstream that are sources of
// their own. inputs owns it.
type watch struct {
	upstream  *upstreamDef  // of the oldest configuration; the lock of inputs protects it and addresses
	addresses []string      // found last
	look      chan struct{} // has a token after a change of whether they are wanted
	cancel    context.CancelFunc
	done      chan struct{}
}

func newInputs(h *hub) *inputs {
	return &inputs{hub: h, sources: make(map[string]*input), watches: make(map[string]*watch)}
}

// attach adds a configuration that uses the stream. It only adds: sources
// that are new are joined at once, everything else that is different waits
// until the configurations before it have left, since this one may yet fail
// to load.
func (in *inputs) attach(def *definition) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.uses = append(in.uses, def)
	in.attached = true
	in.reconcileLocked()
}

// detach removes a configuration, and with it the sources that only it wanted.
// The last one leaves everything running: either the hub is destructed at once,
// or clients are still to be drained.
func (in *inputs) detach(def *definition) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.uses = slices.DeleteFunc(in.uses, func(other *definition) bool { return other == def })
	in.reconcileLocked()
}

// release gives up all sources, and waits for the look-ups. It is called once,
// when the hub has no clients and gets none.
func (in *inputs) release() {
	in.mu.Lock()
	for _, w := range in.watches {
		w.cancel()
	}
	watches := in.watches
	in.watches = make(map[string]*watch)
	for _, one := range in.sources {
		in.leaveLocked(one)
	}
	in.mu.Unlock()
	for _, w := range watches {
		<-w.done
	}
}

// followDemand has the sources of a stream that is connected on demand wanted
// as long as there is a notifier: while there are clients, or were a linger
// ago. Of two calls, from any goroutines, the later one counts: a notifier that
// ends takes nothing from the next one, which a client has started meanwhile.
func (in *inputs) followDemand() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if wanted := in.hub.audience.present(); in.demanded != wanted {
		in.demanded = wanted
		in.applyDemandLocked()
	}
}

// followWriter has the sources of a stream whose log is kept besides memory
// wanted as long as the log can be written.
func (in *inputs) followWriter() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.applyDemandLocked()
}

// watchEnvironment returns the environment to look up the addresses of a watch
// with, and whether they are wanted.
func (in *inputs) watchEnvironment(w *watch) (*environment, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return w.upstream.env, len(in.uses) > 0 && in.wantsSourcesLocked()
}

// watchLogger returns the logger of a watch, which a reload may replace.
func (in *inputs) watchLogger(w *watch) *zap.Logger {
	in.mu.Lock()
	defer in.mu.Unlock()
	return w.upstream.env.logger.With(zap.String("upstream", w.upstream.name), zap.String("stream", in.hub.label))
}

// found takes over the addresses that a watch has found, unless it was ended.
func (in *inputs) found(ctx context.Context, w *watch, addresses []string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if ctx.Err() == nil {
		w.addresses = addresses
		in.reconcileLocked()
	}
}

// inUse returns the configuration that counts, nil if there is none.
func (in *inputs) inUse() *definition {
	in.mu.Lock()
	defer in.mu.Unlock()
	return firstOf(in.uses)
}

// states returns the states of the sources, by name; where another node has them
// connected, as that has told.
func (in *inputs) states() map[string]sourceState {
	if d := in.hub.log.Load().durable; d != nil {
		if all := d.cluster.upstreams(); all != nil {
			return toldStates(all)
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	states := make(map[string]sourceState, len(in.sources))
	for name, one := range in.sources {
		states[name] = one.source.status()
	}
	return states
}

// names returns the names of the sources.
func (in *inputs) names() map[string]bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	names := make(map[string]bool, len(in.sources))
	for name := range in.sources {
		names[name] = true
	}
	return names
}

// defines reports whether a configuration in use has an upstream of that name,
// whose addresses may not have been found yet.
func (in *inputs) defines(name string) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.ContainsFunc(in.uses, func(def *definition) bool {
		return slices.ContainsFunc(def.upstreams, func(u *upstreamDef) bool { return u.name == name })
	})
}

// beginsAfter reports whether an id is the one that the only upstream was, or is
// to be, asked for at its very first connection: the log begins after it.
func (in *inputs) beginsAfter(id string) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.hub.audience.firstAsked() != id || len(in.sources) == 0 {
		return false
	}
	for _, one := range in.sources {
		if !one.source.beginsAfter(id) {
			return false
		}
	}
	return true
}

// reconnect has the sources that go by an upstream's name connected anew. It
// returns how many there are, and the names of all sources.
func (in *inputs) reconnect(upstream string) (n int, names []string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for name, one := range in.sources {
		names = append(names, name)
		if name == upstream || in.hub.tags.upstreamOf(name) == upstream {
			one.source.reconnect()
			n++
		}
	}
	return n, names
}

// inputStatus is the operators' view of one source.
type inputStatus struct {
	counted string // the name under which it is counted
	counts  upstreamCounts
	status  upstreamStatus // without counts
}

// inputsStatus is the operators' view of the sources of a stream.
type inputsStatus struct {
	attached bool          // a configuration was started; if not, nothing is known
	uses     []*definition // in use, oldest first
	sources  []inputStatus
	left     map[string]upstreamCounts // of sources that were left, by counted name; not of one key
	empty    []*upstreamDef            // dynamic ones without an address
}

// snapshot returns the operators' view.
func (in *inputs) snapshot() inputsStatus {
	in.mu.Lock()
	defer in.mu.Unlock()
	st := inputsStatus{attached: in.attached, uses: slices.Clone(in.uses)}
	if in.hub.keyed == nil {
		st.left = in.hub.counts.before()
	}
	for _, one := range in.sources {
		st.sources = append(st.sources, inputStatus{one.countedName(), one.count(), one.status()})
	}
	for _, def := range in.uses {
		for _, u := range def.upstreams {
			if w := in.watches[u.key]; u.expands && (w == nil || len(w.addresses) == 0) {
				st.empty = append(st.empty, u)
			}
		}
	}
	return st
}

// countedNamesLocked are the names that are configured.
func (in *inputs) countedNamesLocked() map[string]bool {
	names := make(map[string]bool)
	for _, def := range in.uses {
		for _, u := range def.upstreams {
			names[u.name] = true
		}
	}
	return names
}
