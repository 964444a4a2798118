package ssefanin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
	"github.com/sse-fanin/caddy-sse-fanin/logstore/storetest"
)

// tell has the other node tell this, as a Caddy would.
func (n *otherNode) tell(told nodeTold) {
	n.t.Helper()
	n.store.Tell(told.encode())
}

// answering has the other node answer, and returns what it was asked.
func (n *otherNode) answering(answer nodeAnswer) (asked func() []nodeQuestion) {
	n.t.Helper()
	var mu sync.Mutex
	var questions []nodeQuestion
	n.store.Answer(func(text []byte) []byte {
		var q nodeQuestion
		if err := json.Unmarshal(text, &q); err != nil {
			n.t.Errorf("the question is %q", text)
		}
		mu.Lock()
		defer mu.Unlock()
		questions = append(questions, q)
		text, _ = json.Marshal(answer) // strings and numbers cannot fail
		return text
	})
	return func() []nodeQuestion {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(questions)
	}
}

// ask has the other node ask this one.
func (n *otherNode) ask(q nodeQuestion) (a nodeAnswer) {
	n.t.Helper()
	text, err := json.Marshal(q)
	must(n.t, err)
	text, err = n.store.Ask(within(n.t, 10*time.Second), "node of s", text)
	must(n.t, err)
	must(n.t, json.Unmarshal(text, &a))
	return a
}

// hears returns another node that has the log open, and that this node knows.
func hears(t *testing.T, log *storetest.Memory, name string, told nodeTold) *otherNode {
	t.Helper()
	n := &otherNode{t: t, store: log.Open(name)}
	t.Cleanup(func() { _ = n.store.Close() })
	n.tell(told)
	becomes(t, "s", "the other node is known", func(st streamStatus) bool {
		return slices.ContainsFunc(st.Log.Store.Nodes, func(n nodeStatus) bool { return n.Name == name && n.Clients == told.Clients })
	})
	return n
}

// follows has another node write and tell this.
func follows(t *testing.T, log *storetest.Memory, told nodeTold) *otherNode {
	t.Helper()
	node := takeOver(t, log)
	eventually(t, 10*time.Second, "another node writes", func() bool { return !durableOf(t).writing.Load() })
	told.Writes = true
	node.tell(told)
	eventually(t, 10*time.Second, "it is known who writes", func() bool { return durableOf(t).cluster.writer() == "other" })
	return node
}

func TestNodesInTheStatus(t *testing.T) {
	in, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "", "")
	c := in.connect("/events")
	up(t, o)
	o.Emit("", "one")
	gets(t, c, "one")
	hears(t, log, "node 10", nodeTold{Version: "v9.9.9", Clients: 7, MaxLag: 3, Head: 1, Behind: 4000})
	st := becomes(t, "s", "its own client is counted", func(st streamStatus) bool {
		return len(st.Log.Store.Nodes) == 2 && st.Log.Store.Nodes[1].Clients == 1
	})
	other, own := st.Log.Store.Nodes[0], st.Log.Store.Nodes[1]
	if own.Name != "node of s" || !own.Self || !own.Writes || own.Head == 0 || own.Heard == 0 || own.Behind != 0 {
		t.Errorf("this node is %+v", own)
	}
	if other.Heard == 0 {
		t.Error("it is not known when the other node was heard of")
	}
	other.Heard = 0
	if want := (nodeStatus{Name: "node 10", Version: "v9.9.9", Clients: 7, MaxLag: 3, Head: 1, Behind: 4000}); other != want {
		t.Errorf("the other node is %+v, want %+v", other, want)
	}
	var fromAdmin struct {
		Log struct {
			Store struct {
				Writes bool
				Nodes  []map[string]any
			}
		}
	}
	_, body, _ := admin(t, http.MethodGet, "/sse_fanin/streams/s")
	must(t, json.Unmarshal([]byte(body), &fromAdmin))
	if store := fromAdmin.Log.Store; !store.Writes || len(store.Nodes) != 2 || store.Nodes[0]["name"] != "node 10" || store.Nodes[0]["clients"] != 7.0 {
		t.Errorf("the admin API has %+v", store)
	}
	wantMetrics(t, in, map[string]float64{
		`caddy_sse_fanin_log_nodes{stream="s"}`: 2, `caddy_sse_fanin_log_writes{stream="s"}`: 1,
		`caddy_sse_fanin_upstream_up{stream="s",upstream="u"}`: 1,
	})
}

