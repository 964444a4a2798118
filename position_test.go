package ssefanin

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// gap is a fanin.gap event as a client sees it.
type gap struct {
	Reason  string  `json:"reason"`
	Missed  *uint64 `json:"missed"`
	Resumed *string `json:"resumed"`

	event ssetest.Event
}

// gapsOf returns the gap events that a client has seen.
func gapsOf(t *testing.T, c *ssetest.Client) []gap {
	t.Helper()
	var all []gap
	for _, e := range c.Events() {
		if e.Type != "fanin.gap" {
			continue
		}
		g := gap{event: e}
		if err := json.Unmarshal([]byte(e.Data), &g); err != nil {
			t.Errorf("gap %s: %v", e.Data, err)
		}
		all = append(all, g)
	}
	return all
}

// wantGap checks that a client saw one gap, and before anything else.
func wantGap(t *testing.T, c *ssetest.Client, reason string, missed int) {
	t.Helper()
	gaps := gapsOf(t, c)
	if len(gaps) != 1 || c.Events()[0].Type != "fanin.gap" {
		t.Errorf("got %v, want one gap and then events", c.Events())
		return
	}
	g := gaps[0]
	switch {
	case g.Reason != reason:
		t.Errorf("the reason is %q, want %q", g.Reason, reason)
	case missed < 0 && g.Missed != nil:
		t.Errorf("missed is %d, want null", *g.Missed)
	case missed >= 0 && (g.Missed == nil || *g.Missed != uint64(missed)):
		t.Errorf("missed is not %d: %s", missed, g.event.Data)
	case g.Resumed == nil || *g.Resumed != g.event.ID:
		t.Errorf("resumed is not the event's id %q: %s", g.event.ID, g.event.Data)
	}
	if !strings.Contains(g.event.Data, `"missed":`) {
		t.Errorf("missed is left out: %s", g.event.Data)
	}
}

// history is a site whose stream has the events one to five, and the ids that
// a client got with them. It is served at /events, and from the oldest on at
// /oldest.
func history(t *testing.T, settings string) (in *instance, a *ssetest.Origin, ids map[string]string) {
	t.Helper()
	a = plain(t)
	in = serve(t, "sse_fanin {\nstream s "+a.URL()+" {\n"+settings+"\n}\n}",
		"sse_fanin /events s\nsse_fanin /oldest s {\nstart oldest\n}\nsse_fanin /last s {\nstart 2\n}")
	connected(t, a)
	c := in.openClient(ssetest.ClientConfig{})
	ids = make(map[string]string)
	for _, data := range []string{"one", "two", "three", "four", "five"} {
		emitSeen(t, a, c, data)
		ids[data] = waitData(t, c, data).ID
	}
	c.Close()
	return in, a, ids
}

func TestPositionOfTheRequest(t *testing.T) {
	in, a, ids := history(t, "")
	n := 0
	for name, tc := range map[string]struct {
		query  url.Values
		header string
		want   string
	}{
		"none":                         {nil, "", ""},
		"header":                       {nil, ids["three"], "four five"},
		"lastEventId":                  {url.Values{"lastEventId": {ids["two"]}}, "", "three four five"},
		"last_event_id":                {url.Values{"last_event_id": {ids["one"]}}, "", "two three four five"},
		"header over both":             {url.Values{"lastEventId": {ids["one"]}, "last_event_id": {ids["two"]}}, ids["four"], "five"},
		"header over unknown":          {url.Values{"lastEventId": {"unknown"}}, ids["four"], "five"},
		"lastEventId before the other": {url.Values{"last_event_id": {ids["one"]}, "lastEventId": {ids["four"]}}, "", "five"},
	} {
		t.Run(name, func(t *testing.T) {
			c := in.client(ssetest.ClientConfig{URL: "/events?" + tc.query.Encode(), LastEventID: tc.header})
			defer c.Close()
			in.waitOpen(c)
			n++
			mark := fmt.Sprint("mark", n)
			emitSeen(t, a, c, mark)
			want := strings.TrimSpace(tc.want + " " + marks(n, tc.want != ""))
			wantDatas(t, c, want)
			if gaps := gapsOf(t, c); len(gaps) > 0 {
				t.Errorf("got gaps %v", gaps)
			}
		})
	}
}

// marks are the marks 1 to n, or only the last.
func marks(n int, all bool) string {
	first := n
	if all {
		first = 1
	}
	var words []string
	for i := first; i <= n; i++ {
		words = append(words, fmt.Sprint("mark", i))
	}
	return strings.Join(words, " ")
}

