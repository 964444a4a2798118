package ssefanin

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
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
	// event. Of a client's way, only what asks for the sources (their states,
	// a filter's names) takes it.
	lifeMu   sync.Mutex
	uses     []*definition            // configurations that use the stream, oldest first
	sources  map[string]*subscription // by upstream name
	watches  map[string]*watch        // by source key: dynamic upstreams whose addresses are sources of their own
	demanded bool                     // the sources are wanted
	attached bool                     // a configuration that uses the stream was started at least once

	// keyed is set for one key's stream of a keyed stream; what they share.
	keyed   *keyedStream
	clients *atomic.Int64 // connected ones, over all keys
	counts  *streamCounts // over all keys

	tags   *tags
	shaped atomic.Pointer[hubShape]

	// logMu lets an exchange of the log wait for appends in progress.
	// Appends hold it for reading.
	logMu sync.RWMutex
	log   atomic.Pointer[streamLog]

	// stateVersion counts the changes of sources' states that clients are told
	// of; stateChanges, which is raised first, those in which only a reason is
	// another, too. reported is what clients are told.
	stateVersion atomic.Uint64
	stateChanges atomic.Uint64
	reportMu     sync.Mutex // held while a report is made; taken before lifeMu
	reported     atomic.Pointer[stateReport]

	mu          sync.Mutex // protects what follows, and the index of each subscriber
	subscribers []*subscriber
	windows     []*window // of the subscribers' settings
	running     bool      // the notifier
	gone        bool      // removed: no new subscribers, ends with the last one
	joined      bool      // there was a client
	seed        string    // what the first client asked for, with `ids upstream`

	// handedOut says that the writers have come to all clients of a window. It
	// has capacity 1: of two that end in one go, one is enough to say.
	handedOut chan struct{}

	poke chan struct{} // capacity 1: "look at the subscribers again" needs to be said once
}

// hubShape is what a stream does to all its events. Immutable.
type hubShape struct {
	envelope     bool
	sourceEvents bool
	onDemand     bool
	linger       time.Duration
}

var (
	errGone = errors.New("the stream was removed from the configuration")
	errFull = errors.New("the stream has as many clients as max_clients allows")
)

// acquireHub returns the hub for a definition, with a reference that
// releaseHub gives back. Nothing is dialled before attach.
func acquireHub(def *definition) *hub {
	val, _, _ := hubs.LoadOrNew(def.key, func() (caddy.Destructor, error) {
		return newHub(def, nil), nil
	})
	return val.(*hub)
}

func releaseHub(h *hub) {
	// the error is that of Destruct, which has none
	_, _ = hubs.Delete(h.key)
}

// newHub returns a hub without sources. keyed is what it is one key of, if any.
func newHub(def *definition, keyed *keyedStream) *hub {
	h := &hub{
		key:     def.key,
		label:   def.label,
		sources: make(map[string]*subscription),
		watches: make(map[string]*watch),
		keyed:   keyed,
		clients: new(atomic.Int64),
		counts:  newStreamCounts(),
		tags:    newTags(),
		poke:    make(chan struct{}, 1),

		handedOut: make(chan struct{}, 1),
	}
	if keyed != nil {
		h.clients, h.counts = &keyed.clients, keyed.counts
	}
	h.shaped.Store(&def.shape)
	h.log.Store(newStreamLog(def.retain, def.ids))
	liveHubs.mu.Lock()
	defer liveHubs.mu.Unlock()
	if liveHubs.all == nil {
		liveHubs.all = make(map[*hub]struct{})
	}
	liveHubs.all[h] = struct{}{}
	return h
}

