package ssefanin

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

const (
	// The types shown are the most frequent of the last events.
	shownTypes     = 32
	shownTypesFrom = 256  // events of one log
	sampledTypes   = 4096 // events of all keys' logs together
)

// streamView is a status, and the counts that only metrics have beside it.
type streamView struct {
	streamStatus
	counted map[string]*countedUpstream // by counted name
	ends    [maxEndReasons]uint64       // by number of the reason
	delay   delayCounts
	commits delayCounts // of a log that is kept besides memory
	seen    int         // events whose types were looked at
}

// countedUpstream has the counts under one configured name.
type countedUpstream struct {
	upstreamCounts
	up        bool
	lastEvent int64 // Unix ms
}

// viewStreams collects the streams of the process. A removed stream whose
// clients are leaving comes after one of the same name that is configured.
func viewStreams() []*streamView {
	live := liveHubs.list()
	keyed := make(map[*keyedStream][]*hub)
	keyedStreams.Range(func(_, value any) bool {
		keyed[value.(*keyedStream)] = nil
		return true
	})
	var views []*streamView
	for _, h := range live {
		if h.keyed != nil {
			keyed[h.keyed] = append(keyed[h.keyed], h)
		} else if v := h.view(); v != nil {
			views = append(views, v)
		}
	}
	for k, all := range keyed {
		if v := k.view(all); v != nil {
			views = append(views, v)
		}
	}
	slices.SortFunc(views, func(a, b *streamView) int {
		if a.Removed != b.Removed && a.Name == b.Name {
			if a.Removed {
				return 1
			}
			return -1
		}
		return strings.Compare(a.Name, b.Name)
	})
	// one entry for all that are leaving
	var merged []*streamView
	for _, v := range views {
		if n := len(merged); n > 0 && merged[n-1].Name == v.Name && merged[n-1].Removed == v.Removed {
			merged[n-1].merge(v)
		} else {
			merged = append(merged, v)
		}
	}
	for _, v := range merged {
		v.trim()
	}
	return merged
}

func newStreamView(name string) *streamView {
	v := &streamView{counted: make(map[string]*countedUpstream)}
	v.Name, v.Upstreams, v.Types = name, []*upstreamStatus{}, make(map[string]int)
	return v
}

// view returns the view of a stream; nil before a configuration with it was
// started.
func (h *hub) view() *streamView {
	v := newStreamView(h.label)
	if !v.addHub(h) {
		return nil
	}
	v.addCounts(h.counts, nil)
	return v
}

// view returns the view of a keyed stream and the hubs of its keys; nil before
// a configuration with it was started.
func (k *keyedStream) view(all []*hub) *streamView {
	// Before the hubs: the counts of one that ends in between are missing this
	// time, rather than counted twice.
	before := k.counts.before()
	v := newStreamView(k.label)
	v.Keyed, v.OnDemand = true, true
	st := k.snapshot()
	if len(st.uses) == 0 && len(all) == 0 {
		return nil
	}
	v.Keys, v.Removed = st.keys, st.gone
	for _, def := range st.uses {
		v.addConfigured(def)
	}
	if def := firstOf(st.uses); def != nil {
		v.MaxKeys, v.Clients.Max = def.maxStreams, def.maxClients()
		v.Log.IDs, v.Log.MaxEvents = def.ids, def.retain.MaxEvents
		v.Log.MaxBytes, v.Log.MaxAge = def.retain.MaxBytes, def.retain.MaxAge.Milliseconds()
		if def.values != nil {
			v.Log.LastValues = &valuesStatus{Max: def.values.bounds.Max, Evicted: k.counts.values.Load()}
		}
	}
	for _, h := range all {
		v.addHub(h)
	}
	v.Log.Epoch, v.Log.Tail = "", 0 // of one key, they mean nothing
	v.addCounts(k.counts, before)
	return v
}

// addConfigured adds the upstreams of a definition that are not there yet.
func (v *streamView) addConfigured(def *definition) {
	for _, u := range def.upstreams {
		v.count(u.name)
		if u.expands && !v.Keyed {
			continue // its members are shown; it is, when there are none
		}
		if us := v.upstream(u.name); us.URLs == nil {
			us.URLs, us.Policy = shownURLs(u.spec, nil), u.spec.Policy
		}
	}
}