// What a node tells has room for some of very many upstreams.
func TestWhatANodeTellsIsBounded(t *testing.T) {
	var told nodeTold
	for i := range 10_000 {
		told.Upstreams = append(told.Upstreams, upstreamStatus{Name: fmt.Sprint("upstream ", i), Error: strings.Repeat("x", 100)})
	}
	text := told.encode()
	var heard nodeTold
	must(t, json.Unmarshal(text, &heard))
	if len(text) > logstore.MaxTold || len(heard.Upstreams) == 0 {
		t.Errorf("%d bytes with %d upstreams", len(text), len(heard.Upstreams))
	}
}

// A node that only follows shows how the upstreams are where they are connected,
// and is ready; its own metrics say that they are not its to have.
func TestNodeThatFollowsShowsTheWritersUpstreams(t *testing.T) {
	in, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "", "source_events on")
	c := in.connect("/events")
	up(t, o)
	since := time.Now().Add(-time.Minute).UnixMilli()
	told := func(state phase, why reason) nodeTold {
		return nodeTold{Writes: true, Upstreams: []upstreamStatus{{Name: "u", State: state, Since: since, Reason: why, Error: "told"}}}
	}
	node := follows(t, log, told(phaseDown, reasonEOF))
	state := func(want string) {
		t.Helper()
		eventually(t, 10*time.Second, "a client is told: "+want, func() bool {
			events := c.Events()
			return len(events) > 0 && strings.HasPrefix(events[len(events)-1].Data, want) && strings.Contains(events[len(events)-1].Data, fmt.Sprint(since))
		})
	}
	state(`{"source":"u","state":"down","reason":"eof"`)
	if us := upstreamNamed(t, "s", "u"); us.State != phaseDown || us.Since != since || us.Error != "told" {
		t.Errorf("the upstream is %+v", us)
	}
	node.tell(told(phaseUp, ""))
	state(`{"source":"u","state":"up"`)

	wantMetrics(t, in, map[string]float64{
		`caddy_sse_fanin_log_writes{stream="s"}`: 0, `caddy_sse_fanin_upstream_up{stream="s",upstream="u"}`: 0,
		`caddy_sse_fanin_log_nodes{stream="s"}`: 2,
	})
	if resp, body := in.get("/status?ready", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("?ready: got %s: %s", resp.Status, body)
	}
	resume := log.Stall()
	if resp, body := in.get("/status?ready", ""); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "the store stands still") {
		t.Errorf("?ready while the store cannot be reached: got %s: %s", resp.Status, body)
	}
	resume()
	if resp, body := in.get("/status?ready", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("?ready afterwards: got %s: %s", resp.Status, body)
	}
}

// Clients choose sources by name where they are not connected, too.
func TestClientChoosesASourceOfAnotherNode(t *testing.T) {
	in, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "", "filters on")
	up(t, o)
	follows(t, log, nodeTold{})
	if resp, body := in.get("/events?source=nobody", ""); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a source that there is not: got %s: %s", resp.Status, body)
	}
	if resp := in.open("/events?source=u", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("got %s", resp.Status)
	}
}

