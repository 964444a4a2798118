package ssefanin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// streamNamed returns the status of a stream.
func streamNamed(t *testing.T, name string) streamStatus {
	t.Helper()
	for _, st := range snapshotStreams() {
		if st.Name == name {
			return st
		}
	}
	t.Fatalf("there is no stream '%s'", name)
	return streamStatus{}
}

// upstreamNamed returns the status of an upstream of a stream.
func upstreamNamed(t *testing.T, stream, name string) *upstreamStatus {
	t.Helper()
	for _, us := range streamNamed(t, stream).Upstreams {
		if us.Name == name {
			return us
		}
	}
	t.Fatalf("stream '%s' has no upstream '%s'", stream, name)
	return nil
}

// becomes waits until the status of a stream is as wanted.
func becomes(t *testing.T, stream, what string, ok func(streamStatus) bool) streamStatus {
	t.Helper()
	var st streamStatus
	eventually(t, 5*time.Second, what, func() bool {
		for _, st = range snapshotStreams() {
			if st.Name == stream && ok(st) {
				return true
			}
		}
		return false
	})
	return st
}

func TestStatusTellsWhatAStreamDoes(t *testing.T) {
	before := time.Now().Add(-time.Millisecond).UnixMilli()
	a := newOrigin(t, ssetest.OriginConfig{Source: "a"})
	b := newOrigin(t, ssetest.OriginConfig{Source: "b"})
	in := serve(t, "", fmt.Sprintf("sse_fanin /e {\nstream s\nupstream b %s\nupstream a %s\nretain {\nage 1h\n}\n}", b.URL(), a.URL()))
	connected(t, a, b)
	c := follow(t, in, "/e")
	a.Emit("price", "one")
	a.Emit("price", "two")
	b.Emit("", "three")
	waitData(t, c, "three")
	waitData(t, c, "two")
	st := becomes(t, "s", "everything is counted", func(st streamStatus) bool {
		return st.Delivered.Events == 3 && st.Upstreams[0].Events == 2 && st.Upstreams[1].Events == 1 && st.Upstreams[0].LastEvent >= st.Log.Oldest
	})
	if st.Keyed || st.Removed || st.OnDemand || st.Keys != 0 {
		t.Errorf("got %+v", st)
	}
	us := st.Upstreams[0]
	if us.Name != "a" || us.State != phaseUp || us.Since < before || us.Connects != 1 || us.Disconnects != 0 ||
		us.LastEvent < us.Since || us.LastEventID == "" || us.Bytes == 0 || us.RetryAt != 0 || us.Reason != "" ||
		len(us.URLs) != 1 || us.URLs[0] != a.URL() {
		t.Errorf("upstream: got %+v", us)
	}
	l := st.Log
	if l.Head != 3 || l.Tail != 1 || l.Events != 3 || l.Epoch == "" || l.IDs != idsStream || l.Bytes == 0 || l.Memory < l.Bytes ||
		l.Oldest < before || l.Newest < l.Oldest || l.MaxEvents != 10000 || l.MaxBytes != 64<<20 || l.MaxAge != time.Hour.Milliseconds() {
		t.Errorf("log: got %+v", l)
	}
	if cs := st.Clients; cs.Connected != 1 || cs.Total != 1 || cs.MaxLag != 0 || cs.Oldest < before {
		t.Errorf("clients: got %+v", cs)
	}
	if d := st.Delivered; d.Bytes == 0 || d.Replayed != 0 {
		t.Errorf("delivered: got %+v", d)
	}
	if st.Types["price"] != 2 || st.Types["message"] != 1 || len(st.Types) != 2 {
		t.Errorf("types: got %v", st.Types)
	}
}

// The JSON is what others rely on.
func TestStatusAsJSON(t *testing.T) {
	a := plain(t)
	serve(t, "", "sse_fanin /e {\nstream s\nupstream a "+a.URL()+"\n}")
	connected(t, a)
	raw, err := json.Marshal(streamNamed(t, "s"))
	must(t, err)
	var got map[string]any
	must(t, json.Unmarshal(raw, &got))
	keys := func(v any) string {
		var names []string
		for name := range v.(map[string]any) {
			names = append(names, name)
		}
		return strings.Join(slices.Sorted(slices.Values(names)), " ")
	}
	for part, want := range map[string]string{
		"":          "clients delivered gaps keyed keys log max_keys name on_demand removed types upstreams",
		"log":       "bytes epoch events head ids max_age max_bytes max_events memory newest oldest tail",
		"clients":   "connected max max_lag oldest refused total",
		"delivered": "bytes events replayed",
		"gaps":      "expired unknown",
	} {
		v := any(got)
		if part != "" {
			v = got[part]
		}
		if keys(v) != want {
			t.Errorf("%q has %s, want %s", part, keys(v), want)
		}
	}
	want := "bytes connected connects disconnects duplicates error events last_event last_event_id name policy reason retry_at since skipped state urls"
	if have := keys(got["upstreams"].([]any)[0]); have != want {
		t.Errorf("an upstream has %s, want %s", have, want)
	}
}

