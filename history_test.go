package ssefanin

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// samples feeds a sampler with streams of its own, a step at a time.
type samples struct {
	sampler
	now   time.Time
	views []*streamView
}

func newSamples(views ...*streamView) *samples {
	s := &samples{now: time.Now(), views: views}
	s.sampled = s.now
	return s
}

// pass lets time pass; each is called before every sample.
func (s *samples) pass(d time.Duration, each func()) {
	for range int(d / historyStep) {
		s.now = s.now.Add(historyStep)
		if each != nil {
			each()
		}
		s.mu.Lock()
		s.add(s.now, s.views)
		s.mu.Unlock()
	}
}

// read returns the histories that a viewer gets.
func (s *samples) readAll(at *historyRead) []*shownHistory {
	shown := make([]shownStream, len(s.views))
	for i, v := range s.views {
		shown[i].streamStatus = v.streamStatus
	}
	s.read(shown, at)
	all := make([]*shownHistory, len(shown))
	for i := range shown {
		all[i] = shown[i].History
	}
	return all
}

func sampledView(name string, upstreams ...string) *streamView {
	v := newStreamView(name)
	for _, name := range upstreams {
		v.upstream(name).State = phaseUp
	}
	return v
}

func TestHistoryIsOfTheLastHour(t *testing.T) {
	v := sampledView("s", "a", "b")
	s := newSamples(v)
	s.pass(2*time.Hour, func() {
		v.Upstreams[0].Events += 20
		v.Upstreams[1].Events += 10
		v.Delivered.Events += 50
		v.Clients.Connected = 7
		v.Gaps.Expired++
	})
	var at historyRead
	h := s.readAll(&at)[0]
	if h == nil || !h.Whole || h.Step != 10_000 || h.End != s.now.UnixMilli() {
		t.Fatalf("got %+v", h)
	}
	for name, want := range map[string]float32{"in": 3, "out": 5, "clients": 7, "gaps_expired": 1, "gaps_unknown": 0, "lag": 0} {
		column := h.Columns[name]
		if len(column) != historyPoints {
			t.Errorf("%s has %d points, want %d", name, len(column), historyPoints)
		}
		for i, got := range column {
			if got != want {
				t.Fatalf("%s is %v at %d, want %v", name, got, i, want)
			}
		}
	}
	if n := len(h.Upstreams["a"]); n != historyMinutes {
		t.Errorf("upstream a has %d minutes, want %d", n, historyMinutes)
	}
	if got := h.Upstreams["a"][10]; got != 120 {
		t.Errorf("%d events in a minute, want 120", got)
	}
}

func TestHistoryIsSentOnceAndThenGoesOn(t *testing.T) {
	v := sampledView("s", "a")
	s := newSamples(v)
	var at historyRead
	if h := s.readAll(&at)[0]; h != nil {
		t.Errorf("before the first sample: got %+v", h)
	}
	s.pass(time.Minute, nil)
	if h := s.readAll(&at)[0]; h == nil || !h.Whole || len(h.Columns["in"]) != 6 {
		t.Errorf("at first: got %+v", h)
	}
	if h := s.readAll(&at)[0]; h != nil {
		t.Errorf("nothing is new: got %+v", h)
	}
	s.pass(2*historyStep, func() { v.Upstreams[0].Events += 10 })
	if h := s.readAll(&at)[0]; h == nil || h.Whole || fmt.Sprint(h.Columns["in"]) != "[1 1]" {
		t.Errorf("two points later: got %+v", h)
	}
	s.views = nil
	s.pass(historyStep, nil)
	s.views = []*streamView{sampledView("s")}
	s.pass(historyStep, nil)
	if h := s.readAll(&at)[0]; h == nil || !h.Whole || len(h.Columns["in"]) != 1 {
		t.Errorf("after there was no stream: got %+v", h)
	}
}

func TestHistoryHasCountersThatBeginAnew(t *testing.T) {
	v := sampledView("s", "a")
	v.Upstreams[0].Events = 100
	s := newSamples(v)
	s.pass(historyStep, nil)
	s.pass(historyStep, func() { v.Upstreams[0].Events = 20 })                                // as another source would
	s.pass(historyStep, func() { v.upstream("b").Events = 1000; v.Upstreams[0].Events = 30 }) // b has counted elsewhere
	s.pass(historyStep, func() { v.Upstreams = v.Upstreams[:1]; v.Upstreams[0].Events = 40 }) // and goes
	s.views = append(s.views, func() *streamView {
		r := sampledView("s", "a")
		r.Removed = true
		r.Upstreams[0].Events = 500
		return r
	}())
	s.pass(historyStep, nil)
	var at historyRead
	all := s.readAll(&at)
	if got := fmt.Sprint(all[0].Columns["in"]); got != "[10 0 1 1 0]" {
		t.Errorf("got %s", got)
	}
	if got := fmt.Sprint(all[1].Columns["in"]); got != "[0]" {
		t.Errorf("what a removed stream has counted before: got %s", got)
	}
}

