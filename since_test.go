package ssefanin

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// arrive has an event of the stream s arrive at a time, Unix ms.
func arrive(t *testing.T, at int64, data string) {
	t.Helper()
	for _, h := range liveHubs.named("s") {
		for _, in := range h.inputs.all() {
			h.publish(in, &sse.Event{Data: []byte(data), ID: []byte("id-" + data)}, nil, false, new(encoder), time.UnixMilli(at))
			return
		}
	}
	t.Fatal("there is no stream s with an upstream")
}

// all are the inputs that there are.
func (i *inputs) all() (all []*input) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, in := range i.sources {
		all = append(all, in)
	}
	return all
}

// ago is a time that long ago, Unix ms.
func ago(d time.Duration) int64 { return time.Now().Add(-d).UnixMilli() }

// since is the path of a client that wants what arrived from a time on.
func sincePath(t int64) string { return "/events?since=" + strconv.FormatInt(t, 10) }

// begins connects a client, and checks what it gets before there is nothing more:
// then it is sent a heartbeat, which the site has to have short.
func (in *instance) begins(t *testing.T, cfg ssetest.ClientConfig, gap, want string) *ssetest.Client {
	t.Helper()
	c, name := in.openClient(cfg), fmt.Sprintf("%s after %q", cfg.URL, cfg.LastEventID)
	placed(t, c, name, gap, want)
	nothingMore(t, c)
	begun(t, c, name, gap, want)
	return c
}

// placed waits until a client has as much as is wanted.
func placed(t *testing.T, c *ssetest.Client, name, gap, want string) {
	t.Helper()
	waitFor(t, c, name+" is placed", func() bool {
		return len(received(c)) >= len(strings.Fields(want)) && (gap == "" || len(gapsOf(t, c)) > 0)
	})
}

// nothingMore waits until clients are sent a heartbeat.
func nothingMore(t *testing.T, clients ...*ssetest.Client) {
	t.Helper()
	before := make([]uint64, len(clients))
	for i, c := range clients {
		before[i] = c.Comments()
	}
	for i, c := range clients {
		must(t, c.WaitComments(within(t, 10*time.Second), before[i]+1))
	}
}

// begun checks what a client has got.
func begun(t *testing.T, c *ssetest.Client, name, gap, want string) {
	t.Helper()
	if got := datas(c); got != want {
		t.Errorf("%s: got %q, want %q", name, got, want)
	}
	gaps := gapsOf(t, c)
	switch {
	case gap == "" && len(gaps) > 0:
		t.Errorf("%s: got gaps %v", name, gaps)
	case gap != "" && (len(gaps) != 1 || gaps[0].Reason != gap || gaps[0].Missed != nil || c.Events()[0].Type != "fanin.gap"):
		t.Errorf("%s: got %v, want one gap, %s, and then events", name, c.Events(), gap)
	}
}

func TestSinceTime(t *testing.T) {
	const noon = 1769860800000 // 2026-01-31T12:00:00Z
	for text, want := range map[string]int64{
		"2026-01-31T12:00:00Z":                noon,
		"2026-01-31T12:00:00.250Z":            noon + 250,
		"2026-01-31T12:00:00.2509Z":           noon + 250,
		"2026-01-31T12:00:00.250999999Z":      noon + 250,
		"2026-01-31T13:00:00+01:00":           noon,
		"2026-01-31T13:00:00 01:00":           noon,
		"2026-01-31T13:00:00.25 01:00":        noon + 250,
		"2026-01-31 13:00:00 01:00":           noon,
		"2026-01-31 12:00:00Z":                noon,
		"2026-01-31t12:00:00z":                noon,
		"2026-01-31T06:30:00-05:30":           noon,
		"1969-12-31T23:30:00-01:00":           30 * 60_000,
		"9999-12-31T23:59:59.999Z":            lastMillis,
		"1970-01-01T00:00:00Z":                1,
		"0":                                   1,
		"0.5":                                 500,
		"1":                                   1000,
		"1769860800":                          noon,
		"1769860800.2":                        noon + 200,
		"1769860800.2509":                     noon + 250,
		"1769860800.000000000000000000000001": noon,
		"1769860800000":                       noon,
		"1769860800250.75":                    noon + 250,
		"99999999999":                         99_999_999_999_000,
		"99999999999.999":                     99_999_999_999_999,
		"100000000000":                        firstMillis,
		"253402300799999":                     lastMillis,
		"0001769860800":                       noon,
	} {
		if got, err := parseSince(text); err != nil || got != want {
			t.Errorf("%q is %d, %v, want %d", text, got, err, want)
		}
	}
}

