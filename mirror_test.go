package ssefanin

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// each has every origin send an unnamed event.
func each(origins []*ssetest.Origin, data ...string) {
	for _, d := range data {
		for _, o := range origins {
			o.Emit("", d)
		}
	}
}

// withoutIDs makes the origins' events come without ids.
func withoutIDs(origins []*ssetest.Origin) {
	for _, o := range origins {
		o.SetIDs(func(uint64) string { return "" })
	}
}

// mirrorSite is a site with an upstream with mirrored replicas.
func mirrorSite(origins []*ssetest.Origin) string {
	return replicas(origins, "policy mirror\nbackoff 10ms 10ms")
}

// mirrored serves an upstream with mirrored replicas, and waits until all are
// up, on both sides: what one sends before the other is up may or may not be
// what the other sends then.
func mirrored(t *testing.T, origins []*ssetest.Origin) (*instance, *ssetest.Client) {
	t.Helper()
	in := serve(t, "", mirrorSite(origins))
	c := in.connect("/events")
	for _, o := range origins {
		up(t, o)
	}
	everyMirrorUp(t, len(origins))
	return in, c
}

// up waits until an origin has one connection; what it emits from then on is
// sent there.
func up(t *testing.T, o *ssetest.Origin) {
	t.Helper()
	must(t, o.WaitConnections(within(t, 10*time.Second), 1))
}

// everyMirrorUp waits until so many runners of the one source are up.
func everyMirrorUp(t *testing.T, n int) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprintf("%d replicas are up", n), func() bool {
		up := 0
		sources.Range(func(_, val any) bool {
			s := val.(*source)
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, r := range s.runners {
				if r.status().phase == phaseUp {
					up++
				}
			}
			return true
		})
		return up == n
	})
}

func TestMirrorDeliversEachEventOnce(t *testing.T) {
	origins := plainOrigins(t, 3)
	_, c := mirrored(t, origins)
	each(origins, "1", "2", "3")
	// whichever is first: now the last one is
	slices.Reverse(origins)
	each(origins, "4", "end")
	gets(t, c, "1", "2", "3", "4", "end")
}

func TestMirrorTellsEqualDataByIDs(t *testing.T) {
	origins := plainOrigins(t, 2)
	_, c := mirrored(t, origins)
	each(origins, "x", "x", "x", "end")
	gets(t, c, "x", "x", "x", "end")
}

func TestMirrorDeliversRepeatsAsOftenAsOneReplicaSendsThem(t *testing.T) {
	for name, prepare := range map[string]func([]*ssetest.Origin){
		"without ids":           withoutIDs,
		"one id for everything": func(all []*ssetest.Origin) { all[0].RepeatIDs(0); all[1].RepeatIDs(0) },
	} {
		t.Run(name, func(t *testing.T) {
			origins := plainOrigins(t, 2)
			prepare(origins)
			_, c := mirrored(t, origins)
			want := []string{"tick", "tick", "tock", "tick", "tick", "tick"}
			each(origins, want...)
			// one is ahead, then the other
			for _, o := range origins {
				each([]*ssetest.Origin{o}, "tick", "tick")
			}
			slices.Reverse(origins)
			for _, o := range origins {
				each([]*ssetest.Origin{o}, "tick", "end")
			}
			gets(t, c, append(want, "tick", "tick", "tick", "end")...)
		})
	}
}

func TestMirrorGoesOnWithTheReplicaThatIsLeft(t *testing.T) {
	for name, prepare := range map[string]func([]*ssetest.Origin){
		"ids":         func([]*ssetest.Origin) {},
		"without ids": withoutIDs,
	} {
		t.Run(name, func(t *testing.T) {
			origins := plainOrigins(t, 3)
			prepare(origins)
			_, c := mirrored(t, origins)
			each(origins, "1")
			origins[0].Stop()
			each(origins, "2")
			origins[2].Stop()
			each(origins, "3", "end")
			gets(t, c, "1", "2", "3", "end")
			if n := len(c.Connections()); n != 1 {
				t.Errorf("the client noticed: it has connected %d times", n)
			}
		})
	}
}

func TestMirrorWithALaggingReplica(t *testing.T) {
	origins := plainOrigins(t, 2)
	_, c := mirrored(t, origins)
	each(origins, "0")
	gets(t, c, "0")
	origins[1].Stall(true)
	want := []string{"0"}
	for i := range 100 {
		want = append(want, fmt.Sprint("event ", i))
	}
	each(origins, want[1:]...)
	gets(t, c, want...) // nobody waits for it
	origins[1].Stall(false)
	origins[0].Stop()
	each(origins, "end")
	gets(t, c, append(want, "end")...)
}

