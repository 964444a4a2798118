package ssefanin

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// chaos draws a configuration: streams come and go, names change what they
// mean and where they are defined.
func chaos(r *rand.Rand, origins []*ssetest.Origin) (global, site string) {
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	upstreams := func() string {
		var b strings.Builder
		for _, i := range r.Perm(len(origins))[:1+r.IntN(len(origins))] {
			fmt.Fprintf(&b, "upstream %s%s\n", pick("", "", "x"+fmt.Sprint(i)+" "), origins[i].URL())
		}
		return b.String()
	}
	source := func() string {
		return upstreams() + pick("", "ids none\n", "retain {\nevents 10\n}\n", "retain {\nsize 2MiB\nage 1s\n}\n", "idle_timeout 1m\n")
	}
	client := func() string {
		return fmt.Sprintf("drain %dms\n", r.IntN(50)) +
			pick("", "on_reload drain\n", "max_age 100ms\n", "max_clients 5 retry\n", "slow disconnect\n") +
			pick("", "start oldest\n", "heartbeat 10ms\n", "write_timeout 50ms\n")
	}
	defined := false
	if r.IntN(2) == 0 {
		global, defined = "sse_fanin {\nstream g {\n"+source()+client()+"}\n}\n", true
	}
	if defined && r.IntN(4) > 0 {
		site += "sse_fanin /g g {\n" + client() + "}\n"
	} else if !defined && r.IntN(2) == 0 {
		site += "sse_fanin /g {\nstream g\n" + source() + client() + "}\n"
	}
	if r.IntN(4) > 0 {
		site += "sse_fanin /named {\nstream s\n" + source() + client() + "}\nsse_fanin /again s {\n" + client() + "}\n"
	}
	if r.IntN(4) > 0 {
		site += "sse_fanin /unnamed {\n" + source() + client() + "}\n"
	}
	return global, site + "respond /x x"
}

func TestReloadsAtRandom(t *testing.T) {
	seed := rand.Uint64()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	r := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // it decides nothing
	var origins []*ssetest.Origin
	for i := range 3 {
		origins = append(origins, newOrigin(t, ssetest.OriginConfig{Source: fmt.Sprint("o", i), Rate: 300, Pad: 200}))
	}
	in := serve(t, "", "respond /x x")
	paths := []string{"/g", "/named", "/again", "/unnamed"}
	fleet := ssetest.StartFleet(ssetest.FleetConfig{
		Clients: 20,
		Client:  ssetest.ClientConfig{Stubborn: true, MaxDelay: 10 * time.Millisecond, Record: 10},
		Each:    func(i int, cfg *ssetest.ClientConfig) { cfg.URL = in.url(paths[i%len(paths)]) },
		Churn:   0.5,
		Every:   50 * time.Millisecond,
	})
	defer fleet.Close()
	for i := range 100 {
		global, site := chaos(r, origins)
		if i%5 == 4 { // one that fails, at whatever point
			if err := in.tryReload(global, site+"\nsse_fanin /y nowhere"); err == nil {
				t.Error("a stream that is not defined is accepted")
			}
		}
		if err := in.tryReload(global, site); err != nil {
			t.Fatalf("loading: %v\n%s\n%s", err, global, site)
		}
		if r.IntN(3) == 0 {
			run(t, time.Duration(r.IntN(30))*time.Millisecond, 5*time.Millisecond, func() error { return nil })
		}
	}
	// it still works
	in.reload("", "sse_fanin /named "+origins[0].URL()+" {\ndrain 10ms\n}\nrespond /x x")
	c := in.openClient(ssetest.ClientConfig{URL: "/named"})
	must(t, c.WaitCount(within(t, 5*time.Second), 10))
	c.Close()
	if n := fleet.Clients[0].Count() + fleet.Clients[1].Count() + fleet.Clients[3].Count(); n == 0 {
		t.Error("no client got an event")
	}
	// and leaves nothing behind
	in.reload("", "respond /x x")
	for _, o := range origins {
		if err := o.WaitConnections(within(t, 10*time.Second), 0); err != nil {
			t.Error(err)
		}
	}
	fleet.Close()
	if left := ssetest.LeakedGoroutines(patience); left != "" {
		t.Errorf("goroutines left behind:\n%s", left)
	}
}
