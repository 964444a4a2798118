package ssefanin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// troublesOf are those of a stream of the process, as one text: kind: what.
func troublesOf(t *testing.T, stream string) string {
	t.Helper()
	var texts []string
	for _, tr := range streamSampler.troubles([]streamStatus{streamNamed(t, stream)}, time.Now()) {
		texts = append(texts, tr.Kind+": "+tr.What)
	}
	return strings.Join(texts, "\n")
}

func TestTroubleOfADeadReplicaOfAMirror(t *testing.T) {
	a, b := plain(t), plain(t)
	b.RespondWith(http.StatusBadGateway, nil, "no")
	serve(t, "", directive("/e", "stream s\nupstream u "+a.URL()+"?token=secret "+b.URL()+" {\npolicy mirror\nbackoff 20ms 50ms\n}"))
	want := "replica: 1 of 2 servers is connected. Not " + b.URL() + ": status 502"
	eventually(t, 10*time.Second, "the dead one is named", func() bool { return troublesOf(t, "s") == want })
	us := upstreamNamed(t, "s", "u")
	if !slices.Equal(us.Connected, []string{a.URL()}) {
		t.Errorf("connected are %q", us.Connected)
	}
	tr := streamSampler.troubles([]streamStatus{streamNamed(t, "s")}, time.Now())[0]
	if tr.Level != levelWarn || !strings.Contains(fmt.Sprint(tr.Commands), b.URL()) || strings.Contains(fmt.Sprint(tr), "secret") {
		t.Errorf("got %+v", tr)
	}
	b.Clear()
	eventually(t, 10*time.Second, "both are connected", func() bool {
		return troublesOf(t, "s") == "" && slices.Equal(upstreamNamed(t, "s", "u").Connected, []string{a.URL(), b.URL()})
	})
}

func TestTroubleOfAFailedFirstServer(t *testing.T) {
	a, b := plain(t), plain(t)
	a.RespondWith(http.StatusNotFound, nil, "no")
	serve(t, "", directive("/e", "stream s\nupstream u "+a.URL()+" "+b.URL()))
	eventually(t, 10*time.Second, "it is told which server is in use", func() bool {
		got := troublesOf(t, "s")
		return strings.HasPrefix(got, "replica: In use is "+b.URL()+", number 2 of 2, for ") &&
			strings.HasSuffix(got, ". The first one, "+a.URL()+", failed: status 404")
	})
	st := streamNamed(t, "s")
	if !slices.Equal(st.Upstreams[0].Connected, []string{b.URL()}) {
		t.Errorf("connected are %q", st.Upstreams[0].Connected)
	}
	if got := streamSampler.troubles([]streamStatus{st}, time.Now().Add(recentMinutes*time.Minute+time.Second)); slices.ContainsFunc(got, func(tr trouble) bool { return tr.Kind == "replica" }) {
		t.Errorf("after ten minutes: got %+v", got)
	}
}

func TestConnectedIsEmptyWhileDown(t *testing.T) {
	a := plain(t)
	a.RespondWith(http.StatusNotFound, nil, "no")
	serve(t, "", directive("/e", "stream s\nupstream u "+a.URL()))
	us := becomes(t, "s", "it is down", func(st streamStatus) bool { return st.Upstreams[0].State == phaseDown }).Upstreams[0]
	if us.Connected == nil || len(us.Connected) > 0 {
		t.Errorf("connected are %#v", us.Connected)
	}
}

func TestTroubleOfClientsThatAreTooSlow(t *testing.T) {
	for name, happen := range map[string]func(v *streamView){
		"timeout":   func(v *streamView) { v.Clients.timeouts += 3 },
		"overtaken": func(v *streamView) { v.Clients.overtaken += 3 },
	} {
		t.Run(name, func(t *testing.T) {
			s, v, us := trial()
			happen(v)
			send := func() { s.send(us, 10) }
			s.pass(9*time.Minute, send)
			if got := s.kinds(); got != "s slow warn" {
				t.Errorf("after 9 minutes: got %q", got)
			}
			s.pass(3*time.Minute, send)
			if got := s.kinds(); got != "" {
				t.Errorf("after 12 minutes: got %q", got)
			}
		})
	}
}

// Ends are counted by the stream; the view has to tell the verdict.
func TestSlowEndsAreInTheStatus(t *testing.T) {
	a := plain(t)
	serve(t, "", directive("/e", "stream s\nupstream u "+a.URL()))
	hubs.Range(func(_, value any) bool {
		c := value.(*hub).counts
		c.countEnd(endTimeout)
		c.countEnd(endSlow)
		c.countEnd(endSlow)
		c.countEnd(endClient)
		return true
	})
	if st := streamNamed(t, "s"); st.Clients.timeouts != 1 || st.Clients.overtaken != 2 {
		t.Errorf("got %+v", st.Clients)
	}
}

