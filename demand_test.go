package ssefanin

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// onDemand is a site with a stream that is connected on demand.
func onDemand(o *ssetest.Origin, linger, options string) string {
	return "sse_fanin /events " + o.URL() + " {\nconnect on_demand " + linger + "\n" + options + "\n}"
}

func TestOnDemandDialsWithTheFirstClient(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", onDemand(o, "1m", ""))
	if status, _ := in.status(http.MethodHead, "/events"); status != http.StatusOK {
		t.Errorf("HEAD: status %d", status)
	}
	if status, _ := in.status(http.MethodPost, "/events"); status != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d", status)
	}
	if n := o.Accepts(); n != 0 {
		t.Fatalf("dialled %d times before there was a client", n)
	}
	c := in.connect("/events")
	up(t, o)
	o.Emit("", "x")
	gets(t, c, "x")
	second := in.connect("/events")
	o.Emit("", "y")
	gets(t, second, "y")
	if n := o.TotalConnections(); n != 1 {
		t.Errorf("dialled %d times for two clients", n)
	}
}

func TestOnDemandHeadersDoNotWaitForTheUpstream(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	o.Inject(ssetest.Fault{Kind: ssetest.Hang})
	in := serve(t, "", onDemand(o, "1m", ""))
	c := in.connect("/events")
	must(t, c.WaitComments(within(t, 10*time.Second), 1))
	must(t, o.WaitConnections(within(t, 10*time.Second), 1))
}

func TestOnDemandHangsUpAfterTheLinger(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	const linger = 200 * time.Millisecond
	in := serve(t, "", onDemand(o, linger.String(), ""))
	c := in.connect("/events")
	up(t, o)
	left := time.Now()
	c.Close()
	must(t, o.WaitConnections(within(t, 10*time.Second), 0))
	if after := time.Since(left); after < linger {
		t.Errorf("hung up after %s, want %s", after, linger)
	}
	in.connect("/events")
	up(t, o)
	if n := o.TotalConnections(); n != 2 {
		t.Errorf("dialled %d times, want 2", n)
	}
}

func TestOnDemandComingBackWithinTheLingerDoesNotRedial(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", onDemand(o, "1m", ""))
	for i := range 5 {
		c := in.connect("/events")
		up(t, o) // from the second on, it has been all the time
		emitSeen(t, o, c, fmt.Sprint(i))
		c.Close()
	}
	if n := o.TotalConnections(); n != 1 {
		t.Errorf("dialled %d times, want once", n)
	}
}

func TestOnDemandWithoutALinger(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", onDemand(o, "0s", ""))
	for range 5 {
		c := in.connect("/events")
		up(t, o)
		c.Close()
		must(t, o.WaitConnections(within(t, 10*time.Second), 0))
	}
}

// leaveBeforeTheSecond has a client get the first event and leave, and the upstream send
// the second one once it is left, too. It returns the client's position.
func leaveBeforeTheSecond(t *testing.T, in *instance, o *ssetest.Origin) string {
	t.Helper()
	c := in.connect("/events")
	up(t, o)
	o.Emit("", "1")
	gets(t, c, "1")
	c.Close()
	must(t, o.WaitConnections(within(t, 10*time.Second), 0))
	o.Emit("", "2")
	return c.LastEventID()
}

func TestOnDemandResumesAcrossThePause(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", onDemand(o, "1ms", ""))
	at := leaveBeforeTheSecond(t, in, o)
	again := in.connect("/events", resumeFrom(at))
	up(t, o)
	o.Emit("", "3")
	gets(t, again, "2", "3")
	if ids := o.LastEventIDs(); !slices.Equal(ids, []string{"", "1"}) {
		t.Errorf("asked from %q, want none and 1", ids)
	}
	if gaps := control(again, "gap"); gaps != nil {
		t.Errorf("gaps: %q", gaps)
	}
}

// Reloads may change how the upstream is asked, again and again, while nobody is there.
func TestOnDemandResumesAfterReloadsInThePause(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	site := func(n int) string {
		return fmt.Sprintf("sse_fanin /events {\nstream s\nconnect on_demand 1ms\nupstream o %s {\nheader_up X-Try %d\n}\n}", o.URL(), n)
	}
	in := serve(t, "", site(0))
	at := leaveBeforeTheSecond(t, in, o)
	in.reload("", site(1))
	in.reload("", site(2))
	again := in.connect("/events", resumeFrom(at))
	up(t, o)
	o.Emit("", "3")
	gets(t, again, "2", "3")
}

