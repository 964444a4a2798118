package scenarios

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func twoOrigins(t *testing.T) (a, b *ssetest.Origin) {
	t.Helper()
	rate := scale(100.0, 200.0)
	a = newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: rate, Pad: 100, Types: []string{"", "price"}})
	b = newOrigin(t, ssetest.OriginConfig{Source: "b", Rate: rate, Pad: 20})
	return a, b
}

func TestEveryClientGetsEveryEventOnce(t *testing.T) {
	besideOthers(t)
	a, b := twoOrigins(t)
	p := startProcess(t, "", "sse_fanin /events "+a.URL()+" "+b.URL())
	p.awaitLog("serving initial configuration")
	for _, o := range []*ssetest.Origin{a, b} {
		must(t, o.WaitConnections(within(t, 10*time.Second), 1))
	}
	before := p.goroutines()
	v := ssetest.NewVerifier()
	fleet := ssetest.StartFleet(ssetest.FleetConfig{
		Clients:  scale(50, 300),
		Client:   ssetest.ClientConfig{URL: p.url("/events")},
		Verifier: v,
	})
	defer fleet.Close()
	must(t, fleet.WaitOpen(within(t, 10*time.Second)))
	run(t, longest(2*time.Second, 30*time.Second), 100*time.Millisecond, v.ErrIfAny)
	settle(t, v, a, b)
	nobodyDisconnected(t, fleet)
	for _, o := range []*ssetest.Origin{a, b} {
		if n := o.TotalConnections(); n != 1 {
			t.Errorf("origin %s saw %d connections, want 1", o.Source(), n)
		}
	}
	t.Log(v.Report())
	fleet.Close()
	eventually(t, 5*time.Second, "the clients' goroutines end", func() bool { return p.goroutines() <= before+4 })
}

func TestNothingIsLostWhenClientsAndUpstreamsReconnect(t *testing.T) {
	besideOthers(t)
	a, b := twoOrigins(t)
	p := startProcess(t, "", `sse_fanin /events `+a.URL()+` `+b.URL()+` {
		backoff 20ms 100ms
		retry   20ms 60ms
	}`)
	v := ssetest.NewVerifier()
	fleet := ssetest.StartFleet(ssetest.FleetConfig{
		Clients:  scale(50, 300),
		Client:   ssetest.ClientConfig{URL: p.url("/events")},
		Verifier: v,
		Churn:    0.3,
		Every:    500 * time.Millisecond,
	})
	defer fleet.Close()
	must(t, fleet.WaitOpen(within(t, 10*time.Second)))
	a.CutEvery(300)
	b.CutEvery(217)
	run(t, longest(3*time.Second, 30*time.Second), 100*time.Millisecond, v.ErrIfAny)
	for _, o := range []*ssetest.Origin{a, b} { // at this rate, 3 seconds may just not have the event that is cut
		must(t, o.WaitRequests(within(t, 10*time.Second), 2))
	}
	fleet.StopChurn()
	a.CutEvery(0)
	b.CutEvery(0)
	settle(t, v, a, b)
	if a.TotalConnections() < 2 || fleet.Ends(ssetest.EndSelf) == 0 {
		t.Errorf("nothing was disconnected: %d connections, %d disconnects", a.TotalConnections(), fleet.Ends(ssetest.EndSelf))
	}
	t.Log(v.Report(), a.TotalConnections(), "connections of a,", fleet.Ends(ssetest.EndSelf), "disconnects of clients")
}

func TestReloadsGoUnnoticed(t *testing.T) {
	besideOthers(t)
	a, b := twoOrigins(t)
	site := func(i int) string {
		return fmt.Sprintf("sse_fanin /events %s %s\nrespond /version %d", a.URL(), b.URL(), i)
	}
	p := startProcess(t, "", site(0))
	v := ssetest.NewVerifier()
	fleet := ssetest.StartFleet(ssetest.FleetConfig{
		Clients:  scale(30, 300),
		Client:   ssetest.ClientConfig{URL: p.url("/events")},
		Verifier: v,
	})
	defer fleet.Close()
	must(t, fleet.WaitOpen(within(t, 10*time.Second)))
	p.reload("", site(-1))
	goroutines, heap := p.goroutines(), p.heap()
	n := 0
	reloads := longest(10, 30)
	run(t, time.Duration(reloads)*scale(200*time.Millisecond, time.Second)+50*time.Millisecond, scale(200*time.Millisecond, time.Second), func() error {
		n++
		p.reload("", site(n))
		return v.ErrIfAny()
	})
	settle(t, v, a, b)
	nobodyDisconnected(t, fleet)
	for _, o := range []*ssetest.Origin{a, b} {
		if n := o.TotalConnections(); n != 1 {
			t.Errorf("origin %s saw %d connections, want 1", o.Source(), n)
		}
	}
	eventually(t, 10*time.Second, "goroutines return", func() bool { return p.goroutines() <= goroutines+10 })
	// the log has grown meanwhile; what configurations leave behind would come on top
	if after, allowed := p.heap(), heap+int64(n)*200<<10+30<<20; after > allowed {
		t.Errorf("heap grew from %d to %d bytes over %d reloads, allowed %d", heap, after, n, allowed)
	}
	t.Logf("%s; %d reloads, goroutines %d -> %d, heap %d -> %d", v.Report(), n, goroutines, p.goroutines(), heap, p.heap())
}

