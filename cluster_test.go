package ssefanin

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
	"github.com/sse-fanin/caddy-sse-fanin/logstore/storetest"
)

func init() {
	caddy.RegisterModule(new(sharedLog))
}

// sharedLog keeps logs as memoryLog does, but other nodes have them, too.
type sharedLog struct {
	memoryLog

	HoldFor  caddy.Duration `json:"hold,omitempty"`
	StandsBy bool           `json:"standby,omitempty"`
}

func (*sharedLog) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: logNamespace + ".shared_test", New: func() caddy.Module { return new(sharedLog) }}
}

func (l *sharedLog) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next(); d.NextBlock(0); {
		switch d.Val() {
		case "standby":
			l.StandsBy = true
		case "hold":
			d.NextArg()
			hold, err := time.ParseDuration(d.Val())
			if err != nil {
				return err
			}
			l.HoldFor = caddy.Duration(hold)
		default:
			return d.ArgErr()
		}
	}
	return nil
}

func (l *sharedLog) Standby() bool       { return l.StandsBy }
func (l *sharedLog) Hold() time.Duration { return time.Duration(l.HoldFor) }

// serveSharedLog serves a stream s whose log other nodes have, too.
func serveSharedLog(t *testing.T, cfg ssetest.OriginConfig, logOptions, options string) (*instance, *ssetest.Origin, *storetest.Memory) {
	t.Helper()
	return serveSharedLogWith(t, "", cfg, logOptions, options)
}

// serveSharedLogWith does so with global options.
func serveSharedLogWith(t *testing.T, global string, cfg ssetest.OriginConfig, logOptions, options string) (*instance, *ssetest.Origin, *storetest.Memory) {
	t.Helper()
	store := storetest.NewMemory()
	memoryStore.Store(store)
	o := newOrigin(t, cfg)
	in := serve(t, global, "sse_fanin /events {\nstream s\nlog shared_test {\n"+logOptions+"\n}\nupstream u "+o.URL()+" {\nbackoff 10ms 10ms\n}\n"+options+"\n}\nsse_fanin_status /status")
	return in, o, store
}

// otherNode is another node, which writes by hand.
type otherNode struct {
	t     *testing.T
	store logstore.Shared
	term  logstore.Term
}

// takeOver has another node write, as if the one that does had died.
func takeOver(t *testing.T, log *storetest.Memory) *otherNode {
	t.Helper()
	n := &otherNode{t: t, store: log.Open("other")}
	t.Cleanup(func() { _ = n.store.Close() })
	got := make(chan logstore.Term, 1)
	go func() {
		term, _ := n.store.Campaign(t.Context()) // the test fails without it
		got <- term
	}()
	for n.term == nil {
		log.Depose()
		select {
		case n.term = <-got:
		case <-time.After(5 * time.Millisecond): // the one that wrote was faster
		}
	}
	return n
}

// append appends an event of the source u, as if the origin had sent it.
func (n *otherNode) append(ev sse.Event) {
	n.t.Helper()
	must(n.t, n.term.Append(&logstore.Record{
		Time: time.Now().UnixMilli(), Source: "u", ID: string(ev.ID), Type: string(ev.Type),
		Hash: uint64(stablePrintOf(&ev)), Body: sse.AppendEvent(nil, &sse.Event{Type: ev.Type, Data: ev.Data}),
	}))
}

func (n *otherNode) leave() {
	n.t.Helper()
	must(n.t, n.term.Release(within(n.t, 10*time.Second)))
	must(n.t, n.store.Close())
}

// A node that writes again goes on after what others have written, not after what
// it has read itself.
func TestNodeThatWritesAgainGoesOnFromTheLog(t *testing.T) {
	in, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "", "")
	c := in.connect("/events")
	up(t, o)
	o.Emit("", "one")
	gets(t, c, "one")
	resume := log.Stall()
	o.Emit("", "two") // read, but never committed
	becomes(t, "s", "the store has one more to commit", func(st streamStatus) bool { return st.Log.Store.Buffered == 1 })
	node := takeOver(t, log)
	resume()
	eventually(t, 10*time.Second, "the origin is hung up", func() bool { return o.Connections() == 0 })
	node.append(sse.Event{ID: []byte("2"), Data: []byte("two")})
	gets(t, c, "one", "two")
	o.Emit("", "three")
	node.append(sse.Event{ID: []byte("3"), Data: []byte("three")})
	gets(t, c, "one", "two", "three")
	o.Emit("", "four")
	node.leave()
	gets(t, c, "one", "two", "three", "four")
	o.Emit("", "five")
	gets(t, c, "one", "two", "three", "four", "five")
	if asked := o.LastEventIDs(); asked[len(asked)-1] != "3" {
		t.Errorf("the origin was asked to go on after %q, want 3 at last", asked)
	}
}

// What a node could not have committed is asked for again, in the next term.
func TestWhatATermHasLostComesAgain(t *testing.T) {
	in, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "", "")
	c := in.connect("/events")
	up(t, o)
	o.Emit("", "one")
	gets(t, c, "one")
	for i := range 5 {
		resume := log.Stall()
		o.Emit("", fmt.Sprint("lost ", i))
		becomes(t, "s", "the store has one more to commit", func(st streamStatus) bool { return st.Log.Store.Buffered == 1 })
		log.Depose()
		resume()
		must(t, c.WaitCount(within(t, 10*time.Second), uint64(i+2)))
	}
	gets(t, c, "one", "lost 0", "lost 1", "lost 2", "lost 3", "lost 4")
}