// Whatever is no time is a 400 that has nothing of it.
func TestSinceThatIsNoTime(t *testing.T) {
	const (
		empty    = "'since' is empty; " + sinceForms
		number   = "'since' is not a number; " + sinceForms
		notTime  = "'since' is not a time; " + sinceForms
		encoding = "'since' is not encoded as a query has to be; " + sinceForms
		long     = "'since' has more than 64 bytes; " + sinceForms
		more     = "'since' is given more than once; expected one time"
		negative = "'since' is negative; expected the time itself, not how long ago that was, or 0 for everything retained"
		late     = "'since' is after the year 9999; expected seconds or milliseconds, not microseconds or nanoseconds"
		years    = "'since' is not in the years from 1970 to 9999; 0 is everything retained"
		lacks    = "'since' lacks the time of day, the seconds or the offset; expected all of them, as in 2026-01-31T12:00:00Z or 2026-01-31T13:00:00%2B01:00"
	)
	in, _, ids := history(t, "")
	for query, want := range map[string]string{
		"since":                                   empty,
		"since=":                                  empty,
		"x=1&since=&y=2":                          empty,
		"since=yesterday":                         notTime,
		"since=5m":                                notTime,
		"since=%00%0d%0a%1b[31m":                  notTime,
		"since=%ff%fe":                            notTime,
		"since=<script>":                          notTime,
		"since=1.7e9":                             notTime,
		"since=1769860800Z":                       notTime,
		"since=2026-02-30T12:00:00Z":              notTime,
		"since=2026-01-31T25:00:00Z":              notTime,
		"since=2026-01-31T12:00:00+0100":          notTime,
		"since=12026-01-31T12:00:00Z":             notTime,
		"since=%D9%A1":                            notTime, // a digit of another script
		"since=+":                                 notTime,
		"since=2026-01-31":                        lacks,
		"since=2026-01-31T12:00:00":               lacks,
		"since=2026-01-31+12:00":                  lacks,
		"since=-1":                                negative,
		"since=-5m":                               negative,
		"since=.5":                                number,
		"since=1.":                                number,
		"since=1.5.5":                             number,
		"since=...":                               number,
		"since=0001-01-01T00:00:00Z":              years,
		"since=1969-12-31T23:59:59.999Z":          years,
		"since=9999-12-31T23:59:59-01:00":         years,
		"since=253402300800000":                   late,
		"since=1769860800000000":                  late,
		"since=1769860800000000000":               late,
		"since=99999999999999999999999":           late,
		"since=" + strings.Repeat("1", 65):        long,
		"since=" + strings.Repeat("%31", 65):      long,
		"since=" + strings.Repeat("x", 3000):      long,
		"since=1&since=1":                         more,
		"since=1&lastEventId=&since=":             more,
		"since=%zz":                               encoding,
		"since=1;type=x":                          notTime,
		"since=1&lastEventId=&last_event_id=&x=y": "",
		"sinces=x":                                "",
		"since=x&lastEventId=" + ids["two"]:       "",
		"since=x&last_event_id=" + ids["two"]:     "",
		"since=x&lastEventId=rubbish":             "",
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			resp := in.request(method, "/events?"+query, nil)
			if want == "" {
				if resp.StatusCode != http.StatusOK {
					t.Errorf("%s %.100q: status %d", method, query, resp.StatusCode)
				}
				resp.Body.Close()
				continue
			}
			body, err := io.ReadAll(resp.Body)
			must(t, err)
			wantBody := want + "\n"
			if method == http.MethodHead {
				wantBody = ""
			}
			if resp.StatusCode != http.StatusBadRequest || string(body) != wantBody {
				t.Errorf("%s %.100q: status %d, %q, want 400 and %q", method, query, resp.StatusCode, body, wantBody)
			}
		}
	}
	if resp := in.request(http.MethodGet, "/events?since=x", http.Header{"Last-Event-Id": {ids["two"]}}); resp.StatusCode != http.StatusOK {
		t.Errorf("with a position: status %d", resp.StatusCode)
	}
}

