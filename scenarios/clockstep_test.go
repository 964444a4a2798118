package scenarios

import (
	"context"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// startSteppedProcess is startProcess with a wall clock that the test sets.
func startSteppedProcess(t *testing.T, site string) (*process, *ssetest.SteppedClock) {
	t.Helper()
	if !ssetest.SteppedClocks() {
		t.Skip("the wall clock of a process cannot be set on this kind of machine")
	}
	p := prepareProcess(t)
	var err error
	p.binary, err = ssetest.Build(ssetest.SteppedCaddy, false)
	must(t, err)
	clock, err := ssetest.NewSteppedClock(p.dir)
	must(t, err)
	t.Cleanup(func() { _ = clock.Close() })
	p.env = append(p.env, clock.Env())
	p.run("", site)
	return p, clock
}

// TestWallClockIsSet sets the clock of a process back and forth. Whatever waits
// goes on as if nothing had happened.
func TestWallClockIsSet(t *testing.T) {
	besideOthers(t)
	origin := newOrigin(t, ssetest.OriginConfig{Source: "o", Rate: 50})
	quiet := newOrigin(t, ssetest.OriginConfig{Source: "q"})
	// so large that a client that does not read blocks at once
	big := newOrigin(t, ssetest.OriginConfig{Source: "b", Rate: 20, Pad: 512 << 10})
	p, clock := startSteppedProcess(t, `
	sse_fanin /coalesced `+origin.URL()+` {
		coalesce 50ms
	}
	sse_fanin /quiet `+quiet.URL()+` {
		heartbeat 200ms
	}
	sse_fanin /short `+quiet.URL()+` {
		max_age 300ms
		heartbeat 0
		retry 10ms 10ms
	}
	sse_fanin /long `+quiet.URL()+` {
		max_age 30m
		heartbeat 0
	}
	sse_fanin /blocked `+big.URL()+` {
		stream blocked
		write_timeout 1s
	}`)
	connect := func(path string) *ssetest.Client {
		c := ssetest.StartClient(ssetest.ClientConfig{
			URL: p.url(path), Stubborn: true, MaxDelay: 10 * time.Millisecond, Record: 10,
		})
		t.Cleanup(c.Close)
		must(t, c.WaitOpen(within(t, 20*time.Second), 1))
		return c
	}
	coalesced, beaten, short, stays := connect("/coalesced"), connect("/quiet"), connect("/short"), connect("/long")
	must(t, coalesced.WaitCount(within(t, 20*time.Second), 1))

	timedOut := regexp.MustCompile(`caddy_sse_fanin_client_disconnects_total\{reason="timeout",stream="blocked"\} (\d+)`)
	timeouts := func() int {
		m := timedOut.FindStringSubmatch(p.get("/metrics"))
		if m == nil {
			return -1
		}
		n, _ := strconv.Atoi(m[1])
		return n
	}

	const month = 30 * 24 * time.Hour
	for _, ahead := range scale([]time.Duration{-time.Hour, time.Hour, -month}, []time.Duration{-time.Hour, 0, time.Hour, 0, -month}) {
		// it was connected, and blocked, before the clock is set, or after
		before := timeouts()
		blocked, err := ssetest.DialRaw(within(t, 20*time.Second), ssetest.RawConfig{URL: p.url("/blocked"), BytesPerSecond: -1})
		must(t, err)
		t.Cleanup(blocked.Close)
		must(t, clock.Set(ahead))

		moment := func() context.Context { return within(t, 20*time.Second) }
		if err := coalesced.WaitCount(moment(), coalesced.Count()+20); err != nil {
			t.Errorf("clock at %s, events with coalesce: %v", ahead, err)
		}
		if err := beaten.WaitComments(moment(), beaten.Comments()+3); err != nil {
			t.Errorf("clock at %s, heartbeats: %v", ahead, err)
		}
		if err := short.WaitOpen(moment(), len(short.Connections())+2); err != nil {
			t.Errorf("clock at %s, max_age: %v", ahead, err)
		}
		eventually(t, 20*time.Second, "a client that does not read is ended", func() bool { return timeouts() > before })
	}
	if n := len(stays.Connections()); n != 1 {
		t.Errorf("a client with max_age 30m was connected %d times", n)
	}
	if took := p.terminate(20 * time.Second); took > 5*time.Second {
		t.Errorf("exit took %s with the clock set back", took)
	}
}
