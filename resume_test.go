package ssefanin

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// Whatever the id, the connection is made again and goes on.
func TestLastEventIDAfterAReconnect(t *testing.T) {
	for name, tc := range map[string]struct {
		wire   string // an event and what follows, up to the cut
		want   string
		absent bool   // no header at all
		logged string // a warning
	}{
		"plain":             {wire: "id: a b\ndata: x\n\n", want: "a b"},
		"sticky":            {wire: "id: a\ndata: x\n\ndata: y\n\n", want: "a"},
		"without data":      {wire: "data: x\n\nid: b\n\n", want: "b"},
		"not ASCII":         {wire: "id: Zürich ✓ 🚀\ndata: x\n\n", want: "Zürich ✓ 🚀"},
		"not UTF-8":         {wire: "id: \xff\xfe\ndata: x\n\n", want: "\xff\xfe"},
		"4 KiB":             {wire: "id: " + strings.Repeat("i", 4<<10) + "\ndata: x\n\n", want: strings.Repeat("i", 4<<10)},
		"tab":               {wire: "id: a\tb\ndata: x\n\n", want: "a\tb"},
		"colon":             {wire: "id:: a\ndata: x\n\n", want: ": a"},
		"reset":             {wire: "id: a\ndata: x\n\nid\n\n", absent: true},
		"reset by event":    {wire: "id: a\ndata: x\n\nid:\ndata: y\n\n", absent: true},
		"none":              {wire: "data: x\n\n", absent: true},
		"NUL is ignored":    {wire: "id: a\ndata: x\n\nid: b\x00c\ndata: y\n\n", want: "a"},
		"control character": {wire: "id: a\x01b\ndata: x\n\n", absent: true, logged: "cannot be sent"},
		"escape":            {wire: "id: \x1b[31m\ndata: x\n\n", absent: true, logged: "cannot be sent"},
		"delete":            {wire: "id: a\x7f\ndata: x\n\n", absent: true, logged: "cannot be sent"},
		"10 KiB":            {wire: "id: " + strings.Repeat("i", 10<<10) + "\ndata: x\n\n", absent: true, logged: "cannot be sent"},
		"100 KiB":           {wire: "id: " + strings.Repeat("i", 100<<10) + "\ndata: x\n\n", absent: true, logged: "cannot be sent"},
		"of a cut event":    {wire: "id: a\ndata: x\n\nid: b\ndata: y\n", want: "a"},
		"of half a line":    {wire: "id: a\ndata: x\n\nid: b", want: "a"},
		"of a cut reset":    {wire: "id: a\ndata: x\n\nid:\n", want: "a"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{})
			script(o, tc.wire, "retry: 10\n\n", "data: end\n\n")
			log := newLogFile(t)
			in := serve(t, log.option(), directive("/e", hasty+"\nstart oldest\nupstream u "+o.URL()))
			c := follow(t, in, "/e")
			waitData(t, c, "end")
			for n, r := range o.Requests()[1:] { // an empty connection between changes nothing
				if id, present := r.LastEventID(); id != tc.want || present == tc.absent {
					t.Errorf("reconnect %d asked for %.100q (%t), want %.100q", n+1, id, present, tc.want)
				}
			}
			warnings := 0
			for _, l := range log.lines("u") {
				if tc.logged != "" && strings.Contains(l.Msg, tc.logged) {
					warnings++
				}
			}
			if tc.logged != "" && warnings != 1 {
				t.Errorf("%d warnings, want 1", warnings)
			}
		})
	}
}

// An event cut in the middle is asked for again, and comes once.
func TestCutEventsComeOnce(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{Pad: 30})
	in := serve(t, "", directive("/e", hasty, o.URL()))
	_, v := followNumbered(t, in, "/e")
	connected(t, o)
	o.CutEvery(3)
	for n := range 30 {
		o.EmitNumbered(1)
		must(t, v.WaitSeen(within(t, 5*time.Second), o.Source(), uint64(n+1)))
	}
	must(t, v.Err())
	var want []string
	for n := 2; n < 30; n += 3 {
		want = append(want, strconv.Itoa(n))
	}
	if got := o.LastEventIDs()[1:]; !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
}