func TestReconnectReachesTheWriter(t *testing.T) {
	_, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "", "")
	up(t, o)
	post := func(upstream string) (int, string) {
		status, body, _ := admin(t, http.MethodPost, "/sse_fanin/streams/s/upstreams/"+upstream+"/reconnect")
		return status, body
	}
	node := follows(t, log, nodeTold{})
	if status, body := post("u"); status != http.StatusBadGateway || !strings.Contains(body, "asking the node other") {
		t.Errorf("while the writer answers nothing: got %d: %s", status, body)
	}
	asked := node.answering(nodeAnswer{Found: 1, Names: []string{"u"}})
	if status, body := post("u"); status != http.StatusOK {
		t.Errorf("got %d: %s", status, body)
	}
	if got := asked(); len(got) != 1 || got[0] != (nodeQuestion{Do: doReconnect, Upstream: "u"}) {
		t.Errorf("the writer was asked %+v", got)
	}
	node.answering(nodeAnswer{Names: []string{"u", "v"}})
	if status, body := post("w"); status != http.StatusNotFound || !strings.Contains(body, "there are: u, v") {
		t.Errorf("an unknown upstream: got %d: %s", status, body)
	}
	node.answering(nodeAnswer{Error: "it does not write the log any more"})
	if status, body := post("u"); status != http.StatusBadGateway || !strings.HasSuffix(body, "it does not write the log any more") {
		t.Errorf("one that has resigned: got %d: %s", status, body)
	}
	node.tell(nodeTold{})
	eventually(t, 10*time.Second, "nobody is known to write", func() bool { return durableOf(t).cluster.writer() == "" })
	if status, body := post("u"); status != http.StatusBadGateway || body != errNobodyWrites.Error() {
		t.Errorf("while nobody writes: got %d: %s", status, body)
	}
}

// The other way round: another node's operator asks this one.
func TestNodeAnswersOthers(t *testing.T) {
	in, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "", "drain 1ms")
	c := in.connect("/events")
	up(t, o)
	node := hears(t, log, "other", nodeTold{Clients: 1})
	before := o.TotalConnections()
	if a := node.ask(nodeQuestion{Do: doReconnect, Upstream: "u"}); a.Error != "" || a.Found != 1 || !slices.Equal(a.Names, []string{"u"}) {
		t.Errorf("reconnect: got %+v", a)
	}
	eventually(t, 10*time.Second, "the upstream is connected anew", func() bool { return o.TotalConnections() > before })
	if a := node.ask(nodeQuestion{Do: doReconnect, Upstream: "v"}); a.Error != "" || a.Found != 0 {
		t.Errorf("reconnect of an unknown upstream: got %+v", a)
	}
	if a := node.ask(nodeQuestion{Do: "dance"}); !strings.HasPrefix(a.Error, "it does not know 'dance'") {
		t.Errorf("something unknown: got %+v", a)
	}
	if a := node.ask(nodeQuestion{Do: doDrain}); a.Error != "" {
		t.Errorf("drain: got %+v", a)
	}
	must(t, c.WaitOpen(within(t, 10*time.Second), 2))
	takenOver := follows(t, log, nodeTold{})
	if a := takenOver.ask(nodeQuestion{Do: doReconnect, Upstream: "u"}); a.Error != "it does not write the log any more" {
		t.Errorf("of a node that follows: got %+v", a)
	}
}

func TestDrainOfAllNodes(t *testing.T) {
	in, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "", "drain 1ms\nretry 1ms 1ms")
	c := in.connect("/events")
	up(t, o)
	one := hears(t, log, "one", nodeTold{Clients: 1})
	two := hears(t, log, "two", nodeTold{Clients: 2})
	askedOne, askedTwo := one.answering(nodeAnswer{}), two.answering(nodeAnswer{})
	post := func(query string) (int, string) {
		status, body, _ := admin(t, http.MethodPost, "/sse_fanin/streams/s/drain"+query)
		return status, body
	}
	if status, body := post(""); status != http.StatusOK || len(askedOne()) > 0 {
		t.Errorf("of this node alone: got %d: %s, another was asked %+v", status, body, askedOne())
	}
	must(t, c.WaitOpen(within(t, 10*time.Second), 2))
	if status, body := post("?nodes=all"); status != http.StatusOK {
		t.Errorf("got %d: %s", status, body)
	}
	must(t, c.WaitOpen(within(t, 10*time.Second), 3))
	for _, asked := range [][]nodeQuestion{askedOne(), askedTwo()} {
		if !slices.Equal(asked, []nodeQuestion{{Do: doDrain}}) {
			t.Errorf("another node was asked %+v", asked)
		}
	}
	if status, body := post("?nodes=some"); status != http.StatusBadRequest || !strings.Contains(body, "'some' is not known") {
		t.Errorf("got %d: %s", status, body)
	}
	two.answering(nodeAnswer{Error: "it is busy"})
	if status, body := post("?nodes=all"); status != http.StatusBadGateway || body != "asking the node two: it is busy" {
		t.Errorf("while one does not: got %d: %s", status, body)
	}
}