func TestStart(t *testing.T) {
	in, a, _ := history(t, "")
	live := in.openClient(ssetest.ClientConfig{URL: "/events"})
	oldest := in.openClient(ssetest.ClientConfig{URL: "/oldest"})
	last := in.openClient(ssetest.ClientConfig{URL: "/last"})
	a.Emit("", "six")
	for c, want := range map[*ssetest.Client]string{
		live:   "six",
		oldest: "one two three four five six",
		last:   "four five six",
	} {
		waitData(t, c, "six")
		wantDatas(t, c, want)
	}
}

func TestResumeWhileEventsFlow(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 400, Pad: 30})
	b := newOrigin(t, ssetest.OriginConfig{Source: "b", Rate: 100, Types: []string{"", "x"}})
	in := serve(t, "", "sse_fanin /events "+a.URL()+" "+b.URL()+" {\nretry 1ms 5ms\n}")
	v := ssetest.NewVerifier()
	fleet := ssetest.StartFleet(ssetest.FleetConfig{
		Clients:  10,
		Client:   ssetest.ClientConfig{URL: in.url("/events"), MaxDelay: 5 * time.Millisecond},
		Verifier: v,
		Churn:    0.8,
		Every:    50 * time.Millisecond,
	})
	defer fleet.Close()
	must(t, fleet.WaitOpen(within(t, 5*time.Second)))
	for _, o := range []*ssetest.Origin{a, b} { // or there may be nothing to resume, and to be waited for in the end
		must(t, v.WaitSeen(within(t, 5*time.Second), o.Source(), o.Last()+1))
	}
	eventually(t, 10*time.Second, "clients have come back 20 times", func() bool {
		must(t, v.ErrIfAny())
		return fleet.Ends(ssetest.EndSelf) >= 20
	})
	fleet.StopChurn()
	settle(t, v, a, b)
}

func TestExpiredPosition(t *testing.T) {
	in, a, ids := history(t, "retain {\nevents 2\n}")
	for data, missed := range map[string]int{"one": 2, "two": 1} {
		c := in.openClient(ssetest.ClientConfig{LastEventID: ids[data]})
		waitData(t, c, "five")
		wantGap(t, c, "expired", missed)
		wantDatas(t, c, "four five")
		c.Close()
	}
	c := in.openClient(ssetest.ClientConfig{LastEventID: ids["three"]})
	defer c.Close()
	waitData(t, c, "five")
	emitSeen(t, a, c, "six")
	wantDatas(t, c, "four five six")
	if gaps := gapsOf(t, c); len(gaps) > 0 {
		t.Errorf("nothing was missed, but there are gaps: %v", gaps)
	}
}

func TestGapGivesAPositionThatIsGood(t *testing.T) {
	for name, id := range map[string]string{"expired": "", "unknown": "nonsense"} {
		t.Run(name, func(t *testing.T) {
			in, a, ids := history(t, "retain {\nevents 2\n}")
			if id == "" {
				id = ids["one"]
			}
			c := in.openClient(ssetest.ClientConfig{LastEventID: id, Once: true})
			_, err := c.WaitEvent(within(t, 5*time.Second), func(e ssetest.Event) bool { return e.Type == "fanin.gap" })
			must(t, err)
			c.Close()
			again := in.openClient(ssetest.ClientConfig{LastEventID: gapsOf(t, c)[0].event.ID})
			if name == "expired" {
				waitData(t, again, "five")
			}
			emitSeen(t, a, again, "six")
			if gaps := gapsOf(t, again); name == "unknown" && len(gaps) > 0 {
				t.Errorf("another gap: %v", gaps)
			}
			want := "six"
			if name == "expired" {
				want = "four five six"
			}
			wantDatas(t, again, want)
		})
	}
}

