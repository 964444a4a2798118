package ssefanin

import (
	"math"
	"sync"
	"time"
)

// The last hour of every stream, for the status page: an incident is looked
// at after it began.
const (
	historyStep = 10 * time.Second
	historySpan = time.Hour

	// historyPoints is how many points a stream has: 360. Each is 44 bytes.
	historyPoints = int(historySpan / historyStep)

	// historyStreams is how many streams have all of them: 18 × 360 × 44 B are
	// 278 KiB. Where there are more, points are joined in pairs, so that twice
	// as many streams take the same memory; at most maxJoined points become
	// one, of 80 s, for 144 streams. Further ones have no plots. The keys of a
	// keyed stream are one stream.
	historyStreams = 18
	maxJoined      = 8

	// historyUpstreams is how many upstreams of all streams have their minutes
	// kept: 256 × 60 × 12 B are 180 KiB.
	historyUpstreams = 256
	historyMinutes   = int(historySpan / time.Minute)
	minuteSteps      = int(time.Minute / historyStep)

	// recentMinutes are covered by the verdict: older gaps and refusals are
	// history.
	recentMinutes = 10
)

// streamSampler keeps the history of all streams of the process.
var streamSampler = sampler{view: viewStreams}

// sampler samples the streams every historyStep. It has a timer and no
// goroutine of its own: the first stream that is attached sets it, and where a
// sample finds no stream, it is not set again and nothing is kept. It knows
// streams by name, so it keeps no configuration alive.
//
// Safe for concurrent use.
type sampler struct {
	view func() []*streamView

	mu        sync.Mutex // protects what follows; taken last
	running   bool       // the timer is set, or a sample is being taken
	woken     uint64     // calls of wake
	sampled   time.Time
	joined    int    // samples a point
	pending   int    // samples of the next point
	minute    int    // samples of the present minute
	taken     uint64 // points since the last change of joined
	changed   uint64 // times that joined has changed, or that all was forgotten
	end       int64  // when the last point was taken, Unix ms
	streams   map[historyKey]*oneHistory
	upstreams int // that have minutes
}

// historyKey identifies a stream of the status.
type historyKey struct {
	name    string
	removed bool
}

// oneHistory is the history of one stream.
type oneHistory struct {
	points    []historyPoint // oldest first; nil where there are too many streams
	pending   historyPoint
	last      historyCounts
	marks     []recentCounts // one a minute, oldest first, recentMinutes + 1 at most
	upstreams map[string]*upstreamHistory
}

// upstreamHistory is the history of one upstream of a stream.
type upstreamHistory struct {
	events, bytes, skipped, ends uint64 // counters at the last sample

	// minutes are the last ones, oldest first, the last one being the present
	// one; nil where there are too many upstreams.
	minutes []upstreamMinute

	// pause is the longest time without events that is usual for the upstream,
	// 0 where nothing is known. It is that of the hour before the last event,
	// so that a silence does not become usual by going on.
	pause time.Duration
}

type upstreamMinute struct{ events, skipped, ends uint32 }

// wake has the sampler work. It is called after a stream was added.
func (h *sampler) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.woken++
	if !h.running {
		h.running = true
		h.sampled = time.Now()
		time.AfterFunc(historyStep, h.sample)
	}
}

// sample takes a sample and sets the timer again if there are streams. It runs
// in the timer's goroutine, once at a time, and returns at once.
func (h *sampler) sample() {
	h.mu.Lock()
	woken := h.woken
	h.mu.Unlock()
	n := h.take()
	h.mu.Lock()
	defer h.mu.Unlock()
	if n == 0 && h.woken == woken { // nor has one come meanwhile
		h.running = false
		return
	}
	time.AfterFunc(historyStep, h.sample)
}

// take takes a sample and returns the number of streams.
func (h *sampler) take() int {
	views := h.view()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.add(time.Now(), views)
	return len(views)
}

// troubles returns what is wrong, the worst first, then by stream and upstream.
func (h *sampler) troubles(all []streamStatus, now time.Time) []trouble {
	h.mu.Lock()
	defer h.mu.Unlock()
	return judge(h.streams, all, now)
}

