package ssefanin

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// upstreamIDs serves an origin's events with the origin's ids.
func upstreamIDs(t *testing.T, o *ssetest.Origin, options string) *instance {
	t.Helper()
	in := serve(t, "", "sse_fanin /events "+o.URL()+" {\nids upstream\n"+options+"\n}")
	up(t, o)
	return in
}

// gotIDs are the ids that were in force with each event.
func gotIDs(c *ssetest.Client) string {
	var all []string
	for _, e := range c.Events() {
		if !strings.HasPrefix(e.Type, "fanin.") {
			all = append(all, e.Data+"="+e.ID)
		}
	}
	return strings.Join(all, " ")
}

func TestUpstreamIDsPass(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := upstreamIDs(t, o, "")
	c := in.connect("/events")
	o.SetIDs(func(n uint64) string { return fmt.Sprintf("ä %d{env.HOME}", n) })
	each([]*ssetest.Origin{o}, "a", "b")
	gets(t, c, "a", "b")
	if got, want := gotIDs(c), "a=ä 1{env.HOME} b=ä 2{env.HOME}"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestUpstreamIDsResumeExactly(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := upstreamIDs(t, o, "")
	first := in.connect("/events")
	each([]*ssetest.Origin{o}, "1", "2", "3")
	gets(t, first, "1", "2", "3")
	for id, want := range map[string][]string{"1": {"2", "3"}, "2": {"3"}} {
		c := in.connect("/events", resumeFrom(id))
		gets(t, c, want...)
		if gaps := control(c, "gap"); gaps != nil {
			t.Errorf("from %s: gaps %q", id, gaps)
		}
	}
	c := in.connect("/events", resumeFrom("3"))
	o.Emit("", "end")
	gets(t, c, "end")
}

func TestUpstreamIDsEventsWithoutOne(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := upstreamIDs(t, o, "")
	c := in.connect("/events")
	o.SetIDs(func(n uint64) string {
		if n%3 == 1 {
			return fmt.Sprint(n)
		}
		return ""
	})
	each([]*ssetest.Origin{o}, "a", "b", "c", "d", "e")
	gets(t, c, "a", "b", "c", "d", "e")
	if got, want := gotIDs(c), "a=1 b=1 c=1 d=4 e=4"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// like the upstream: after the event that brought the id
	again := in.connect("/events", resumeFrom("1"))
	gets(t, again, "b", "c", "d", "e")
}

func TestUpstreamIDsReset(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := upstreamIDs(t, o, "")
	c := in.connect("/events")
	o.Raw([]byte("data: none\n\nid: 1\ndata: a\n\nid\ndata: b\n\ndata: c\n\nid: 2\ndata: d\n\n"))
	gets(t, c, "none", "a", "b", "c", "d")
	if got, want := gotIDs(c), "none= a=1 b= c= d=2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	gets(t, in.connect("/events", resumeFrom("1")), "b", "c", "d")
}

func TestUpstreamIDsUnknown(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := upstreamIDs(t, o, "start 1")
	first := in.connect("/events")
	each([]*ssetest.Origin{o}, "1", "2", "3")
	gets(t, first, "1", "2", "3")
	c := in.connect("/events", resumeFrom("17"))
	gets(t, c, "3")
	gap := c.Events()[0]
	if gap.Type != "fanin.gap" || gap.ID != "2" || !strings.Contains(gap.Data, `"reason":"unknown","missed":null,"resumed":"2"`) {
		t.Errorf("got %+v, want a gap with the id 2", gap)
	}
	c.Disconnect()
	must(t, c.WaitOpen(within(t, 10*time.Second), 2))
	o.Emit("", "end")
	gets(t, c, "3", "end")
	if n := len(control(c, "gap")); n != 1 {
		t.Errorf("%d gaps, want 1", n)
	}
}

// A client that has the newest event that is no longer retained has missed
// nothing.
func TestUpstreamIDsResumeFromJustBeforeWhatIsRetained(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := upstreamIDs(t, o, "retain {\nevents 3\n}")
	c := in.connect("/events")
	for i, data := range []string{"1", "2", "3", "4", "5"} { // one by one: more than is retained overtakes a client
		o.Emit("", data)
		must(t, c.WaitCount(within(t, 10*time.Second), uint64(i+1)))
	}
	again := in.connect("/events", resumeFrom("2"))
	gets(t, again, "3", "4", "5")
	if gaps := control(again, "gap"); gaps != nil {
		t.Errorf("gaps: %q", gaps)
	}
	old := in.connect("/events", resumeFrom("1"))
	o.Emit("", "end")
	gets(t, old, "end")
	if gaps := control(old, "gap"); len(gaps) != 1 {
		t.Errorf("%d gaps, want 1", len(gaps))
	}
}

func TestUpstreamIDsOverARestart(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	site := "sse_fanin /events " + o.URL() + " {\nids upstream\ndrain 10ms\n}"
	in := serve(t, "", site)
	up(t, o)
	c := in.connect("/events")
	o.Emit("", "1")
	gets(t, c, "1")
	in.stop()
	must(t, o.WaitConnections(within(t, 10*time.Second), 0))
	o.Emit("", "2")
	in.reload("", site)
	up(t, o)
	must(t, c.WaitOpen(within(t, 10*time.Second), 2))
	waitFor(t, c, "a gap", func() bool { return len(control(c, "gap")) > 0 })
	o.Emit("", "3")
	gets(t, c, "1", "3")
	if id := c.LastEventID(); id != "3" {
		t.Errorf("the client's id is %s, want 3", id)
	}
}

func TestUpstreamIDsIndexIsBounded(t *testing.T) {
	l := newStreamLog(eventlog.Options{MaxEvents: 100, MaxBytes: 1 << 20}, idsUpstream)
	now := time.Now()
	for i := range 10_000 {
		l.appendWithID(now, 0, []byte("data: x\n\n"), fmt.Append(nil, i/3))
	}
	if len(l.noted) > 101 || len(l.byID) > 101 {
		t.Errorf("%d ids are noted and %d indexed of 100 events", len(l.noted), len(l.byID))
	}
	l = newStreamLog(eventlog.Options{MaxEvents: 100, MaxBytes: 1 << 20}, idsUpstream)
	for i := range 10_000 { // ids that come again
		l.appendWithID(now, 0, []byte("data: x\n\n"), fmt.Append(nil, i%7))
	}
	if len(l.noted) > 101 || len(l.byID) > 7 {
		t.Errorf("%d ids are noted and %d indexed of 100 events", len(l.noted), len(l.byID))
	}
	if next, ok := l.afterID("3"); !ok || next != l.memory.Head()+1-uint64((9999-3)%7) {
		t.Errorf("resumed at %d, %v of %d: want after the last event with the id", next, ok, l.memory.Head())
	}
}

func TestUpstreamIDsTooLongToNote(t *testing.T) {
	l := newStreamLog(eventlog.Options{MaxEvents: 100, MaxBytes: 1 << 20}, idsUpstream)
	long := strings.Repeat("x", maxNotedID+1)
	l.appendWithID(time.Now(), 0, []byte("data: x\n\n"), []byte(long))
	l.appendWithID(time.Now(), 0, []byte("data: x\n\n"), []byte("2"))
	if next, ok := l.afterID(long); !ok || next != 2 {
		t.Errorf("resumed at %d, %v", next, ok)
	}
	if id := l.idBefore(2); id != "" {
		t.Errorf("the id before is %.20s…, want none", id)
	}
}