func TestMirrorRecognisesWhatAReconnectedReplicaReplays(t *testing.T) {
	for name, prepare := range map[string]func(*ssetest.Origin){
		"overlap": func(o *ssetest.Origin) { o.SetOverlap(3) },
		"everything, with ids": func(o *ssetest.Origin) {
			o.SetResume(ssetest.ReplayAll)
		},
		"everything, without ids": func(o *ssetest.Origin) {
			o.SetIDs(func(uint64) string { return "" })
			o.SetResume(ssetest.ReplayAll)
		},
	} {
		t.Run(name, func(t *testing.T) {
			origins := plainOrigins(t, 2)
			for _, o := range origins {
				prepare(o)
			}
			_, c := mirrored(t, origins)
			each(origins, "1", "2", "tick", "tick", "5")
			gets(t, c, "1", "2", "tick", "tick", "5")
			origins[1].Stop()
			each(origins, "6", "tick", "8")
			must(t, origins[1].Start())
			up(t, origins[1]) // again: what is known of it may be from before
			everyMirrorUp(t, 2)
			each(origins, "9")
			origins[0].Stop()
			each(origins, "tick", "end")
			gets(t, c, "1", "2", "tick", "tick", "5", "6", "tick", "8", "9", "tick", "end")
		})
	}
}

func TestMirrorWithALateJoiner(t *testing.T) {
	for name, prepare := range map[string]func([]*ssetest.Origin){
		"ids":         func([]*ssetest.Origin) {},
		"without ids": withoutIDs,
	} {
		t.Run(name, func(t *testing.T) {
			origins := plainOrigins(t, 2)
			prepare(origins)
			origins[1].Stop()
			in := serve(t, "", replicas(origins, "policy mirror\nbackoff 10ms 10ms"))
			c := in.connect("/events")
			up(t, origins[0])
			each(origins, "1", "2", "3")
			gets(t, c, "1", "2", "3")
			must(t, origins[1].Start())
			everyMirrorUp(t, 2)
			each(origins, "4", "5")
			origins[0].Stop()
			each(origins, "6", "end")
			gets(t, c, "1", "2", "3", "4", "5", "6", "end")
		})
	}
}

func TestMirrorResumesEachReplicaFromItsOwnID(t *testing.T) {
	origins := plainOrigins(t, 2)
	origins[0].SetIDs(func(n uint64) string { return fmt.Sprint("a", n) })
	origins[1].SetIDs(func(n uint64) string { return fmt.Sprint("b", n) })
	_, c := mirrored(t, origins)
	origins[0].Emit("", "1")
	origins[1].Emit("", "2")
	must(t, c.WaitCount(within(t, 10*time.Second), 2))
	for i, want := range []string{"a1", "b1"} {
		origins[i].CutConnections()
		must(t, origins[i].WaitRequests(within(t, 10*time.Second), 2))
		if ids := origins[i].LastEventIDs(); ids[1] != want {
			t.Errorf("replica %d was asked from %q, want %s", i, ids, want)
		}
	}
}

func TestMirrorIsNotDelayedByAReplicaThatHangs(t *testing.T) {
	origins := plainOrigins(t, 3)
	origins[0].Inject(ssetest.Fault{Kind: ssetest.Hang})
	origins[1].Stall(true)
	in := serve(t, "", mirrorSite(origins))
	c := in.connect("/events")
	for _, o := range origins {
		up(t, o)
	}
	everyMirrorUp(t, 2)
	each(origins, "1", "end")
	gets(t, c, "1", "end")
}

func TestMirrorRefusesMoreReplicasThanItCanTellApart(t *testing.T) {
	var all []string
	for i := range maxMirrors + 1 {
		all = append(all, fmt.Sprintf("http://127.0.0.1:1/%d", i))
	}
	in := serve(t, "", "")
	err := in.tryReload("", "sse_fanin {\nupstream a "+strings.Join(all, " ")+" {\npolicy mirror\n}\n}")
	if err == nil || !strings.Contains(err.Error(), "at most 64 URLs, but there are 65") {
		t.Errorf("65 replicas: %v", err)
	}
	if err := (&Upstream{URLs: all[1:], Policy: policyMirror}).judgePlaces(); err != nil {
		t.Errorf("64 replicas: %v", err)
	}
}

func TestMirrorDoesNotAskARefusingReplicaOverAndOver(t *testing.T) {
	// Its own id is too old to be recognised from, so it is asked from the
	// newest one; and it refuses every request with an id.
	origins := plainOrigins(t, 2)
	in := serve(t, "", replicas(origins, "policy mirror\nbackoff 10ms 10ms")+"\nsse_fanin /all {\nupstream a "+ssetest.URLs(origins)+" {\npolicy mirror\nbackoff 10ms 10ms\n}\nretain {\nevents 100000\n}\n}")
	c := in.connect("/all") // however slow it is, it is not overtaken
	for _, o := range origins {
		up(t, o)
	}
	each(origins, "1")
	gets(t, c, "1")
	origins[1].Stop()
	for range mirrorWindow + 10 {
		origins[0].Emit("", "x")
	}
	must(t, c.WaitCount(within(t, time.Minute), mirrorWindow+11))
	origins[1].Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Last-Event-ID") != "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	before := origins[1].TotalConnections()
	must(t, origins[1].Start())
	must(t, origins[1].WaitRequests(within(t, 10*time.Second), before+2)) // what is known of it may be from before
	everyMirrorUp(t, 2)
	// an attempt that began before the last events still asks from its own id
	ids := origins[1].LastEventIDs()[before:]
	if newest := fmt.Sprint(mirrorWindow + 11); len(ids) != 2 || (ids[0] != newest && ids[0] != "1") || ids[1] != "" {
		t.Errorf("it was asked from %q, want %q and then nothing", ids, newest)
	}
}
