package ssefanin

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// connect starts a client of the site and waits for its answer.
func (in *instance) connect(path string, change ...func(*ssetest.ClientConfig)) *ssetest.Client {
	in.t.Helper()
	cfg := ssetest.ClientConfig{URL: in.url(path)}
	for _, f := range change {
		f(&cfg)
	}
	c := ssetest.StartClient(cfg)
	in.t.Cleanup(c.Close)
	must(in.t, c.WaitOpen(within(in.t, 10*time.Second), 1))
	return c
}

func resumeFrom(id string) func(*ssetest.ClientConfig) {
	return func(cfg *ssetest.ClientConfig) { cfg.LastEventID = id }
}

func onceOnly(cfg *ssetest.ClientConfig) { cfg.Once = true }

// received is the data of what a client got, control events aside.
func received(c *ssetest.Client) []string {
	all := []string{}
	for _, e := range c.Events() {
		if !strings.HasPrefix(e.Type, "fanin.") {
			all = append(all, e.Data)
		}
	}
	return all
}

// gets waits until a client has as many events as are wanted, and says whether
// they are those. Let the last one be a mark, so that there is nothing between.
func gets(t *testing.T, c *ssetest.Client, want ...string) {
	t.Helper()
	waitFor(t, c, fmt.Sprintf("%d events", len(want)), func() bool { return len(received(c)) >= len(want) })
	if got := received(c); !slices.Equal(got, want) {
		t.Fatalf("got  %q\nwant %q", got, want)
	}
}

// waitFor is eventually, with what the client got if it does not happen.
func waitFor(t *testing.T, c *ssetest.Client, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not in time: %s; the client has %+v", what, c.Events())
		case <-again.C:
		}
	}
}

// control returns the data of a client's control events of a kind.
func control(c *ssetest.Client, kind string) []string {
	var all []string
	for _, e := range c.Events() {
		if e.Type == "fanin."+kind {
			all = append(all, e.Data)
		}
	}
	return all
}

// testLog is what the configuration under test logs.
type testLog struct {
	t    *testing.T
	file string
}

func newTestLog(t *testing.T) *testLog {
	return &testLog{t, filepath.Join(t.TempDir(), "log")}
}

// global goes among the global options.
func (l *testLog) global() string {
	return "log {\noutput file " + l.file + "\nlevel INFO\nformat json\n}"
}

// lines returns the lines that have all the words.
func (l *testLog) lines(words ...string) []string {
	l.t.Helper()
	text, err := os.ReadFile(l.file)
	if err != nil {
		l.t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
			found = append(found, line)
		}
	}
	return found
}

// plainOrigins makes origins that emit on demand only.
func plainOrigins(t *testing.T, n int) []*ssetest.Origin {
	t.Helper()
	var origins []*ssetest.Origin
	for i := range n {
		origins = append(origins, newOrigin(t, ssetest.OriginConfig{Source: fmt.Sprint("origin ", i)}))
	}
	return origins
}

// replicate makes origins that send the same events, ids included.
func replicate(t *testing.T, n int) []*ssetest.Origin {
	t.Helper()
	var origins []*ssetest.Origin
	for range n {
		origins = append(origins, newOrigin(t, ssetest.OriginConfig{Source: "a", Pad: 50}))
	}
	return origins
}

// replicas is a site with one upstream of several URLs.
func replicas(origins []*ssetest.Origin, options string) string {
	return "sse_fanin /events {\nupstream a " + ssetest.URLs(origins) + " {\n" + options + "\n}\n}"
}

func TestFailoverTriesTheNextURLAtOnce(t *testing.T) {
	origins := plainOrigins(t, 3)
	origins[0].RespondWith(http.StatusInternalServerError, nil, "")
	origins[1].Inject(ssetest.Fault{Kind: ssetest.Drop})
	in := serve(t, "", replicas(origins, "backoff 1m 1m"))
	c := in.connect("/events")
	must(t, origins[2].WaitConnections(within(t, 10*time.Second), 1))
	origins[2].Emit("", "x")
	gets(t, c, "x")
	for i, o := range origins[:2] {
		// a dropped request is sent once more by net/http if the connection was not new
		if n := o.TotalConnections(); n != 1 {
			t.Errorf("replica %d was asked %d times, want once", i, n)
		}
	}
}

func TestFailoverPausesWhenAllHaveFailed(t *testing.T) {
	origins := plainOrigins(t, 3)
	for _, o := range origins {
		o.RespondWith(http.StatusInternalServerError, nil, "")
	}
	const pause = 400 * time.Millisecond
	serve(t, "", replicas(origins, fmt.Sprintf("backoff %s %s", pause, pause)))
	var last, again time.Time
	for _, o := range origins {
		must(t, o.WaitRequests(within(t, 10*time.Second), 2))
		requests := o.Requests()
		if between := requests[1].Time.Sub(requests[0].Time); between < pause {
			t.Errorf("%s was asked again after %s, want not before %s", o.Source(), between, pause)
		}
		if first := requests[0].Time; first.After(last) {
			last = first
		}
		if second := requests[1].Time; again.IsZero() || second.Before(again) {
			again = second
		}
	}
	if again.Before(last) {
		t.Errorf("a replica was asked again before all were asked once")
	}
}