// Some servers refuse a request for an id they do not know or like. Once, the
// connection is made without it.
func TestRefusedIDIsLeftOutOnce(t *testing.T) {
	for _, status := range []int{400, 412, 413, 431} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{})
			log := newLogFile(t)
			// beyond the first, a wait would fail the test
			in := serve(t, log.option(), directive("/e", "backoff 10ms 1h\nupstream u "+o.URL()))
			c := follow(t, in, "/e")
			connected(t, o)
			o.Emit("", "one")
			receives(t, c, "one")
			o.Inject(ssetest.Fault{Kind: ssetest.Respond, Status: status, Times: 1})
			o.CutConnections()
			request(t, o, 3)
			connected(t, o)
			o.Emit("", "two")
			receives(t, c, "one", "two")
			line := log.waitLine("u", "the refusal", func(l logLine) bool { return l.Reason == "refused_id" })
			if line.Level != "warn" || !strings.Contains(line.Error, strconv.Itoa(status)) {
				t.Errorf("logged %+v", line)
			}
			reconnect(t, o)
			if got, want := o.LastEventIDs(), []string{"", "1", "", "2"}; !slices.Equal(got, want) {
				t.Errorf("asked for %q, want %q", got, want)
			}
		})
	}
}

// Where the id was not the reason, leaving it out becomes no hot loop.
func TestRefusedRequestBacksOff(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", directive("/e", "backoff 50ms 100ms", o.URL()))
	c := follow(t, in, "/e")
	connected(t, o)
	o.Emit("", "one")
	receives(t, c, "one")
	o.RespondWith(http.StatusBadRequest, nil, "no")
	o.CutConnections()
	request(t, o, 5)
	requests := o.Requests()
	if got, want := o.LastEventIDs()[:5], []string{"", "1", "", "1", ""}; !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
	if waited := requests[3].Time.Sub(requests[2].Time); waited < 45*time.Millisecond {
		t.Errorf("asked again after %s", waited)
	}
	o.Clear()
	connected(t, o) // perhaps without an id
	o.Emit("", "two")
	receives(t, c, "one", "two")
}

// Nothing comes twice from a server that sends again what we have.
func TestReplayedEventsComeOnce(t *testing.T) {
	for name, prepare := range map[string]func(*ssetest.Origin){
		"all":               func(o *ssetest.Origin) { o.SetResume(ssetest.ReplayAll) },
		"the last 7":        func(o *ssetest.Origin) { o.SetOverlap(7) },
		"one id for all":    func(o *ssetest.Origin) { o.RepeatIDs(0) },
		"ids that repeat":   func(o *ssetest.Origin) { o.RepeatIDs(5) },
		"all, without ids":  func(o *ssetest.Origin) { o.SetResume(ssetest.ReplayAll); o.SetIDs(func(uint64) string { return "" }) },
		"all, one id":       func(o *ssetest.Origin) { o.SetResume(ssetest.ReplayAll); o.RepeatIDs(0) },
		"ids that are used": func(o *ssetest.Origin) { o.SetIDs(func(n uint64) string { return strconv.FormatUint(n%10, 10) }) },
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{Types: []string{"", "a"}})
			prepare(o)
			in := serve(t, "", directive("/e", quick, o.URL()))
			_, v := followNumbered(t, in, "/e")
			connected(t, o)
			for range 4 {
				o.EmitNumbered(50)
				must(t, v.WaitSeen(within(t, 5*time.Second), o.Source(), o.Last()))
				reconnect(t, o)
				connected(t, o)
			}
			o.EmitNumbered(50)
			settle(t, v, o)
		})
	}
}

func TestEqualIDsNeverDropAnEvent(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	script(o,
		"id: 1\ndata: a\n\nid: 1\ndata: b\n\n",
		"id: 1\ndata: c\n\nid: 1\nevent: t\ndata: a\n\n",
		"id: 1\ndata: end\n\n")
	in := serve(t, "", directive("/e", quick+"\nstart oldest", o.URL()))
	receives(t, follow(t, in, "/e"), "a", "b", "c", "a", "end")
}

