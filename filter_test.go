package ssefanin

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/pattern"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// hasGot waits until a client has an event with the data.
func hasGot(t *testing.T, c *ssetest.Client, data string) {
	t.Helper()
	_, err := c.WaitEvent(within(t, 10*time.Second), func(e ssetest.Event) bool { return e.Data == data })
	must(t, err)
}

// filtered serves two origins, a and b, with filters.
func filtered(t *testing.T, options string) (in *instance, a, b *ssetest.Origin) {
	t.Helper()
	both := plainOrigins(t, 2)
	a, b = both[0], both[1]
	in = serve(t, "", "sse_fanin /events {\nupstream a "+a.URL()+"\nupstream b "+b.URL()+"\nfilters on\n"+options+"\n}")
	up(t, a)
	up(t, b)
	return in, a, b
}

func TestFilters(t *testing.T) {
	in, a, b := filtered(t, "")
	want := map[string][]string{
		"":                                 {"a1", "a2", "a3", "b1", "b2", "b3"},
		"?source=":                         {"a1", "a2", "a3", "b1", "b2", "b3"},
		"?source=a":                        {"a1", "a2", "a3"},
		"?source=b":                        {"b1", "b2", "b3"},
		"?source=a,b":                      {"a1", "a2", "a3", "b1", "b2", "b3"},
		"?source=a&source=b":               {"a1", "a2", "a3", "b1", "b2", "b3"},
		"?source=%20a%20,,":                {"a1", "a2", "a3"},
		"?type=price":                      {"a2", "b2"},
		"?type=price&source=b":             {"b2"},
		"?type=message":                    {"a1", "a3", "b1", "b3"},
		"?type=message,price":              {"a1", "a2", "a3", "b1", "b2", "b3"},
		"?type=price&type=message":         {"a1", "a2", "a3", "b1", "b2", "b3"},
		"?type=nothing":                    {},
		"?type=upstream.fanin.x":           {},
		"?unrelated=1&type=price&source=a": {"a2"},
		"?type=*":                          {"a1", "a2", "a3", "b1", "b2", "b3"},
		"?type=p*e":                        {"a2", "b2"},
		"?type=m*&source=*":                {"a1", "a3", "b1", "b3"},
		"?source=b*":                       {"b1", "b2", "b3"},
		"?source=x*":                       {},
		"?source=x*,a&type=%2A":            {"a1", "a2", "a3"},
	}
	clients := make(map[string]*ssetest.Client)
	for query := range want {
		clients[query] = in.connect("/events" + query)
	}
	for _, event := range []struct {
		o         *ssetest.Origin
		typ, data string
	}{{a, "", "a1"}, {a, "price", "a2"}, {a, "message", "a3"}, {b, "", "b1"}, {b, "price", "b2"}, {b, "message", "b3"}} {
		event.o.Emit(event.typ, event.data)
		hasGot(t, clients[""], event.data)
	}
	for query, want := range want {
		c := clients[query]
		waitFor(t, c, query, func() bool { return len(received(c)) >= len(want) })
		if got := received(c); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
}

func TestFilterForAnUnknownSource(t *testing.T) {
	in, _, _ := filtered(t, "")
	resp := in.request(http.MethodGet, "/events?source=a,nobody", nil)
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("status %d, want 400", resp.StatusCode)
	}
	if want := "unknown source 'nobody', there are: a, b\n"; string(body) != want || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("the body is %q of type %q, want %q", body, resp.Header.Get("Content-Type"), want)
	}
	hubs.Range(func(_, val any) bool {
		_, err := val.(*hub).scopeOf(httptest.NewRequest(http.MethodGet, "/?source=a,nobody", nil), choice{}, true)
		if err == nil || err.Error() != "unknown source 'nobody', there are: a, b" {
			t.Errorf("the error is %v", err)
		}
		return true
	})
}

func TestFiltersOff(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", "sse_fanin /events "+o.URL())
	c := in.connect("/events?source=nobody&type=x")
	up(t, o)
	o.Emit("", "1")
	gets(t, c, "1")
}

func TestFilterLooksAtTheFinalType(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", "sse_fanin /events "+o.URL()+" {\nprefix p.\nfilters on\n}")
	c, original := in.connect("/events?type=p.price"), in.connect("/events?type=price,message")
	up(t, o)
	o.Emit("price", "1")
	o.Emit("", "2")
	o.Emit("price", "end")
	gets(t, c, "1", "end")
	if n := len(original.Events()); n != 0 {
		t.Errorf("%d events by their original type", n)
	}
}

