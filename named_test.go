package ssefanin

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/doccheck"
	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// logOf is the log of a named stream.
func logOf(t *testing.T, name string) *eventlog.Log {
	t.Helper()
	var log *eventlog.Log
	hubs.Range(func(key, val any) bool {
		if key == namedKey(name) {
			log = val.(*hub).log.Load().memory
		}
		return log == nil
	})
	if log == nil {
		t.Fatalf("no stream '%s'", name)
	}
	return log
}

// named is a site with the stream s.
func named(settings string, origins ...*ssetest.Origin) string {
	var b strings.Builder
	for _, o := range origins {
		fmt.Fprintf(&b, "upstream %s %s\n", o.Source(), o.URL())
	}
	return "sse_fanin /events {\nstream s\n" + b.String() + settings + "\n}\nsse_fanin /oldest s {\nstart oldest\n}"
}

func TestNamedStreamChangesItsUpstreams(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a"})
	b := newOrigin(t, ssetest.OriginConfig{Source: "b"})
	in := serve(t, "", named("", a))
	connected(t, a)
	c := in.openClient(ssetest.ClientConfig{})
	emitSeen(t, a, c, "a1")
	epoch := epochOf(t, c)
	in.reload("", named("", a, b))
	connected(t, a, b)
	emitSeen(t, b, c, "b1")
	emitSeen(t, a, c, "a2")
	in.reload("", named("", b))
	must(t, a.WaitConnections(within(t, 5*time.Second), 0))
	a.Emit("", "a3, to nobody")
	emitSeen(t, b, c, "b2")
	wantDatas(t, c, "a1 b1 a2 b2")
	wantUndisturbed(t, c, a)
	wantUndisturbed(t, c, b)
	if got := epochOf(t, c); got != epoch {
		t.Errorf("the epoch went from %s to %s", epoch, got)
	}
}

func TestNamedStreamRenamesItsUpstreams(t *testing.T) {
	a, b := plain(t), plain(t)
	site := func(one, two string) string {
		return fmt.Sprintf("sse_fanin /events {\nstream s\nupstream %s %s\nupstream %s %s\n}", one, a.URL(), two, b.URL())
	}
	in := serve(t, "", site("a", "b"))
	connected(t, a, b)
	c := in.openClient(ssetest.ClientConfig{})
	want := ""
	for i, names := range [][2]string{{"a", "b"}, {"x", "b"}, {"b", "x"}, {"x", "b"}, {"z", "x"}, {"a", "b"}} {
		in.reload("", site(names[0], names[1]))
		emitSeen(t, a, c, fmt.Sprint("a", i))
		emitSeen(t, b, c, fmt.Sprint("b", i))
		want += fmt.Sprintf(" a%d b%d", i, i)
	}
	wantDatas(t, c, want[1:])
	wantUndisturbed(t, c, a)
	wantUndisturbed(t, c, b)
}

// The name of an upstream goes to another one, and the upstream gets a new one.
func TestNamedStreamReusesANameOfAnUpstream(t *testing.T) {
	a, b := plain(t), plain(t)
	in := serve(t, "", "sse_fanin /events {\nstream s\nupstream x "+a.URL()+"\n}")
	connected(t, a)
	c := in.openClient(ssetest.ClientConfig{})
	emitSeen(t, a, c, "a1")
	in.reload("", "sse_fanin /events {\nstream s\nupstream x "+b.URL()+"\nupstream y "+a.URL()+"\n}")
	connected(t, a, b)
	emitSeen(t, a, c, "a2")
	emitSeen(t, b, c, "b1")
	wantDatas(t, c, "a1 a2 b1")
	wantUndisturbed(t, c, a)
	wantUndisturbed(t, c, b)
}

// While both configurations are in use, events must come neither twice nor
// not at all.
func TestNamedStreamUnderLoadWhileItsUpstreamsChange(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 500})
	b := newOrigin(t, ssetest.OriginConfig{Source: "b", Rate: 100})
	in := serve(t, "", named("", a))
	v := ssetest.NewVerifier()
	c := in.openClient(ssetest.ClientConfig{Track: v.Track("c")})
	must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+1))
	for i := range 20 {
		renamed := strings.Replace(named(fmt.Sprintf("retain {\nevents %d\n}", 5000+i), a), "upstream a", fmt.Sprint("upstream a", i), 1)
		in.reload("", renamed)
		must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+1))
	}
	in.reload("", named("", a, b))
	must(t, v.WaitSeen(within(t, 5*time.Second), "b", b.Last()+1))
	settle(t, v, a, b)
	wantUndisturbed(t, c, a)
}