func TestReplayEndsAtTheFirstDifference(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	script(o,
		"id: 1\ndata: a\n\nid: 2\ndata: b\n\nid: 3\ndata: c\n\n",
		"id: 2\ndata: b\n\nid: 9\ndata: new\n\nid: 3\ndata: c\n\nid: 2\ndata: b\n\n",
		"data: end\n\n")
	in := serve(t, "", directive("/e", quick+"\nstart oldest", o.URL()))
	receives(t, follow(t, in, "/e"), "a", "b", "c", "new", "c", "b", "end")
}

// The first connection replays nothing: what is equal was meant so.
func TestEqualEventsOfOneConnectionAllCome(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	script(o, strings.Repeat("data: tick\n\n", 5)+strings.Repeat("id: 1\ndata: tock\n\n", 3)+"data: end\n\n")
	in := serve(t, "", directive("/e", quick+"\nstart oldest", o.URL()))
	receives(t, follow(t, in, "/e"), "tick", "tick", "tick", "tick", "tick", "tock", "tock", "tock", "end")
}

// An upstream whose connection is configured otherwise by a reload goes on
// where it was.
func TestReconfiguredUpstreamGoesOn(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 500})
	b := newOrigin(t, ssetest.OriginConfig{Source: "b", Rate: 500})
	site := func(n int) string {
		return directive("/e", fmt.Sprintf("stream s\n%s\nupstream a %s {\nheader_up X-Token %d\n}\nupstream b %s", quick, a.URL(), n, b.URL()))
	}
	in := serve(t, "", site(0))
	c, v := followNumbered(t, in, "/e")
	must(t, v.WaitSeen(within(t, 5*time.Second), "a", 5))
	for n := range 4 {
		in.reload("", site(n+1))
		got := request(t, a, n+2)
		if id, _ := got.LastEventID(); id == "" || got.Header.Get("X-Token") != strconv.Itoa(n+1) {
			t.Errorf("reload %d: asked for %q with token %q", n, id, got.Header.Get("X-Token"))
		}
		must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+1))
	}
	settle(t, v, a, b)
	if n := a.TotalConnections(); n != 5 {
		t.Errorf("a got %d connections, want 5", n)
	}
	if n := b.TotalConnections(); n != 1 {
		t.Errorf("b got %d connections, want 1", n)
	}
	if n := c.Ends(ssetest.EndClean) + c.Ends(ssetest.EndError); n != 0 {
		t.Errorf("the client was ended %d times", n)
	}
}

// A reconfigured upstream that replays everything sends nothing twice.
func TestReconfiguredUpstreamKnowsWhatItHad(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	o.SetResume(ssetest.ReplayAll)
	site := func(token string) string {
		return directive("/e", "stream s\n"+quick+"\nupstream a "+o.URL()+"\nheader_up X-Token "+token)
	}
	in := serve(t, "", site("1"))
	_, v := followNumbered(t, in, "/e")
	connected(t, o)
	o.EmitNumbered(20)
	must(t, v.WaitSeen(within(t, 5*time.Second), o.Source(), 20))
	in.reload("", site("2"))
	request(t, o, 2)
	connected(t, o)
	o.EmitNumbered(20)
	settle(t, v, o)
}

// The same, while another stream keeps the old connection.
func TestReconfiguredSharedUpstreamGoesOn(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 1000})
	site := func(other, ours int) string {
		upstream := func(token int) string {
			return fmt.Sprintf("%s\nupstream a %s {\nheader_up X-Token %d\n}", quick, a.URL(), token)
		}
		return directive("/other", "stream other\n"+upstream(other)) + directive("/e", "stream s\n"+upstream(ours))
	}
	in := serve(t, "", site(0, 0))
	_, v := followNumbered(t, in, "/e")
	must(t, v.WaitSeen(within(t, 5*time.Second), "a", 5))
	for n := range 4 {
		in.reload("", site(n, n+1))
		must(t, v.WaitSeen(within(t, 5*time.Second), "a", a.Last()+5))
		in.reload("", site(n+1, n+1)) // shared again
	}
	settle(t, v, a)
}
