package ssefanin

import (
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// A reload ends standby. What the node has read until then and not found in the log
// is for whoever writes; this node does not append it when it takes over much later.
func TestReloadEndsStandby(t *testing.T) {
	in, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "standby", "")
	c := in.connect("/events")
	up(t, o)
	o.Emit("", "one")
	gets(t, c, "one")
	node := takeOver(t, log)
	d := durableOf(t)
	eventually(t, 10*time.Second, "another node writes", func() bool { return !d.writing.Load() })
	o.Emit("", "two")
	waiting := func() int {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.standby.waiting)
	}
	eventually(t, 10*time.Second, "the node has read an event that is not in the log", func() bool { return waiting() == 1 })
	in.reload("", "sse_fanin /events {\nstream s\nlog shared_test\nupstream u "+o.URL()+" {\nbackoff 10ms 10ms\n}\n}\nsse_fanin_status /status")
	in.awaitTakeover()
	eventually(t, 10*time.Second, "the node has hung up", func() bool { return o.Connections() == 0 })
	if n := waiting(); n != 0 {
		t.Errorf("%d events wait to be appended", n)
	}
	node.append(sse.Event{ID: []byte("2"), Data: []byte("two")})
	gets(t, c, "one", "two")
	node.leave()
	eventually(t, 10*time.Second, "the node writes", func() bool { return o.Connections() == 1 })
	o.Emit("", "three")
	gets(t, c, "one", "two", "three")
}

// A store that takes events slowly keeps its writer connected, however full its
// buffer is: an upstream that cannot resume would lose what it sends meanwhile.
func TestSlowStoreDoesNotHangUp(t *testing.T) {
	in, o, _ := serveSharedLog(t, ssetest.OriginConfig{}, "hold 1h", "")
	in.connect("/events")
	up(t, o)
	d := durableOf(t)
	d.full.Store(true)
	defer d.full.Store(false)
	d.hold(logstore.Status{State: logstore.Writing})
	if d.held.Load() {
		t.Error("the upstreams are hung up")
	}
}

// An epoch begins in a store that a reload has just taken from the stream: the
// readers go on all the same.
func TestReplacedLogBeginsAnEpoch(t *testing.T) {
	serveSharedLog(t, ssetest.OriginConfig{}, "", "")
	h := durableOf(t).hub
	old, after := h.log.Load(), newStreamLog(eventlog.Options{}, idsStream)
	renewed := newStreamLog(eventlog.Options{}, idsStream)
	old.next.Store(after)
	h.log.Store(after)
	h.replaceLog(old, renewed)
	defer h.log.Store(old) // it is to be closed
	if h.log.Load() != after || old.following() != renewed || renewed.following() != after {
		t.Error("the readers of the log before do not come to the one after it")
	}
}

// Where the store has lost events, sources do not go on after them.
func TestEpochForgetsWhereSourcesWere(t *testing.T) {
	in, o, _ := serveSharedLog(t, ssetest.OriginConfig{}, "", "")
	c := in.connect("/events")
	up(t, o)
	o.Emit("", "one")
	gets(t, c, "one")
	d := durableOf(t)
	if d.startOf("u") == nil {
		t.Fatal("where the source goes on is not known")
	}
	d.renew(append(d.epochs(), logstore.Epoch{ID: logstore.NewEpochID(), First: 1}), 1)
	if p := d.startOf("u"); p != nil {
		t.Errorf("the source goes on after the event %s, which the store has not", p.id)
	}
}

// A client that begins with the newest events gets as many after a takeover.
func TestNewestEventsAfterATakeover(t *testing.T) {
	in, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "", "start 2")
	c := in.connect("/events")
	up(t, o)
	o.Emit("", "one")
	o.Emit("", "two")
	gets(t, c, "one", "two")
	node := takeOver(t, log)
	for range 5 {
		must(t, node.term.Append(&logstore.Record{Time: time.Now().UnixMilli(), Source: "other"})) // a fence
	}
	becomes(t, "s", "the node has the fence", func(st streamStatus) bool { return st.Log.Head == 7 })
	gets(t, in.connect("/events"), "one", "two")
}
