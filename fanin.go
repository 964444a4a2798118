package ssefanin

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
)

// hubs holds the streams of the process by stream key: the name, or for an
// unnamed one the digest of its source side. Each configuration that uses a
// stream holds one reference, so that a stream lives on when the next
// configuration uses it too.
var hubs = caddy.NewUsagePool()

// liveHubs are all hubs, those included that a reload has removed and whose
// clients are still leaving: on exit all of them must end their clients, and
// the pool no longer knows the removed ones.
var liveHubs struct {
	mu  sync.Mutex // protects all
	all map[*hub]struct{}
}

// hub owns one stream: the subscriptions to its sources, its log, its
// subscribers.
//
// Locks, in the order in which they may be held together: lifeMu, then mu,
// then those of sources, log and subscribers.
//
// Safe for concurrent use.
type hub struct {
	key   string
	label string // for logs: the name, or 8 hex digits

	// lifeMu serialises the changes that configurations make: attach, detach,
	// Destruct. It is held while sources start and end, never on the way of an
	// event or a client.
	lifeMu  sync.Mutex
	uses    []*definition            // configurations that use the stream, oldest first
	sources map[string]*subscription // by upstream name

	// logMu lets an exchange of the log wait for appends in progress.
	// Appends hold it for reading.
	logMu sync.RWMutex
	log   atomic.Pointer[streamLog]

	mu          sync.Mutex // protects what follows, and the index of each subscriber
	subscribers []*subscriber
	running     bool // the notifier
	gone        bool // removed: no new subscribers, ends with the last one

	poke chan struct{} // capacity 1: "look at the subscribers again" needs to be said once
}

// streamLog is a log and whether its events carry cursors.
type streamLog struct {
	*eventlog.Log
	ids bool

	// next is the log that came after this one; readers go through all of
	// them. Nil for the hub's current one.
	next atomic.Pointer[streamLog]
}

func newStreamLog(o eventlog.Options) *streamLog {
	return &streamLog{Log: eventlog.New(o), ids: o.IDs}
}

var (
	errGone = errors.New("the stream was removed from the configuration")
	errFull = errors.New("the stream has as many clients as max_clients allows")
)

// acquireHub returns the hub for a definition, with a reference that
// releaseHub gives back. Nothing is dialled before attach.
func acquireHub(def *definition) *hub {
	val, _, _ := hubs.LoadOrNew(def.key, func() (caddy.Destructor, error) {
		h := &hub{
			key:     def.key,
			label:   def.label,
			sources: make(map[string]*subscription),
			poke:    make(chan struct{}, 1),
		}
		h.log.Store(newStreamLog(def.retain))
		liveHubs.mu.Lock()
		defer liveHubs.mu.Unlock()
		if liveHubs.all == nil {
			liveHubs.all = make(map[*hub]struct{})
		}
		liveHubs.all[h] = struct{}{}
		return h, nil
	})
	return val.(*hub)
}

func releaseHub(h *hub) {
	// the error is that of Destruct, which has none
	_, _ = hubs.Delete(h.key)
}

// attach adds a configuration that uses the stream. It only adds: sources
// that are new are joined at once, everything else that is different waits
// until the configurations before it have left, since this one may yet fail
// to load.
func (h *hub) attach(def *definition) {
	h.lifeMu.Lock()
	defer h.lifeMu.Unlock()
	h.uses = append(h.uses, def)
	h.reconcile()
}

// detach removes a configuration, and with it what only that one wanted. The
// last one leaves everything running: either Destruct follows at once, or
// clients are still to be drained.
func (h *hub) detach(def *definition) {
	h.lifeMu.Lock()
	defer h.lifeMu.Unlock()
	h.uses = slices.DeleteFunc(h.uses, func(other *definition) bool { return other == def })
	h.reconcile()
}

