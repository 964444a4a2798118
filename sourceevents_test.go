package ssefanin

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// sourceEvent is a fanin.source event.
type sourceEvent struct {
	Source, State, Reason string
	Since                 int64
}

func sourceEvents(t *testing.T, c *ssetest.Client) []sourceEvent {
	t.Helper()
	var all []sourceEvent
	for _, data := range control(c, "source") {
		var e sourceEvent
		must(t, json.Unmarshal([]byte(data), &e))
		all = append(all, e)
	}
	return all
}

// awaitSource waits until what a client was told last of a source is this.
func awaitSource(t *testing.T, c *ssetest.Client, source, state string) sourceEvent {
	t.Helper()
	var last sourceEvent
	waitFor(t, c, source+" is "+state, func() bool {
		last = sourceEvent{}
		for _, e := range sourceEvents(t, c) {
			if e.Source == source {
				last = e
			}
		}
		return last.State == state
	})
	return last
}

// told serves two origins, a and b, with source events.
func told(t *testing.T, options string) (in *instance, a, b *ssetest.Origin) {
	t.Helper()
	both := plainOrigins(t, 2)
	a, b = both[0], both[1]
	in = serve(t, "", "sse_fanin /events {\nupstream a "+a.URL()+"\nupstream b "+b.URL()+"\nsource_events on\nbackoff 20ms 20ms\n"+options+"\n}")
	return in, a, b
}

func TestSourceEventsBeginWithTheStates(t *testing.T) {
	in, a, b := told(t, "start oldest")
	b.Stop()
	up(t, a)
	first := in.connect("/events")
	awaitSource(t, first, "a", "up")
	if e := awaitSource(t, first, "b", "down"); e.Reason == "" {
		t.Errorf("it is down for no reason: %+v", e)
	}
	a.Emit("", "1")
	gets(t, first, "1")
	second := in.connect("/events")
	gets(t, second, "1")
	events := second.Events()
	if len(events) != 3 || events[0].Type != "fanin.source" || events[1].Type != "fanin.source" {
		t.Fatalf("got %+v, want two states, then the log", events)
	}
	got := sourceEvents(t, second)
	if got[0].Source != "a" || got[0].State != "up" || got[0].Reason != "" || got[1].Source != "b" || got[1].State != "down" || got[1].Reason == "" {
		t.Errorf("the states are %+v", got)
	}
	for _, e := range got {
		if since := time.Since(time.UnixMilli(e.Since)); since < -time.Second || since > time.Minute {
			t.Errorf("%s has been %s for %s", e.Source, e.State, since)
		}
	}
}

func TestSourceEventsTellOfChanges(t *testing.T) {
	in, a, b := told(t, "")
	c := in.connect("/events")
	awaitSource(t, c, "a", "up")
	awaitSource(t, c, "b", "up")
	a.RespondWith(http.StatusServiceUnavailable, nil, "")
	a.EndConnections()
	if e := awaitSource(t, c, "a", "down"); e.Reason != "eof" && e.Reason != "status" {
		t.Errorf("the reason is %q", e.Reason)
	}
	a.Clear()
	awaitSource(t, c, "a", "up")
	b.RespondWith(http.StatusNoContent, nil, "")
	b.CutConnections()
	awaitSource(t, c, "b", "down")
	for _, e := range c.Events() {
		if e.ID != c.Events()[0].ID {
			t.Errorf("a source event changed the position: %+v", e)
		}
	}
}

func TestSourceEventsAreNotInTheLog(t *testing.T) {
	in, a, _ := told(t, "start oldest")
	c := in.connect("/events")
	awaitSource(t, c, "a", "up")
	awaitSource(t, c, "b", "up") // or its event would be taken for one of a
	a.Emit("", "1")
	gets(t, c, "1")
	at := c.LastEventID()
	for range 3 {
		n := len(control(c, "source"))
		a.EndConnections()
		waitFor(t, c, "another one", func() bool { return len(control(c, "source")) > n })
		awaitSource(t, c, "a", "up")
	}
	a.Emit("", "2")
	gets(t, c, "1", "2")
	if !strings.Contains(c.LastEventID(), "-2-") {
		t.Errorf("the cursor of the second event is %s", c.LastEventID())
	}
	again := in.connect("/events", resumeFrom(at))
	gets(t, again, "2")
	if states := sourceEvents(t, again); len(states) != 2 {
		t.Errorf("a client that resumes is told %+v, want the two states of now", states)
	}
}

