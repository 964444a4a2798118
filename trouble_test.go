package ssefanin

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// kinds are the troubles as one text: stream/upstream kind level.
func (s *samples) kinds() string {
	var all []streamStatus
	for _, v := range s.views {
		all = append(all, v.streamStatus)
	}
	var texts []string
	for _, t := range s.troubles(all, s.now) {
		texts = append(texts, strings.TrimSuffix(t.Stream+"/"+t.Upstream, "/")+" "+t.Kind+" "+string(t.Level))
	}
	return strings.Join(texts, ", ")
}

// send has an upstream send events until now.
func (s *samples) send(us *upstreamStatus, n uint64) {
	us.Events += n
	us.LastEvent = s.now.UnixMilli()
}

// trial is a stream with one upstream that is well.
func trial() (*samples, *streamView, *upstreamStatus) {
	v := sampledView("s", "a")
	s := newSamples(v)
	us := v.Upstreams[0]
	us.Since = s.now.Add(-time.Hour).UnixMilli()
	s.pass(20*time.Minute, func() { s.send(us, 10) })
	return s, v, us
}

func TestTroubleIsRecent(t *testing.T) {
	for name, tc := range map[string]struct {
		happen func(v *streamView)
		want   string
	}{
		"expired gaps":  {func(v *streamView) { v.Gaps.Expired += 45 }, "s gaps bad"},
		"unknown gaps":  {func(v *streamView) { v.Gaps.Unknown += 45 }, "s gaps warn"},
		"full":          {func(v *streamView) { v.Clients.Refused = map[refusal]uint64{refusedFull: 9} }, "s refused bad"},
		"too many keys": {func(v *streamView) { v.Clients.Refused = map[refusal]uint64{refusedStreams: 9} }, "s refused bad"},
		"wrong keys":    {func(v *streamView) { v.Clients.Refused = map[refusal]uint64{refusedKey: 9} }, "s refused warn"},
		"not logged in": {func(v *streamView) { v.Clients.Refused = map[refusal]uint64{refusedOnly: 9} }, "s refused warn"},
		"exit":          {func(v *streamView) { v.Clients.Refused = map[refusal]uint64{refusedExit: 9} }, ""},
		"too large":     {func(v *streamView) { v.Upstreams[0].Skipped++ }, "s/a skipped bad"},
		"unstable":      {func(v *streamView) { v.Upstreams[0].Disconnects += unstableEnds }, "s/a unstable warn"},
	} {
		t.Run(name, func(t *testing.T) {
			s, v, us := trial()
			if got := s.kinds(); got != "" {
				t.Fatalf("before: got %q", got)
			}
			tc.happen(v)
			if got := s.kinds(); got != tc.want && name != "unstable" { // which is of whole samples
				t.Errorf("at once: got %q, want %q", got, tc.want)
			}
			send := func() { s.send(us, 10) }
			s.pass(9*time.Minute, send)
			if got := s.kinds(); got != tc.want {
				t.Errorf("after 9 minutes: got %q, want %q", got, tc.want)
			}
			s.pass(3*time.Minute, send)
			if got := s.kinds(); got != "" {
				t.Errorf("after 12 minutes: got %q", got)
			}
		})
	}
}

func TestTroubleOfSilence(t *testing.T) {
	for name, tc := range map[string]struct {
		every  time.Duration // between events, in the hour before
		silent time.Duration
		want   string
	}{
		"of a busy one, a minute":         {historyStep, time.Minute, ""},
		"of a busy one, four minutes":     {historyStep, 4 * time.Minute, "s/a silent warn"},
		"of a busy one, for hours":        {historyStep, 5 * time.Hour, "s/a silent warn"},
		"of a rare one, ten minutes":      {5 * time.Minute, 10 * time.Minute, ""},
		"of a rare one, half an hour":     {5 * time.Minute, 30 * time.Minute, "s/a silent warn"},
		"of one without habits, for long": {40 * time.Minute, 3 * time.Hour, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := sampledView("s", "a")
			s := newSamples(v)
			us := v.Upstreams[0]
			us.Since = s.now.UnixMilli()
			var since time.Duration
			s.pass(time.Hour, func() {
				if since += historyStep; since >= tc.every {
					since = 0
					s.send(us, 1)
				}
			})
			us.LastEvent = s.now.UnixMilli()
			s.pass(tc.silent, nil)
			if got := s.kinds(); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			s.send(us, 1)
			s.pass(historyStep, nil)
			if got := s.kinds(); got != "" {
				t.Errorf("after an event: got %q", got)
			}
		})
	}
}

func TestTroubleOfAnUpstreamThatNeverSent(t *testing.T) {
	v := sampledView("s", "a")
	s := newSamples(v)
	v.Upstreams[0].Since = s.now.UnixMilli()
	s.pass(30*time.Second, nil)
	if got := s.kinds(); got != "" {
		t.Errorf("after half a minute: got %q", got)
	}
	s.pass(time.Minute, nil)
	if got := s.kinds(); got != "s/a silent warn" {
		t.Errorf("after a minute and a half: got %q", got)
	}
	v.Keyed = true
	if got := s.kinds(); got != "" {
		t.Errorf("of a keyed stream: got %q", got)
	}
}