func TestNamedStreamRetainsLess(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Pad: 1000})
	in := serve(t, "", named("", a))
	connected(t, a)
	c := in.openClient(ssetest.ClientConfig{})
	flood(t, a, c, 1000)
	log := logOf(t, "s")
	before := log.Stats()
	in.reload("", named("retain {\nsize 64KiB\n}\nmax_event_size 32KiB", a))
	if after := log.Stats(); before.Memory < 1_000_000 || after.Memory > 64<<10 || after.Events == 0 || after.Head != before.Head {
		t.Errorf("it went from %+v to %+v", before, after)
	}
	fresh := in.openClient(ssetest.ClientConfig{URL: "/oldest"})
	must(t, fresh.WaitCount(within(t, 5*time.Second), log.Stats().Events))
	if n := fresh.Count(); n > 64 {
		t.Errorf("%d events of a KiB each in 64 KiB", n)
	}
	if conn := c.Connections()[0]; conn.End != ssetest.EndNone {
		t.Errorf("the client was disconnected: %+v", conn)
	}
	if logOf(t, "s") != log {
		t.Error("it has another log")
	}
}

func TestNamedStreamRetainsFewerEvents(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a"})
	in := serve(t, "", named("", a))
	connected(t, a)
	c := in.openClient(ssetest.ClientConfig{})
	emitSeen(t, a, c, "one", "two", "three", "four")
	in.reload("", named("retain {\nevents 2\n}", a))
	fresh := in.openClient(ssetest.ClientConfig{URL: "/oldest"})
	waitData(t, fresh, "four") // before the next one takes the place of the oldest
	emitSeen(t, a, fresh, "five")
	wantDatas(t, fresh, "three four five")
	expired := in.openClient(ssetest.ClientConfig{LastEventID: waitData(t, c, "one").ID})
	waitData(t, expired, "five")
	wantGap(t, expired, "expired", 2)
	wantUndisturbed(t, c, a)
}

func TestNamedStreamChangesItsIDs(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 300})
	in := serve(t, "", named("", a))
	v := ssetest.NewVerifier()
	c := in.openClient(ssetest.ClientConfig{Track: v.Track("c")})
	must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+5))
	epoch := epochOf(t, c)
	for _, ids := range []string{"ids none", "ids stream", "ids none", "ids stream"} {
		in.reload("", named(ids, a))
		must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+5))
	}
	settle(t, v, a)
	wantUndisturbed(t, c, a)
	if got := epochOf(t, c); got == epoch {
		t.Errorf("the epoch is still %s", got)
	}
}

func TestPositionFromBeforeTheIDsChanged(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a"})
	in := serve(t, "", named("", a))
	connected(t, a)
	c := in.openClient(ssetest.ClientConfig{})
	emitSeen(t, a, c, "one")
	old := c.LastEventID()
	in.reload("", named("ids none", a))
	emitSeen(t, a, c, "two")
	in.reload("", named("ids stream", a))
	emitSeen(t, a, c, "three", "four")
	again := in.openClient(ssetest.ClientConfig{LastEventID: old})
	waitData(t, again, "four")
	wantGap(t, again, "unknown", -1)
	wantDatas(t, again, "three four") // what this epoch has
	wantDatas(t, c, "one two three four")
	wantUndisturbed(t, c, a)
}

func TestStreamMovesFromAHandlerToTheGlobalOptions(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a"})
	in := serve(t, "", "sse_fanin /events {\nstream s\nupstream a "+a.URL()+"\n}")
	connected(t, a)
	c := in.openClient(ssetest.ClientConfig{})
	emitSeen(t, a, c, "one")
	epoch := epochOf(t, c)
	in.reload("sse_fanin {\nstream s {\nupstream a "+a.URL()+"\n}\n}", "sse_fanin /elsewhere s")
	emitSeen(t, a, c, "two")
	wantUndisturbed(t, c, a)
	again := in.openClient(ssetest.ClientConfig{URL: "/elsewhere", LastEventID: waitData(t, c, "one").ID})
	emitSeen(t, a, again, "three")
	wantDatas(t, again, "two three")
	if got := epochOf(t, again); got != epoch {
		t.Errorf("the epoch went from %s to %s", epoch, got)
	}
}

// Names may have dots, as those of hosts have, wherever a name may stand.
func TestNamesWithDots(t *testing.T) {
	must(t, doccheck.ValidateCaddyfile(`{
	sse_fanin {
		stream live.v2 {
			upstream my.service.example https://a.example.com/events
		}
		stream short.v2 https://b.example.com/events
	}
}

:8080 {
	sse_fanin /live live.v2
	sse_fanin /short short.v2 {
		heartbeat 5s
	}
	sse_fanin /by-word {
		stream live.v2
	}
	sse_fanin /own {
		stream own.v2
		upstream 10.0.0.1 https://c.example.com/events https://d.example.com/events
		upstream v1. https://e.example.com/events
	}
	sse_fanin_status /status live.v2 own.v2
}
`))
}
