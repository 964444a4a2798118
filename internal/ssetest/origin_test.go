package ssetest

import (
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOriginResume(t *testing.T) {
	ctx := within(t)
	o := newOrigin(t, OriginConfig{Source: "a"})
	o.EmitNumbered(3)
	c := startClient(t, ClientConfig{URL: o.URL()})
	must(t, c.WaitOpen(ctx, 1))
	o.EmitNumbered(2)
	must(t, c.WaitCount(ctx, 2))
	if !c.Disconnect() {
		t.Fatal("no connection to disconnect")
	}
	o.EmitNumbered(2)
	must(t, c.WaitCount(ctx, 4))
	if got := ids(c); got != "4 5 6 7" {
		t.Errorf("ids %s", got)
	}
	if got := o.LastEventIDs(); !slices.Equal(got, []string{"", "5"}) {
		t.Errorf("Last-Event-ID %q", got)
	}
	if _, has := o.Requests()[0].LastEventID(); has {
		t.Error("the first request has a Last-Event-ID")
	}
}

func TestOriginStartPosition(t *testing.T) {
	for _, c := range []struct {
		name, id string
		set      func(o *Origin)
		want     string
	}{
		{"honour", "3", func(*Origin) {}, "4 5 6"},
		{"newest", "5", func(*Origin) {}, "6"},
		{"of the future", "9", func(*Origin) {}, "6"},
		{"unknown", "x", func(*Origin) {}, "6"},
		{"overlap", "3", func(o *Origin) { o.SetOverlap(2) }, "2 3 4 5 6"},
		{"overlap over all", "3", func(o *Origin) { o.SetOverlap(20) }, "1 2 3 4 5 6"},
		{"live only", "3", func(o *Origin) { o.SetResume(LiveOnly) }, "6"},
		{"replay all", "3", func(o *Origin) { o.SetResume(ReplayAll) }, "1 2 3 4 5 6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := within(t)
			o := newOrigin(t, OriginConfig{})
			o.EmitNumbered(5)
			c.set(o)
			client := startClient(t, ClientConfig{URL: o.URL(), LastEventID: c.id})
			must(t, client.WaitOpen(ctx, 1))
			o.EmitNumbered(1)
			must(t, client.WaitCount(ctx, uint64(len(strings.Fields(c.want)))))
			if got := ids(client); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestOriginRepeatedIDsResumeAtTheFirst(t *testing.T) {
	ctx := within(t)
	o := newOrigin(t, OriginConfig{})
	o.RepeatIDs(2)
	o.EmitNumbered(4)
	c := startClient(t, ClientConfig{URL: o.URL(), LastEventID: "1"})
	must(t, c.WaitCount(ctx, 3))
	if got := ids(c); got != "1 2 2" {
		t.Errorf("ids %s", got)
	}
}

func TestOriginDoesNotReplayRaw(t *testing.T) {
	ctx := within(t)
	o := newOrigin(t, OriginConfig{})
	o.EmitNumbered(2)
	o.Raw([]byte(": raw\n"))
	o.EmitNumbered(1)
	c := startClient(t, ClientConfig{URL: o.URL(), LastEventID: "1"})
	must(t, c.WaitCount(ctx, 2))
	if c.Comments() != 0 {
		t.Error("raw bytes were replayed")
	}
	o.Raw([]byte(": live\n"))
	must(t, c.WaitComments(ctx, 1))
}

func TestOriginHistoryIsBounded(t *testing.T) {
	ctx := within(t)
	o := newOrigin(t, OriginConfig{History: 4})
	o.EmitNumbered(10)
	c := startClient(t, ClientConfig{URL: o.URL(), LastEventID: "2"})
	must(t, c.WaitCount(ctx, 4))
	if got := ids(c); got != "7 8 9 10" {
		t.Errorf("ids %s", got)
	}
}

func TestOriginCutsWithinEvents(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  OriginConfig
		end  EndKind
	}{
		{"chunked", OriginConfig{}, EndError},
		{"until close", OriginConfig{Framing: UntilClose}, EndClean},
		{"split", OriginConfig{Split: 3}, EndError},
		{"TLS", OriginConfig{TLS: true}, EndError},
		{"h2", OriginConfig{TLS: true, HTTP2: true}, EndError},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := within(t)
			o := newOrigin(t, tc.cfg)
			o.CutEvery(10)
			v := NewVerifier()
			transport := &http.Transport{TLSClientConfig: o.TLSClientConfig(), ForceAttemptHTTP2: tc.cfg.HTTP2}
			t.Cleanup(transport.CloseIdleConnections)
			c := startClient(t, ClientConfig{
				URL:      o.URL(),
				HTTP:     &http.Client{Transport: transport},
				MaxDelay: time.Millisecond,
				Track:    v.Track("c"),
			})
			must(t, c.WaitOpen(ctx, 1))
			for i := range 4 {
				must(t, o.WaitRequests(ctx, i+1))
				o.EmitNumbered(10)
				must(t, c.WaitEnd(ctx, tc.end, i+1))
			}
			must(t, v.WaitSeen(ctx, "origin", 40))
			must(t, v.Err())
			for _, conn := range c.Connections()[:4] {
				if conn.Events != 9 && conn.Events != 10 {
					t.Errorf("connection with %d events", conn.Events)
				}
				if !conn.Partial {
					t.Error("the cut was not within an event")
				}
				if want := 1 + b2i(tc.cfg.HTTP2); conn.Proto[5] != byte('0'+want) {
					t.Errorf("protocol %s", conn.Proto)
				}
			}
		})
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestOriginEndsCleanly(t *testing.T) {
	for _, h2c := range []bool{false, true} {
		ctx := within(t)
		o := newOrigin(t, OriginConfig{HTTP2: h2c, Retry: 5 * time.Millisecond})
		cfg := ClientConfig{URL: o.URL()}
		if h2c {
			tr := &http.Transport{Protocols: new(http.Protocols)}
			tr.Protocols.SetUnencryptedHTTP2(true)
			t.Cleanup(tr.CloseIdleConnections)
			cfg.HTTP = &http.Client{Transport: tr}
		}
		c := startClient(t, cfg)
		must(t, c.WaitOpen(ctx, 1))
		o.EndConnections()
		must(t, c.WaitEnd(ctx, EndClean, 1))
		must(t, o.WaitRequests(ctx, 2))
		if d, ok := c.Retry(); !ok || d != 5*time.Millisecond {
			t.Errorf("retry %s %t", d, ok)
		}
		if n := c.Ends(EndError); n != 0 {
			t.Errorf("%d broken connections", n)
		}
	}
}

func TestOriginStopRefusesAndStartResumes(t *testing.T) {
	ctx := within(t)
	o := newOrigin(t, OriginConfig{})
	c := startClient(t, ClientConfig{URL: o.URL(), MaxDelay: time.Millisecond})
	must(t, c.WaitOpen(ctx, 1))
	o.EmitNumbered(1)
	must(t, c.WaitCount(ctx, 1))
	o.Stop()
	if n := o.Connections(); n != 0 {
		t.Errorf("%d connections after Stop", n)
	}
	o.EmitNumbered(2)
	must(t, c.WaitEnd(ctx, EndDial, 1))
	must(t, o.Start())
	must(t, c.WaitCount(ctx, 3))
	if got := ids(c); got != "1 2 3" {
		t.Errorf("ids %s", got)
	}
}

// A client that is to connect once has not, as long as nobody answers.
func TestClientOnce(t *testing.T) {
	ctx := within(t)
	o := newOrigin(t, OriginConfig{})
	o.Inject(Fault{Kind: CloseOnAccept, Times: 1})
	c := startClient(t, ClientConfig{URL: o.URL(), Once: true, MaxDelay: time.Millisecond})
	must(t, c.WaitOpen(ctx, 1))
	if n := c.Ends(EndDial); n != 1 {
		t.Errorf("%d connections without an answer, want 1", n)
	}
	o.Stop()
	must(t, c.WaitDone(ctx))
}

func TestOriginStallHoldsBack(t *testing.T) {
	ctx := within(t)
	o := newOrigin(t, OriginConfig{})
	c := startClient(t, ClientConfig{URL: o.URL()})
	must(t, c.WaitOpen(ctx, 1))
	o.Stall(true)
	o.EmitNumbered(3)
	o.Raw([]byte(": raw\n"))
	// A second client gets its head and nothing else; when it has, the first
	// one would have had its events.
	d := startClient(t, ClientConfig{URL: o.URL()})
	must(t, d.WaitOpen(ctx, 1))
	if c.Count() != 0 {
		t.Error("events while stalled")
	}
	o.Stall(false)
	must(t, c.WaitCount(ctx, 3))
	must(t, c.WaitComments(ctx, 1))
	if d.Comments() != 0 || d.Count() != 0 {
		t.Error("the later client got what was sent before it came")
	}
}

func TestOriginFaults(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault Fault
		end   EndKind
	}{
		{"close on accept", Fault{Kind: CloseOnAccept}, EndDial},
		{"drop", Fault{Kind: Drop}, EndDial},
		{"end at once", Fault{Kind: EndAtOnce}, EndClean},
		{"respond", Fault{Kind: Respond, Status: 503, Header: http.Header{"Retry-After": {"1"}}}, EndStatus},
		{"wire", Fault{Kind: Wire, Body: []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n:")}, EndError},
		{"override", Fault{Kind: Override, Handler: http.NotFoundHandler()}, EndStatus},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := within(t)
			o := newOrigin(t, OriginConfig{})
			f := tc.fault
			f.Times = 2
			o.Inject(f)
			c := startClient(t, ClientConfig{URL: o.URL(), Stubborn: true, MaxDelay: time.Millisecond})
			must(t, c.WaitEnd(ctx, tc.end, 2))
			answered := 3 // the fault is used up
			if tc.end == EndDial {
				answered = 1
			}
			must(t, c.WaitOpen(ctx, answered))
			o.EmitNumbered(1)
			must(t, c.WaitCount(ctx, 1))
		})
	}
}

func TestOriginHang(t *testing.T) {
	ctx := within(t)
	o := newOrigin(t, OriginConfig{})
	o.Inject(Fault{Kind: Hang, Times: 1})
	c := startClient(t, ClientConfig{URL: o.URL(), MaxDelay: time.Millisecond})
	must(t, o.WaitConnections(ctx, 1))
	if s := c.Connection().Status; s != 0 {
		t.Errorf("status %d", s)
	}
	o.CutConnections()
	must(t, c.WaitOpen(ctx, 1))
}

func TestOriginRedirect(t *testing.T) {
	ctx := within(t)
	target := newOrigin(t, OriginConfig{})
	o := newOrigin(t, OriginConfig{})
	o.Redirect(http.StatusTemporaryRedirect, target.URL())
	startClient(t, ClientConfig{URL: o.URL()})
	must(t, target.WaitConnections(ctx, 1))
}

func TestOriginEndlessLine(t *testing.T) {
	ctx := within(t)
	o := newOrigin(t, OriginConfig{})
	o.Inject(Fault{Kind: Endless, BytesPerSecond: 10 << 20})
	r, err := DialRaw(ctx, RawConfig{URL: o.URL()})
	must(t, err)
	defer r.Close()
	must(t, r.WaitBytes(ctx, 1<<20))
	if b := string(r.Bytes()[200:]); strings.Count(b, "x") < len(b)*9/10 {
		t.Errorf("not one line: %.80q", b)
	}
}

func TestOriginUnixSocket(t *testing.T) {
	ctx := within(t)
	socket := filepath.Join(t.TempDir(), "s")
	o := newOrigin(t, OriginConfig{Socket: socket, Rate: 500, Types: []string{"", "tick"}, Pad: 10})
	c := startClient(t, ClientConfig{URL: "http://unix/some?x=1", Socket: socket})
	e, err := c.WaitEvent(ctx, func(e Event) bool { return e.Type == "tick" })
	must(t, err)
	if !strings.Contains(e.Data, `"source":"origin","n":`+e.ID+`,`) || !strings.HasSuffix(e.Data, `,"pad":"xxxxxxxxxx"}`) {
		t.Errorf("data %s", e.Data)
	}
	if r := o.Requests()[0]; r.Path != "/some" || r.Query != "x=1" || r.Header.Get("Accept") != "text/event-stream" {
		t.Errorf("request %+v", r)
	}
}

func TestOriginSetRateZeroIsFinal(t *testing.T) {
	o := newOrigin(t, OriginConfig{Rate: 10_000})
	c := startClient(t, ClientConfig{URL: o.URL()})
	must(t, c.WaitCount(within(t), 100))
	o.SetRate(0)
	last := o.Last()
	must(t, c.WaitCount(within(t), c.Count()))
	if o.Last() != last {
		t.Error("an event after SetRate(0)")
	}
}

func TestClientGivesUpAsEventSource(t *testing.T) {
	o := newOrigin(t, OriginConfig{})
	o.RespondWith(http.StatusNoContent, nil, "")
	c := startClient(t, ClientConfig{URL: o.URL()})
	if err := c.WaitDone(within(t)); err == nil || c.Connection().End != EndStatus {
		t.Errorf("error %v, connection %+v", err, c.Connection())
	}
	if err := c.WaitCount(within(t), 1); !errors.Is(err, c.Err()) {
		t.Errorf("waiting on an ended client: %v", err)
	}
}

func TestClientCloseWaits(t *testing.T) {
	o := newOrigin(t, OriginConfig{})
	c := startClient(t, ClientConfig{URL: o.URL()})
	must(t, c.WaitOpen(within(t), 1))
	c.Close()
	if c.Connection().End != EndSelf {
		t.Errorf("after Close: %+v", c.Connection())
	}
}
