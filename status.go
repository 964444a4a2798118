package ssefanin

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// The types shown are the most frequent of the last events.
	shownTypes     = 32
	shownTypesFrom = 256  // events of one log
	sampledTypes   = 4096 // events of all keys' logs together
)

// streamStatus is what operators see of a stream. It has no credentials, no
// query strings and no data. Times are Unix milliseconds, 0 is never or none.
type streamStatus struct {
	// The name, or for an unnamed stream 8 hex digits.
	Name string `json:"name"`
	// It depends on the request: what follows is of all keys together.
	Keyed bool `json:"keyed"`
	// How many keys there are now.
	Keys int `json:"keys"`
	// It is no longer configured; its clients are leaving.
	Removed bool `json:"removed"`
	// It is connected only while it has clients.
	OnDemand bool `json:"on_demand"`

	// By name.
	Upstreams []upstreamStatus `json:"upstreams"`
	Log       logStatus        `json:"log"`
	Clients   clientsStatus    `json:"clients"`
	Delivered deliveredStatus  `json:"delivered"`
	Gaps      gapsStatus       `json:"gaps"`
	// How many of the last events had which type.
	Types map[string]int `json:"types"`
}

// upstreamStatus is what operators see of an upstream of a stream.
type upstreamStatus struct {
	Name string `json:"name"`
	// As configured, without user and query.
	URLs   []string `json:"urls"`
	Policy string   `json:"policy"`
	State  phase    `json:"state"`
	Since  int64    `json:"since"`
	// How the last attempt or connection ended, also while it is up again.
	Reason  reason `json:"reason"`
	Error   string `json:"error"`
	RetryAt int64  `json:"retry_at"`

	LastEvent   int64  `json:"last_event"`
	LastEventID string `json:"last_event_id"`

	// Since the stream has this upstream.
	Connects    uint64 `json:"connects"`
	Disconnects uint64 `json:"disconnects"` // of connections; not failed attempts
	Events      uint64 `json:"events"`
	Bytes       uint64 `json:"bytes"`
	Skipped     uint64 `json:"skipped"` // too large
	Duplicates  uint64 `json:"duplicates"`

	endedAt time.Time // what Reason and Error are about
}

// logStatus is what operators see of a log.
type logStatus struct {
	Epoch  string `json:"epoch"`
	IDs    string `json:"ids"`
	Head   uint64 `json:"head"`
	Tail   uint64 `json:"tail"`
	Events uint64 `json:"events"`
	Bytes  int64  `json:"bytes"`
	Memory int64  `json:"memory"`
	Oldest int64  `json:"oldest"`
	Newest int64  `json:"newest"`

	// The bounds; of each key's log.
	MaxEvents int   `json:"max_events"`
	MaxBytes  int64 `json:"max_bytes"`
	MaxAge    int64 `json:"max_age"` // milliseconds
}

// clientsStatus is what operators see of the clients of a stream.
type clientsStatus struct {
	Connected int    `json:"connected"`
	Total     uint64 `json:"total"`
	MaxLag    uint64 `json:"max_lag"` // events
	Oldest    int64  `json:"oldest"`  // when the one that has been here longest came
}

// deliveredStatus is what clients were sent.
type deliveredStatus struct {
	Events   uint64 `json:"events"` // replayed ones included
	Bytes    uint64 `json:"bytes"`
	Replayed uint64 `json:"replayed"`
}