// reconcile makes the sources and settings those of the configurations in
// use. An upstream that several of them name differently is that of the
// oldest. The caller holds lifeMu.
func (h *hub) reconcile() {
	if len(h.uses) > 0 {
		h.applyRetain(h.uses[0].retain)
	}
	wanted := make(map[string]*upstreamDef)
	for _, def := range h.uses {
		for _, u := range def.upstreams {
			if wanted[u.name] == nil {
				wanted[u.name] = u
			}
		}
	}
	postponed := h.renameSources(wanted)
	if len(h.uses) > 0 {
		for name, sub := range h.sources {
			u := wanted[name]
			if u == nil {
				h.leave(sub)
			} else if u.key != sub.key {
				h.replace(sub, u)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if h.sources[name] == nil && !postponed[name] {
			h.join(wanted[name], nil)
		}
	}
	for name, sub := range h.sources {
		var envs []*environment
		for _, def := range h.uses {
			for _, u := range def.upstreams {
				if u.name == name && u.key == sub.key {
					envs = append(envs, u.env)
				}
			}
		}
		sub.source.setEnvironments(sub, envs)
	}
}

// renameSources finds the upstreams that only have another name in the newest
// configuration. They keep their connection, and are not joined beside what
// they are renamed from: every event would come twice. It returns the names
// that have to wait until the configuration with the old name has left. The
// caller holds lifeMu.
func (h *hub) renameSources(wanted map[string]*upstreamDef) (postponed map[string]bool) {
	if len(h.uses) == 0 {
		return nil
	}
	stays := make(map[string]string) // key by name
	for _, u := range h.uses[len(h.uses)-1].upstreams {
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
		renamed := &subscription{source: sub.source, hub: h, name: name, key: sub.key}
		sub.source.exchange(sub, renamed)
		h.sources[name] = renamed
	}
	return postponed
}

// exchange puts a subscription in the place of another: each event goes to
// one of the two.
func (s *source) exchange(old, renamed *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	subs := slices.Clone(*s.subs.Load())
	subs[slices.Index(subs, old)] = renamed
	s.subs.Store(&subs)
	renamed.envs, old.envs = old.envs, nil
}

// join subscribes to a source. The caller holds lifeMu, and supplies the
// environments.
func (h *hub) join(u *upstreamDef, resume *resumeState) {
	sub := &subscription{
		source: acquireSource(u.key, u.spec, resume),
		hub:    h,
		name:   u.name,
		key:    u.key,
	}
	sub.source.subscribe(sub)
	h.sources[u.name] = sub
}

// leave gives up a source. It waits until the source has ended, if this was
// its last subscription, and takes over its events until then: what the source
// has read counts as received when another goes on where it was. The caller
// holds lifeMu.
func (h *hub) leave(sub *subscription) {
	releaseSource(sub.source)
	sub.source.unsubscribe(sub)
	delete(h.sources, sub.name)
}

// replace exchanges the source of an upstream whose connection is configured
// differently from now on. When the old source has ended and the new one asks
// the same URLs, it goes on where the old one was. The caller holds lifeMu.
func (h *hub) replace(sub *subscription, u *upstreamDef) {
	old := sub.source
	h.leave(sub)
	var resume *resumeState
	if old.ended() && slices.Equal(old.spec.URLs, u.spec.URLs) {
		resume = &old.conn.resumeState
	}
	h.join(u, resume)
}

// applyRetain sets the log's bounds. Other ids make another log: the cursors
// of the one mean nothing in the other. The caller holds lifeMu.
func (h *hub) applyRetain(o eventlog.Options) {
	old := h.log.Load()
	if old.ids == o.IDs {
		old.SetOptions(o)
		return
	}
	h.logMu.Lock()
	defer h.logMu.Unlock()
	next := newStreamLog(o)
	old.next.Store(next)
	h.log.Store(next)
	h.wakeNotifier()
}

// publish appends an encoded event to the log. It never waits for a client.
func (h *hub) publish(body []byte, now time.Time) {
	h.logMu.RLock()
	defer h.logMu.RUnlock()
	h.log.Load().Append(now, 0, body)
}

// Destruct removes the stream: its clients are ended over their drain time,
// and still get events until then. With the last of them the hub is released.
// The pool calls it when the last configuration has gone.
func (h *hub) Destruct() error {
	h.mu.Lock()
	h.gone = true
	now := time.Now()
	for _, sub := range h.subscribers {
		sub.drain(now, endRemoved)
	}
	empty := len(h.subscribers) == 0
	h.mu.Unlock()
	h.wakeNotifier()
	if empty {
		h.release()
	} else if caddy.Exiting() {
		endAllClients()
	}
	return nil
}

// release gives up the sources, when the hub is gone and no client is left.
func (h *hub) release() {
	h.lifeMu.Lock()
	defer h.lifeMu.Unlock()
	for _, sub := range h.sources {
		h.leave(sub)
	}
	liveHubs.mu.Lock()
	defer liveHubs.mu.Unlock()
	delete(liveHubs.all, h)
}

// subscribe adds a client. The error is errGone or errFull.
func (h *hub) subscribe(sub *subscriber) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone || caddy.Exiting() {
		return errGone
	}
	if limit := sub.settings.maxClients; limit > 0 && len(h.subscribers) >= limit {
		return errFull
	}
	sub.index = len(h.subscribers)
	h.subscribers = append(h.subscribers, sub)
	if !h.running {
		h.running = true
		go h.notify()
	}
	h.wakeNotifier()
	return nil
}

// unsubscribe removes a client.
func (h *hub) unsubscribe(sub *subscriber) {
	h.mu.Lock()
	end := len(h.subscribers) - 1
	h.subscribers[sub.index] = h.subscribers[end]
	h.subscribers[sub.index].index = sub.index
	h.subscribers[end] = nil
	h.subscribers = h.subscribers[:end]
	last := h.gone && len(h.subscribers) == 0
	h.mu.Unlock()
	h.wakeNotifier()
	if last {
		h.release()
	}
}

// drainHandler ends the clients that one handler serves, over its drain time.
func (h *hub) drainHandler(handler *Handler) {
	h.mu.Lock()
	now := time.Now()
	for _, sub := range h.subscribers {
		if sub.handler == handler {
			sub.drain(now, endReload)
		}
	}
	h.mu.Unlock()
	h.wakeNotifier()
}

func (h *hub) wakeNotifier() {
	select {
	case h.poke <- struct{}{}:
	default:
	}
}

// notify wakes the subscribers: all of them when events were appended, each
// when its time has come (see subscriber.due). So the one who appends does not
// pay for the number of clients, and clients need no timer each. The hub owns
// it; it ends with the last subscriber, and begins again with the next.
func (h *hub) notify() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	log := h.log.Load()
	all := true // whatever happened before
	for {
		now := time.Now()
		next, ok := h.wakeSubscribers(now, all)
		if !ok {
			return
		}
		log.Expire(now) // where nothing is appended, nobody else does
		timer.Reset(next)
		all = false
		select {
		case <-log.Appended():
			all = true
		case <-timer.C:
		case <-h.poke:
		}
		// Readers move on to another log; the old one's last signal may be unheard.
		if current := h.log.Load(); current != log {
			log, all = current, true
		}
	}
}