func TestTroubleOfAFlappingUpstream(t *testing.T) {
	for name, tc := range map[string]struct {
		state phase
		since time.Duration
		want  string
	}{
		"up":             {phaseUp, time.Second, "s/a unstable warn"},
		"just down":      {phaseDown, time.Second, "s/a unstable warn"},
		"dialled":        {phaseConnecting, 10 * time.Second, "s/a unstable warn"},
		"down for good":  {phaseDown, 2 * time.Minute, "s/a down bad"},
		"dialled for so": {phaseConnecting, 2 * time.Minute, "s/a connecting warn"},
	} {
		t.Run(name, func(t *testing.T) {
			s, v, us := trial()
			v.Upstreams[0].Disconnects += unstableEnds
			s.pass(historyStep, func() { s.send(us, 10) })
			us.State, us.Since = tc.state, s.now.Add(-tc.since).UnixMilli()
			us.Reason, us.Error = reasonError, "read tcp: connection reset by peer"
			if got := s.kinds(); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			what := s.troubles([]streamStatus{v.streamStatus}, s.now)[0].What
			if tr := "5 connections ended in the last 10 minutes, the last one because: read tcp: connection reset by peer"; strings.Contains(tc.want, "unstable") && what != tr {
				t.Errorf("got %q, want %q", what, tr)
			}
		})
	}
}

func TestRemedies(t *testing.T) {
	const hint = "the port speaks TLS: use https:// in the URL"
	for _, tc := range []struct {
		us   upstreamStatus
		want string
	}{
		{upstreamStatus{Reason: reasonStatus, status: 500}, "Look at the log there."},
		{upstreamStatus{Reason: reasonStatus, status: 502}, "Look at the log there."},
		{upstreamStatus{Reason: reasonStatus, status: 504}, "Look at the log there."},
		{upstreamStatus{Reason: reasonStatus, status: 503}, "is overloaded or just starting."},
		{upstreamStatus{Reason: reasonStatus, status: 429}, "The server limits how often it is asked"},
		{upstreamStatus{Reason: reasonStatus, status: 401}, "Check the credentials"},
		{upstreamStatus{Reason: reasonStatus, status: 404}, "Most likely the address"},
		{upstreamStatus{Reason: reasonTLS, hint: hint}, "The port speaks TLS: use https:// in the URL."},
		{upstreamStatus{Reason: reasonError}, "Look whether the server runs"},
	} {
		if got := tc.us.remedy(); !strings.Contains(got, tc.want) || strings.Count(got, "Look whether")+strings.Count(got, "Most likely") > strings.Count(tc.want, "Look whether")+strings.Count(tc.want, "Most likely") {
			t.Errorf("%s %d: got %q, want %q", tc.us.Reason, tc.us.status, got, tc.want)
		}
	}
	c := new(sourceCounts)
	c.countEnd(ending{reason: reasonTLS, err: errors.New("EOF"), hint: hint})
	end := c.lastEnd.Load()
	us := upstreamStatus{Reason: end.reason, Error: end.text, hint: end.hint}
	if got := us.cause(); got != "EOF" {
		t.Errorf("the cause is %q, without what the remedy says", got)
	}
}

// The status that a remedy is chosen by, and the hint, come from the attempt.
func TestRemedyIsOfTheAttempt(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{})
	a.RespondWith(http.StatusBadGateway, nil, "no")
	serve(t, "", directive("/e", "stream s\nupstream u "+a.URL()))
	st := becomes(t, "s", "it is down", func(st streamStatus) bool { return st.Upstreams[0].State == phaseDown })
	if tr := streamSampler.troubles([]streamStatus{st}, time.Now()); len(tr) != 1 || !strings.Contains(tr[0].Remedy, "Look at the log there") {
		t.Errorf("got %+v", tr)
	}
}

func TestTroubleThatIsOverIsToldAsPast(t *testing.T) {
	s, v, _ := trial()
	v.Clients.Max, v.Clients.Refused = 1, map[refusal]uint64{refusedFull: 2}
	v.Gaps.Expired += 2
	var got string
	for _, tr := range s.troubles([]streamStatus{v.streamStatus}, s.now) {
		got += tr.What + "\n"
	}
	for _, want := range []string{"max_clients was reached (now 0 of 1)", "overtaken"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
}

// adminIsOn has the test see the admin API on.
func adminIsOn(t *testing.T) {
	adminOn.Add(1)
	t.Cleanup(func() { adminOn.Add(-1) })
}

func TestCommandsWhileTheAdminAPIIsOff(t *testing.T) {
	s := newSamples()
	st := streamStatus{Name: "s", Upstreams: []*upstreamStatus{{Name: "a", State: phaseFinished, URLs: []string{"http://a.example/x"}}}}
	if got := s.troubles([]streamStatus{st}, s.now); len(got) != 1 || got[0].Commands == nil || len(got[0].Commands) > 0 {
		t.Errorf("got %+v", got)
	}
	if admin := new(StatusPage).snapshot().Admin; admin != "" {
		t.Errorf("the command is %q", admin)
	}
	ctx, cancel := context.WithCancel(t.Context())
	must(t, adminAPI{}.Provision(caddy.Context{Context: ctx}))
	if got := s.troubles([]streamStatus{st}, s.now); len(got) != 1 || len(got[0].Commands) != 1 {
		t.Errorf("got %+v", got)
	}
	if admin := new(StatusPage).snapshot().Admin; admin != "curl -X POST http://localhost:2019/sse_fanin/streams" {
		t.Errorf("the command is %q", admin)
	}
	cancel()
	eventually(t, 10*time.Second, "it is off again", func() bool { return adminOn.Load() == 0 })
}