func TestTroubleOfLag(t *testing.T) {
	for name, tc := range map[string]struct {
		rate     uint64 // events a sample
		retained uint64
		lag      []uint64
		want     string
	}{
		"caught up":             {100, 10_000, []uint64{0, 0, 0, 0}, ""},
		"a replay":              {100, 10_000, []uint64{0, 0, 9000, 9000}, ""},
		"a moment behind":       {1000, 10_000, []uint64{900, 900, 900, 900}, ""},
		"far behind":            {1000, 100_000, []uint64{1500, 2000, 2500, 3000}, "s lag warn"},
		"about to miss events":  {1000, 4000, []uint64{2100, 2400, 3100, 3900}, "s lag bad"},
		"of few that are there": {10, 20, []uint64{15, 15, 15, 15}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, v, us := trial()
			v.Log.Events = tc.retained
			for _, lag := range tc.lag {
				v.Clients.MaxLag = lag
				s.pass(historyStep, func() { s.send(us, tc.rate) })
			}
			if got := s.kinds(); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestTroubleOfSlowDelivery(t *testing.T) {
	s, v, us := trial()
	late := func(ms int64) func() {
		return func() {
			s.send(us, 10)
			var d delays
			d.observe(ms)
			v.delay.add(d.load())
		}
	}
	s.pass(20*time.Second, late(5000))
	if got := s.kinds(); got != "" {
		t.Errorf("after a moment: got %q", got)
	}
	s.pass(20*time.Second, late(5000))
	if got := s.kinds(); got != "s slow warn" {
		t.Errorf("after 40 s: got %q", got)
	}
	s.pass(20*time.Second, late(5))
	if got := s.kinds(); got != "" {
		t.Errorf("when it is fast again: got %q", got)
	}
}

func TestTroubleOfStates(t *testing.T) {
	adminIsOn(t)
	for name, tc := range map[string]struct {
		us     upstreamStatus
		before time.Duration // the state has been there
		want   string
	}{
		"down":               {upstreamStatus{State: phaseDown, Reason: reasonStatus, Error: "status 502"}, time.Minute, "Down for 1 min: status 502 | curl -N -H 'Accept: text/event-stream' http://a.example/x, curl -X POST http://localhost:2019/sse_fanin/streams/s/upstreams/a/reconnect"},
		"down, with a query": {upstreamStatus{State: phaseDown, partly: true, Reason: reasonEOF}, time.Second, "Down for 1 s: the upstream ended the stream | curl -N -H 'Accept: text/event-stream' 'http://a.example/x?…', curl -X POST http://localhost:2019/sse_fanin/streams/s/upstreams/a/reconnect"},
		"connecting":         {upstreamStatus{State: phaseConnecting}, time.Second, ""},
		"connecting long":    {upstreamStatus{State: phaseConnecting}, time.Minute, "Connecting for 1 min | curl -N -H 'Accept: text/event-stream' http://a.example/x"},
		"finished":           {upstreamStatus{State: phaseFinished}, time.Hour, "Answered 204 1 h ago: nothing more is to come, and it is not asked again | curl -X POST http://localhost:2019/sse_fanin/streams/s/upstreams/a/reconnect"},
		"idle":               {upstreamStatus{State: phaseIdle}, time.Hour, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSamples()
			tc.us.Name, tc.us.Since, tc.us.URLs = "a", s.now.Add(-tc.before).UnixMilli(), []string{"http://a.example/x"}
			st := streamStatus{Name: "s", Upstreams: []*upstreamStatus{&tc.us}}
			var got string
			for _, tr := range s.troubles([]streamStatus{st}, s.now) {
				got += tr.What + " | " + strings.Join(tr.Commands, ", ")
				if tr.Remedy == "" {
					t.Error("nothing is said about what to do")
				}
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
			st.Removed = true
			if got := s.troubles([]streamStatus{st}, s.now); len(got) > 0 {
				t.Errorf("of a removed stream: got %+v", got)
			}
		})
	}
}

func TestTroublesAreSorted(t *testing.T) {
	s := newSamples()
	var all []streamStatus
	for _, name := range []string{"shard-10", "shard-2", "b"} {
		st := streamStatus{Name: name, Upstreams: []*upstreamStatus{{Name: "u", State: phaseDown}, {Name: "v", State: phaseFinished}}}
		st.Gaps.Expired = 1
		all = append(all, st)
	}
	var got []string
	for _, tr := range s.troubles(all, s.now) {
		got = append(got, tr.Kind+" "+tr.Stream)
	}
	want := "[down b down shard-2 down shard-10 gaps b gaps shard-2 gaps shard-10 finished b finished shard-2 finished shard-10]"
	if fmt.Sprint(got) != want {
		t.Errorf("got  %v\nwant %s", got, want)
	}
}

func TestNaturalOrder(t *testing.T) {
	sorted := []string{"", "a", "a-1", "a-2", "a-010", "a-10", "a-10b", "a2", "b"}
	for i, a := range sorted {
		for k, b := range sorted {
			if got := naturally(a, b); got < 0 != (i < k) || got > 0 != (i > k) {
				t.Errorf("%q and %q: got %d", a, b, got)
			}
		}
	}
}

func TestWordsOfTheStatus(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 59 * time.Second: "59 s", time.Minute: "1 min", 61 * time.Second: "1 min 1 s", 11*time.Minute + time.Second: "11 min",
		time.Hour: "1 h", 90 * time.Minute: "1 h 30 min", 50 * time.Hour: "2 days", -time.Second: "0 s",
	} {
		if got := spanText(d); got != want {
			t.Errorf("%s: got %q, want %q", d, got, want)
		}
	}
	for n, want := range map[uint64]string{1: "1 gap", 2: "2 gaps", 1234567: "1,234,567 gaps", 0: "0 gaps"} {
		if got := plural(n, "gap"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	for text, want := range map[string]string{"http://a/b-c_d.e:1": "http://a/b-c_d.e:1", "a b": "'a b'", "it's": `'it'\''s'`, "": "''", "http://[::1]/": "'http://[::1]/'", "a&b": "'a&b'"} {
		if got := shellWord(text); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