// attach adds a configuration that uses the stream. It only adds: sources
// that are new are joined at once, everything else that is different waits
// until the configurations before it have left, since this one may yet fail
// to load.
func (h *hub) attach(def *definition) {
	h.lifeMu.Lock()
	defer h.lifeMu.Unlock()
	h.uses = append(h.uses, def)
	h.attached = true
	h.reconcile()
	streamSampler.wake()
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

// applyRetain sets the log's bounds. Other ids make another log: the cursors
// of the one mean nothing in the other. The caller holds lifeMu.
func (h *hub) applyRetain(o eventlog.Options, ids string) {
	old := h.log.Load()
	if old.ids == ids {
		old.SetOptions(o)
		return
	}
	h.logMu.Lock()
	defer h.logMu.Unlock()
	next := newStreamLog(o, ids)
	old.next.Store(next)
	h.log.Store(next)
	h.mu.Lock()
	h.seed = "" // this log does not begin after it
	h.mu.Unlock()
	h.wakeNotifier()
}

// publish shapes an event of a source and appends it to the log. It never
// waits for a client.
func (h *hub) publish(sub *subscription, ev *sse.Event, enc *encoder, now time.Time) {
	hadID := len(sub.lastID) > 0
	sub.lastID = append(sub.lastID[:0], ev.ID...)
	s := sub.shape.Load()
	if !s.takes(ev.Type) {
		sub.unwanted.Add(1)
		return
	}
	typ := enc.finalType(s, ev.Type)
	h.logMu.RLock()
	defer h.logMu.RUnlock()
	log := h.log.Load()
	withID := log.ids == idsUpstream
	body := enc.encode(ev, typ, sub.name, h.shaped.Load().envelope, withID, hadID, now)
	tag := h.tags.tag(sub.sourceID, typ)
	if !withID {
		log.Append(now, tag, body)
		return
	}
	log.appendWithID(now, tag, body, ev.ID)
}

// reasonChanged notes that a source is down for another reason, which clients
// that come later are told.
func (h *hub) reasonChanged() {
	h.stateChanges.Add(1)
}

// sourceChanged notes that a source has gone up or down, has come or has left.
func (h *hub) sourceChanged() {
	h.stateChanges.Add(1)
	h.stateVersion.Add(1)
	if h.shaped.Load().sourceEvents {
		var woken turns
		h.mu.Lock()
		for _, sub := range h.subscribers {
			if sub.want() {
				woken.add(sub)
			}
		}
		h.mu.Unlock()
		clientWriters.push(woken)
	}
}

// sourceStates returns the states of the sources, by name.
func (h *hub) sourceStates() map[string]sourceState {
	h.lifeMu.Lock()
	defer h.lifeMu.Unlock()
	states := make(map[string]sourceState, len(h.sources))
	for name, sub := range h.sources {
		states[name] = sub.source.status()
	}
	return states
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
	n := len(h.subscribers)
	h.mu.Unlock()
	if h.keyed == nil {
		warnOfEnded(h.key, h.label, n)
	}
	h.wakeNotifier()
	if n == 0 {
		h.release()
	} else if caddy.Exiting() {
		endAllClients()
	}
	return nil
}

// warnOfEnded logs that a reload ends the clients of a stream that has no name.
// It may have been meant to go; more often something of it was changed, and
// nothing else tells that this made it another stream.
func warnOfEnded(key, label string, clients int) {
	if clients == 0 || caddy.Exiting() || isNamedKey(key) {
		return
	}
	caddy.Log().Named("sse_fanin").Warn("a reload changed or removed a stream that has no name; its clients are ended. With 'stream <name>', they stay while its upstreams and settings change",
		zap.String("stream", label), zap.Int("clients", clients))
}

// release gives up the sources, when the hub is gone and no client is left.
func (h *hub) release() {
	h.lifeMu.Lock()
	for _, w := range h.watches {
		w.cancel()
	}
	watches := h.watches
	h.watches = make(map[string]*watch)
	for _, sub := range h.sources {
		h.leave(sub)
	}
	h.lifeMu.Unlock()
	for _, w := range watches {
		<-w.done
	}
	liveHubs.mu.Lock()
	defer liveHubs.mu.Unlock()
	delete(liveHubs.all, h)
}

// subscribe adds a client. The error is errGone or errFull.
func (h *hub) subscribe(sub *subscriber) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone || endingAll.Load() {
		return errGone
	}
	n := h.clients.Add(1)
	if limit := sub.client.settings.maxClients; limit > 0 && n > int64(limit) {
		h.clients.Add(-1)
		return errFull
	}
	if !h.joined {
		h.joined = true
		if h.log.Load().ids == idsUpstream && h.shaped.Load().onDemand && sendable(sub.asked) {
			h.seed = sub.asked
		}
	}
	h.counts.clients.Add(1)
	sub.window = h.windowLocked(sub.client.settings.coalesce)
	sub.index = len(h.subscribers)
	h.subscribers = append(h.subscribers, sub)
	if !h.running {
		h.running = true
		go h.notify()
	}
	h.wakeNotifier()
	return nil
}

// seeded says whether an id is the one that the upstream was, or is to be,
// asked for at its very first connection: the log begins after it.
func (h *hub) seeded(id string) bool {
	h.lifeMu.Lock()
	defer h.lifeMu.Unlock()
	h.mu.Lock()
	seed := h.seed
	h.mu.Unlock()
	if seed != id || len(h.sources) == 0 {
		return false
	}
	for _, sub := range h.sources {
		if !sub.source.beginsAfter(id) {
			return false
		}
	}
	return true
}

// removed says whether the hub takes no new clients.
func (h *hub) removed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone
}

// endUnused ends the hub of a key that a request has made, but not joined.
func (h *hub) endUnused() {
	if h.keyed == nil {
		return
	}
	h.mu.Lock()
	unused := len(h.subscribers) == 0 && !h.running && !h.gone
	if unused {
		h.gone = true
	}
	h.mu.Unlock()
	if unused {
		h.keyed.drop(h)
		h.release()
	}
}

// unsubscribe removes a client.
func (h *hub) unsubscribe(sub *subscriber) {
	h.mu.Lock()
	end := len(h.subscribers) - 1
	h.subscribers[sub.index] = h.subscribers[end]
	h.subscribers[sub.index].index = sub.index
	h.subscribers[end] = nil
	h.subscribers = h.subscribers[:end]
	h.leaveWindowLocked(sub.window)
	h.clients.Add(-1)
	empty, last := end == 0, h.gone && end == 0
	h.mu.Unlock()
	if empty {
		h.wakeNotifier()
	}
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

// Interface guards
var (
	_ caddy.Destructor = (*hub)(nil)
	_ caddy.Destructor = (*source)(nil)
)