func TestHistoryOfManyStreamsIsBounded(t *testing.T) {
	for _, streams := range []int{1, historyStreams, historyStreams + 1, 100, historyStreams * maxJoined, 500} {
		t.Run(fmt.Sprint(streams), func(t *testing.T) {
			var views []*streamView
			for i := range streams {
				views = append(views, sampledView(fmt.Sprint("s-", i), "a", "b"))
			}
			s := newSamples(views...)
			s.pass(historySpan+5*time.Minute, func() {
				for _, v := range views {
					v.Upstreams[0].Events += 20
				}
			})
			points, plotted, minutes := 0, 0, 0
			for _, one := range s.streams {
				points += cap(one.points)
				if one.points != nil {
					plotted++
				}
				for _, u := range one.upstreams {
					minutes += cap(u.minutes)
				}
			}
			if size := points * int(unsafe.Sizeof(historyPoint{})); size > 280<<10 {
				t.Errorf("the points take %d bytes", size)
			}
			if size := minutes * int(unsafe.Sizeof(upstreamMinute{})); size > 180<<10 {
				t.Errorf("the minutes take %d bytes", size)
			}
			if want := min(streams, historyStreams*maxJoined); plotted != want {
				t.Errorf("%d streams have plots, want %d", plotted, want)
			}
			var at historyRead
			for _, h := range s.readAll(&at) {
				if h == nil {
					continue
				}
				if span := time.Duration(h.Step) * time.Millisecond * time.Duration(len(h.Columns["in"])); span != historySpan {
					t.Fatalf("%d points of %d ms", len(h.Columns["in"]), h.Step)
				}
				if got := h.Columns["in"][5]; got != 2 {
					t.Fatalf("%v events/s, want 2", got)
				}
			}
		})
	}
}

func TestHistoryIsJoinedWhenStreamsCome(t *testing.T) {
	v := sampledView("s", "a")
	s := newSamples(v)
	s.pass(20*time.Minute, func() {
		v.Upstreams[0].Events += 20
		v.Clients.Refused = map[refusal]uint64{refusedFull: v.Clients.Refused[refusedFull] + 1}
	})
	for i := range historyStreams {
		s.views = append(s.views, sampledView(fmt.Sprint("more-", i)))
	}
	s.pass(20*time.Second, func() { v.Upstreams[0].Events += 20 })
	var at historyRead
	h := s.readAll(&at)[0]
	if len(h.Columns["in"]) != 61 || h.Step != 20_000 || h.Columns["in"][0] != 2 || h.Columns["in"][60] != 2 || h.Columns["refused"][3] != 2 {
		t.Errorf("got %d points of %d ms: %v, %v", len(h.Columns["in"]), h.Step, h.Columns["in"], h.Columns["refused"])
	}
}

func TestDelayQuantiles(t *testing.T) {
	for name, tc := range map[string]struct {
		observed []int64
		p50, p99 float32
	}{
		"nothing":        {nil, float32(math.NaN()), float32(math.NaN())},
		"all at once":    {[]int64{0, 0, 0, 0}, .5, .99},
		"in two buckets": {[]int64{1, 1, 100, 100}, 1, 99},
		"beyond":         {[]int64{40_000, 50_000}, 30_000, 30_000},
	} {
		t.Run(name, func(t *testing.T) {
			var d delays
			for _, ms := range tc.observed {
				d.observe(ms)
			}
			p50, p99 := d.load().quantiles()
			if fmt.Sprint(p50, p99) != fmt.Sprint(tc.p50, tc.p99) {
				t.Errorf("got %v and %v, want %v and %v", p50, p99, tc.p50, tc.p99)
			}
		})
	}
}

func TestHistoryColumnsAreJSON(t *testing.T) {
	raw, err := json.Marshal(historyColumn{0, 1.23456, float32(math.NaN()), 1e9})
	must(t, err)
	if string(raw) != "[0,1.235,null,1000000000]" {
		t.Errorf("got %s", raw)
	}
}

func TestSamplerEndsWithTheLastStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var streams, taken atomic.Int32
		s := &sampler{view: func() []*streamView {
			taken.Add(1)
			return []*streamView{sampledView("s")}[:streams.Load()]
		}}
		after := func(d time.Duration, want int32) {
			t.Helper()
			time.Sleep(d) // of the bubble
			synctest.Wait()
			if got := taken.Load(); got != want {
				t.Errorf("%d samples, want %d", got, want)
			}
		}
		streams.Store(1)
		s.wake()
		s.wake() // another configuration
		after(5*historyStep+time.Second, 5)
		streams.Store(0)
		after(10*historyStep, 6)
		s.mu.Lock()
		if s.running || len(s.streams) != 0 {
			t.Errorf("without streams: running %v, %d histories", s.running, len(s.streams))
		}
		s.mu.Unlock()
		streams.Store(1)
		s.wake()
		after(2*historyStep+time.Second, 8)
		streams.Store(0)
		after(2*historyStep, 9)
	})
}

func TestStatusStreamHasTheHistory(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events {\nstream hour\nupstream a "+a.URL()+"\n}\nsse_fanin_status /status")
	connected(t, a)
	a.Emit("", "1")
	becomes(t, "hour", "it is counted", func(st streamStatus) bool { return st.Upstreams[0].Events == 1 })
	streamSampler.take()
	all := snapshots(t, in.open("/status", "text/event-stream"))
	first := nextSnapshot(t, all).Streams[0].History
	if first == nil || !first.Whole || len(first.Columns) != int(historyColumns) || len(first.Upstreams["a"]) == 0 {
		t.Fatalf("the first snapshot has %+v", first)
	}
	streamSampler.take()
	for {
		if h := nextSnapshot(t, all).Streams[0].History; h != nil {
			if n := len(h.Columns["in"]); h.Whole || n < 1 || n > 3 { // the timer takes some, too
				t.Errorf("a later one has %+v", h)
			}
			break
		}
	}
	if _, body := in.get("/status", "application/json"); strings.Contains(body, `"history"`) || !strings.Contains(body, `"troubles":[]`) {
		t.Errorf("as JSON: %s", body)
	}
}