func TestNamedStreamFollowsItsConfiguration(t *testing.T) {
	besideOthers(t)
	a, b := twoOrigins(t)
	c := newOrigin(t, ssetest.OriginConfig{Source: "c", Rate: 50})
	site := func(second *ssetest.Origin) string {
		return "sse_fanin /events {\nstream s\nupstream a " + a.URL() + "\nupstream other-" + second.Source() + " " + second.URL() + "\n}"
	}
	p := startProcess(t, "", site(b))
	v := ssetest.NewVerifier()
	fleet := ssetest.StartFleet(ssetest.FleetConfig{
		Clients:  scale(20, 100),
		Client:   ssetest.ClientConfig{URL: p.url("/events")},
		Verifier: v,
	})
	defer fleet.Close()
	must(t, v.WaitSeen(within(t, 10*time.Second), "b", 20))
	p.reload("", site(c))
	// c may have sent before it was joined: its first number is what it is
	must(t, c.WaitConnections(within(t, 5*time.Second), 1))
	must(t, v.WaitSeen(within(t, 10*time.Second), "c", c.Last()+5))
	eventually(t, 5*time.Second, "b is left", func() bool { return b.Connections() == 0 })
	settle(t, v, a, c)
	nobodyDisconnected(t, fleet)
	if n := a.TotalConnections(); n != 1 {
		t.Errorf("origin a saw %d connections, want 1", n)
	}
}

func TestExitEndsEveryClient(t *testing.T) {
	besideOthers(t)
	a, b := twoOrigins(t)
	both := "sse_fanin /events " + a.URL() + " " + b.URL()
	p := startProcess(t, "", both+"\nsse_fanin /removed "+a.URL())
	start := func(path string, n int) *ssetest.Fleet {
		fleet := ssetest.StartFleet(ssetest.FleetConfig{
			Clients: n,
			Client:  ssetest.ClientConfig{URL: p.url(path), Once: true},
		})
		t.Cleanup(fleet.Close)
		must(t, fleet.WaitOpen(within(t, 10*time.Second)))
		return fleet
	}
	n := scale(30, 100)
	fleets := []*ssetest.Fleet{start("/events", n)}
	p.reload("", both+"\nsse_fanin /removed "+a.URL()+"\nrespond /x 1")
	fleets = append(fleets, start("/events", n), start("/removed", n))
	p.reload("", both+"\nrespond /x 2")
	took := p.terminate(patience)
	for i, fleet := range fleets {
		for _, c := range fleet.Clients {
			must(t, c.WaitDone(within(t, 5*time.Second)))
		}
		if clean := fleet.Ends(ssetest.EndClean); clean != n {
			t.Errorf("fleet %d: %d of %d clients saw a clean end: %+v", i, clean, n, fleet.Clients[0].Connection())
		}
	}
	t.Logf("exited after %s", took)
	if most := scale(5*time.Second, time.Second); took > most {
		t.Errorf("exit took %s, want at most %s", took, most)
	}
}

