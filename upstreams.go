package ssefanin

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

// sources holds the upstream connections of the process, by sourceSpec key.
// Each subscription holds one reference, so that a source lives as long as a
// stream wants it, over config reloads.
var sources = caddy.NewUsagePool()

// source is one upstream, connected once for every stream that names it in
// the same way. It owns the connections to its replicas, and hands each event
// to every subscription. It lives in the pool of sources.
//
// Locks, in the order in which they may be held together: mu, then that of a
// runner, or deliverMu, then those of the streams' logs.
//
// Safe for concurrent use.
type source struct {
	key  string
	spec *sourceSpec

	// subs is replaced, never changed, so that delivering an event takes no lock.
	subs atomic.Pointer[[]*subscription]

	mu        sync.Mutex          // protects what follows, and envs and demand of the subscriptions
	runners   map[string]*runner  // one, or with `mirror` one for each replica
	places    map[string]*replica // by id
	inherited *runner             // whose position to go on from
	seed      string              // id to begin with, from the first client
	state     sourceState         // of the best runner
	announced phase               // told to event handlers last: up, down, or nothing yet
	resolved  chan struct{}       // closed when the look-ups for addresses have ended; nil if there are none

	deliverMu sync.Mutex // makes judging and delivering an event one step; protects lastID of the subscriptions, and what receive uses of the runners
	mirror    *mirror    // nil without `mirror`; deliverMu protects it

	counts sourceCounts

	ctx    context.Context
	cancel context.CancelFunc
}

// sourceState is what a source or a runner is doing; for people, logs and
// source events.
type sourceState struct {
	phase   phase
	since   time.Time
	reason  reason // why it is not up
	text    string // the same with details
	retryAt time.Time
}

// phase is the state of a connection.
type phase string

const (
	phaseIdle       phase = "idle"       // not wanted: no client, or no configuration
	phaseConnecting phase = "connecting" // before the answer
	phaseUp         phase = "up"
	phaseDown       phase = "down"     // waiting to try again
	phaseFinished   phase = "finished" // answered 204: not dialled again until a reload
)

// subscription is one stream's use of a source.
type subscription struct {
	source   *source
	hub      *hub
	name     string // of the upstream within the stream
	key      string // of the source
	sourceID uint32 // number of the name in the stream's tags
	shape    atomic.Pointer[shape]

	lastID []byte // of the event delivered last; the source's deliverMu protects it

	// since is what the source had counted when the stream joined it.
	since    upstreamCounts
	unwanted atomic.Uint64 // events that `events` drops

	// envs are the environments of the configurations that use the stream and
	// this source, oldest first. demand says that the stream wants events now.
	// The source's mutex protects both.
	envs   []*environment
	demand bool
}

// acquireSource returns the source for a spec, with a reference that
// releaseSource gives back.
func acquireSource(key string, spec *sourceSpec) *source {
	val, _, _ := sources.LoadOrNew(key, func() (caddy.Destructor, error) {
		return newSource(key, spec), nil
	})
	return val.(*source)
}

func releaseSource(s *source) {
	// the error is that of Destruct, which has none
	_, _ = sources.Delete(s.key)
}

