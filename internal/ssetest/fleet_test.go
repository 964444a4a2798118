package ssetest

import (
	"strings"
	"testing"
	"time"
)

func TestFleetChurn(t *testing.T) {
	ctx := within(t)
	o := newOrigin(t, OriginConfig{Source: "a"})
	v := NewVerifier()
	f := StartFleet(FleetConfig{
		Clients:  20,
		Client:   ClientConfig{URL: o.URL(), MaxDelay: 5 * time.Millisecond},
		Verifier: v,
		Churn:    0.3,
		Every:    50 * time.Millisecond,
	})
	defer f.Close()
	must(t, f.WaitOpen(ctx))
	o.EmitNumbered(1) // a client has an id to resume from
	o.SetRate(500)
	must(t, o.WaitRequests(ctx, 60))
	f.StopChurn()
	o.SetRate(0)
	must(t, v.WaitSeen(ctx, "a", o.Last()))
	must(t, v.Err())
	if n := f.Ends(EndSelf); n < 30 {
		t.Errorf("%d disconnects", n)
	}
	if r := v.Report(); r.Clients != 20 || r.Events < 20*o.Last()/2 {
		t.Errorf("%s", r)
	}
}

func TestRawNeverReads(t *testing.T) {
	ctx := within(t)
	o := newOrigin(t, OriginConfig{Pad: 100_000})
	r, err := DialRaw(ctx, RawConfig{URL: o.URL(), BytesPerSecond: -1})
	must(t, err)
	defer r.Close()
	must(t, o.WaitConnections(ctx, 1))
	o.EmitNumbered(100)
	if n := r.BytesRead(); n != 0 {
		t.Errorf("%d bytes read", n)
	}
	r.SetRate(0)
	must(t, r.WaitBytes(ctx, 10_000_000))
	if !strings.HasPrefix(string(r.Bytes()), "HTTP/1.1 200 OK\r\n") {
		t.Errorf("head %.80q", r.Bytes())
	}
	o.EndConnections()
	must(t, r.WaitEnd(ctx))
}

func TestClientReadsSlowly(t *testing.T) {
	ctx := within(t)
	o := newOrigin(t, OriginConfig{Pad: 1000})
	c := startClient(t, ClientConfig{URL: o.URL(), BytesPerSecond: 20_000})
	must(t, c.WaitOpen(ctx, 1))
	started := time.Now()
	o.EmitNumbered(10)
	must(t, c.WaitCount(ctx, 10))
	if d := time.Since(started); d < 300*time.Millisecond {
		t.Errorf("10 kB at 20 kB/s took %s", d)
	}
}

func TestClientNeverReads(t *testing.T) {
	ctx := within(t)
	o := newOrigin(t, OriginConfig{})
	c := startClient(t, ClientConfig{URL: o.URL(), BytesPerSecond: -1})
	must(t, c.WaitOpen(ctx, 1))
	o.EmitNumbered(1)
	c.Disconnect()
	must(t, c.WaitEnd(ctx, EndSelf, 1))
	if c.Count() != 0 {
		t.Error("it has read")
	}
}