func TestExitDoesNotWaitForClientsThatDoNotRead(t *testing.T) {
	besideOthers(t)
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 2000, Pad: 4000})
	p := startProcess(t, "", "sse_fanin /events "+a.URL())
	for range 20 {
		raw, err := ssetest.DialRaw(within(t, 5*time.Second), ssetest.RawConfig{URL: p.url("/events"), BytesPerSecond: -1, ReceiveBuffer: 4 << 10})
		must(t, err)
		t.Cleanup(raw.Close)
	}
	reader := ssetest.StartClient(ssetest.ClientConfig{URL: p.url("/events"), Once: true})
	defer reader.Close()
	must(t, reader.WaitCount(within(t, 10*time.Second), 3000)) // by now the others' buffers are full
	took := p.terminate(patience)
	must(t, reader.WaitDone(within(t, 5*time.Second)))
	if reader.Ends(ssetest.EndClean) != 1 {
		t.Errorf("the client that reads saw no clean end: %+v", reader.Connection())
	}
	t.Logf("exited after %s", took)
	// two seconds, and one that a busy machine may take
	if most := scale(exitLimit, 3*time.Second); took > most {
		t.Errorf("exit took %s, want at most %s", took, most)
	}
}

func TestUpstreamsDownFromTheStart(t *testing.T) {
	besideOthers(t)
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 20})
	a.Stop()
	p := startProcess(t, "", `sse_fanin /events `+a.URL()+` {
		heartbeat 200ms
		backoff   50ms 200ms
	}`)
	c := ssetest.StartClient(ssetest.ClientConfig{URL: p.url("/events")})
	defer c.Close()
	must(t, c.WaitOpen(within(t, 5*time.Second), 1))
	const most = 5 * time.Second // if it waited for the upstream, there would be no header at all
	if conn := c.Connection(); conn.Status != http.StatusOK || conn.TimeToHeaders > most {
		t.Errorf("got status %d after %s, want 200 within %s", conn.Status, conn.TimeToHeaders, most)
	}
	must(t, c.WaitComments(within(t, 5*time.Second), 4))
	must(t, a.Start())
	must(t, c.WaitCount(within(t, 5*time.Second), 5))
}

// An upstream that takes the request and never answers is given up and asked
// again; nobody else notices.
func TestUpstreamThatNeverAnswers(t *testing.T) {
	if !*long {
		t.Skip("takes half a minute; run with -long")
	}
	silent, slow := newOrigin(t, ssetest.OriginConfig{}), newOrigin(t, ssetest.OriginConfig{})
	silent.Inject(ssetest.Fault{Kind: ssetest.Hang, Times: 1})
	slow.Inject(ssetest.Fault{Kind: ssetest.Wire, Body: []byte("HTTP/1.1 200 OK\r\nContent-Type: text/ev"), Hold: true})
	good := newOrigin(t, ssetest.OriginConfig{Source: "good", Rate: 20})
	p := startProcess(t, "debug", directive("/events", "backoff 10ms 50ms\nupstream silent "+silent.URL()+"\nupstream slow "+slow.URL()+"\nupstream good "+good.URL()))
	v := ssetest.NewVerifier()
	c := ssetest.StartClient(ssetest.ClientConfig{URL: p.url("/events"), Track: v.Track("client")})
	defer c.Close()
	must(t, silent.WaitRequests(within(t, 40*time.Second), 2))
	must(t, slow.WaitRequests(within(t, 5*time.Second), 2))
	for name, o := range map[string]*ssetest.Origin{"silent": silent, "slow": slow} {
		eventually(t, 5*time.Second, "the timeout of "+name+" is logged", func() bool {
			for line := range strings.Lines(p.running.Log.String()) {
				var entry struct{ Upstream, Reason string }
				if json.Unmarshal([]byte(line), &entry) == nil && entry.Upstream == name && entry.Reason == "head_timeout" {
					return true
				}
			}
			return false
		})
		if waited := o.Requests()[1].Time.Sub(o.Requests()[0].Time); waited < 29*time.Second || waited > time.Minute {
			t.Errorf("%s was asked again after %s", name, waited)
		}
	}
	silent.Emit("", "at last")
	_, err := c.WaitEvent(within(t, 5*time.Second), func(e ssetest.Event) bool { return e.Data == "at last" })
	must(t, err)
	settle(t, v, good)
}

