package ssefanin

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/lastvalue"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// valuesSite serves the upstreams a and b, with last values of the type price by /s.
func valuesSite(origins []*ssetest.Origin, options string) string {
	site := "sse_fanin /events {\nstream s\n"
	for i, name := range []string{"a", "b"} {
		site += "upstream " + name + " " + origins[i].URL() + "\n"
	}
	if !strings.Contains(options, "start ") {
		site += "start last_value\n"
	}
	return site + "last_value price {\nkey /s\n}\n" + options + "\n}"
}

// price is the data of an event.
func price(symbol string, n int) string { return fmt.Sprintf(`{"s":"%s","n":%d}`, symbol, n) }

// startValuesSite serves a stream that has got some events.
func startValuesSite(t *testing.T, options string) (in *instance, a, b *ssetest.Origin) {
	t.Helper()
	both := plainOrigins(t, 2)
	in = serve(t, "", valuesSite(both, options))
	a, b = both[0], both[1]
	connected(t, a, b)
	all := in.connect("/events")
	for _, e := range []struct {
		o         *ssetest.Origin
		typ, data string
	}{
		{a, "price", price("X", 1)},
		{a, "price", price("Y", 2)},
		{b, "price", price("X", 3)},
		{a, "", price("X", 4)},
		{a, "price", price("X", 5)},
		{b, "price", "no JSON"},
		{b, "price", `{"t":1}`},
		{a, "news", "1"},
		{a, "news", "2"},
	} {
		e.o.Emit(e.typ, e.data)
		waitFor(t, all, e.data, func() bool { return slices.Contains(unwrapped(all), e.data) })
	}
	return in, a, b
}

// unwrapped is the data that a client got, without what an envelope adds.
func unwrapped(c *ssetest.Client) []string {
	all := received(c)
	for i, data := range all {
		var wrapped struct{ Data json.RawMessage }
		if json.Unmarshal([]byte(data), &wrapped) == nil && wrapped.Data != nil {
			all[i] = string(wrapped.Data)
			var text string
			if json.Unmarshal(wrapped.Data, &text) == nil {
				all[i] = text
			}
		}
	}
	return all
}

// presentValues are the last values after startValuesSite.
var presentValues = []string{price("Y", 2), price("X", 3), price("X", 5), `{"t":1}`}

// getsDatas waits until a client has what is wanted, and nothing else.
func getsDatas(t *testing.T, c *ssetest.Client, want ...string) {
	t.Helper()
	waitFor(t, c, fmt.Sprintf("%d events", len(want)), func() bool { return len(received(c)) >= len(want) })
	if got := unwrapped(c); !slices.Equal(got, want) {
		t.Fatalf("got  %q\nwant %q", got, want)
	}
}

func TestLastValuesAtTheBeginning(t *testing.T) {
	for name, options := range map[string]string{
		"plain":        "",
		"evicted":      "retain {\nevents 1\n}",
		"without ids":  "ids none",
		"envelope":     "envelope json",
		"primed":       "prime on",
		"coalesce":     "coalesce 1ms",
		"none evicted": "envelope json\nids none\nretain {\nevents 1\n}",
	} {
		t.Run(name, func(t *testing.T) {
			in, a, _ := startValuesSite(t, options)
			c := in.connect("/events")
			getsDatas(t, c, presentValues...)
			a.Emit("price", price("Y", 6))
			getsDatas(t, c, append(slices.Clone(presentValues), price("Y", 6))...)
			if slices.ContainsFunc(c.Events(), func(e ssetest.Event) bool { return e.Type == "fanin.gap" }) {
				t.Error("it has got a gap")
			}
		})
	}
}

func TestLastValuesOfAFilteredClient(t *testing.T) {
	in, a, _ := startValuesSite(t, "filters on\nretain {\nevents 1\n}")
	c := in.connect("/events?source=a&type=price")
	getsDatas(t, c, price("Y", 2), price("X", 5))
	a.Emit("price", price("Y", 6))
	getsDatas(t, c, price("Y", 2), price("X", 5), price("Y", 6))
	none := in.connect("/events?type=news")
	a.Emit("news", "3")
	getsDatas(t, none, "3")
}