func TestFilteredClientResumesExactly(t *testing.T) {
	in, a, b := filtered(t, "")
	c := in.connect("/events?source=a")
	all := in.connect("/events")
	send := func(o *ssetest.Origin, data string) {
		o.Emit("", data)
		hasGot(t, all, data)
	}
	send(a, "a1")
	send(b, "b1")
	send(b, "b2")
	gets(t, c, "a1")
	at := c.LastEventID()
	c.Close()
	send(a, "a2")
	send(b, "b3")
	send(a, "a3")
	again := in.connect("/events?source=a", resumeFrom(at))
	gets(t, again, "a2", "a3")
	gets(t, in.connect("/events?source=b", resumeFrom(at)), "b1", "b2", "b3")
	if gaps := control(again, "gap"); gaps != nil {
		t.Errorf("gaps: %q", gaps)
	}
}

func TestFilteredClientKeepsUpByHeartbeats(t *testing.T) {
	for name, options := range map[string]string{"stream": "", "upstream": "ids upstream"} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{})
			in := serve(t, "", "sse_fanin /events "+o.URL()+" {\nfilters on\nprime on\nheartbeat 20ms\nretain {\nevents 100\n}\n"+options+"\n}")
			c := in.connect("/events?type=rare")
			up(t, o)
			o.Emit("rare", "1")
			gets(t, c, "1")
			at := c.LastEventID()
			for sent := 1; sent < 301; { // more than is retained, but not at once
				for range 50 {
					o.Emit("other", "x")
					sent++
				}
				waitFor(t, c, "a heartbeat with the position at the end", func() bool {
					id := c.LastEventID()
					return id == fmt.Sprint(sent) || strings.Contains(id, fmt.Sprintf("-%d-", sent))
				})
			}
			if c.LastEventID() == at || len(received(c)) != 1 {
				t.Fatalf("the position is %s after %q", c.LastEventID(), received(c))
			}
			c.Disconnect()
			must(t, c.WaitOpen(within(t, 10*time.Second), 2))
			o.Emit("rare", "2")
			gets(t, c, "1", "2")
			if gaps := control(c, "gap"); gaps != nil {
				t.Errorf("gaps: %q", gaps)
			}
		})
	}
}

func TestFilterByTheUpstreamOfMergedSources(t *testing.T) {
	origins := plainOrigins(t, 3)
	in := serve(t, "", `sse_fanin /events {
		upstream pool `+ssetest.URLs(origins[:2])+` {
			policy merge
		}
		upstream other `+origins[2].URL()+`
		filters on
	}`)
	pool, one, other := in.connect("/events?source=pool"), in.connect("/events?source="+memberOf("pool", origins[1])), in.connect("/events?source=other")
	for _, o := range origins {
		up(t, o)
	}
	all := in.connect("/events")
	for i, o := range origins {
		o.Emit("", fmt.Sprint(i))
		hasGot(t, all, fmt.Sprint(i))
	}
	gets(t, pool, "0", "1")
	gets(t, one, "1")
	gets(t, other, "2")
}

// What a client wishes stays in memory as long as the client.
func TestFilterIsBounded(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", "sse_fanin /events "+o.URL()+" {\nfilters on\n}\nhandle_errors {\nrespond {err.message}\n}")
	names := func(n int, prefix string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprint(prefix, i)
		}
		return strings.Join(all, ",")
	}
	long := strings.Repeat("x", maxFilterBytes)
	for query, want := range map[string]string{
		"type=" + names(maxFilterNames, "t"):                                      "",
		"type=" + names(maxFilterNames, "t") + "," + names(maxFilterNames, "t"):   "", // the same again
		"type=" + names(maxFilterNames+1, "t"):                                    "'type' has more than 100 names",
		"type=" + names(3000, ""):                                                 "'type' has more than 100 names",
		"type=" + strings.ReplaceAll(names(maxFilterNames+1, "t"), ",", "&type="): "'type' has more than 100 names",
		"source=" + names(maxFilterNames+1, "s"):                                  "'source' has more than 100 names",
		"type=" + long:                                                            "",
		"type=" + long + "x":                                                      "the names in 'source' and 'type' have more than 8192 bytes together",
		"type=a,b," + long:                                                        "the names in 'source' and 'type' have more than 8192 bytes together",
		"type=" + strings.Repeat(",", 10_000) + "t":                               "",
		"source=" + long[1:] + "&type=ab":                                         "the names in 'source' and 'type' have more than 8192 bytes together",
	} {
		resp := in.request(http.MethodGet, "/events?"+query, nil)
		message := ""
		if resp.StatusCode != http.StatusOK {
			body, err := io.ReadAll(resp.Body)
			must(t, err)
			message = string(body)
		}
		resp.Body.Close()
		if refused := resp.StatusCode == http.StatusBadRequest; refused != (want != "") || !strings.Contains(message, want) {
			t.Errorf("%.50s, %d bytes: status %d, %.200q", query, len(query), resp.StatusCode, message)
		}
	}
}