func TestStatusTellsWhyAnUpstreamIsDown(t *testing.T) {
	a := plain(t)
	a.RespondWith(http.StatusForbidden, nil, "no")
	serve(t, "", "sse_fanin /e {\nstream s\nupstream a "+a.URL()+"\n}")
	us := becomes(t, "s", "the upstream is down", func(st streamStatus) bool { return st.Upstreams[0].State == phaseDown }).Upstreams[0]
	if us.Reason != reasonStatus || us.Error != "status 403" || us.Connects != 0 || us.Disconnects != 0 ||
		us.RetryAt < time.Now().Add(20*time.Second).UnixMilli() {
		t.Errorf("got %+v", us)
	}
}

func TestStatusCountsWhatIsNotDelivered(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	script(o, "id: 1\ndata: x\n\nid: 2\ndata: "+strings.Repeat("y", 3000)+"\n\nid: 3\nevent: other\ndata: z\n\n",
		"id: 1\ndata: x\n\nid: 4\ndata: end\n\n")
	in := serve(t, "", directive("/e", "stream s\nmax_event_size 1KiB\nevents message\nstart oldest\n"+hasty+"\nupstream u "+o.URL()))
	c := follow(t, in, "/e")
	waitData(t, c, "end")
	becomes(t, "s", "everything is counted", func(st streamStatus) bool {
		us := st.Upstreams[0]
		return us.Skipped == 1 && us.Duplicates == 1 && us.Events == 4 && us.Disconnects == 1 && us.Connects == 2 &&
			us.Reason == reasonEOF && us.State == phaseUp && us.LastEventID == "4"
	})
	wantMetrics(t, in, map[string]float64{
		`caddy_sse_fanin_events_skipped_total{reason="too_large",stream="s",upstream="u"}`:    1,
		`caddy_sse_fanin_events_skipped_total{reason="type",stream="s",upstream="u"}`:         1,
		`caddy_sse_fanin_duplicates_total{stream="s",upstream="u"}`:                           1,
		`caddy_sse_fanin_events_received_total{stream="s",upstream="u"}`:                      4,
		`caddy_sse_fanin_upstream_disconnects_total{reason="eof",stream="s",upstream="u"}`:    1,
		`caddy_sse_fanin_upstream_disconnects_total{reason="status",stream="s",upstream="u"}`: 0,
		`caddy_sse_fanin_retained_events{stream="s"}`:                                         2,
	})
}

// No secret of a configuration is shown, nor any of a key.
func TestStatusTellsNoSecrets(t *testing.T) {
	t.Setenv("SECRET_TOKEN", "s3cret")
	o := newOrigin(t, ssetest.OriginConfig{})
	o.RespondWith(http.StatusForbidden, nil, "s3cret")
	at := "me:s3cret@" + o.Addr()
	site := fmt.Sprintf(`sse_fanin /plain http://%[1]s/e?t=s3cret {
		header_up Authorization s3cret
		stream plain
	}
	sse_fanin /env http://%[2]s/{env.SECRET_TOKEN}?t={env.SECRET_TOKEN} {
		stream env
	}
	sse_fanin /refused http://127.0.0.1:1/e?t=s3cret {
		stream refused
	}
	sse_fanin /keyed http://%[1]s/{query.user}?t={query.user} {
		stream keyed
	}`, at, o.Addr())
	in := serve(t, "", site)
	follow(t, in, "/keyed?user=s3cret")
	for _, name := range []string{"plain", "env", "refused", "keyed"} {
		becomes(t, name, "the upstream of "+name+" is down", func(st streamStatus) bool { return st.Upstreams[0].State == phaseDown })
	}
	raw, err := json.Marshal(snapshotStreams())
	must(t, err)
	text := string(raw) + in.metrics()
	if strings.Contains(text, "s3cret") || strings.Contains(text, "?t=") {
		t.Errorf("secrets are shown: %s", text)
	}
	if !strings.Contains(text, o.Addr()) {
		t.Errorf("the host is not shown: %s", text)
	}
}