// add adds a sample. The caller holds the lock.
func (h *sampler) add(now time.Time, views []*streamView) {
	elapsed := max(now.Sub(h.sampled), time.Second)
	h.sampled = now
	if len(views) == 0 || h.streams == nil {
		h.streams = make(map[historyKey]*oneHistory)
		h.joined, h.pending, h.minute, h.taken, h.upstreams = 1, 0, 0, 0, 0
		h.changed++
	}
	present := make(map[historyKey]bool, len(views))
	for _, v := range views {
		present[historyKey{v.Name, v.Removed}] = true
	}
	for key, s := range h.streams {
		if !present[key] {
			delete(h.streams, key)
			h.forget(s, nil)
		}
	}
	for len(views) > historyStreams*h.joined && h.joined < maxJoined {
		h.join()
	}
	h.pending++
	h.minute++
	whole, minute := h.pending >= h.joined, h.minute >= minuteSteps
	if whole {
		h.pending = 0
		h.taken++
		h.end = now.UnixMilli()
	}
	if minute {
		h.minute = 0
	}
	plotted := 0
	for _, s := range h.streams {
		if s.points != nil {
			plotted++
		}
	}
	for _, v := range views {
		key := historyKey{v.Name, v.Removed}
		s := h.streams[key]
		fresh := s == nil
		if fresh {
			s = &oneHistory{upstreams: make(map[string]*upstreamHistory), pending: noPoint()}
			if v.Removed {
				s.last = historyCountsOf(v) // its earlier counts are not of this time
			}
			s.marks = append(s.marks, s.last.recentCounts)
			h.streams[key] = s
		}
		if s.points == nil && plotted < historyStreams*h.joined {
			s.points = make([]historyPoint, 0, historyPoints/h.joined)
			plotted++
		}
		in, inBytes := h.addUpstreams(s, v, fresh && !v.Removed, minute)
		s.add(v, in, inBytes, elapsed)
		if whole {
			s.finish()
		}
		if minute {
			s.marks = pushed(s.marks, s.last.recentCounts, recentMinutes+1)
		}
	}
}

// addUpstreams adds a sample of a stream's upstreams and returns the events and
// bytes since the last one. Counts of an upstream from before it is seen for
// the first time are left out, unless all of it is new.
func (h *sampler) addUpstreams(s *oneHistory, v *streamView, fresh, minute bool) (events, bytes uint64) {
	for _, us := range v.Upstreams {
		u := s.upstreams[us.Name]
		if u == nil {
			u = new(upstreamHistory)
			s.upstreams[us.Name] = u
			if !fresh {
				u.count(us)
			}
		}
		if u.minutes == nil && h.upstreams < historyUpstreams {
			u.minutes = append(make([]upstreamMinute, 0, historyMinutes), upstreamMinute{})
			h.upstreams++
		}
		n := grown(u.events, us.Events)
		events += n
		bytes += grown(u.bytes, us.Bytes)
		if u.minutes != nil {
			m := &u.minutes[len(u.minutes)-1]
			m.events += clamp(n)
			m.skipped += clamp(grown(u.skipped, us.Skipped))
			m.ends += clamp(grown(u.ends, us.Disconnects))
			if n > 0 {
				u.pause = u.usualPause()
			}
			if minute {
				u.minutes = pushed(u.minutes, upstreamMinute{}, historyMinutes)
			}
		}
		u.count(us)
	}
	h.forget(s, v)
	return events, bytes
}

// forget drops the upstreams of a stream that it no longer has; all of them
// with a nil view.
func (h *sampler) forget(s *oneHistory, v *streamView) {
	for name, u := range s.upstreams {
		if v == nil || v.find(name) == nil {
			if u.minutes != nil {
				h.upstreams--
			}
			delete(s.upstreams, name)
		}
	}
}

func (u *upstreamHistory) count(us *upstreamStatus) {
	u.events, u.bytes, u.skipped, u.ends = us.Events, us.Bytes, us.Skipped, us.Disconnects
}

// usualPause returns the longest pause between the events of the last hour, up
// to a whole minute. Below minHabit minutes with events nothing is usual yet.
func (u *upstreamHistory) usualPause() time.Duration {
	longest, run, seen := 0, 0, 0
	for _, m := range u.minutes {
		if m.events == 0 {
			run++
			continue
		}
		if seen > 0 {
			longest = max(longest, run)
		}
		run = 0
		seen++
	}
	if seen < minHabit {
		return 0
	}
	return time.Duration(longest+1) * time.Minute
}