const (
	// clockStep is the least time between two looks at the subscribers' clocks;
	// heartbeats and ends may be late by so much.
	clockStep = 20 * time.Millisecond

	// clockIdle is the longest time between two looks.
	clockIdle = time.Minute
)

// wakeSubscribers wakes those that have something to do, or all, and returns
// how long the next one's clock has still to run. False when there is no
// subscriber left, and the notifier ends.
func (h *hub) wakeSubscribers(now time.Time, all bool) (time.Duration, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.subscribers) == 0 {
		h.running = false
		return 0, false
	}
	nanos := now.UnixNano()
	first := nanos + int64(clockIdle)
	for _, sub := range h.subscribers {
		due := sub.due()
		if due <= nanos {
			sub.wake()
			// once it has done what was due; its end may come before the next heartbeat
			due = min(nanos+int64(sub.settings.heartbeat), sub.endAt.Load())
		} else if all {
			sub.wake()
		}
		if due > nanos {
			first = min(first, due)
		}
	}
	return max(time.Duration(first-nanos), clockStep), true
}

var endingAll sync.Once

// endAllClients ends the clients of all streams at once when the process
// exits, removed streams and older configurations included.
func endAllClients() {
	endingAll.Do(func() { go cutAllClients(time.Now().Add(exitTimeout)) })
}

// cutAllClients ends every client and, at the deadline, cuts off those that
// do not read. It belongs to the process and ends with the last client; hubs
// take no new ones by then. Deadlines are set again and again since a client
// about to write moves its own forward.
func cutAllClients(deadline time.Time) {
	again := time.NewTicker(clockStep)
	defer again.Stop()
	for {
		liveHubs.mu.Lock()
		all := slices.Collect(maps.Keys(liveHubs.all))
		liveHubs.mu.Unlock()
		left := 0
		for _, h := range all {
			h.mu.Lock()
			subs := slices.Clone(h.subscribers)
			h.mu.Unlock()
			left += len(subs)
			for _, sub := range subs {
				sub.endNow(endExit)
				sub.cut(deadline)
			}
		}
		if left == 0 {
			return
		}
		<-again.C
	}
}

// Interface guards
var (
	_ caddy.Destructor = (*hub)(nil)
	_ caddy.Destructor = (*source)(nil)
)