func (v *streamView) count(name string) *countedUpstream {
	n := v.counted[name]
	if n == nil {
		n = new(countedUpstream)
		v.counted[name] = n
	}
	return n
}

func (v *streamView) upstream(name string) *upstreamStatus {
	if us := v.find(name); us != nil {
		return us
	}
	us := &upstreamStatus{Name: name, State: phaseIdle}
	v.Upstreams = append(v.Upstreams, us)
	return us
}

// find returns the upstream of a name; nil if there is none.
func (v *streamView) find(name string) *upstreamStatus {
	for _, us := range v.Upstreams {
		if us.Name == name {
			return us
		}
	}
	return nil
}

// addHub adds a stream, or that of one key. False if no configuration with it
// was started yet.
func (v *streamView) addHub(h *hub) bool {
	in := h.inputs.snapshot()
	if !in.attached {
		return false
	}
	v.addInputs(h, in)
	log := h.log.Load()
	if log.durable != nil {
		v.showTold(log.durable.cluster.upstreams())
	}
	v.addLog(log)
	v.addTypes(h.tags, log)
	clients := h.audience.snapshot()
	if h.keyed == nil {
		v.Removed = clients.gone
	}
	v.Clients.Connected += clients.connected
	v.Clients.MaxLag = max(v.Clients.MaxLag, clients.maxLag)
	v.Clients.Oldest = earlier(v.Clients.Oldest, clients.oldest)
	return true
}

func (v *streamView) addInputs(h *hub, in inputsStatus) {
	v.OnDemand = v.OnDemand || h.shaped.Load().onDemand
	if h.keyed == nil {
		for name, n := range in.left {
			v.count(name).upstreamCounts = n
		}
		for _, def := range in.uses {
			v.addConfigured(def)
		}
		if def := firstOf(in.uses); def != nil {
			v.Clients.Max = def.maxClients()
		}
	}
	for _, src := range in.sources {
		n, us := v.count(src.counted), &src.status
		us.add(src.counts)
		n.combine(src.counts, plus)
		n.up = n.up || us.State == phaseUp
		n.lastEvent = max(n.lastEvent, us.LastEvent)
		v.upstream(us.Name).merge(us)
	}
	if h.keyed != nil {
		return
	}
	for _, u := range in.empty {
		us := v.upstream(u.name)
		us.URLs, us.Policy = shownURLs(u.spec, nil), u.spec.Policy
	}
}

// showTold has the upstreams show how they are on the node that has them connected.
// Counts are this node's own.
func (v *streamView) showTold(all []upstreamStatus) {
	for _, told := range all {
		us := v.upstream(told.Name)
		us.State, us.Since, us.RetryAt = told.State, told.Since, told.RetryAt
		us.Reason, us.Error, us.Connected = told.Reason, told.Error, told.Connected
		us.LastEvent, us.LastEventID = told.LastEvent, told.LastEventID
	}
}

func (v *streamView) addLog(log *streamLog) {
	var store *storeStatus
	if log.durable != nil {
		store = log.durable.view() // before memory, which gets what the store has
	}
	st, o := log.memory.Stats(), log.memory.Options()
	l := logStatus{
		Epoch: log.memory.Epoch(), IDs: log.ids, Head: st.Head, Tail: st.Tail,
		Events: st.Events, Bytes: st.Bytes, Memory: st.Memory,
		Oldest: unixMilli(st.Oldest), Newest: unixMilli(st.Newest),
		MaxEvents: o.MaxEvents, MaxBytes: o.MaxBytes, MaxAge: o.MaxAge.Milliseconds(),
	}
	l.LastValues = log.values.status()
	if store != nil {
		l.describe(store, log.durable.def.Load())
		v.commits = log.durable.delay.delays.load()
	}
	v.Log.merge(l)
}