func TestUnknownPosition(t *testing.T) {
	in, _, ids := history(t, "")
	cursor, _ := eventlog.ParseCursor(ids["five"])
	eventually(t, time.Second, "a millisecond passes", func() bool { return time.Now().UnixMilli() > cursor.Time })
	at := func(unixMilli int64) string { return "abcdefghij-77-" + strconv.FormatInt(unixMilli, 36) }
	all := "one two three four five"
	for name, tc := range map[string]struct{ path, id, want string }{
		"rubbish":                         {"/oldest", "rubbish", all},
		"rubbish, live":                   {"/events", "rubbish", ""},
		"over 1 KiB":                      {"/last", strings.Repeat("x", 2000), "four five"},
		"a second after the last, live":   {"/events", at(cursor.Time + 1000), "five"},
		"more than a second after":        {"/oldest", at(cursor.Time + 1001), ""},
		"long ago, live":                  {"/events", at(cursor.Time - 100_000), all},
		"long ago, last 2":                {"/last", at(1), all},
		"far in the future":               {"/oldest", at(time.Now().Add(time.Hour).UnixMilli()), all},
		"far in the future, live":         {"/events", at(time.Now().Add(time.Hour).UnixMilli()), ""},
		"no time":                         {"/last", "abcdefghij-77-", "four five"},
		"this epoch, offset ahead":        {"/last", fmt.Sprintf("%s-99-%s", cursor.Epoch, strconv.FormatInt(time.Now().Add(time.Hour).UnixMilli(), 36)), "four five"},
		"this epoch, offset and time ago": {"/last", fmt.Sprintf("%s-99-%s", cursor.Epoch, strconv.FormatInt(1, 36)), all},
	} {
		t.Run(name, func(t *testing.T) {
			c := in.openClient(ssetest.ClientConfig{URL: tc.path, LastEventID: tc.id, Once: true})
			defer c.Close()
			if tc.want != "" && !strings.HasPrefix(tc.want, "five") {
				waitData(t, c, "five")
			}
			_, err := c.WaitEvent(within(t, 5*time.Second), func(e ssetest.Event) bool { return e.Type == "fanin.gap" })
			must(t, err)
			wantGap(t, c, "unknown", -1)
			if strings.HasPrefix(tc.want, "five") {
				// events of the same millisecond are as good
				waitData(t, c, "five")
				if !strings.HasSuffix(all, datas(c)) {
					t.Errorf("got %q", datas(c))
				}
				return
			}
			wantDatas(t, c, tc.want)
		})
	}
}

func TestPositionWithControlCharacters(t *testing.T) {
	in, _, _ := history(t, "")
	for _, id := range []string{"\x00", "a\r\nb", "\x7f\t ", "\xff\xfe"} {
		c := in.openClient(ssetest.ClientConfig{URL: "/oldest?" + url.Values{"lastEventId": {id}}.Encode()})
		waitData(t, c, "five")
		wantGap(t, c, "unknown", -1)
		wantDatas(t, c, "one two three four five")
		c.Close()
	}
}

// The stream's first incarnation is gone with all it retained; the time of a
// cursor tells which events of the second are news.
func TestPositionOfAnEarlierEpoch(t *testing.T) {
	a := plain(t)
	site := "sse_fanin /events " + a.URL() + " {\ndrain 1ms\n}"
	in := serve(t, "", site)
	connected(t, a)
	c := in.openClient(ssetest.ClientConfig{})
	emitSeen(t, a, c, "one", "two")
	old := c.LastEventID()
	c.Close()
	in.reload("", "respond gone")
	must(t, a.WaitConnections(within(t, 5*time.Second), 0))
	in.reload("", site)
	connected(t, a)
	other := in.openClient(ssetest.ClientConfig{})
	emitSeen(t, a, other, "three")
	c = in.openClient(ssetest.ClientConfig{LastEventID: old})
	emitSeen(t, a, c, "four")
	wantGap(t, c, "unknown", -1)
	wantDatas(t, c, "three four")
}

func TestWithoutIDs(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events "+a.URL()+" {\nids none\nstart 1\n}")
	connected(t, a)
	first := in.openClient(ssetest.ClientConfig{})
	emitSeen(t, a, first, "one", "two")
	c := in.openClient(ssetest.ClientConfig{LastEventID: "abcdefghij-1-abc"})
	emitSeen(t, a, c, "three")
	wantDatas(t, c, "two three")
	if gaps := gapsOf(t, c); len(gaps) > 0 {
		t.Errorf("got gaps %v", gaps)
	}
	raw, err := ssetest.DialRaw(within(t, 5*time.Second), ssetest.RawConfig{URL: in.url("/events")})
	must(t, err)
	defer raw.Close()
	eventually(t, 5*time.Second, "an event comes", func() bool { return strings.Contains(string(raw.Bytes()), "data: three") })
	if body := string(raw.Bytes()); strings.Contains(body, "\nid") {
		t.Errorf("there is an id: %s", body)
	}
}