func newSource(key string, spec *sourceSpec) *source {
	s := &source{
		key:     key,
		spec:    spec,
		runners: make(map[string]*runner),
		places:  make(map[string]*replica),
		state:   sourceState{phase: phaseIdle, since: time.Now()},
	}
	if spec.Policy == policyMirror {
		s.mirror = newMirror()
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.subs.Store(new([]*subscription))
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

// subscribe adds a subscription: it gets every event from now on. The source
// is dialled once a subscription wants it and brings an environment to dial
// with.
func (s *source) subscribe(sub *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	subs := append(slices.Clone(*s.subs.Load()), sub)
	s.subs.Store(&subs)
}

// unsubscribe removes a subscription: it gets no event from now on. What has
// arrived and is held it gets before.
func (s *source) unsubscribe(sub *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deliverMu.Lock()
	for _, r := range s.runners {
		s.handOverLocked(r, sub)
	}
	subs := slices.DeleteFunc(slices.Clone(*s.subs.Load()), func(other *subscription) bool { return other == sub })
	s.subs.Store(&subs)
	s.deliverMu.Unlock()
	sub.envs, sub.demand = nil, false
	s.reconcileLocked()
}

// exchange puts a subscription in the place of another: each event goes to
// one of the two.
func (s *source) exchange(old, renamed *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	subs := slices.Clone(*s.subs.Load())
	subs[slices.Index(subs, old)] = renamed
	s.subs.Store(&subs)
	renamed.envs, renamed.demand = old.envs, old.demand
	old.envs, old.demand = nil, false
}

// setEnvironments says which configurations a subscription can dial with,
// oldest first.
func (s *source) setEnvironments(sub *subscription, envs []*environment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	added := slices.ContainsFunc(envs, func(env *environment) bool { return !s.usesLocked(env) })
	sub.envs = envs
	s.reconcileLocked()
	if added { // a reload: what had finished may be asked again
		for _, r := range s.runners {
			r.retryFinished()
		}
	}
}

// setDemand says whether a subscription wants the source connected. seed is
// an id to begin with, if the source was never connected and has none.
func (s *source) setDemand(sub *subscription, demand bool, seed string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub.demand = demand
	if len(s.runners) == 0 && s.seed == "" {
		s.seed = seed
	}
	s.reconcileLocked()
}

// beginsAfter says whether the source was asked for what comes after an id at
// its very first connection, or, not connected yet, can still be.
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
	for _, sub := range *s.subs.Load() {
		wanted = wanted || sub.demand
		if env == nil && len(sub.envs) > 0 {
			env = sub.envs[0]
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

// uses says whether an environment is still in use.
func (s *source) uses(env *environment) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usesLocked(env)
}

// usesLocked is uses. The streams of keys have environments of their own, of
// one configuration and with one transport; it is the same one for all of them.
func (s *source) usesLocked(env *environment) bool {
	return slices.ContainsFunc(*s.subs.Load(), func(sub *subscription) bool {
		return slices.ContainsFunc(sub.envs, func(used *environment) bool { return used.transport == env.transport })
	})
}

// reconcileLocked starts what is wanted and tells the runners to look again.
// A source that no configuration can dial any more keeps the connections it
// has: its stream may have clients that are still leaving.
func (s *source) reconcileLocked() {
	demand := false
	for _, sub := range *s.subs.Load() {
		demand = demand || sub.demand
	}
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

// resolveAddresses keeps the replicas those that the look-ups give. The
// source owns it; it ends with the source.
func (s *source) resolveAddresses(done chan struct{}) {
	defer close(done)
	watchAddresses(s.ctx, s.wanted, s.logger, func(addresses []string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		places := make([]place, 0, len(addresses))
		for _, address := range addresses {
			places = append(places, place{id: address, address: address})
		}
		s.setPlacesLocked(s.spec.order(places))
	})
}

// setPlacesLocked makes the replicas those at the given places, in their
// order, and has them connected as the policy says.
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
	if s.mirror == nil {
		if r := s.runners[""]; r != nil {
			r.setReplicas(replicas)
		} else {
			s.startLocked("", replicas, 0)
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
		s.deliverMu.Lock()
		slot, ok := s.mirror.add()
		s.deliverMu.Unlock()
		if ok { // beyond 64 replicas there is nothing to gain
			s.startLocked(rep.id, []*replica{rep}, slot)
		}
	}
}

func (s *source) startLocked(id string, replicas []*replica, slot int) {
	r := newRunner(s, replicas, slot)
	if s.seed != "" && r.decoder.LastEventID() == "" {
		r.decoder.SetLastEventID(s.seed)
	}
	if s.inherited != nil && id == "" {
		r.decoder, r.recents, r.connected = s.inherited.decoder, s.inherited.recents, true
		s.inherited = nil
	}
	s.runners[id] = r
	go r.run()
}

// inherit makes a source that was not dialled yet go on where another one,
// which has ended, was.
func (s *source) inherit(old *source) {
	old.mu.Lock()
	last := old.runners[""]
	old.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.runners) == 0 && last != nil && last.connected {
		s.inherited = last
	}
}

// begin makes a source that was not dialled yet begin after an event of an
// upstream that another one is still connected to. One that was dialled, or has
// another beginning, keeps it.
func (s *source) begin(lastID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.runners) == 0 && s.seed == "" {
		s.seed = lastID
	}
}

// ended says whether the source has ended for good.
func (s *source) ended() bool {
	return s.ctx.Err() != nil
}

// resumeElsewhere returns the id from which a mirror's runner is to resume
// instead of its own.
func (s *source) resumeElsewhere(r *runner) (id string, ok bool) {
	if s.mirror == nil || s.spec.Resume == resumeOff {
		return "", false
	}
	s.deliverMu.Lock()
	defer s.deliverMu.Unlock()
	return s.mirror.resumeElsewhere(r.slot)
}

// leaves gives the slot of a runner that has ended back, and tells the streams
// what is left without it.
func (s *source) leaves(r *runner) {
	if s.mirror == nil || s.ended() {
		return
	}
	s.deliverMu.Lock()
	s.mirror.remove(r.slot)
	s.deliverMu.Unlock()
	s.stateChanged()
}

// status returns the state of the source: that of its best runner.
func (s *source) status() sourceState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// stateChanged is called by a runner whose state has changed. The streams
// are told when the source has gone up or down.
func (s *source) stateChanged() {
	s.mu.Lock()
	was := s.state
	s.state = s.bestStateLocked()
	changed := s.state.phase != was.phase && (s.state.phase == phaseUp || was.phase == phaseUp)
	s.announceStateLocked()
	s.mu.Unlock()
	for _, sub := range *s.subs.Load() {
		if changed {
			sub.hub.sourceChanged()
		} else {
			sub.hub.reasonChanged()
		}
	}
}

func (s *source) bestStateLocked() sourceState {
	best := sourceState{phase: phaseIdle, since: s.state.since}
	for _, r := range s.runners {
		if st := r.status(); st.phase.rank() > best.phase.rank() {
			best = st
		}
	}
	if (best.phase == phaseUp) == (s.state.phase == phaseUp) {
		best.since = s.state.since // one replica is as good as the other
	} else {
		best.since = time.Now()
	}
	return best
}

// logger is that of a configuration in use, with the upstream's name.
func (s *source) logger() *zap.Logger {
	logger := caddy.Log().Named("sse_fanin")
	if env, _ := s.wanted(); env != nil {
		logger = env.logger
	}
	var name string
	subs := *s.subs.Load()
	streams := make([]string, 0, len(subs))
	for _, sub := range subs {
		if name == "" {
			name = sub.name
		}
		if !slices.Contains(streams, sub.hub.label) {
			streams = append(streams, sub.hub.label)
		}
	}
	return logger.With(zap.String("upstream", name), zap.Strings("streams", streams))
}