// Nothing is made for a client that is refused.
func TestSinceThatIsNoTimeOfAKeyedStream(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/{query.user}", ""))
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		if status, _ := in.status(method, "/events?user=ann&since=x"); status != http.StatusBadRequest {
			t.Errorf("%s: status %d, want 400", method, status)
		}
	}
	if allHubs()+liveKeys() != 0 || e.TotalConnections() != 0 {
		t.Error("a stream was made")
	}
	c := in.connect("/events?user=ann&since=0")
	gets(t, c, "/ann ")
}

// sinceSite is a stream with events of known arrivals.
func sinceSite(t *testing.T, settings string) (in *instance, base int64) {
	t.Helper()
	a := plain(t)
	in = serve(t, "sse_fanin {\nstream s "+a.URL()+" {\nheartbeat 20ms\n"+settings+"\n}\n}", "sse_fanin /events s\nsse_fanin /oldest s {\nstart oldest\n}")
	connected(t, a)
	base = ago(time.Hour) / 1000 * 1000
	arrive(t, base, "a")
	arrive(t, base+10, "b")
	arrive(t, base+10, "c")
	arrive(t, base+5, "d") // the clock was set back: it counts as of the event before
	arrive(t, base+1000, "e")
	return in, base
}

func TestSince(t *testing.T) {
	for _, ids := range []string{idsStream, idsUpstream, idsNone} {
		t.Run(ids, func(t *testing.T) {
			in, base := sinceSite(t, "ids "+ids)
			utc := time.UnixMilli(base + 10).UTC()
			queries := map[string]string{
				"since=0":                                                            "a b c d e",
				"since=" + fmt.Sprint(base):                                          "a b c d e",
				"since=" + fmt.Sprint(base/1000):                                     "a b c d e",
				"since=" + fmt.Sprint(base+1):                                        "b c d e",
				"since=" + fmt.Sprint(base+10):                                       "b c d e",
				"since=" + fmt.Sprint(base+11):                                       "e",
				"since=" + fmt.Sprint(base/1000, ".010"):                             "b c d e",
				"since=" + fmt.Sprint(base/1000, ".0119"):                            "e",
				"since=" + fmt.Sprint(base+1000):                                     "e",
				"since=" + fmt.Sprint(base+1001):                                     "",
				"since=" + utc.Format(time.RFC3339Nano):                              "b c d e",
				"since=" + utc.Add(1e6).Format(time.RFC3339Nano):                     "e",
				"since=" + utc.In(time.FixedZone("", 3600)).Format(time.RFC3339Nano): "b c d e", // with a bare +
				url.Values{"since": {utc.In(time.FixedZone("", 3600)).Format(time.RFC3339Nano)}}.Encode(): "b c d e",
				"lastEventId=&since=" + fmt.Sprint(base+11):                                               "e",
				"since=" + fmt.Sprint(time.Now().Add(24*time.Hour).UnixMilli()):                           "", // live
			}
			clients := make(map[*ssetest.Client]string) // they wait for heartbeats together
			for query := range queries {
				for _, path := range []string{"/events?", "/oldest?"} {
					clients[in.openClient(ssetest.ClientConfig{URL: path + strings.ReplaceAll(query, " ", "")})] = query
				}
			}
			for c, query := range clients {
				placed(t, c, query, "", queries[query])
			}
			nothingMore(t, slices.Collect(maps.Keys(clients))...)
			for c, query := range clients {
				begun(t, c, query, "", queries[query])
				c.Close()
			}
			// whoever comes without one begins where start says; what arrives comes to all
			all := in.begins(t, ssetest.ClientConfig{URL: "/oldest"}, "", "a b c d e")
			late := in.begins(t, ssetest.ClientConfig{URL: sincePath(time.Now().Add(24 * time.Hour).UnixMilli())}, "", "")
			arrive(t, time.Now().UnixMilli(), "f")
			gets(t, all, "a", "b", "c", "d", "e", "f")
			gets(t, late, "f")
		})
	}
}

