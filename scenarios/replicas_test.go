package scenarios

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// replicate makes origins that send the same events, ids included.
func replicate(t *testing.T, n int) []*ssetest.Origin {
	t.Helper()
	var origins []*ssetest.Origin
	for range n {
		origins = append(origins, newOrigin(t, ssetest.OriginConfig{Source: "a", Pad: 50}))
	}
	return origins
}

func TestMirroredReplicasDieUnnoticed(t *testing.T) {
	besideOthers(t)
	origins := replicate(t, 3)
	p := startProcess(t, "", `sse_fanin /events {
		upstream a `+ssetest.URLs(origins)+` {
			policy  mirror
			backoff 50ms 200ms
		}
	}`)
	v := ssetest.NewVerifier()
	fleet := ssetest.StartFleet(ssetest.FleetConfig{
		Clients:  scale(20, 100),
		Client:   ssetest.ClientConfig{URL: p.url("/events")},
		Verifier: v,
	})
	defer fleet.Close()
	must(t, fleet.WaitOpen(within(t, 10*time.Second)))
	for _, o := range origins {
		must(t, o.WaitConnections(within(t, 5*time.Second), 1))
	}
	const tick = 20 * time.Millisecond
	perTick := scale(4, 10) // 200 or 500 events a second
	cycle := scale(20, 100) // ticks: 0.4 or 2 seconds
	n, down, sent := 0, 0, 0
	run(t, longest(4*time.Second, time.Minute), tick, func() error {
		ssetest.EmitAlike(origins, sent, sent+perTick)
		sent += perTick
		switch n++; n % cycle {
		case cycle / 2:
			down = (n / cycle) % len(origins)
			origins[down].Stop()
		case 0:
			must(t, origins[down].Start())
		}
		return v.ErrIfAny()
	})
	must(t, v.WaitSeen(within(t, 20*time.Second), "a", uint64(sent)))
	must(t, v.Err())
	nobodyDisconnected(t, fleet)
	t.Log(v.Report())
	must(t, origins[down].Start())
	for _, o := range origins {
		must(t, o.WaitRequests(within(t, 5*time.Second), 2)) // the last one may be on its way
	}
}

func TestFailoverResumesAtTheOtherReplica(t *testing.T) {
	besideOthers(t)
	origins := replicate(t, 2)
	p := startProcess(t, "", `sse_fanin /events {
		upstream a `+ssetest.URLs(origins)+` {
			backoff 1h 1h
		}
	}`)
	v := ssetest.NewVerifier()
	fleet := ssetest.StartFleet(ssetest.FleetConfig{
		Clients:  20,
		Client:   ssetest.ClientConfig{URL: p.url("/events")},
		Verifier: v,
	})
	defer fleet.Close()
	must(t, fleet.WaitOpen(within(t, 10*time.Second)))
	must(t, origins[0].WaitConnections(within(t, 5*time.Second), 1))
	ssetest.EmitAlike(origins, 0, 10)
	must(t, v.WaitSeen(within(t, 5*time.Second), "a", 10))
	if n := origins[1].TotalConnections(); n != 0 {
		t.Fatalf("the second replica has %d connections while the first is up", n)
	}
	origins[0].Stop()
	ssetest.EmitAlike(origins, 10, 20)
	must(t, v.WaitSeen(within(t, 5*time.Second), "a", 20)) // the next URL is tried at once, not after the backoff
	if ids := origins[1].LastEventIDs(); !slices.Equal(ids, []string{"10"}) {
		t.Errorf("the second replica was asked from %q, want 10", ids)
	}
	must(t, v.Err())
	nobodyDisconnected(t, fleet)
}

func TestKeyedStreamsShareNothing(t *testing.T) {
	besideOthers(t)
	o := newOrigin(t, ssetest.OriginConfig{})
	o.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		rc := http.NewResponseController(w)
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for n := 1; ; n++ {
			fmt.Fprintf(w, "id: %d\ndata: {\"source\":%q,\"n\":%d}\n\n", n, r.URL.Path, n)
			if rc.Flush() != nil {
				return
			}
			select {
			case <-ticker.C:
			case <-r.Context().Done():
				return
			}
		}
	}))
	p := startProcess(t, "", `sse_fanin /events http://`+o.Addr()+`/users/{query.user} {
		start   oldest
		connect on_demand 1s
	}`)
	p.awaitLog("serving initial configuration")
	before := p.goroutines()
	users, each := scale(30, 200), 3
	var fleets []*ssetest.Fleet
	var verifiers []*ssetest.Verifier
	for i := range users {
		v := ssetest.NewVerifier()
		verifiers = append(verifiers, v)
		fleets = append(fleets, ssetest.StartFleet(ssetest.FleetConfig{
			Clients:  each,
			Client:   ssetest.ClientConfig{URL: p.url(fmt.Sprintf("/events?user=u%d", i)), Record: 100},
			Verifier: v,
		}))
		defer fleets[i].Close()
	}
	for i, v := range verifiers {
		must(t, v.WaitSeen(within(t, 20*time.Second), fmt.Sprintf("/users/u%d", i), 20))
		must(t, v.Err())
		for _, c := range fleets[i].Clients {
			for _, e := range c.Events() {
				if !strings.Contains(e.Data, fmt.Sprintf(`"/users/u%d"`, i)) {
					t.Fatalf("user %d got an event of somebody else: %s", i, e.Data)
				}
			}
		}
	}
	if n := o.TotalConnections(); n != users {
		t.Errorf("%d upstream connections, want %d", n, users)
	}
	for _, f := range fleets {
		f.Close()
	}
	eventually(t, 10*time.Second, "the upstream connections end after the linger", func() bool { return o.Connections() == 0 })
	eventually(t, 10*time.Second, "the keys' goroutines end", func() bool { return p.goroutines() <= before+4 })
}