type gapsStatus struct {
	Expired uint64 `json:"expired"`
	Unknown uint64 `json:"unknown"`
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

// streamView is a status, and what only metrics have beside it.
type streamView struct {
	streamStatus
	counted map[string]*countedUpstream // by counted name
	ends    [maxEndReasons]uint64       // by number of the reason
	delay   delayCounts
	seen    int // events whose types were looked at
}

// countedUpstream is what is counted under one configured name.
type countedUpstream struct {
	upstreamCounts
	up        bool
	lastEvent int64 // Unix ms
}

// viewStreams collects the streams of the process. A removed stream whose
// clients are leaving comes after one of the same name that is configured.
func viewStreams() []*streamView {
	liveHubs.mu.Lock()
	live := slices.Collect(maps.Keys(liveHubs.all))
	liveHubs.mu.Unlock()
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
	v.Name, v.Upstreams, v.Types = name, []upstreamStatus{}, make(map[string]int)
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
	// Before the hubs: what is counted by one that ends in between is missing
	// this time, rather than counted twice.
	before := k.counts.before()
	v := newStreamView(k.label)
	v.Keyed, v.OnDemand = true, true
	k.mu.Lock()
	v.Keys, v.Removed = len(k.hubs), k.gone
	for _, def := range k.uses {
		v.addConfigured(def)
	}
	if len(k.uses) > 0 {
		def := k.uses[0]
		v.Log.IDs, v.Log.MaxEvents = def.ids, def.retain.MaxEvents
		v.Log.MaxBytes, v.Log.MaxAge = def.retain.MaxBytes, def.retain.MaxAge.Milliseconds()
	} else if len(all) == 0 {
		k.mu.Unlock()
		return nil
	}
	k.mu.Unlock()
	for _, h := range all {
		v.addHub(h)
	}
	v.Log.Epoch, v.Log.Tail = "", 0 // of one key, they say nothing
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
	i := slices.IndexFunc(v.Upstreams, func(u upstreamStatus) bool { return u.Name == name })
	if i < 0 {
		i = len(v.Upstreams)
		v.Upstreams = append(v.Upstreams, upstreamStatus{Name: name, State: phaseIdle})
	}
	return &v.Upstreams[i]
}

// addHub adds a stream, or that of one key. False if no configuration with it
// was started yet.
func (v *streamView) addHub(h *hub) bool {
	if !v.addSources(h) {
		return false
	}
	log := h.log.Load()
	v.addLog(log)
	v.addTypes(h.tags, log)

	h.mu.Lock()
	defer h.mu.Unlock()
	if h.keyed == nil {
		v.Removed = h.gone
	}
	v.Clients.Connected += len(h.subscribers)
	for _, sub := range h.subscribers {
		v.Clients.MaxLag = max(v.Clients.MaxLag, sub.client.at.lag())
		v.Clients.Oldest = earlier(v.Clients.Oldest, sub.since)
	}
	return true
}

func (v *streamView) addSources(h *hub) bool {
	h.lifeMu.Lock()
	defer h.lifeMu.Unlock()
	if !h.attached {
		return false
	}
	v.OnDemand = v.OnDemand || h.shaped.Load().onDemand
	if h.keyed == nil {
		for name, n := range h.counts.before() {
			v.count(name).upstreamCounts = n
		}
		for _, def := range h.uses {
			v.addConfigured(def)
		}
	}
	for _, sub := range h.sources {
		n, own := v.count(h.countedName(sub)), sub.count()
		us := sub.status()
		us.add(own)
		n.combine(own, plus)
		n.up = n.up || us.State == phaseUp
		n.lastEvent = max(n.lastEvent, us.LastEvent)
		v.upstream(sub.name).merge(us)
	}
	if h.keyed != nil {
		return true
	}
	for _, def := range h.uses {
		for _, u := range def.upstreams {
			if w := h.watches[u.key]; u.expands && (w == nil || len(w.addresses) == 0) {
				us := v.upstream(u.name)
				us.URLs, us.Policy = shownURLs(u.spec, nil), u.spec.Policy
			}
		}
	}
	return true
}

func (v *streamView) addLog(log *streamLog) {
	st, o, l := log.Stats(), log.Options(), &v.Log
	l.merge(logStatus{
		Epoch: log.Epoch(), IDs: log.ids, Head: st.Head, Tail: st.Tail,
		Events: st.Events, Bytes: st.Bytes, Memory: st.Memory,
		Oldest: unixMilli(st.Oldest), Newest: unixMilli(st.Newest),
		MaxEvents: o.MaxEvents, MaxBytes: o.MaxBytes, MaxAge: o.MaxAge.Milliseconds(),
	})
}

func (v *streamView) addTypes(t *tags, log *streamLog) {
	if v.seen >= sampledTypes {
		return
	}
	last := log.LastTags(shownTypesFrom)
	v.seen += len(last)
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, tag := range last {
		n := tag & tagTypeMask
		if n >= uint32(len(t.typeNames)) {
			continue // of a type without a number of its own
		}
		name := t.typeNames[n]
		if name == "" {
			name = unnamedType
		}
		v.Types[name]++
	}
}

// addCounts adds what the stream has counted. before is what was counted for
// sources that were left, unless it is in the counts already.
func (v *streamView) addCounts(c *streamCounts, before map[string]upstreamCounts) {
	for name, n := range v.counted {
		n.combine(before[name], plus)
		n.upstreamCounts = c.tell(name, n.upstreamCounts)
		if i := slices.IndexFunc(v.Upstreams, func(u upstreamStatus) bool { return u.Name == name }); i >= 0 {
			v.Upstreams[i].set(n.upstreamCounts)
		}
	}
	v.Clients.Total = c.clients.Load()
	v.Delivered = deliveredStatus{Events: c.events.Load(), Bytes: c.bytes.Load(), Replayed: c.replayed.Load()}
	v.Gaps = gapsStatus{Expired: c.gaps[0].Load(), Unknown: c.gaps[1].Load()}
	for i := range v.ends {
		v.ends[i] = c.ends[i].Load()
	}
	v.delay = c.delay.load()
}

// merge adds another stream of the same name.
func (v *streamView) merge(other *streamView) {
	v.Keyed = v.Keyed || other.Keyed
	v.OnDemand = v.OnDemand || other.OnDemand
	v.Keys += other.Keys
	for _, us := range other.Upstreams {
		v.upstream(us.Name).merge(us)
	}
	v.Log.merge(other.Log)
	v.Clients.Connected += other.Clients.Connected
	v.Clients.Total += other.Clients.Total
	v.Clients.MaxLag = max(v.Clients.MaxLag, other.Clients.MaxLag)
	v.Clients.Oldest = earlier(v.Clients.Oldest, other.Clients.Oldest)
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
}

// trim puts everything into its final order and bounds.
func (v *streamView) trim() {
	slices.SortFunc(v.Upstreams, func(a, b upstreamStatus) int { return strings.Compare(a.Name, b.Name) })
	for i := range v.Upstreams {
		if v.Upstreams[i].URLs == nil {
			v.Upstreams[i].URLs = []string{}
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

// rank says which state of several is the one to tell of.
func (p phase) rank() int {
	switch p {
	case phaseUp:
		return 4
	case phaseConnecting:
		return 3
	case phaseDown:
		return 2
	case phaseFinished:
		return 1
	default: // idle
		return 0
	}
}

// merge adds another source of the same name.
func (u *upstreamStatus) merge(other upstreamStatus) {
	if u.URLs == nil {
		u.URLs, u.Policy = other.URLs, other.Policy
	}
	if other.State.rank() > u.State.rank() || u.Since == 0 {
		u.State, u.Since = other.State, other.Since
	}
	if other.endedAt.After(u.endedAt) {
		u.Reason, u.Error, u.endedAt = other.Reason, other.Error, other.endedAt
	}
	u.RetryAt = earlier(u.RetryAt, other.RetryAt)
	if u.State == phaseUp {
		u.RetryAt = 0
	}
	if other.LastEvent >= u.LastEvent {
		u.LastEvent, u.LastEventID = other.LastEvent, other.LastEventID
	}
	u.Connects += other.Connects
	u.Disconnects += other.Disconnects
	u.Events += other.Events
	u.Bytes += other.Bytes
	u.Skipped += other.Skipped
	u.Duplicates += other.Duplicates
}

// add adds counts.
func (u *upstreamStatus) add(n upstreamCounts) {
	u.Connects += n.connects
	u.Disconnects += n.disconnects
	u.Events += n.events
	u.Bytes += n.bytes
	u.Skipped += n.tooLarge
	u.Duplicates += n.duplicates
}

// set replaces the counts.
func (u *upstreamStatus) set(n upstreamCounts) {
	u.Connects, u.Disconnects, u.Events, u.Bytes, u.Skipped, u.Duplicates = 0, 0, 0, 0, 0, 0
	u.add(n)
}

// merge adds another log.
func (l *logStatus) merge(other logStatus) {
	l.Epoch, l.IDs, l.Tail = other.Epoch, other.IDs, other.Tail
	l.MaxEvents, l.MaxBytes, l.MaxAge = other.MaxEvents, other.MaxBytes, other.MaxAge
	l.Head += other.Head
	l.Events += other.Events
	l.Bytes += other.Bytes
	l.Memory += other.Memory
	l.Oldest = earlier(l.Oldest, other.Oldest)
	l.Newest = max(l.Newest, other.Newest)
}

// earlier is the earlier of two times, where 0 is none.
func earlier(a, b int64) int64 {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// shownURLs are the URLs as configured, without what may be secret, and with
// the addresses that were looked up for them.
func shownURLs(spec *sourceSpec, addresses []string) []string {
	urls := make([]string, 0, len(spec.URLs))
	for _, text := range spec.URLs {
		shown := redactText(text)
		if len(addresses) == 0 {
			urls = append(urls, shown)
		}
		for _, address := range addresses {
			urls = append(urls, shown+" at "+address)
		}
	}
	return urls
}

// status returns the state of a subscription's source, without counts.
func (sub *subscription) status() upstreamStatus {
	s := sub.source
	st := s.status()
	us := upstreamStatus{
		Name:      sub.name,
		Policy:    s.spec.Policy,
		State:     st.phase,
		Since:     unixMilli(st.since),
		LastEvent: s.counts.lastEvent.Load(),
	}
	if sub.hub.keyed == nil { // the URLs of one key have its values filled in
		us.URLs = shownURLs(s.spec, s.addresses())
	}
	if st.phase == phaseDown {
		us.RetryAt = unixMilli(st.retryAt)
	}
	if end := s.counts.lastEnd.Load(); end != nil {
		us.Reason, us.Error, us.endedAt = end.reason, end.text, end.at
	}
	s.deliverMu.Lock()
	defer s.deliverMu.Unlock()
	us.LastEventID = string(sub.lastID[:min(len(sub.lastID), shownID)])
	return us
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

// count returns what the source has counted since the stream joined it.
func (sub *subscription) count() upstreamCounts {
	n := sub.source.counts.load()
	n.combine(sub.since, minus)
	n.unwanted = sub.unwanted.Load()
	return n
}

// countedSince returns what a stream that joins now does not count. A
// connection that is open counts: the stream has come to be connected.
func (s *source) countedSince() upstreamCounts {
	n := s.counts.load()
	if n.connects > 0 && s.status().phase == phaseUp {
		n.connects--
	}
	return n
}

// countedName is the name under which a source is counted: that of its
// upstream where addresses come and go, so that names are those that are
// configured.
func (h *hub) countedName(sub *subscription) string {
	if sub.source.spec.Address != "" {
		if upstream := h.tags.upstreamOf(sub.name); upstream != "" {
			return upstream
		}
	}
	return sub.name
}

// countedNames are the names that are configured. The caller holds lifeMu.
func (h *hub) countedNames() map[string]bool {
	names := make(map[string]bool)
	for _, def := range h.uses {
		for _, u := range def.upstreams {
			names[u.name] = true
		}
	}
	return names
}