// A position counts more than a time, except with `ids none`, where there is none.
func TestPositionBeforeSince(t *testing.T) {
	in, base := sinceSite(t, "drain 20ms")
	whole := in.begins(t, ssetest.ClientConfig{URL: "/oldest"}, "", "a b c d e")
	atD := whole.Events()[3].ID
	in.begins(t, ssetest.ClientConfig{URL: sincePath(base), LastEventID: atD}, "", "e")
	in.begins(t, ssetest.ClientConfig{URL: sincePath(base) + "&lastEventId=" + atD}, "", "e")
	in.begins(t, ssetest.ClientConfig{URL: sincePath(base) + "&last_event_id=" + atD}, "", "e")
	in.begins(t, ssetest.ClientConfig{URL: sincePath(base), LastEventID: "rubbish"}, gapUnknown, "") // what start says

	in.stop()
	in, base = sinceSite(t, "ids none")
	in.begins(t, ssetest.ClientConfig{URL: sincePath(base + 11), LastEventID: atD}, "", "e")
}

// An EventSource keeps its URL, and comes back with the position that it has.
func TestReconnectsWithSince(t *testing.T) {
	in, base := sinceSite(t, "retry 1ms 2ms")
	c := in.begins(t, ssetest.ClientConfig{URL: sincePath(base + 10)}, "", "b c d e")
	for i := range 3 {
		c.Disconnect()
		must(t, c.WaitOpen(within(t, 10*time.Second), i+2))
		arrive(t, time.Now().UnixMilli(), fmt.Sprint(i))
		waitData(t, c, fmt.Sprint(i))
	}
	wantDatas(t, c, "b c d e 0 1 2")
	if gaps := gapsOf(t, c); len(gaps) > 0 {
		t.Errorf("got gaps %v", gaps)
	}
}

// A browser's EventSource has a position before the first event, so that it need
// not ask for a time again.
func TestSinceIsPrimed(t *testing.T) {
	in, base := sinceSite(t, "prime on")
	c := in.begins(t, ssetest.ClientConfig{URL: sincePath(base + 2000)}, "", "")
	eventually(t, 10*time.Second, "it has a position", func() bool { return c.LastEventID() != "" })
	at := c.LastEventID()
	c.Close()
	arrive(t, base+1500, "f")
	in.begins(t, ssetest.ClientConfig{URL: sincePath(base), LastEventID: at}, "", "f")
}