// That nothing was found yet is no mistake of the client's.
func TestFilterByAnUpstreamWithoutAddressesYet(t *testing.T) {
	p := newPool(t, 1)
	in := serve(t, "", "sse_fanin /events {\n"+p.upstream("")+"\nfilters on\n}")
	c := in.connect("/events?source=pool")
	if status := c.Connection().Status; status != http.StatusOK {
		t.Fatalf("status %d, want 200", status)
	}
	p.publish(0)
	up(t, p.origins[0])
	p.origins[0].Emit("", "x")
	gets(t, c, "x")
}

func TestFilterWithManyTypes(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", "sse_fanin /events "+o.URL()+" {\nfilters on\nretain {\nevents 50000\n}\nstart oldest\n}")
	up(t, o)
	const types = tagTypes + 3_000
	long := strings.Repeat("x", 2*tagTypeLength)
	for i := range types {
		o.Emit(fmt.Sprint("type-", i), fmt.Sprint(i))
	}
	o.Emit(long, "long")
	all := in.connect("/events", func(cfg *ssetest.ClientConfig) { cfg.Record = 1 })
	must(t, all.WaitCount(within(t, 60*time.Second), types+1))
	// of the types without a number of their own, several share one
	last := fmt.Sprint(types - 1)
	gets(t, in.connect("/events?type=type-7,type-32767,type-32768,type-"+last+","+long), "7", "32767", "32768", last, "long")
	gets(t, in.connect("/events?type=type-3276*,type-*"+last+",x*"), "3276", "32760", "32761", "32762", "32763", "32764", "32765", "32766", "32767", "32768", "32769", last, "long")
	hubs.Range(func(_, val any) bool {
		tags := val.(*hub).tags
		tags.mu.RLock()
		defer tags.mu.RUnlock()
		if len(tags.types) > tagTypes || len(tags.typeNames) > tagTypes {
			t.Errorf("%d types are remembered", len(tags.types))
		}
		return true
	})
}

func TestTagsForManySources(t *testing.T) {
	tags := newTags()
	longLived := tags.source("static", "")
	var last uint32
	for i := range 3 * tagSources {
		name := fmt.Sprint("pool-", i)
		last = tags.source(name, "pool")
		tags.noteUnused(name)
	}
	if len(tags.sources) > tagSources || len(tags.sourceNames) > tagSources {
		t.Errorf("%d sources are remembered", len(tags.sources))
	}
	asks := func(source, typ string) *view {
		return newView(&scope{asked: choice{pattern.ParseSet([]string{source}), pattern.ParseSet([]string{typ})}}, tags)
	}
	wants := func(tag uint32, source, typ string) bool { return asks(source, typ).wants(tag, nil) }
	if !wants(tags.tag(longLived, nil), "static", "*") {
		t.Error("the number of a source in use was given to another one")
	}
	if tag := tags.tag(last, []byte("x")); !wants(tag, "pool", "x") || wants(tag, "static", "*") || wants(tag, "pool", "y") {
		t.Error("the newest source does not match its names")
	}
	if !tags.knows("static", &choice{}) || !tags.knows("pool", &choice{}) || tags.knows("pool-0", &choice{}) {
		t.Error("what is known is not what there is")
	}
}

func TestTagsAllInUse(t *testing.T) {
	tags := newTags()
	everything, anySource := newView(&scope{only: choice{types: pattern.ParseSet([]string{"*"})}}, tags), newView(&scope{only: choice{sources: pattern.ParseSet([]string{"*"})}}, tags)
	for i := range tagSources + 10 {
		n := tags.source(fmt.Sprint(i), "")
		if shared := i >= sharedSource; (n == sharedSource) != shared {
			t.Fatalf("source %d has the number %d", i, n)
		}
		if tag := tags.tag(n, nil); !everything.wants(tag, nil) || anySource.wants(tag, nil) != (n != sharedSource) {
			t.Fatalf("source %d, of number %d: whether it is wanted depends on its name, and that is not known", i, n)
		}
	}
	if len(tags.sources) > tagSources {
		t.Errorf("%d sources are remembered", len(tags.sources))
	}
}

