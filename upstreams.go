package ssefanin

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// sources holds the upstream connections of the process, by sourceSpec key.
// Each subscription holds one reference, so that a source lives as long as a
// stream wants it, over config reloads.
var sources = caddy.NewUsagePool()

// source is one upstream, connected once for every stream that names it in
// the same way. It owns the connections to its replicas, and hands each event
// to every subscription. It lives in the pool of sources.
//
// It knows the streams as listeners only.
//
// Safe for concurrent use.
type source struct {
	key  string
	spec *sourceSpec

	intake intake

	// mu protects the fields below, and envs and demand of the subscriptions.
	// The locks of runners and intake are taken below it.
	mu        sync.Mutex
	runners   map[string]*runner  // one, or with `mirror` one for each replica
	places    map[string]*replica // by id
	inherited *runner             // whose position to go on from
	before    *startPoint         // the same where one of the two is a mirror; nil: there is none
	seed      string              // id to begin with: the first client's, or where the source before was
	start     *startPoint         // where the stream's log ends; nil: that says nothing
	state     sourceState         // of the best runner
	resolved  chan struct{}       // closed when the look-ups for addresses have ended; nil if there are none
	look      chan struct{}       // has a token after a change of whether addresses are wanted

	counts sourceCounts

	ctx    context.Context
	cancel context.CancelFunc
}

// listener is a stream that has subscribed to a source, as the source knows it.
// Its methods return at once, and call nothing of the source.
type listener interface {
	// names returns the names of the upstream and the stream, for log lines.
	names() (upstream, streamName string)

	// deliver takes an event, in the order of arrival, one call at a time. hadID
	// reports whether the event before it came with an id in force. ev is valid
	// until deliver returns; enc is shared by the listeners that get the event.
	deliver(ev *sse.Event, hadID bool, enc *encoder, now time.Time)

	// stateChanged is called when the source has gone up or down, or else when
	// it is down for another reason.
	stateChanged(upOrDown bool)

	// hasRoom returns nil if the stream takes events, else a channel that is
	// closed when it does.
	hasRoom() <-chan struct{}

	// announce is called once, for event handlers, when the source has gone up
	// or down; one that never was up goes down when it first fails.
	announce(up bool, why reason, text string)
}

// subscription is one stream's use of a source, as the source knows it.
type subscription struct {
	to     listener
	lastID []byte // of the event delivered last; the intake's lock protects it

	// envs are the environments of the configurations that use the stream and
	// this source, oldest first. demand is set while the stream wants events.
	// The source's lock protects both.
	envs   []*environment
	demand bool

	// announced is what the stream's event handlers were notified of last: up,
	// down, or nothing yet. The source's lock protects it.
	announced phase
}

// deliverLocked hands over an event. The caller holds the intake's lock.
func (use *subscription) deliverLocked(ev *sse.Event, enc *encoder, now time.Time) {
	hadID := len(use.lastID) > 0
	use.lastID = append(use.lastID[:0], ev.ID...)
	use.to.deliver(ev, hadID, enc, now)
}

// acquireSource returns the source for a spec, with a reference that
// releaseSource gives back.
func acquireSource(key string, spec *sourceSpec) *source {
	val, _, _ := sources.LoadOrNew(key, func() (caddy.Destructor, error) {
		return newSource(key, spec), nil
	})
	return val.(*source)
}

// releaseSource gives up a reference. With the last one it waits for the
// source's end, so the caller holds no lock of the source.
func releaseSource(s *source) {
	// the error is that of Destruct, which has none
	_, _ = sources.Delete(s.key)
}

// newSource returns a source without connections.
func newSource(key string, spec *sourceSpec) *source {
	s := &source{
		key:     key,
		spec:    spec,
		runners: make(map[string]*runner),
		places:  make(map[string]*replica),
		look:    make(chan struct{}, 1),
		state:   sourceState{phase: phaseIdle, since: time.Now()},
	}
	s.intake.init(spec, &s.counts)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Destruct ends the connections and waits for them. The pool calls it when
// the last subscription has gone.
func (s *source) Destruct() error {
	s.cancel()
	s.mu.Lock()
	runners, resolved := s.runners, s.resolved
	s.mu.Unlock()
	if resolved != nil {
		<-resolved
	}
	for _, r := range runners {
		<-r.done
	}
	return nil
}

// subscribe adds a subscription: its listener gets every event from now on. The
// source is dialled once a subscription wants it and brings an environment to
// dial with.
func (s *source) subscribe(to listener) *subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	use := &subscription{to: to}
	s.intake.add(use)
	return use
}

// unsubscribe removes a subscription: its listener gets no event from now on.
// It gets the held events before.
func (s *source) unsubscribe(use *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intake.remove(use, s.runners)
	use.envs, use.demand = nil, false
	s.reconcileLocked()
}