func TestSourceEventsOfARemovedSource(t *testing.T) {
	both := plainOrigins(t, 2)
	site := func(second string) string {
		return "sse_fanin /events {\nstream s\nupstream a " + both[0].URL() + "\n" + second + "\nsource_events on\n}"
	}
	in := serve(t, "", site("upstream b "+both[1].URL()))
	c := in.connect("/events")
	awaitSource(t, c, "b", "up")
	in.reload("", site(""))
	if e := awaitSource(t, c, "b", "down"); e.Reason != "removed" {
		t.Errorf("the reason is %q, want removed", e.Reason)
	}
	in.reload("", site("upstream c "+both[1].URL()))
	awaitSource(t, c, "c", "up")
	if e := awaitSource(t, c, "a", "up"); e.Reason != "" {
		t.Errorf("the one that stayed: %+v", e)
	}
}

func TestSourceEventsOfAFilteredClient(t *testing.T) {
	in, a, b := told(t, "filters on")
	up(t, a)
	up(t, b)
	c, all := in.connect("/events?source=b"), in.connect("/events")
	typed := in.connect("/events?type=price") // a filter by type says nothing about sources
	awaitSource(t, c, "b", "up")
	awaitSource(t, typed, "a", "up")
	a.Stop()
	awaitSource(t, all, "a", "down")
	b.Stop()
	awaitSource(t, c, "b", "down")
	for _, e := range sourceEvents(t, c) {
		if e.Source != "b" {
			t.Errorf("the client that wants b is told of %+v", e)
		}
	}
}

func TestSourceEventsOfMergedSources(t *testing.T) {
	origins := plainOrigins(t, 2)
	in := serve(t, "", `sse_fanin /events {
		upstream pool `+ssetest.URLs(origins)+` {
			policy  merge
			backoff 1m 1m
		}
		source_events on
		filters       on
	}`)
	c := in.connect("/events?source=pool")
	awaitSource(t, c, memberOf("pool", origins[0]), "up")
	awaitSource(t, c, memberOf("pool", origins[1]), "up")
	origins[0].Stop()
	awaitSource(t, c, memberOf("pool", origins[0]), "down")
	awaitSource(t, c, memberOf("pool", origins[1]), "up")
}

func TestSourceEventsOfMirroredReplicas(t *testing.T) {
	origins := replicate(t, 2)
	in := serve(t, "", "sse_fanin /events {\nupstream a "+ssetest.URLs(origins)+" {\npolicy mirror\nbackoff 10ms 10ms\n}\nsource_events on\n}")
	c := in.connect("/events")
	awaitSource(t, c, "a", "up")
	everyMirrorUp(t, 2)
	n := len(control(c, "source"))
	origins[0].Stop()
	everyMirrorUp(t, 1)
	if states := control(c, "source"); len(states) != n {
		t.Errorf("told of a replica, while another is up: %q", states[n:])
	}
	origins[1].Stop()
	awaitSource(t, c, "a", "down")
	must(t, origins[0].Start())
	awaitSource(t, c, "a", "up")
}

func TestSourceEventsOnDemand(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", "sse_fanin /events {\nupstream a "+o.URL()+"\nsource_events on\nconnect on_demand 1ms\n}")
	for range 2 {
		c := in.connect("/events")
		waitFor(t, c, "a state", func() bool { return len(control(c, "source")) > 0 })
		awaitSource(t, c, "a", "up")
		c.Close()
		must(t, o.WaitConnections(within(t, 10*time.Second), 0))
	}
}