// A number stands for another source only when no event of the old one is left:
// what was judged by the number must not show the one to those who see the other.
func TestSourceNumbersAreKeptForWhatIsRetained(t *testing.T) {
	tags := newTags()
	kept := tags.source("kept", "")
	tags.noteUnused("kept")
	tags.retained = func() map[uint32]bool { return map[uint32]bool{kept: true} }
	v := newView(&scope{only: choice{sources: pattern.ParseSet([]string{"kept", "new-*"})}}, tags)
	old := tags.source("old", "")
	tag := tags.tag(old, nil)
	if v.wants(tag, nil) {
		t.Error("a hidden source is shown")
	}
	tags.noteUnused("old")
	for i := range sharedSource - 2 {
		tags.source(fmt.Sprint(i), "")
	}
	if n := tags.source("new-1", ""); n != old || !v.wants(tag, nil) {
		t.Errorf("the number %d is not given out again but %d, or its source is that of before", old, n)
	}
	if n := tags.source("new-2", ""); n != sharedSource {
		t.Errorf("the number %d of a source whose events are retained was given out again, or %d another time", kept, n)
	}
	if !v.wants(tags.tag(kept, nil), nil) {
		t.Error("the retained source is not shown")
	}
}

func TestSourcesOfAStoreKeepTheirNumbers(t *testing.T) {
	tags := newTags()
	n := tags.stored("stored")
	for i := range tagSources {
		name := fmt.Sprint(i)
		tags.source(name, "")
		tags.noteUnused(name)
	}
	if name, _, ok := tags.sourceAt(n); !ok || name != "stored" {
		t.Errorf("the number is that of %q now", name)
	}
}

func TestViewRemembersSomeTags(t *testing.T) {
	tags := newTags()
	v := newView(&scope{asked: choice{types: pattern.ParseSet([]string{"wanted-*"})}}, tags)
	n := tags.source("a", "")
	for range 2 { // with what is remembered, too
		for i := range 5 * judgedTags {
			if v.wants(tags.tag(n, fmt.Append(nil, i)), nil) {
				t.Fatalf("type %d is wanted", i)
			}
			if !v.wants(tags.tag(n, fmt.Append(nil, "wanted-", i)), nil) {
				t.Fatalf("wanted-%d is not wanted", i)
			}
		}
	}
}

func TestFilteredReaderPassesLongRunsOver(t *testing.T) {
	l := newStreamLog(eventlog.Options{MaxEvents: 100_000, MaxBytes: 64 << 20, IDs: true}, idsStream)
	for i := range 50_000 {
		l.memory.Append(time.Now(), uint32(i%10_000), []byte("data: x\n\n"))
	}
	r := l.memory.NewReader(1)
	got := 0
	for {
		chunk, n, err := r.NextMatching(maxWrite, func(tag uint32, _ []byte) bool { return tag == 9_999 })
		must(t, err)
		if chunk == nil && r.Position() > l.memory.Head() {
			break
		}
		got += n
	}
	if got != 5 || r.Position() != l.memory.Head()+1 {
		t.Errorf("got %d events, and stands at %d of %d", got, r.Position(), l.memory.Head())
	}
}

// Looking for a rare event takes a client several turns, which it comes to
// though nothing is written.
func TestFilteredClientFindsARareEvent(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events {\nstream s\nupstream a "+a.URL()+"\nstart oldest\nfilters on\nheartbeat 0\nretain {\nevents 300000\n}\n}")
	up(t, a)
	hubs.Range(func(_, val any) bool {
		h := val.(*hub)
		source := h.tags.source("a", "")
		common, rare := h.tags.tag(source, []byte("common")), h.tags.tag(source, []byte("rare"))
		for i := range 200_000 {
			tag := common
			if i == 150_000 {
				tag = rare
			}
			h.log.Load().memory.Append(time.Now(), tag, fmt.Appendf(nil, "data: %d\n\n", i))
		}
		return true
	})
	c := in.connect("/events?type=rare")
	gets(t, c, "150000")
}

// A source has the name that its upstream has when an event comes: a client that
// filters by one gets what came under it, also when the name comes back.
func TestFilterKnowsAnUpstreamThatIsRenamedAndBack(t *testing.T) {
	for _, policy := range []string{"merge", "failover"} {
		t.Run(policy, func(t *testing.T) {
			all := plainOrigins(t, 2)
			urls := all[0].URL() + " " + all[1].URL()
			if policy == "failover" {
				all, urls = all[:1], all[0].URL()
			}
			site := func(name string) string {
				return "sse_fanin /events {\nstream s\nupstream " + name + " " + urls + " {\npolicy " + policy + "\n}\nfilters on\non_reload keep\n}"
			}
			in := serve(t, "", site("x"))
			connected(t, all...)
			every, x := in.connect("/events"), in.connect("/events?source=x")
			want := ""
			for i, name := range []string{"x", "y", "x", "y", "z", "x"} {
				if i > 0 {
					in.reload("", site(name))
				}
				for k, o := range all {
					data := fmt.Sprint(name, i, k)
					emitSeen(t, o, every, data)
					if name == "x" {
						waitData(t, x, data)
						want += " " + data
					}
				}
			}
			wantDatas(t, x, want[1:])
		})
	}
}