// exchange replaces a subscription: each event goes to one of the two listeners.
func (s *source) exchange(old *subscription, to listener) *subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	renamed := &subscription{to: to, envs: old.envs, demand: old.demand, announced: old.announced}
	s.intake.exchange(old, renamed)
	old.envs, old.demand = nil, false
	return renamed
}

// setEnvironments sets the environments that a subscription can dial with,
// oldest first.
func (s *source) setEnvironments(use *subscription, envs []*environment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	added := slices.ContainsFunc(envs, func(env *environment) bool { return !s.usesLocked(env) })
	use.envs = envs
	s.announceLocked() // to a stream that joins a source which is up, or down
	s.reconcileLocked()
	if added { // a reload: a finished upstream may be asked again
		for _, r := range s.runners {
			r.retryFinished()
		}
	}
}

// setDemand sets whether a subscription wants the source connected. seed is an
// id to begin with, if the source was never connected and has none.
func (s *source) setDemand(use *subscription, demand bool, seed string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	use.demand = demand
	if len(s.runners) == 0 && s.seed == "" {
		s.seed = seed
	}
	s.reconcileLocked()
}

// beginsAfter reports whether the source was asked for the events after an id
// at its very first connection, or, not connected yet, can still be.
func (s *source) beginsAfter(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spec.Resume == resumeOn && (s.seed == id || s.seed == "" && len(s.runners) == 0)
}

// wantedLocked returns the environment to dial with, and whether to dial at
// all. The environment is the oldest in use, since a newer one may belong to
// a configuration that fails to load, and the oldest leaves before its
// configuration is cleaned up.
func (s *source) wantedLocked() (env *environment, wanted bool) {
	for _, use := range s.intake.list() {
		wanted = wanted || use.demand
		if env == nil && len(use.envs) > 0 {
			env = use.envs[0]
		}
	}
	return env, wanted && env != nil
}

// wanted is wantedLocked for the runners.
func (s *source) wanted() (env *environment, wanted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wantedLocked()
}

// uses reports whether an environment is still in use.
func (s *source) uses(env *environment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usesLocked(env)
}

// usesLocked is uses. The streams of keys have environments of their own, of
// one configuration and with one transport; it is the same one for all of them.
func (s *source) usesLocked(env *environment) bool {
	return slices.ContainsFunc(s.intake.list(), func(use *subscription) bool {
		return slices.ContainsFunc(use.envs, func(other *environment) bool { return other.transport == env.transport })
	})
}

// reconcileLocked starts the runners if they are wanted, and has the present
// ones, and the look-ups for addresses, look again. A source that no configuration can dial any more keeps the
// connections it has: its stream may have clients that are still leaving.
func (s *source) reconcileLocked() {
	demand := false
	for _, use := range s.intake.list() {
		demand = demand || use.demand
	}
	nudge(s.look)
	if _, wanted := s.wantedLocked(); wanted && s.ctx.Err() == nil {
		switch {
		case s.spec.Dynamic == nil:
			if len(s.runners) == 0 {
				s.setPlacesLocked(s.spec.places())
			}
		case s.resolved == nil:
			s.resolved = make(chan struct{})
			go s.resolveAddresses(s.resolved)
		}
	}
	for _, r := range s.runners {
		if demand {
			r.wake()
		} else {
			r.stopNow(errUnwanted)
		}
	}
}

// resolveAddresses keeps the replicas in step with the look-ups. The source
// owns it; it ends with the source.
func (s *source) resolveAddresses(done chan struct{}) {
	defer close(done)
	watchAddresses(s.ctx, s.wanted, s.look, s.logger, func(addresses []string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		places := make([]place, 0, len(addresses))
		for _, address := range addresses {
			places = append(places, place{id: address, address: address})
		}
		s.setPlacesLocked(s.spec.order(places))
	})
}

// setPlacesLocked makes the replicas match the given places, in their order,
// and has them connected as the policy says.
func (s *source) setPlacesLocked(places []place) {
	if s.ctx.Err() != nil {
		return
	}
	replicas := make([]*replica, 0, len(places))
	kept := make(map[string]*replica, len(places))
	for _, p := range places {
		rep := s.places[p.id]
		if rep == nil {
			rep = newReplica(p, s.spec)
		}
		kept[p.id] = rep
		replicas = append(replicas, rep)
	}
	s.places = kept
	if !s.intake.mirrors() {
		if r := s.runners[""]; r != nil {
			r.setReplicas(replicas)
		} else {
			slot, _ := s.intake.addReplica()
			s.startLocked("", replicas, slot)
		}
		return
	}
	for id, r := range s.runners {
		if kept[id] == nil { // withdrawn; Destruct need not wait for it
			r.cancel()
			delete(s.runners, id)
		}
	}
	for _, rep := range replicas {
		if s.runners[rep.id] != nil {
			continue
		}
		if slot, ok := s.intake.addReplica(); ok { // beyond 64 replicas there is nothing to gain
			s.startLocked(rep.id, []*replica{rep}, slot)
		}
	}
}