func TestEventsOfATakeover(t *testing.T) {
	global, events := recordEvents(t)
	_, o, log := serveSharedLogWith(t, global, ssetest.OriginConfig{}, "", "")
	up(t, o)
	want := []string{"took_over stream=s", "upstream_up stream=s upstream=u"}
	wantEvents(t, events, want...)
	node := takeOver(t, log)
	const resigned = "resigned stream=s error=another node took over"
	for range streamNamed(t, "s").Log.Store.Takeovers - 1 { // it was faster than the other node
		want = append(want, resigned, "took_over stream=s")
	}
	want = append(want, resigned)
	wantEvents(t, events, want...)
	node.leave()
	want = append(want, "took_over stream=s") // what was hung up on purpose was not down
	wantEvents(t, events, want...)
}

// A node that gives the log up for want of clients says no error.
func TestEventsOfANodeWithoutClients(t *testing.T) {
	global, events := recordEvents(t)
	in, o, _ := serveSharedLogWith(t, global, ssetest.OriginConfig{}, "", "connect on_demand 10ms")
	c := in.connect("/events")
	up(t, o)
	wantEvents(t, events, "took_over stream=s", "upstream_up stream=s upstream=u") // up for its origin before it is up here
	c.Close()
	wantEvents(t, events, "took_over stream=s", "upstream_up stream=s upstream=u", "resigned stream=s error=")
}

func TestStateOfALogThatNobodyWrites(t *testing.T) {
	d := new(durable)
	d.def.Store(&logDef{sharer: new(sharedLog)})
	d.loaded.Store(true)
	d.wanted = true
	begin := time.Unix(1e9, 0)
	at := func(s int, st logstore.Status, head uint64) watched {
		d.noteState(st, head, begin.Add(time.Duration(s)*time.Second))
		return d.watched()
	}
	following := logstore.Status{State: logstore.Following, Last: 5}
	at(0, following, 5)
	if w := at(20, following, 5); w.unwritten != begin || w.behind(5, begin) != 0 {
		t.Errorf("nobody writes: got %+v", w)
	}
	if w := at(21, logstore.Status{State: logstore.Stalled, Last: 5, Err: logstore.ErrInUse}, 5); !w.unwritten.IsZero() || w.failed != begin.Add(21*time.Second) {
		t.Errorf("nobody can write: got %+v", w)
	}
	if w := at(22, following, 5); w.unwritten != begin.Add(22*time.Second) || w.failed != begin.Add(21*time.Second) {
		t.Errorf("somebody could write again: got %+v", w)
	}
	d.cluster.heard = map[string]*heardNode{"other": {told: nodeTold{Writes: true}, at: begin}}
	following.Last = 9
	if w := at(23, following, 5); !w.unwritten.IsZero() {
		t.Errorf("another node writes: got %+v", w)
	}
	following.Last = 20
	if w := at(33, following, 8); w.behind(8, begin.Add(33*time.Second)) != 10*time.Second || w.behind(9, begin) != 0 {
		t.Errorf("memory has 8 of 9 since ten seconds: got %+v", w)
	}
	if w := at(34, following, 9); w.goal != 20 || w.behind(19, begin.Add(35*time.Second)) != time.Second {
		t.Errorf("memory has come to 9: got %+v", w)
	}
	d.cluster.heard = nil
	d.wanted = false
	if w := at(40, following, 20); !w.unwritten.IsZero() {
		t.Errorf("nobody wants the stream here: got %+v", w)
	}
}