func TestBadClientsAndUpstreamsDisturbNobody(t *testing.T) {
	besideOthers(t)
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: scale(100.0, 200.0), Pad: 2000})
	endless := newOrigin(t, ssetest.OriginConfig{Source: "endless"})
	endless.Inject(ssetest.Fault{Kind: ssetest.Endless, BytesPerSecond: scale(10<<20, 50<<20)})
	silent := newOrigin(t, ssetest.OriginConfig{Source: "silent"})
	silent.Inject(ssetest.Fault{Kind: ssetest.Hang})
	closing := newOrigin(t, ssetest.OriginConfig{Source: "closing"})
	closing.Inject(ssetest.Fault{Kind: ssetest.CloseOnAccept})
	p := startProcess(t, "", fmt.Sprintf(`sse_fanin /events %s %s %s %s {
		retain {
			size 4MiB
		}
		write_timeout 2s
	}`, a.URL(), endless.URL(), silent.URL(), closing.URL()))
	v := ssetest.NewVerifier()
	fleet := ssetest.StartFleet(ssetest.FleetConfig{
		Clients:  20,
		Client:   ssetest.ClientConfig{URL: p.url("/events")},
		Verifier: v,
	})
	defer fleet.Close()
	must(t, fleet.WaitOpen(within(t, 10*time.Second)))
	for i := range 20 {
		raw, err := ssetest.DialRaw(within(t, 5*time.Second), ssetest.RawConfig{
			URL: p.url("/events"), BytesPerSecond: []int{-1, 100}[i%2], ReceiveBuffer: 4 << 10,
		})
		must(t, err)
		defer raw.Close()
	}
	run(t, longest(3*time.Second, 30*time.Second), 100*time.Millisecond, v.ErrIfAny)
	settle(t, v, a)
	nobodyDisconnected(t, fleet)
	// 4 MiB retained, 64 KiB for each of 20 blocked clients, the rest is Caddy's
	if heap := p.heap(); heap > 30<<20 {
		t.Errorf("heap is %d MiB", heap>>20)
	}
	t.Logf("%s; heap %d MiB, rss %d MiB, %d connections of closing", v.Report(), p.heap()>>20, p.rss()>>20, closing.Accepts())
}

func TestStartedWithAnUnreadableCursor(t *testing.T) { //nolint:tparallel // its cases load one machine, or share one process
	besideOthers(t)
	a := newOrigin(t, ssetest.OriginConfig{Source: "a"})
	p := startProcess(t, "", `sse_fanin /events `+a.URL()+` {
		start oldest
		retain {
			events 10
		}
	}`)
	first := ssetest.StartClient(ssetest.ClientConfig{URL: p.url("/events")})
	defer first.Close()
	must(t, a.WaitConnections(within(t, 5*time.Second), 1))
	a.EmitNumbered(1)
	must(t, first.WaitCount(within(t, 5*time.Second), 1))
	old := first.LastEventID()
	for n := range uint64(29) { // one by one: a burst of more than is retained overtakes the client
		a.EmitNumbered(1)
		must(t, first.WaitCount(within(t, 5*time.Second), 2+n))
	}
	forged := regexp.MustCompile(`-(\d+)-`).ReplaceAllString(first.LastEventID(), "-999999-")
	for name, tc := range map[string]struct{ id, reason string }{
		"too old":       {old, "expired"},
		"other epoch":   {"aaaaaaaaaa-5-mwsj7m97", "unknown"},
		"forged offset": {forged, "unknown"},
		"rubbish":       {"💥 not a cursor", "unknown"},
		"10 KiB":        {strings.Repeat("x", 10<<10), "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			c := ssetest.StartClient(ssetest.ClientConfig{URL: p.url("/events"), LastEventID: tc.id})
			defer c.Close()
			gap, err := c.WaitEvent(within(t, 5*time.Second), func(e ssetest.Event) bool { return e.Type == "fanin.gap" })
			must(t, err)
			if !strings.Contains(gap.Data, `"reason":"`+tc.reason+`"`) || !strings.Contains(gap.Data, `"resumed":"`+gap.ID+`"`) {
				t.Errorf("gap data is %s with id %s, want reason %s", gap.Data, gap.ID, tc.reason)
			}
			// with everything there is, an event more does not overtake it
			newest := first.LastEventID()
			eventually(t, 5*time.Second, "the retained events arrive", func() bool { return c.LastEventID() == newest })
			c.Disconnect()
			must(t, c.WaitOpen(within(t, 5*time.Second), 2))
			a.Emit("mark", name)
			for _, client := range []*ssetest.Client{c, first} {
				_, err = client.WaitEvent(within(t, 5*time.Second), func(e ssetest.Event) bool { return e.Data == name })
				must(t, err)
			}
			gaps := 0
			for _, e := range c.Events() {
				if e.Type == "fanin.gap" {
					gaps++
				}
			}
			if gaps != 1 {
				t.Errorf("%d gap events, want 1", gaps)
			}
		})
	}
}