// What a client may not see is not among the values, nor in their number.
func TestLastValuesOfWhatMayBeSeen(t *testing.T) {
	in, a, b := startValuesSite(t, "retain {\nevents 1\n}")
	in.reload("", valuesSite([]*ssetest.Origin{a, b}, "only source a\nretain {\nevents 1\n}"))
	c := in.connect("/events")
	getsDatas(t, c, price("Y", 2), price("X", 5))
	c = in.connect("/events", resumeFrom("0123456789-1-0zzzzzzzz"), onceOnly)
	getsDatas(t, c, price("Y", 2), price("X", 5))
	if gap, _ := gapOf(t, c); gap.State == nil || *gap.State != 2 || gap.Missed != nil {
		t.Errorf("the gap is %+v", gap)
	}
}

// A time that a client names takes the place of what the handler begins with.
func TestSinceInPlaceOfLastValues(t *testing.T) {
	in, a, _ := startValuesSite(t, "")
	c := in.connect("/events?since=0")
	getsDatas(t, c, price("X", 1), price("Y", 2), price("X", 3), price("X", 4), price("X", 5), "no JSON", `{"t":1}`, "1", "2")
	c = in.connect("/events?since=2999-01-01T00:00:00Z")
	a.Emit("price", price("Y", 6))
	getsDatas(t, c, price("Y", 6))
}

func TestLastValuesOfPatterns(t *testing.T) {
	def := (&definition{retain: eventlog.Options{MaxBytes: 1}}).lastValues(&LastValue{Types: []string{"order", "*price", "mess*"}})
	for typ, want := range map[string]bool{"order": true, "order.a": false, "price": true, "a.price": true, "prices": false, "": true, "message": true} {
		if got := def.wants([]byte(typ)); got != want {
			t.Errorf("of type %q: %t, want %t", typ, got, want)
		}
	}
	other := (&definition{retain: eventlog.Options{MaxBytes: 1}}).lastValues(&LastValue{Types: []string{"order", "*price"}})
	if def.text() == other.text() {
		t.Error("other patterns keep the same values")
	}
}

// gapOf waits for a client's first gap.
func gapOf(t *testing.T, c *ssetest.Client) (gap gapData, id string) {
	t.Helper()
	e, err := c.WaitEvent(within(t, 0), func(e ssetest.Event) bool { return e.Type == "fanin.gap" })
	must(t, err)
	must(t, json.Unmarshal([]byte(e.Data), &gap))
	return gap, e.ID
}

func TestLastValuesAfterAGap(t *testing.T) {
	in, a, _ := startValuesSite(t, "start live\nretain {\nevents 1\n}")
	h := hubNamed(t, "s")
	epoch := h.log.Load().memory.Epoch()
	for name, id := range map[string]string{
		"expired": epoch + "-1-1", "unknown": "0123456789-1-0zzzzzzzz", "no cursor": "x",
	} {
		t.Run(name, func(t *testing.T) {
			c := in.connect("/events", resumeFrom(id), onceOnly)
			gap, gapID := gapOf(t, c)
			want := slices.Clone(presentValues)
			if name == "expired" {
				want = append(want, "2") // what is retained
			}
			getsDatas(t, c, want...)
			if gap.State == nil || *gap.State != len(presentValues) || gap.Resumed == nil || *gap.Resumed != gapID {
				t.Errorf("the gap is %+v with the id %s", gap, gapID)
			}
			// A client whose connection fails right after the gap must not go without them.
			c = in.connect("/events", resumeFrom(gapID), onceOnly)
			getsDatas(t, c, want...)
		})
	}
	// the positions of events do without
	c := in.connect("/events", resumeFrom(fmt.Sprintf("%s-%d-1", epoch, h.log.Load().memory.Head())))
	a.Emit("news", "3")
	getsDatas(t, c, "3")
}