// A position that another node has given, and this one does not know yet.
func TestPositionAheadOfTheNodeIsWaitedFor(t *testing.T) {
	in, o, _ := serveSharedLog(t, ssetest.OriginConfig{}, "", "heartbeat 20ms")
	c := in.connect("/events")
	up(t, o)
	o.Emit("", "one")
	gets(t, c, "one")
	ahead := durableOf(t).log().memory.CursorBefore(2, time.Now())
	ahead.Offset = 3
	hop := in.openClient(ssetest.ClientConfig{URL: "/events", LastEventID: ahead.String()})
	must(t, hop.WaitComments(within(t, 10*time.Second), 3))
	o.Emit("", "two")
	o.Emit("", "three")
	o.Emit("", "four")
	gets(t, hop, "four")
	gets(t, c, "one", "two", "three", "four")
}

// A stream that is connected on demand is written by a node with clients.
func TestNodeWithoutClientsDoesNotWrite(t *testing.T) {
	in, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "", "connect on_demand 10ms")
	eventually(t, 10*time.Second, "the log is known", func() bool { return durableOf(t).loaded.Load() })
	node := &otherNode{t: t, store: log.Open("other")}
	var err error
	node.term, err = node.store.Campaign(within(t, 10*time.Second))
	must(t, err)
	c := in.connect("/events")
	node.append(sse.Event{Data: []byte("one")})
	gets(t, c, "one")
	if o.TotalConnections() != 0 {
		t.Error("the upstream is connected by a node that does not write")
	}
	node.leave()
	up(t, o)
	o.Emit("", "two")
	gets(t, c, "one", "two")
	c.Close()
	eventually(t, 10*time.Second, "the node gives the log up", func() bool { return o.Connections() == 0 })
	node = &otherNode{t: t, store: log.Open("other")}
	node.term, err = node.store.Campaign(within(t, 10*time.Second))
	must(t, err)
	node.leave()
}

// While nothing can be committed for long, nothing is read, and the upstream is
// resumed afterwards.
func TestWriterHangsUpWhereNothingCanBeCommitted(t *testing.T) {
	in, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "hold 10ms", "")
	c := in.connect("/events")
	up(t, o)
	o.Emit("", "one")
	gets(t, c, "one")
	resume := log.Stall()
	o.Emit("", "two")
	eventually(t, 10*time.Second, "the upstream is hung up", func() bool { return o.Connections() == 0 })
	o.Emit("", "three")
	resume()
	gets(t, c, "one", "two", "three")
	o.Emit("", "four")
	gets(t, c, "one", "two", "three", "four")
}

// Every node has an upstream that cannot resume connected, and what it has beyond
// the log is not lost when it takes over.
func TestNodeThatStandsByLosesNothing(t *testing.T) {
	in, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "standby", "")
	withoutIDs([]*ssetest.Origin{o})
	c := in.connect("/events")
	up(t, o)
	o.Emit("", "one")
	gets(t, c, "one")
	node := takeOver(t, log)
	eventually(t, 10*time.Second, "another node writes", func() bool { return !durableOf(t).writing.Load() })
	emit := func(data string, written bool) {
		o.Emit("", data)
		if written {
			node.append(sse.Event{Data: []byte(data)})
		}
	}
	emit("two", true)
	emit("tick", true)
	emit("tick", true)
	node.append(sse.Event{Data: []byte("three")}) // before this node has read it
	gets(t, c, "one", "two", "tick", "tick", "three")
	o.Emit("", "three")
	emit("tick", false)
	emit("four", false)
	emit("four", false)
	d := durableOf(t)
	eventually(t, 10*time.Second, "the node has read three events that are not in the log", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.standby.waiting) == 3
	})
	node.leave()
	gets(t, c, "one", "two", "tick", "tick", "three", "tick", "four", "four")
	o.Emit("", "five")
	gets(t, c, "one", "two", "tick", "tick", "three", "tick", "four", "four", "five")
	eventually(t, 10*time.Second, "all of it is found in the log", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.standby.waiting) == 0
	})
	if n := o.TotalConnections(); n != 1 {
		t.Errorf("the origin was connected %d times", n)
	}
}

func TestStandbyIsBounded(t *testing.T) {
	var s standby
	body := make([]byte, standbyMost/4)
	for i := range 10 {
		s.keep(&logstore.Record{Source: "u", Hash: uint64(i), Body: body})
	}
	if len(s.waiting) != 4 || s.bytes != standbyMost || s.waiting[0].Hash != 6 {
		t.Fatalf("%d events with %d bytes wait, from %d on", len(s.waiting), s.bytes, s.waiting[0].Hash)
	}
	s = standby{}
	for i := range int64(4) {
		s.keep(&logstore.Record{Source: "uv"[i%2 : i%2+1], Hash: uint64(i), Time: 60_000 * i, Body: []byte("x")})
	}
	s.found(&logstore.Record{Source: "u", Hash: 2}) // 0 was passed two minutes ago
	if len(s.waiting) != 2 || s.waiting[0].Hash != 1 || s.waiting[1].Hash != 3 || s.bytes != 2 {
		t.Errorf("what waits is %v", s.waiting)
	}
	s.found(&logstore.Record{Source: "u", Hash: 3})
	if len(s.waiting) != 2 {
		t.Error("an event of another source was found")
	}
}