// What is gone is told where it arrived in the time that was asked for.
func TestSinceOfWhatIsGone(t *testing.T) {
	for _, ids := range []string{idsStream, idsUpstream} {
		t.Run(ids, func(t *testing.T) {
			in, base := sinceSite(t, "filters on\nretain {\nevents 1\n}\nids "+ids)
			for _, at := range []int64{1, base, base + 9, base + 10} {
				in.begins(t, ssetest.ClientConfig{URL: sincePath(at)}, gapExpired, "e")
			}
			for _, at := range []int64{base + 11, base + 1000} { // nothing arrived before e
				in.begins(t, ssetest.ClientConfig{URL: sincePath(at)}, "", "e")
			}
			in.begins(t, ssetest.ClientConfig{URL: sincePath(base) + "&type=other"}, "", "") // nothing of that is gone
			c := in.begins(t, ssetest.ClientConfig{URL: sincePath(base) + "&type=message"}, gapExpired, "e")
			arrive(t, base+2000, "f")
			gets(t, c, "e", "f")
			in.begins(t, ssetest.ClientConfig{URL: sincePath(base + 1001)}, "", "f")
		})
	}
	t.Run(idsNone, func(t *testing.T) {
		in, base := sinceSite(t, "retain {\nevents 1\n}\nids none")
		c := in.openClient(ssetest.ClientConfig{URL: sincePath(base)})
		gets(t, c, "e")
		if gaps := gapsOf(t, c); len(gaps) != 1 || gaps[0].Reason != gapExpired || gaps[0].Missed != nil || gaps[0].Resumed != nil {
			t.Errorf("got gaps %v", gaps)
		}
	})
	t.Run("nothing is left", func(t *testing.T) {
		in, base := sinceSite(t, "retain {\nage 1m\n}")
		in.begins(t, ssetest.ClientConfig{URL: sincePath(base + 1000)}, gapExpired, "")
		in.begins(t, ssetest.ClientConfig{URL: sincePath(base + 1001)}, "", "")
	})
}

// A reload that gives a stream another log takes what the one before has away.
func TestSinceAfterAnotherLog(t *testing.T) {
	a := plain(t)
	site := func(settings string) string {
		return "sse_fanin /events {\nstream s\nupstream " + a.URL() + "\nheartbeat 20ms\n" + settings + "\n}"
	}
	in := serve(t, "", site(""))
	connected(t, a)
	base := ago(time.Hour)
	arrive(t, base, "a")
	wants := func(at int64, gap, want string) {
		t.Helper()
		in.begins(t, ssetest.ClientConfig{URL: sincePath(at)}, gap, want)
	}
	in.reload("", site("ids upstream"))
	wants(base, gapExpired, "")
	wants(base+1, "", "")
	arrive(t, base+1000, "b")
	wants(base, gapExpired, "b")
	wants(base+1, "", "b")

	file := "log file {\ndir " + t.TempDir() + "\n}"
	in.reload("", site(file))
	awaitWriting(t)
	wants(base+1000, gapExpired, "")
	wants(base+1001, "", "")
	arrive(t, base+2000, "c")
	eventually(t, 10*time.Second, "it is in the log", func() bool { return durableOf(t).log().memory.Newest() == base+2000 })
	wants(base+1000, gapExpired, "c")
	wants(base+1001, "", "c")

	in.reload("", site(file+"\nids upstream")) // the same files, in another epoch
	awaitWriting(t)
	wants(base+1000, gapExpired, "c")
	wants(base+1001, "", "c")
	arrive(t, base+3000, "d")
	eventually(t, 10*time.Second, "it is in the log", func() bool { return durableOf(t).log().memory.Newest() == base+3000 })
	wants(base+1001, "", "c d")
	wants(base+2001, "", "d")

	in.reload("", site(""))
	wants(base+3000, gapExpired, "")
	wants(base+3001, "", "")
}

func TestStartDuration(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events "+a.URL()+" {\nstream s\nstart 10m\nheartbeat 20ms\n}\nsse_fanin /day s {\nstart 1d\nheartbeat 20ms\n}\nsse_fanin /short s {\nstart 1s\nheartbeat 20ms\n}")
	connected(t, a)
	for _, d := range []time.Duration{24*time.Hour + time.Minute, time.Hour, 11 * time.Minute, 9 * time.Minute} {
		arrive(t, ago(d), d.String())
	}
	for _, id := range []string{"", "rubbish"} { // after a gap, too
		gap := ""
		if id != "" {
			gap = gapUnknown
		}
		in.begins(t, ssetest.ClientConfig{LastEventID: id}, gap, "9m0s")
		in.begins(t, ssetest.ClientConfig{URL: "/day", LastEventID: id}, gap, "1h0m0s 11m0s 9m0s")
		in.begins(t, ssetest.ClientConfig{URL: "/short", LastEventID: id}, gap, "")
	}
	// it is no request for what is gone
	in.reload("", "sse_fanin /events "+a.URL()+" {\nstream s\nstart 10m\nheartbeat 20ms\nretain {\nevents 1\n}\n}")
	arrive(t, ago(time.Minute), "newest")
	in.begins(t, ssetest.ClientConfig{}, "", "newest")
	in.begins(t, ssetest.ClientConfig{URL: "/events?since=0"}, gapExpired, "newest")
}