// A client that may have its position without an event gets it after the values, and
// comes back to what follows.
func TestPositionAfterLastValues(t *testing.T) {
	in, a, _ := startValuesSite(t, "prime on\nretain {\nevents 1\n}")
	c := in.connect("/events", onceOnly)
	getsDatas(t, c, presentValues...)
	head := hubNamed(t, "s").log.Load().memory.Head()
	waitFor(t, c, "the position", func() bool { return strings.Contains(c.LastEventID(), fmt.Sprintf("-%d-", head)) })
	next := in.connect("/events", resumeFrom(c.LastEventID()))
	a.Emit("news", "3")
	getsDatas(t, next, "3")
}

func TestLastValuesWithUpstreamIDs(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events {\nstream s\nupstream a "+a.URL()+"\nids upstream\nlast_value price {\nkey /s\n}\nstart last_value\nretain {\nevents 2\n}\n}")
	up(t, a)
	all := in.connect("/events")
	raw := ""
	for i, symbol := range []string{"X", "Y", "X", "Z", "Y"} {
		raw += fmt.Sprintf("id: u%d\nevent: price\ndata: %s\n\n", i, price(symbol, i))
	}
	a.Raw([]byte(raw + "id: u5\ndata: last\n\n"))
	hasGot(t, all, "last")
	want := []string{price("X", 2), price("Z", 3), price("Y", 4)}
	c := in.connect("/events", onceOnly)
	getsDatas(t, c, want...)
	if id := c.LastEventID(); id != "u4" {
		t.Errorf("the client has the id %q", id)
	}
	getsDatas(t, in.connect("/events", resumeFrom("u4")), "last")
	gone := in.connect("/events", resumeFrom("u0"), onceOnly)
	if gap, id := gapOf(t, gone); id != "u0" || gap.Resumed == nil || *gap.Resumed != "u5" || *gap.State != 3 {
		t.Errorf("the gap is %+v with the id %q", gap, id)
	}
	getsDatas(t, gone, want...)
}

func TestLastValuesOfAKeyedStream(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events {\nupstream a "+a.URL()+"?user={query.user}\nlast_value price {\nkey /s\n}\nstart last_value\nconnect on_demand\n}")
	one := in.connect("/events?user=1")
	up(t, a)
	a.Emit("price", price("X", 1))
	hasGot(t, one, price("X", 1))
	a.Emit("price", price("X", 2))
	hasGot(t, one, price("X", 2))
	getsDatas(t, in.connect("/events?user=1"), price("X", 2))
	two := in.connect("/events?user=2")
	must(t, a.WaitConnections(within(t, 0), 2))
	a.Emit("price", price("Y", 3))
	getsDatas(t, two, price("Y", 3))
}

func TestLastValuesAtAReload(t *testing.T) {
	both := plainOrigins(t, 2)
	a, b := both[0], both[1]
	site := func(names, values string) string {
		site := "sse_fanin /events {\nstream s\n"
		for i, name := range strings.Fields(names) {
			if name != "-" {
				site += "upstream " + name + " " + both[i].URL() + "\n"
			}
		}
		return site + values + "\nstart last_value\nretain {\nevents 4\n}\n}"
	}
	in := serve(t, "", site("a b", "last_value price {\nkey /s\n}"))
	connected(t, a, b)
	all := in.connect("/events")
	for i, e := range []struct {
		o   *ssetest.Origin
		typ string
	}{{a, "price"}, {b, "price"}, {b, "trade"}, {a, "trade"}, {a, "trade"}, {b, "news"}, {a, "news"}, {a, "price"}} {
		e.o.Emit(e.typ, price(fmt.Sprint("S", i), i))
		hasGot(t, all, price(fmt.Sprint("S", i), i))
	}
	numbers := func(want ...int) {
		t.Helper()
		var all []string
		for _, n := range want {
			all = append(all, price(fmt.Sprint("S", n), n))
		}
		c := in.connect("/events", onceOnly)
		getsDatas(t, c, all...)
		if n := hubNamed(t, "s").log.Load().values.stats().Values; n != len(want) {
			t.Fatalf("there are %d values, want %d", n, len(want))
		}
	}
	numbers(0, 1, 7)
	// types that are new have what is retained: the trade that is retained
	in.reload("", site("a b", "last_value price trade {\nkey /s\n}"))
	numbers(0, 1, 4, 7)
	in.reload("", site("a b", "last_value price trade {\nkey /s\nmax 3\n}"))
	numbers(1, 4, 7)
	// without a key, one for each source and type
	in.reload("", site("a b", "last_value price trade"))
	numbers(1, 4, 7)
	// an upstream by another name has its values, and one that is gone has none
	in.reload("", site("renamed b", "last_value price trade"))
	numbers(1, 4, 7)
	in.reload("", site("renamed -", "last_value price trade"))
	numbers(4, 7)
	a.Emit("price", price("S8", 8))
	hasGot(t, all, price("S8", 8))
	numbers(4, 8)
	in.reload("", site("renamed -", "last_value trade"))
	numbers(4)
	in.reload("", site("renamed b", "last_value trade price"))
	numbers(4, 8)
}