func TestFailoverIsLoggedOncePerReplica(t *testing.T) {
	origins := plainOrigins(t, 2)
	for _, o := range origins {
		o.RespondWith(http.StatusInternalServerError, nil, "")
	}
	log := newTestLog(t)
	serve(t, log.global(), replicas(origins, "backoff 10ms 10ms"))
	for _, o := range origins {
		must(t, o.WaitRequests(within(t, 10*time.Second), 10))
	}
	if lines := log.lines(`"upstream cannot be connected"`); len(lines) != len(origins) {
		t.Errorf("%d lines about two replicas that keep failing the same way, want 2:\n%s", len(lines), strings.Join(lines, ""))
	}
}

func TestFailoverGoesBackOnlyWhenTheCurrentReplicaFails(t *testing.T) {
	origins := replicate(t, 2)
	in := serve(t, "", replicas(origins, "backoff 10ms 10ms"))
	c := in.connect("/events")
	must(t, origins[0].WaitConnections(within(t, 10*time.Second), 1))
	origins[0].Stop()
	must(t, origins[1].WaitConnections(within(t, 10*time.Second), 1))
	must(t, origins[0].Start())
	ssetest.EmitAlike(origins, 0, 2)
	must(t, c.WaitCount(within(t, 10*time.Second), 2))
	if n := origins[0].Connections(); n != 0 {
		t.Fatal("the first replica was connected while the second was up")
	}
	origins[1].Stop()
	must(t, origins[0].WaitConnections(within(t, 10*time.Second), 1))
	if ids := origins[0].LastEventIDs(); ids[len(ids)-1] != "2" {
		t.Errorf("the first replica was asked from %q, want 2", ids)
	}
	ssetest.EmitAlike(origins, 2, 3)
	must(t, c.WaitCount(within(t, 10*time.Second), 3))
}

func TestFailoverPassesAReplicaOver(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		line   []string
	}{
		"finished":  {http.StatusNoContent, []string{`"level":"warn"`, "a replica finished; it is passed over until a reload"}},
		"not found": {http.StatusNotFound, []string{`"level":"error"`, "looks like a mistake in its configuration"}},
	} {
		t.Run(name, func(t *testing.T) {
			origins := replicate(t, 3)
			origins[0].RespondWith(tc.status, nil, "")
			log := newTestLog(t)
			in := serve(t, log.global(), replicas(origins, "backoff 10ms 10ms"))
			c := in.connect("/events")
			must(t, origins[1].WaitConnections(within(t, 10*time.Second), 1))
			ssetest.EmitAlike(origins, 0, 1)
			must(t, c.WaitCount(within(t, 10*time.Second), 1))
			for range 3 { // round and round
				origins[1].CutConnections()
				must(t, origins[2].WaitConnections(within(t, 10*time.Second), 1))
				origins[2].CutConnections()
				must(t, origins[1].WaitConnections(within(t, 10*time.Second), 1))
			}
			if n := origins[0].TotalConnections(); n != 1 {
				t.Errorf("it was asked %d times, want once", n)
			}
			if lines := log.lines(append(tc.line, origins[0].Addr())...); len(lines) != 1 {
				t.Errorf("%d lines about it, want 1: %s", len(lines), log.lines())
			}
		})
	}
}

func TestFailoverEndsWhenAllReplicasHaveFinished(t *testing.T) {
	origins := plainOrigins(t, 2)
	for _, o := range origins {
		o.RespondWith(http.StatusNoContent, nil, "")
	}
	site := replicas(origins, "backoff 5ms 5ms")
	in := serve(t, "", site)
	state := func() phase {
		var st sourceState
		sources.Range(func(_, val any) bool { st = val.(*source).status(); return true })
		return st.phase
	}
	eventually(t, 10*time.Second, "the upstream counts as finished", func() bool { return state() == phaseFinished })
	for _, o := range origins {
		if n := o.TotalConnections(); n != 1 {
			t.Errorf("%s was asked %d times, want once", o.Source(), n)
		}
		o.Clear()
	}
	in.reload("", site+"\nrespond /x 1")
	eventually(t, 10*time.Second, "a replica is asked again after a reload", func() bool {
		return origins[0].Connections()+origins[1].Connections() == 1
	})
}

func TestFailoverWithoutResume(t *testing.T) {
	origins := replicate(t, 2)
	in := serve(t, "", replicas(origins, "resume off"))
	c := in.connect("/events")
	must(t, origins[0].WaitConnections(within(t, 10*time.Second), 1))
	ssetest.EmitAlike(origins, 0, 2)
	must(t, c.WaitCount(within(t, 10*time.Second), 2))
	origins[0].Stop()
	must(t, origins[1].WaitConnections(within(t, 10*time.Second), 1))
	if id, ok := origins[1].Requests()[0].LastEventID(); ok {
		t.Errorf("the second replica was asked from %q, though resume is off", id)
	}
}