func TestOnDemandStreamGoesOnWhileAnotherOneKeepsTheConnection(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", `
	sse_fanin /a `+o.URL()+` {
		connect on_demand 1ms
	}
	sse_fanin /b `+o.URL()+` {
		connect on_demand 1ms
		ids     none
	}`)
	a, b := in.connect("/a"), in.connect("/b")
	up(t, o)
	o.Emit("", "1")
	gets(t, a, "1")
	gets(t, b, "1")
	at := a.LastEventID()
	a.Close()
	eventually(t, 10*time.Second, "the linger has ended", func() bool {
		still := 0
		hubs.Range(func(_, val any) bool {
			if val.(*hub).audience.present() {
				still++
			}
			return true
		})
		return still == 1
	})
	o.Emit("", "2")
	gets(t, b, "1", "2")
	gets(t, in.connect("/a", resumeFrom(at)), "2")
	if n := o.TotalConnections(); n != 1 {
		t.Errorf("dialled %d times, want once", n)
	}
}

func TestOnDemandOverReloads(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	site := onDemand(o, "1m", "")
	in := serve(t, "", site)
	in.reload("", site+"\nrespond /x 1")
	if n := o.Accepts(); n != 0 {
		t.Fatalf("a reload dialled")
	}
	c := in.connect("/events")
	up(t, o)
	in.reload("", site+"\nrespond /x 2")
	o.Emit("", "x")
	gets(t, c, "x")
	if n := o.TotalConnections(); n != 1 {
		t.Errorf("dialled %d times, want once", n)
	}
}

// seedSite is a stream with the upstream's ids that is connected on demand.
func seedSite(o *ssetest.Origin, options string) string {
	return onDemand(o, "1m", "ids upstream\n"+options)
}

func TestOnDemandFirstClientBringsTheUpstreamsID(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	for _, data := range []string{"1", "2", "3", "4"} {
		o.Emit("", data)
	}
	in := serve(t, "", seedSite(o, ""))
	c := in.connect("/events", resumeFrom("2"))
	up(t, o)
	gets(t, c, "3", "4")
	if ids := o.LastEventIDs(); !slices.Equal(ids, []string{"2"}) {
		t.Errorf("asked from %q, want 2", ids)
	}
	if gaps := control(c, "gap"); gaps != nil {
		t.Errorf("gaps: %q", gaps)
	}
}

// What was not asked for is missing, and has to be announced.
func TestOnDemandIDThatTheUpstreamWasNotAskedFor(t *testing.T) {
	for name, tc := range map[string]struct {
		options string
		first   string // the first client's id
		other   string // another stream on the same connection
		late    string // the id of the client to look at; if empty it is the first
		query   string
	}{
		"the first client had none":    {late: "2"},
		"the first client had another": {first: "3", late: "2"},
		"resume off":                   {options: "resume off", first: "2"},
		"resume from elsewhere":        {options: "resume 3", first: "2"},
		"control characters":           {query: "?lastEventId=a%0Ab"},
		"too long":                     {first: strings.Repeat("8", maxPosition+1)},
		"connected for another stream": {first: "2", other: "true"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{})
			o.SetResume(ssetest.LiveOnly)
			site := seedSite(o, tc.options)
			if tc.other != "" {
				site += "\nsse_fanin /other " + o.URL()
			}
			in := serve(t, "", site)
			if tc.other != "" {
				up(t, o)
			}
			c := in.connect("/events"+tc.query, resumeFrom(tc.first))
			up(t, o)
			if tc.late != "" {
				c = in.connect("/events", resumeFrom(tc.late))
			}
			o.Emit("", "end")
			gets(t, c, "end")
			if gaps := control(c, "gap"); len(gaps) != 1 {
				t.Errorf("%d gaps, want 1; asked from %q", len(gaps), o.LastEventIDs())
			}
			if name == "too long" && o.LastEventIDs()[0] != "" {
				t.Errorf("the upstream was asked from %q", o.LastEventIDs())
			}
		})
	}
}

// A client that comes when the linger has just ended finds the connection still
// there: the upstream might not be able to send again what it misses.
func TestOnDemandClientAtTheVeryEndOfTheLinger(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	o.SetResume(ssetest.LiveOnly)
	in := serve(t, "", onDemand(o, "1m", "")+"\n"+strings.Replace(keyedSite(newEchoOrigin(t), "/{query.user}", ""), "/events*", "/keyed", 1))
	c := in.connect("/events")
	in.connect("/keyed?user=ann")
	up(t, o)
	o.Emit("", "1")
	gets(t, c, "1")
	all := liveHubs.list()
	for _, h := range all {
		if h.audience.retire() { // as if the notifier had found it empty before
			t.Errorf("%s was retired, though it has a client", h.label)
		}
	}
	o.Emit("", "2")
	gets(t, c, "1", "2")
	if n := o.TotalConnections(); n != 1 {
		t.Errorf("dialled %d times, want once", n)
	}
}

// Clients that come and go while lingers end: whoever is there has a connection.
func TestOnDemandClientsAroundTheEndOfTheLinger(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", onDemand(o, "1ms", ""))
	for i := range 40 {
		c := in.connect("/events")
		up(t, o)
		o.Emit("", fmt.Sprint(i))
		waitFor(t, c, "the event", func() bool { return len(received(c)) > 0 })
		c.Close()
	}
	must(t, o.WaitConnections(within(t, 10*time.Second), 0))
}

// What a source was asked for first stays what it was asked for, also when
// another stream joins it that had the same upstream over another connection.
func TestSourceKeepsItsBeginning(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	for _, data := range []string{"1", "2", "3", "4"} {
		o.Emit("", data)
	}
	site := func(token int) string {
		return `
		sse_fanin /a ` + o.URL() + ` {
			header_up X-Token 1
			connect   on_demand 1m
			ids       upstream
		}
		sse_fanin /b ` + o.URL() + ` {
			stream    b
			header_up X-Token ` + fmt.Sprint(token) + `
		}
		sse_fanin /c ` + o.URL() + ` {
			header_up X-Token 2
		}`
	}
	in := serve(t, "", site(2))
	b, c := in.connect("/b"), in.connect("/c")
	up(t, o)
	first := in.connect("/a", resumeFrom("2"))
	gets(t, first, "3", "4")
	o.Emit("", "5")
	gets(t, first, "3", "4", "5")
	gets(t, b, "5")
	gets(t, c, "5")
	in.reload("", site(1))
	o.Emit("", "6")
	gets(t, b, "5", "6")
	again := in.connect("/a", resumeFrom("2"))
	gets(t, again, "3", "4", "5", "6")
	if gaps := control(again, "gap"); gaps != nil {
		t.Errorf("gaps: %q", gaps)
	}
}