func TestStatusOfAKeyedStreamIsOneEntry(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	site := "sse_fanin /e {\nstream k\nconnect on_demand 20ms\nupstream u http://" + o.Addr() + "/events?u={query.u}\n}"
	in := serve(t, "", site)
	st := streamNamed(t, "k")
	if !st.Keyed || !st.OnDemand || st.Keys != 0 || len(st.Upstreams) != 1 || st.Upstreams[0].State != phaseIdle || st.Log.MaxEvents != 1000 {
		t.Errorf("without clients: got %+v", st)
	}
	var clients []*ssetest.Client
	for i := range 5 {
		clients = append(clients, follow(t, in, fmt.Sprint("/e?u=key", i)))
	}
	must(t, o.WaitConnections(within(t, 5*time.Second), 5))
	o.Emit("tick", "x")
	for _, c := range clients {
		waitData(t, c, "x")
	}
	becomes(t, "k", "five keys are one stream", func(st streamStatus) bool {
		return st.Keys == 5 && st.Clients.Connected == 5 && st.Clients.Total == 5 && len(st.Upstreams) == 1 &&
			st.Upstreams[0].Connects == 5 && st.Upstreams[0].Events == 5 && st.Upstreams[0].State == phaseUp &&
			st.Delivered.Events == 5 && st.Types["tick"] == 5 && st.Log.Events == 5
	})
	if text := in.metrics(); strings.Contains(text, "key1") || strings.Count(text, "caddy_sse_fanin_clients{") != 1 {
		t.Errorf("keys are told apart: %s", text)
	}
	for _, c := range clients {
		c.Close()
	}
	// the counts stay when the keys are gone, and never fall on the way
	seen := 0.0
	eventually(t, 5*time.Second, "the keys are gone", func() bool {
		n := in.value(`caddy_sse_fanin_events_received_total{stream="k",upstream="u"}`)
		if n < seen {
			t.Fatalf("the count fell from %v to %v", seen, n)
		}
		seen = n
		return len(liveHubs.list()) == 0
	})
	st = streamNamed(t, "k")
	if us := st.Upstreams[0]; us.Events != 5 || us.Connects != 5 || st.Clients.Connected != 0 || st.Clients.Total != 5 || st.Keys != 0 {
		t.Errorf("without keys again: got %+v", st)
	}
}

// A client that reads nothing lags by what it was not sent.
func TestStatusTellsTheLag(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", directive("/e", "stream s\nupstream u "+o.URL()))
	connected(t, o)
	resp := in.do(http.MethodGet, "/e") // its body is not read
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	pad := strings.Repeat("x", 64<<10)
	eventually(t, 10*time.Second, "the client lags", func() bool {
		for range 4 {
			o.Emit("", pad)
		}
		return streamNamed(t, "s").Clients.MaxLag > 20
	})
	if n := in.value(`caddy_sse_fanin_max_lag_events{stream="s"}`); n < 20 {
		t.Errorf("the metric says %v", n)
	}
}

func TestStatusOfARemovedStream(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	site := func(name string) string {
		return directive("/e", "drain 1h\nstream "+name+"\nupstream u "+o.URL())
	}
	in := serve(t, "", site("old"))
	connected(t, o)
	c := follow(t, in, "/e")
	in.reload("", site("new"))
	st := becomes(t, "old", "the old one is removed", func(st streamStatus) bool { return st.Removed })
	if st.Clients.Connected != 1 {
		t.Errorf("got %+v", st)
	}
	if streamNamed(t, "new").Removed {
		t.Error("the new one is removed")
	}
	// and there again, while the client of the removed one is still leaving
	in.reload("", site("old"))
	all := snapshotStreams()
	if len(all) != 2 || all[0].Removed || !all[1].Removed || all[0].Name != "old" || all[1].Name != "old" {
		t.Errorf("got %+v", all)
	}
	if n := in.value(`caddy_sse_fanin_clients{stream="old"}`); n != 1 {
		t.Errorf("the two together have %v clients", n)
	}
	c.Close()
	eventually(t, 5*time.Second, "the removed one is gone", func() bool { return len(snapshotStreams()) == 1 })
}

func TestStatusOfAnAddressIsThatOfItsUpstream(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	host, port, _ := strings.Cut(o.Addr(), ":")
	in := serve(t, "", "sse_fanin /e {\nstream s\nupstream u http://example.com/e?s3cret {\ndynamic a "+host+" "+port+" {\nrefresh 1m\n}\n}\n}")
	connected(t, o)
	us := becomes(t, "s", "the address is up", func(st streamStatus) bool { return st.Upstreams[0].State == phaseUp }).Upstreams[0]
	if !strings.HasPrefix(us.Name, "u-") || us.URLs[0] != "http://example.com/e at "+o.Addr() {
		t.Errorf("got %+v", us)
	}
	if n := in.value(`caddy_sse_fanin_upstream_connects_total{stream="s",upstream="u"}`); n != 1 {
		t.Errorf("the upstream has %v connects in the metrics: %s", n, in.metrics())
	}
}