// startLocked starts a runner, which begins after the seed, or where an
// inherited one was.
func (s *source) startLocked(id string, replicas []*replica, slot int) {
	r := newRunner(s, replicas, slot)
	if s.seed != "" && r.decoder.LastEventID() == "" {
		r.decoder.SetLastEventID(s.seed)
	}
	if before := s.before; s.start == nil && before != nil {
		s.start = s.intake.remember(func() *startPoint { return before })
	}
	s.before = nil
	// Where the log has events of the source, it goes on after them: what came
	// while the stream had another log would be missing in this one.
	if s.start != nil {
		r.begin(s.start)
	} else if s.inherited != nil && id == "" {
		r.decoder, r.recents, r.connected = s.inherited.decoder, s.inherited.recents, true
		s.inherited = nil
	}
	s.runners[id] = r
	go r.run()
}

// inherit makes a source that was not dialled yet go on where another one,
// which has ended, was; where that was not dialled either, where it would have begun.
func (s *source) inherit(old *source) {
	var before, start *startPoint
	var seed string
	old.mu.Lock()
	last := old.runners[""]
	if len(old.runners) == 0 {
		last, before, start = old.inherited, old.before, old.start
	} else if old.intake.mirrors() {
		before = old.intake.soFar()
	}
	if before == nil && (last == nil || !last.connected) {
		seed = old.seed
	}
	old.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.runners) > 0 {
		return
	}
	s.before, s.start = before, start
	if s.seed == "" {
		s.seed = seed
	}
	switch {
	case last == nil || !last.connected:
	case s.intake.mirrors():
		s.before = last.soFar()
	default:
		s.inherited = last
	}
}

// beginAt makes a source that was not dialled yet go on where its stream's log
// ends, which start returns. nil changes nothing.
func (s *source) beginAt(start func() *startPoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.runners) > 0 || s.spec.Resume == resumeOff && !s.spec.Standby {
		return
	}
	if p := s.intake.remember(start); s.spec.Resume != resumeOff && p != nil {
		s.start = p
	}
}

// dialled reports whether the source was wanted before.
func (s *source) dialled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.runners) > 0
}

// setSeed makes a source that was not dialled yet begin after an event of an
// upstream that another one is still connected to. One that was dialled, or has
// another beginning, keeps it.
func (s *source) setSeed(lastID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.runners) == 0 && s.seed == "" {
		s.seed = lastID
	}
}

// reconnect drops the connections there are, forgets waits and 204 answers, and
// dials at once if the source is wanted.
func (s *source) reconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runners {
		r.reconnect()
	}
}

// hasEnded reports whether the source has ended for good.
func (s *source) hasEnded() bool {
	return s.ctx.Err() != nil
}

// runnerEnded gives back the slot of a runner that has ended, and notifies the
// streams of the state without it.
func (s *source) runnerEnded(r *runner) {
	if !s.intake.mirrors() || s.hasEnded() {
		return
	}
	s.intake.removeReplica(r.slot)
	s.stateChanged()
}

// countedSince returns the counts that a stream that joins now leaves out. A
// connection that is open counts: the stream has come to be connected.
func (s *source) countedSince() upstreamCounts {
	n := s.counts.load()
	if n.connects > 0 && s.status().phase == phaseUp {
		n.connects--
	}
	return n
}

// replicas are the states of the replicas: of a mirror by URL, else in the order
// in which they are tried.
func (s *source) replicas() []*replicaStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*replicaStatus
	for _, r := range s.runners {
		all = append(all, r.replicaStatuses()...)
	}
	if s.intake.mirrors() {
		slices.SortFunc(all, func(a, b *replicaStatus) int {
			return cmp.Or(cmp.Compare(a.place.url, b.place.url), naturally(a.place.address, b.place.address))
		})
	}
	return all
}

// addresses are those that were looked up for the source; nil if none are.
func (s *source) addresses() []string {
	if s.spec.Address != "" {
		return []string{s.spec.Address}
	}
	if s.spec.Dynamic == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.places))
}

// logger is that of a configuration in use, with the upstream's name.
func (s *source) logger() *zap.Logger {
	var logger *zap.Logger
	if env, _ := s.wanted(); env != nil {
		logger = env.logger
	} else {
		logger = activeLogger()
	}
	var name string
	subs := s.intake.list()
	streams := make([]string, 0, len(subs))
	for _, use := range subs {
		upstream, streamName := use.to.names()
		if name == "" {
			name = upstream
		}
		if !slices.Contains(streams, streamName) {
			streams = append(streams, streamName)
		}
	}
	return logger.With(zap.String("upstream", name), zap.Strings("streams", streams))
}