// What memory holds no longer is asked of the store: over random arrivals, before
// and after a restart, and after the oldest were dropped.
func TestSinceFromTheFiles(t *testing.T) {
	for _, ids := range []string{idsStream, idsUpstream} {
		t.Run(ids, func(t *testing.T) {
			dir := t.TempDir()
			o := newOrigin(t, ssetest.OriginConfig{})
			site := func(events int) string {
				return kept(dir, "memory 64KiB", fmt.Sprintf("ids %s\nstart 10m\nretain {\nevents %d\nsize 64MiB\n}\nupstream u %s", ids, events, o.URL()))
			}
			in := serve(t, "", site(8000))
			awaitWriting(t)
			up(t, o)
			const n = 4000
			rng := rand.New(rand.NewPCG(1, 1))
			d, times, at := durableOf(t), make([]int64, n), ago(time.Hour)
			for i := range times {
				at += rng.Int64N(3) * rng.Int64N(2)
				if i >= 2000 {
					at = max(at, ago(8*time.Minute)) // start 10m begins here
				}
				times[i] = at
				arrive(t, at, fmt.Sprint(i, strings.Repeat("x", 100)))
				if i%500 == 499 { // a file begins with what is written together
					eventually(t, 20*time.Second, "it is in the log", func() bool { return d.log().memory.Head() == uint64(i+1) })
				}
			}
			if tail := d.log().memory.Tail(); tail < n/2 {
				t.Fatalf("memory holds all from %d on", tail)
			}
			check := func(path string, first int, gap bool) {
				t.Helper()
				c := in.openClient(ssetest.ClientConfig{URL: path, Record: 2 * n})
				defer c.Close()
				last := fmt.Sprint(n-1, strings.Repeat("x", 100))
				if first < n {
					_, err := c.WaitEvent(within(t, 20*time.Second), func(e ssetest.Event) bool { return e.Data == last })
					must(t, err)
				}
				got := received(c)
				if len(got) != n-first || len(got) > 0 && !strings.HasPrefix(got[0], fmt.Sprint(first, "x")) {
					t.Errorf("%s: got %d events, want %d", path, len(got), n-first)
				}
				if gaps := gapsOf(t, c); len(gaps) > 0 != gap || gap && (gaps[0].Reason != gapExpired || gaps[0].Missed != nil) {
					t.Errorf("%s: got gaps %v, want some: %t", path, gaps, gap)
				}
			}
			probe := func(first int, evicted bool) {
				t.Helper()
				check("/events", 2000, false)
				check(sincePath(1), first, evicted)
				check(sincePath(times[first]), first, evicted)
				check(sincePath(times[n-1]+1), n, false)
				for range 15 {
					from := times[first+rng.IntN(n-first)] + rng.Int64N(2)
					i, _ := slices.BinarySearch(times, from)
					check(sincePath(from), max(i, first), evicted && i <= first)
				}
			}
			probe(0, false)
			in.stop()
			in.reload("", site(8000))
			awaitWriting(t)
			probe(0, false)
			in.reload("", site(2500))
			d = durableOf(t)
			eventually(t, 20*time.Second, "the oldest are dropped", func() bool { return d.first() > 1 })
			probe(int(d.first()-1), true)
		})
	}
}