func (v *streamView) addTypes(t *tags, log *streamLog) {
	if v.seen >= sampledTypes {
		return
	}
	last := log.memory.LastTags(shownTypesFrom)
	v.seen += len(last)
	for name, n := range t.countTypes(last) {
		v.Types[name] += n
	}
}

// addCounts adds the stream's counts. before has the counts of sources that
// were left, unless they are in the stream's already.
func (v *streamView) addCounts(c *streamCounts, before map[string]upstreamCounts) {
	for name, n := range v.counted {
		n.combine(before[name], plus)
		n.upstreamCounts = c.ratchet(name, n.upstreamCounts)
		if us := v.find(name); us != nil {
			us.set(n.upstreamCounts)
		}
	}
	v.Clients.Total = c.clients.Load()
	v.Clients.Refused = c.refused.load()
	v.Delivered = deliveredStatus{Events: c.events.Load(), Bytes: c.bytes.Load(), Replayed: c.replayed.Load()}
	v.Gaps = gapsStatus{Expired: c.gaps[0].Load(), Unknown: c.gaps[1].Load()}
	for i := range v.ends {
		v.ends[i] = c.ends[i].Load()
	}
	v.Clients.timeouts = v.ends[slices.Index(endReasons, endTimeout)]
	v.Clients.overtaken = v.ends[slices.Index(endReasons, endSlow)]
	v.delay = c.delay.load()
}

// merge adds another stream of the same name.
func (v *streamView) merge(other *streamView) {
	v.Keyed = v.Keyed || other.Keyed
	v.OnDemand = v.OnDemand || other.OnDemand
	v.Keys += other.Keys
	v.MaxKeys = max(v.MaxKeys, other.MaxKeys)
	for _, us := range other.Upstreams {
		v.upstream(us.Name).merge(us)
	}
	v.Log.merge(other.Log)
	v.Clients.Connected += other.Clients.Connected
	v.Clients.Total += other.Clients.Total
	v.Clients.MaxLag = max(v.Clients.MaxLag, other.Clients.MaxLag)
	v.Clients.Oldest = earlier(v.Clients.Oldest, other.Clients.Oldest)
	v.Clients.Max = lowerLimit(v.Clients.Max, other.Clients.Max)
	v.Clients.timeouts += other.Clients.timeouts
	v.Clients.overtaken += other.Clients.overtaken
	for why, n := range other.Clients.Refused {
		v.Clients.Refused[why] += n
	}
	v.Delivered.Events += other.Delivered.Events
	v.Delivered.Bytes += other.Delivered.Bytes
	v.Delivered.Replayed += other.Delivered.Replayed
	v.Gaps.Expired += other.Gaps.Expired
	v.Gaps.Unknown += other.Gaps.Unknown
	for name, n := range other.Types {
		v.Types[name] += n
	}
	for name, n := range other.counted {
		own := v.count(name)
		own.combine(n.upstreamCounts, plus)
		own.up = own.up || n.up
		own.lastEvent = max(own.lastEvent, n.lastEvent)
	}
	for i := range v.ends {
		v.ends[i] += other.ends[i]
	}
	v.delay.add(other.delay)
	if other.Log.Store != nil {
		v.commits = other.commits // of the store that is shown
	}
}

// trim puts everything into its final order and bounds.
func (v *streamView) trim() {
	slices.SortFunc(v.Upstreams, func(a, b *upstreamStatus) int { return strings.Compare(a.Name, b.Name) })
	for _, us := range v.Upstreams {
		if us.URLs == nil {
			us.URLs = []string{}
		}
		if us.Connected == nil {
			us.Connected = []string{}
		}
	}
	if len(v.Types) > shownTypes {
		names := slices.SortedFunc(maps.Keys(v.Types), func(a, b string) int {
			return cmp.Or(cmp.Compare(v.Types[b], v.Types[a]), strings.Compare(a, b))
		})
		for _, name := range names[shownTypes:] {
			delete(v.Types, name)
		}
	}
}

// snapshotStreams returns the status of every stream of the process, by name.
func snapshotStreams() []streamStatus {
	views := viewStreams()
	all := make([]streamStatus, len(views))
	for i, v := range views {
		all[i] = v.streamStatus
	}
	return all
}