// On a node that follows, what came is what the log has grown by.
func TestHistoryOfANodeThatFollows(t *testing.T) {
	s, v, us := trial()
	v.Log.Store = &storeStatus{State: logstore.Writing, Writes: true, Nodes: make([]nodeStatus, 2), MemoryLast: 1000}
	send := func() { s.send(us, 50) }
	s.pass(historyStep, send)
	v.Log.Store.State, v.Log.Store.Writes = logstore.Following, false
	grow := func() { v.Log.Store.MemoryLast += 20 }
	s.pass(3*historyStep, grow)
	points := s.streams[historyKey{"s", false}].points
	var in []float32
	for _, p := range points[len(points)-4:] {
		in = append(in, p[colIn])
	}
	if want := []float32{5, 0, 2, 2}; !slices.Equal(in, want) {
		t.Errorf("events in are %v a second, want %v", in, want)
	}
	if last := points[len(points)-1][colInBytes]; last == last {
		t.Errorf("bytes in are %v, and nobody can know them", last)
	}
}

// What a store's own module advises goes with what is wrong.
func TestTroubleOfNodes(t *testing.T) {
	adviser := logstore.Advice{Text: "Look whether the servers run.", Commands: [][]string{{"ask", "the servers"}}}
	for name, tc := range map[string]struct {
		store    storeStatus
		want     string
		remedy   string
		commands string
	}{
		"all is well": {
			storeStatus{State: logstore.Following, Nodes: []nodeStatus{{Version: "v1"}, {Version: "v1"}, {}}},
			"", "", "",
		},
		"unreachable": {
			storeStatus{State: logstore.Stalled, Error: "no servers"},
			"s log bad", "Look whether the servers run. It is tried again by itself.", "ask 'the servers'",
		},
		"nobody writes": {
			storeStatus{State: logstore.Following, Unwritten: 20_000},
			"s unwritten bad", "A node takes over by itself", "ask 'the servers'",
		},
		"a takeover": {storeStatus{State: logstore.Following, Unwritten: 5_000}, "", "", ""},
		"behind": {
			storeStatus{State: logstore.Following, Behind: 12_000},
			"s behind warn", "It, or the way from the log", "",
		},
		"a bit behind": {storeStatus{State: logstore.Following, Behind: 3_000}, "", "", ""},
		"loading":      {storeStatus{State: logstore.Loading, Behind: 12_000}, "", "", ""},
		"an update": {
			storeStatus{State: logstore.Writing, Nodes: []nodeStatus{{Name: "a", Version: "v1"}, {Name: "b", Version: "v2"}}},
			"s versions warn", "During an update", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, v, _ := trial()
			store := tc.store
			store.Since, store.advice = s.now.Add(-time.Minute).UnixMilli()-60_000, adviser
			if store.State == logstore.Loading {
				store.Since = s.now.UnixMilli()
			}
			if store.Unwritten > 0 {
				store.Unwritten = s.now.UnixMilli() - store.Unwritten
			}
			v.Log.Store = &store
			if got := s.kinds(); got != tc.want {
				t.Fatalf("got %q, want %q", got, tc.want)
			}
			for _, tr := range s.troubles([]streamStatus{v.streamStatus}, s.now) {
				if !strings.HasPrefix(tr.Remedy, tc.remedy) || strings.Join(tr.Commands, ", ") != tc.commands {
					t.Errorf("got %q, %q", tr.Remedy, tr.Commands)
				}
			}
		})
	}
}

// Another version's words are not taken for something else.
func TestNodeOfAnotherVersion(t *testing.T) {
	_, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "", "")
	up(t, o)
	n := log.Open("newer")
	t.Cleanup(func() { _ = n.Close() })
	n.Tell([]byte(`{"writes":{"since":1}}`))
	st := becomes(t, "s", "it is known", func(st streamStatus) bool { return len(st.Log.Store.Nodes) == 2 })
	if got := st.Log.Store.Nodes[0]; got.Name != "newer" || got.Writes || got.Version != "" {
		t.Errorf("got %+v", got)
	}
}

// The program's own version is what `go test` was built from: none.
func TestOwnVersion(t *testing.T) {
	if v := ownVersion(); v != "" && !strings.HasPrefix(v, "v") {
		t.Errorf("got %q", v)
	}
}
