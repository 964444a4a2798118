package ssefanin

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// hubWithSources is a hub with n sources that are never dialled.
func hubWithSources(n int) *hub {
	h := newHub(&definition{key: "test", ids: idsStream}, nil)
	for i := range n {
		h.addSource(fmt.Sprintf("s-%03d", i))
	}
	return h
}

func (h *hub) addSource(name string) *source {
	s := newSource(name, &sourceSpec{MaxEventSize: 1})
	sub := &input{source: s, hub: h, name: name}
	sub.use = s.subscribe(sub)
	h.inputs.sources[name] = sub
	h.sourceChanged()
	return s
}

// become sets a source's state as a runner would.
func (s *source) become(st sourceState) {
	s.mu.Lock()
	s.runners[""] = &runner{state: st}
	s.mu.Unlock()
	s.stateChanged()
}

func removeHub(t testing.TB, h *hub) {
	t.Cleanup(func() {
		liveHubs.remove(h)
	})
}

// However many clients ask, the states are written once for each change, and only
// those that have changed.
func TestStatesAreReportedOncePerChange(t *testing.T) {
	h := hubWithSources(3)
	removeHub(t, h)
	first := h.stateReport()
	if again := h.stateReport(); again != first {
		t.Error("the same states were reported twice")
	}
	h.inputs.sources["s-001"].source.become(sourceState{phase: phaseUp, since: time.Now()})
	second := h.stateReport()
	if second == first {
		t.Fatal("a change was not reported")
	}
	for i, s := range second.sources {
		if same := &s.event[0] == &first.sources[i].event[0]; same == (i == 1) {
			t.Errorf("%s: written again: %t", s.name, !same)
		}
	}
}

// What a client is told is what a memory of its own would tell it.
func TestChangesOfStates(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	h := hubWithSources(0)
	removeHub(t, h)
	var told *stateReport
	client := make(map[string]string) // what it knows, by source
	odd := func(name string) bool { return strings.TrimLeft(name, "s0") > "3" }
	for i := range 500 {
		for range rnd.IntN(4) {
			name := fmt.Sprintf("s%d", rnd.IntN(8))
			switch sub := h.inputs.sources[name]; {
			case sub == nil:
				h.addSource(name)
			case rnd.IntN(4) == 0:
				delete(h.inputs.sources, name)
				h.sourceChanged()
			default:
				phases := []phase{phaseUp, phaseDown, phaseConnecting}
				sub.source.become(sourceState{phase: phases[rnd.IntN(3)], reason: reasons[rnd.IntN(3)], since: time.Now()})
			}
		}
		if rnd.IntN(2) == 0 {
			continue // the client is slow
		}
		report := h.stateReport()
		for event := range strings.SplitSeq(string(report.appendChanges(nil, told, odd, time.Now())), "\n\n") {
			_, data, ok := strings.Cut(event, "data: ")
			if !ok {
				continue
			}
			name := strings.Split(data, `"`)[3]
			switch removed := strings.Contains(data, `"removed"`); {
			case !odd(name):
				t.Fatalf("step %d: told of %s", i, data)
			case removed && client[name] == "", client[name] == data:
				t.Fatalf("step %d: told again: %s", i, data)
			case removed:
				delete(client, name)
			default:
				client[name] = data
			}
		}
		told = report
		want := make(map[string]string)
		for name, st := range h.inputs.states() {
			if odd(name) {
				_, data, _ := strings.Cut(string(appendSourceEvent(nil, name, st.forClients())), "data: ")
				want[name] = strings.TrimSpace(data)
			}
		}
		if fmt.Sprint(client) != fmt.Sprint(want) {
			t.Fatalf("step %d: the client knows\n%v\nwant\n%v", i, client, want)
		}
	}
}

// A client that comes later is told why a source is down by now.
func TestSourceEventsHaveTheNewestReason(t *testing.T) {
	in, a, b := told(t, "")
	a.Stop()
	up(t, b)
	early := in.connect("/events")
	awaitSource(t, early, "a", "down")
	a.RespondWith(http.StatusInternalServerError, nil, "")
	must(t, a.Start())
	must(t, a.WaitRequests(within(t, 10*time.Second), 1))
	eventually(t, 10*time.Second, "a client is told the reason", func() bool {
		c := ssetest.StartClient(ssetest.ClientConfig{URL: in.url("/events")})
		defer c.Close()
		e := awaitSource(t, c, "a", "down")
		return e.Reason == "status"
	})
	if n := len(slices.DeleteFunc(sourceEvents(t, early), func(e sourceEvent) bool { return e.Source != "a" || e.State != "down" })); n > 2 {
		t.Errorf("a client was told %d times that it is down", n)
	}
}

// What a change of one of 256 sources costs each client.
func BenchmarkSourceStates(b *testing.B) {
	h := hubWithSources(256)
	removeHub(b, h)
	const clients = 1000
	told := make([]*stateReport, clients)
	s := h.inputs.sources["s-100"].source
	var buf []byte
	wants := new(client).wantsSource
	for n := 0; b.Loop(); n++ {
		s.become(sourceState{phase: []phase{phaseUp, phaseDown}[n%2], since: time.Now()})
		for i := range told {
			report := h.stateReport()
			buf = report.appendChanges(buf[:0], told[i], wants, time.Time{})
			told[i] = report
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/clients, "ns/client")
}
