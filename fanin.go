package ssefanin

import (
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// hubs holds the streams of the process by stream key: the name, or for an
// unnamed one the digest of its source side. Each configuration that uses a
// stream holds one reference, so that a stream lives on when the next
// configuration uses it too.
var hubs = caddy.NewUsagePool()

// hubsMade counts them.
var hubsMade atomic.Uint64

// liveHubs are all hubs of the process.
var liveHubs hubSet

// hubSet has the hubs that exist, including removed ones whose clients are
// still leaving: on exit all of them end their clients, and the pool no longer
// knows the removed ones. Safe for concurrent use.
type hubSet struct {
	mu  sync.Mutex // protects all; taken last
	all map[*hub]struct{}
}

func (s *hubSet) add(h *hub) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[*hub]struct{})
	}
	s.all[h] = struct{}{}
}

func (s *hubSet) remove(h *hub) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, h)
}

// list returns the hubs as they are now, in no order.
func (s *hubSet) list() []*hub {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.all))
}

// named returns the hubs of the streams of a name: of all keys, and of removed
// streams whose clients are leaving.
func (s *hubSet) named(label string) []*hub {
	return slices.DeleteFunc(s.list(), func(h *hub) bool { return h.label != label })
}

// hub is one stream: its inputs, its log, its audience. Events come in by
// publish and go out by the log, which the clients read.
//
// Safe for concurrent use.
type hub struct {
	key   string
	id    string // of this hub alone
	label string // for logs: the name, or 8 hex digits

	inputs   *inputs
	audience *audience

	// keyed is the stream that this is one key of, or nil.
	keyed   *keyedStream
	clients *atomic.Int64 // connected ones, over all keys
	counts  *streamCounts // over all keys

	tags   *tags
	shaped atomic.Pointer[streamShape]

	// logMu lets an exchange of the log wait for appends in progress.
	// Appends hold it for reading.
	logMu sync.RWMutex
	log   atomic.Pointer[streamLog]

	states stateReports
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

// newHub returns a hub without sources. keyed is the stream that it is one key
// of, or nil.
func newHub(def *definition, keyed *keyedStream) *hub {
	h := &hub{
		key:     def.key,
		id:      strconv.FormatUint(hubsMade.Add(1), 10),
		label:   def.label,
		keyed:   keyed,
		clients: new(atomic.Int64),
		counts:  newStreamCounts(),
		tags:    newTags(),
	}
	h.inputs, h.audience = newInputs(h), newAudience(h)
	h.tags.retained = h.retainedSources
	if keyed != nil {
		h.clients, h.counts = &keyed.clients, keyed.counts
	}
	h.shaped.Store(&def.shape)
	h.log.Store(h.newLog(def))
	liveHubs.add(h)
	return h
}

// attach adds a configuration that uses the stream; see inputs.attach.
func (h *hub) attach(def *definition) { h.inputs.attach(def) }

// detach removes a configuration; see inputs.detach.
func (h *hub) detach(def *definition) { h.inputs.detach(def) }

// newLog returns the log of a definition. Nothing is opened yet.
func (h *hub) newLog(def *definition) *streamLog {
	l := newStreamLog(def.inMemory(), def.ids)
	l.values.evicted, l.values.tags = &h.counts.values, h.tags
	l.values.adjust(def.values)
	if def.log != nil {
		l.durable = newDurable(h, l, def.log)
	}
	return l
}

// applyLog makes the log that of a definition, which is in use. Other ids make
// another log, since the cursors of the one mean nothing in the other, and so
// does another place to keep it. It is called under the lock of inputs. What it
// returns is nil, or the place before, if that takes nothing at present: what the
// sources have sent and it has not committed is lost with it.
func (h *hub) applyLog(def *definition) (stalled *durable) {
	old := h.log.Load()
	var kept *logDef
	if old.durable != nil {
		kept = old.durable.def.Load()
	}
	if old.ids == def.ids && kept.same(def.log) {
		old.adjust(def.inMemory(), def.values)
		if old.durable != nil {
			old.durable.adjust(def.log)
			old.durable.begin()
		}
		return nil
	}
	h.logMu.Lock()
	defer h.logMu.Unlock()
	next := h.newLog(def)
	if next.durable != nil {
		next.begins.Store(0) // until it is known
		next.durable.before = old
		next.durable.begin()
	} else {
		next.noteEarlier(old)
	}
	old.next.Store(next)
	h.log.Store(next)
	if old.durable != nil {
		if old.durable.status().State == logstore.Stalled {
			stalled = old.durable
		}
		go old.close() // it may wait for the lock that is held
	}
	h.audience.forgetFirstAsked()
	return stalled
}

// replaceLog puts another log in the place of one whose store goes on in it,
// unless a reload has done so. The readers of the one go on in the other.
func (h *hub) replaceLog(old, next *streamLog) {
	h.logMu.Lock()
	defer h.logMu.Unlock()
	next.next.Store(old.next.Load()) // of a reload
	old.next.Store(next)
	old.ended.Store(true)
	if h.log.CompareAndSwap(old, next) {
		h.audience.wakeNotifier()
	}
}

// publish appends an event of an input to the log, with its final type. hadID
// reports whether the event before it came with an id in force. It never waits
// for a client.
func (h *hub) publish(from *input, ev *sse.Event, typ []byte, hadID bool, enc *encoder, now time.Time) {
	h.logMu.RLock()
	defer h.logMu.RUnlock()
	log := h.log.Load()
	if log.durable != nil {
		log.durable.append(&logstore.Record{
			Time: now.UnixMilli(), Source: from.name, Type: string(typ), ID: string(ev.ID),
			Hash: uint64(stablePrintOf(ev)),
			Body: enc.encode(ev, typ, from.name, h.shaped.Load().envelope, false, false, now),
		})
		return
	}
	withID := log.ids == idsUpstream
	body := enc.encode(ev, typ, from.name, h.shaped.Load().envelope, withID, hadID, now)
	log.append(now, h.tags.tag(from.sourceID, typ), typ, body, ev.ID)
}

// reasonChanged notes that a source is down for another reason, which only
// later clients get.
func (h *hub) reasonChanged() {
	h.states.reasonChanged()
	h.tellNodes()
}

// tellNodes has the other nodes know of a change, if there are any.
func (h *hub) tellNodes() {
	if d := h.log.Load().durable; d != nil {
		nudge(d.cluster.news)
	}
}

// sourceChanged notes that a source has gone up or down, has come or has left.
func (h *hub) sourceChanged() {
	h.states.changed()
	if h.shaped.Load().sourceEvents {
		h.audience.wakeAll()
	}
	h.tellNodes()
}

// retainedSources returns the numbers of the sources that events in memory are of,
// also in logs before the present one that clients still read.
func (h *hub) retainedSources() map[uint32]bool {
	numbers := make(map[uint32]bool)
	for _, log := range h.audience.logs() {
		for _, tag := range log.memory.LastTags(math.MaxInt) {
			numbers[tag>>tagTypeBits] = true
		}
	}
	return numbers
}

// Destruct removes the stream: its clients are ended over their drain time,
// and still get events until then. With the last of them the hub is released.
// The pool calls it when the last configuration has gone.
func (h *hub) Destruct() error {
	n := h.audience.close(endRemoved)
	if h.keyed == nil {
		h.counts.refused.end()
		warnOfEnded(h.key, h.label, n)
	}
	if n == 0 {
		h.release()
	} else if caddy.Exiting() {
		endAllClients()
		h.log.Load().close() // the process may be gone before the last client is
	}
	return nil
}

// warnOfEnded logs that a reload ends the clients of a stream that has no name.
// It may have been meant to go; more often something of it was changed, and
// nothing else shows that this made it another stream.
func warnOfEnded(key, label string, clients int) {
	if clients == 0 || caddy.Exiting() || isNamedKey(key) {
		return
	}
	activeLogger().Warn("a reload changed or removed a stream that has no name; its clients are ended. With 'stream <name>', they stay while its upstreams and settings change",
		zap.String("stream", label), zap.Int("clients", clients))
}

// release gives up the sources, and then the log. It is called once, when the hub
// is gone and no client is left. The hub itself may stay for a while: a timer
// of a server, for a write or an idle connection, keeps the server's configuration,
// and that its streams, until it would be due.
func (h *hub) release() {
	h.inputs.release()
	h.log.Load().close()
	liveHubs.remove(h)
	h.logMu.Lock()
	defer h.logMu.Unlock()
	h.log.Store(newStreamLog(eventlog.Options{MaxEvents: 1}, h.log.Load().ids))
}

// admit counts a client, unless there are as many as a limit allows; 0 is none.
func (h *hub) admit(limit int) bool {
	if n := h.clients.Add(1); limit > 0 && n > int64(limit) {
		h.clients.Add(-1)
		return false
	}
	h.counts.clients.Add(1)
	return true
}

// beginsWithFirstClient reports whether the first client determines where the
// log begins: the upstream is asked for what follows the id that it has.
func (h *hub) beginsWithFirstClient() bool {
	return h.log.Load().ids == idsUpstream && h.shaped.Load().onDemand
}

// unsubscribe removes a client.
func (h *hub) unsubscribe(sub *subscriber) {
	if last := h.audience.unsubscribe(sub); last {
		h.release()
	}
}

// endUnused ends the hub of a key that a request has made, but not joined.
func (h *hub) endUnused() {
	if h.keyed != nil && h.audience.closeUnused() {
		h.dropKey()
	}
}

// dropKey ends the hub of a key, which has no clients and lets none in.
func (h *hub) dropKey() {
	h.keyed.drop(h)
	h.release()
}

// drain ends the clients that are chosen, over their drain windows.
func (h *hub) drain(chosen func(*subscriber) bool, why endReason) { h.audience.drain(chosen, why) }

// inUse returns the configuration that counts, nil if there is none.
func (h *hub) inUse() *definition { return h.inputs.inUse() }

// Interface guards
var (
	_ caddy.Destructor = (*hub)(nil)
	_ caddy.Destructor = (*source)(nil)
)