// recent returns what was skipped and how many connections ended in the last
// recentMinutes.
func (u *upstreamHistory) recent() (skipped, ends uint64) {
	for _, m := range u.minutes[max(0, len(u.minutes)-recentMinutes):] {
		skipped += uint64(m.skipped)
		ends += uint64(m.ends)
	}
	return skipped, ends
}

// add adds a sample to the point that is pending.
func (s *oneHistory) add(v *streamView, in, inBytes uint64, elapsed time.Duration) {
	next := historyCountsOf(v)
	rate := func(n uint64) float32 { return float32(float64(n) / elapsed.Seconds()) }
	change := next.since(s.last.recentCounts)
	p := historyPoint{
		colIn: rate(in), colInBytes: rate(inBytes),
		colOut: rate(grown(s.last.out, next.out)), colOutBytes: rate(grown(s.last.outBytes, next.outBytes)),
		colLag: float32(v.Clients.MaxLag), colClients: float32(v.Clients.Connected),
		colExpired: float32(change.expired), colUnknown: float32(change.unknown), colRefused: float32(change.refused()),
	}
	if next.head > 0 { // what the upstreams send is received by another node
		p[colIn], p[colInBytes] = 0, float32(math.NaN())
		if s.last.head > 0 {
			p[colIn] = rate(grown(s.last.head, next.head))
		}
	}
	p[colP50], p[colP99] = next.delay.since(s.last.delay).quantiles()
	s.pending.join(p)
	s.last = next
}

// finish makes what is pending a point.
func (s *oneHistory) finish() {
	if s.points != nil {
		s.points = pushed(s.points, s.pending, cap(s.points))
	}
	s.pending = noPoint()
}

// join makes each two points of all streams one. The caller holds the lock.
func (h *sampler) join() {
	h.joined *= 2
	h.changed++
	h.pending = 0
	h.taken = 0
	for _, s := range h.streams {
		if s.points == nil {
			continue
		}
		shorter := make([]historyPoint, 0, historyPoints/h.joined)
		for i := len(s.points) % 2; i < len(s.points); i += 2 { // in pairs from the newest on
			s.points[i].join(s.points[i+1])
			shorter = append(shorter, s.points[i])
		}
		s.points, s.pending = shorter, noPoint()
		h.taken = max(h.taken, uint64(len(shorter)))
	}
}

// historyRead is how far a viewer has read.
type historyRead struct{ taken, changed uint64 }

// read puts into the streams what a viewer has not got yet, and notes that.
func (h *sampler) read(streams []shownStream, at *historyRead) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := historyRead{h.taken, h.changed}
	whole := at.changed != now.changed || at.taken > now.taken
	if !whole && *at == now {
		return
	}
	for i := range streams {
		s := h.streams[historyKey{streams[i].Name, streams[i].Removed}]
		if s == nil || s.points == nil {
			continue
		}
		points := s.points
		if more := now.taken - at.taken; !whole && more < uint64(len(points)) {
			points = points[len(points)-int(more):] //nolint:gosec // less than a length
		}
		// the first points of a stream are all of it, too
		streams[i].History = s.shown(points, whole || len(points) == len(s.points))
		streams[i].History.Step, streams[i].History.End = int64(h.joined)*historyStep.Milliseconds(), h.end
	}
	*at = now
}

func (s *oneHistory) shown(points []historyPoint, whole bool) *shownHistory {
	shown := &shownHistory{Whole: whole, Columns: make(map[string]historyColumn, historyColumns), Upstreams: make(map[string][]uint32)}
	for i, name := range historyNames {
		column := make(historyColumn, len(points))
		for k := range points {
			column[k] = points[k][i]
		}
		shown.Columns[name] = column
	}
	for name, u := range s.upstreams {
		if u.minutes == nil {
			continue
		}
		events := make([]uint32, len(u.minutes))
		for k, m := range u.minutes {
			events[k] = m.events
		}
		shown.Upstreams[name] = events
	}
	return shown
}