// node makes this process another node, for `balance`.
func node(t *testing.T, id string) {
	t.Helper()
	was := nodeID
	nodeID = func() string { return id }
	t.Cleanup(func() { nodeID = was })
}

func TestBalanceOrdersByNode(t *testing.T) {
	spec := &sourceSpec{Policy: policyBalance}
	for i := range 4 {
		spec.URLs = append(spec.URLs, fmt.Sprintf("http://replica-%d.example.com/events", i))
	}
	firsts := make(map[string]int)
	for i := range 400 {
		node(t, fmt.Sprint("node ", i))
		order := spec.places()
		if again := spec.places(); !slices.Equal(order, again) {
			t.Fatalf("node %d has the order %v, then %v", i, order, again)
		}
		if len(order) != 4 {
			t.Fatalf("node %d has %d places of 4", i, len(order))
		}
		firsts[order[0].id]++
		// losing a place moves only those that were there
		left := *spec
		left.URLs = slices.DeleteFunc(slices.Clone(spec.URLs), func(u string) bool { return u == order[3].id })
		if rest := left.places(); rest[0].id != order[0].id || rest[1].id != order[1].id {
			t.Fatalf("node %d was moved by a place it had last", i)
		}
	}
	for id, n := range firsts {
		if n < 60 || n > 140 {
			t.Errorf("%s is first for %d of 400 nodes, want about 100", id, n)
		}
	}
	node(t, "node")
	firsts = make(map[string]int)
	for i := range 400 {
		keyed := *spec
		keyed.Key = digest(i)
		firsts[keyed.places()[0].id]++
	}
	for id, n := range firsts {
		if n < 60 || n > 140 {
			t.Errorf("%s is first for %d of 400 keys, want about 100", id, n)
		}
	}
}

func TestBalanceFailsOverAlongItsOrder(t *testing.T) {
	origins := replicate(t, 3)
	byURL := make(map[string]*ssetest.Origin)
	spec := &sourceSpec{Policy: policyBalance}
	for _, o := range origins {
		byURL[o.URL()] = o
		spec.URLs = append(spec.URLs, o.URL())
	}
	for i := 0; ; i++ { // a node that begins elsewhere than with the first URL
		node(t, fmt.Sprint("node ", i))
		if spec.places()[0].id != origins[0].URL() {
			break
		}
	}
	in := serve(t, "", replicas(origins, "policy balance"))
	c := in.connect("/events")
	for i, p := range spec.places() {
		o := byURL[p.id]
		must(t, o.WaitConnections(within(t, 10*time.Second), 1))
		ssetest.EmitAlike(origins, i, i+1)
		must(t, c.WaitCount(within(t, 10*time.Second), uint64(i+1)))
		if n := o.TotalConnections(); n != 1 {
			t.Errorf("replica %d in the order was connected %d times", i, n)
		}
		o.Stop()
	}
}

// memberOf is the name of a source that is one of several of an upstream.
func memberOf(upstream string, o *ssetest.Origin) string {
	u, _ := url.Parse(o.URL())
	return upstream + "-" + u.Hostname() + "-" + u.Port()
}

func TestMergeTakesEachURLAsASource(t *testing.T) {
	origins := plainOrigins(t, 2)
	in := serve(t, "", `sse_fanin /events {
		upstream pool `+ssetest.URLs(origins)+` {
			policy merge
		}
		envelope json
	}`)
	c := in.connect("/events")
	for i, o := range origins {
		must(t, o.WaitConnections(within(t, 10*time.Second), 1))
		o.Emit("", "x")
		must(t, c.WaitCount(within(t, 10*time.Second), uint64(i+1)))
		if got := c.Events()[i].Data; !strings.Contains(got, `"source":"`+memberOf("pool", o)+`"`) {
			t.Errorf("the event of %s came as %s", memberOf("pool", o), got)
		}
	}
}

func TestMergeSharesAConnection(t *testing.T) {
	origins := plainOrigins(t, 2)
	in := serve(t, "", `
	sse_fanin /merged {
		upstream pool `+ssetest.URLs(origins)+` {
			policy merge
		}
	}
	sse_fanin /alone `+origins[1].URL())
	merged, alone := in.connect("/merged"), in.connect("/alone")
	for _, o := range origins {
		must(t, o.WaitConnections(within(t, 10*time.Second), 1))
	}
	origins[1].Emit("", "x")
	gets(t, merged, "x")
	gets(t, alone, "x")
	if n := origins[1].TotalConnections(); n != 1 {
		t.Errorf("the URL that both name was connected %d times, want once", n)
	}
}