func TestStartWithLastValuesNeedsSome(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "respond ok")
	for _, tc := range []struct{ global, site string }{
		{"", "sse_fanin /events " + a.URL() + " {\nstart last_value\n}"},
		{"sse_fanin {\nstream s {\nupstream a " + a.URL() + "\nstart last_value\n}\n}", "sse_fanin /events s"},
		{"sse_fanin {\nstream s {\nupstream a " + a.URL() + "\n}\n}", "sse_fanin /events s {\nstart last_value\n}"},
		{"", "sse_fanin /a s {\nstart last_value\n}\nsse_fanin /b " + a.URL() + " {\nstream s\n}"},
	} {
		err := in.tryReload(tc.global, tc.site)
		if err == nil || !strings.Contains(err.Error(), "start: 'last_value' sends the last values of the stream, but it keeps none; add 'last_value <type>...' to the stream") {
			t.Errorf("%s %s: %v", tc.global, tc.site, err)
		}
	}
}

// hubNamed returns the hub of the stream of a name.
func hubNamed(t *testing.T, name string) *hub {
	t.Helper()
	all := liveHubs.named(name)
	if len(all) != 1 {
		t.Fatalf("there are %d streams '%s'", len(all), name)
	}
	return all[0]
}

func TestLastValuesAreCounted(t *testing.T) {
	in, _, _ := startValuesSite(t, "retain {\nevents 1\n}")
	st := snapshotStreams()[0].Log.LastValues
	if st == nil || st.Values != 4 || st.Max != defaultLastValues || st.Evicted != 0 || st.Memory <= 0 {
		t.Fatalf("the status has %+v", st)
	}
	in.reload("", strings.Replace(valuesSite(plainOrigins(t, 2), ""), "key /s", "key /s\nmax 1", 1))
	eventually(t, 0, "the bound is applied", func() bool { return snapshotStreams()[0].Log.LastValues.Values <= 1 })
	for series, want := range map[string]float64{"last_values": 1, "last_values_evicted_total": 3} {
		if got := in.value("caddy_sse_fanin_" + series + `{stream="s"}`); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
}

// The store has begun an epoch: values of what it has lost are not taken over.
func TestLastValuesOfTheNextEpoch(t *testing.T) {
	h := valuesHub(eventlog.Options{MaxEvents: 100, MaxBytes: 1 << 20}, 100)
	before := h.log.Load()
	for i, key := range []string{"A", "B", "A", "C"} {
		before.append(time.Now(), 0, []byte("v"), fmt.Appendf(nil, "event: v\ndata: {\"key\":\"%s\",\"n\":%d}\n\n", key, i), nil)
	}
	next := newStreamLog(before.memory.Options(), before.ids)
	next.memory.Restore([]logstore.Epoch{{ID: before.memory.Epoch(), First: 1}, {ID: logstore.NewEpochID(), First: 4}}, 4)
	next.values.inherit(&before.values, 4)
	next.append(time.Now(), 0, []byte("v"), []byte("event: v\ndata: {\"key\":\"B\"}\n\n"), nil)
	now, head := next.values.snapshot()
	var got []string
	for _, value := range now.Between(0, lastvalue.NoOffset) {
		got = append(got, fmt.Sprint(value.Key, value.Offset))
	}
	if want := []string{`"A"3`, `"B"4`}; head != 4 || !slices.Equal(got, want) {
		t.Errorf("there are %q up to %d, want %q", got, head, want)
	}
}
