package ssefanin

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// The status page's verdict: what is wrong with a stream now, or was in the
// last recentMinutes, and what to do about it.
const (
	// An upstream that is up is silent when it has sent nothing for
	// silenceFactor times the longest pause that is usual for it (see
	// usualPause), and for leastSilence in any case; one that has never sent
	// anything, after firstSilence.
	silenceFactor = 3
	leastSilence  = 2 * time.Minute
	firstSilence  = time.Minute
	minHabit      = 3 // minutes with events

	// An upstream is unstable when so many connections to it have ended in the
	// last recentMinutes.
	unstableEnds = 5

	// One that was lost is still unstable for flapTime, rather than down.
	flapTime = time.Minute

	// A client lags when it has been lagTime behind at each of the last
	// lagSamples points, so not while it is being replayed, or when what it has
	// not got yet is about to be evicted: half of what is retained.
	lagTime    = 10 * time.Second
	leastLag   = 100
	lagSamples = 3

	// Delivery is slow when the 99th percentile was above slowDelivery at each
	// of the last lagSamples points that have deliveries.
	slowDelivery = time.Second
)

// level is how bad a trouble is.
type level string

const (
	levelBad  level = "bad"  // events or clients are being lost, or nothing comes
	levelWarn level = "warn" // somebody should look
)

// trouble is one thing that is wrong.
type trouble struct {
	Stream   string   `json:"stream"`
	Upstream string   `json:"upstream"` // empty if it is about clients
	Kind     string   `json:"kind"`
	Level    level    `json:"level"`
	What     string   `json:"what"`
	Remedy   string   `json:"remedy"`
	Commands []string `json:"commands"` // for a shell
}

// judge returns what is wrong, the worst first, then by stream and upstream.
func judge(streams map[historyKey]*oneHistory, all []streamStatus, now time.Time) []trouble {
	found := []trouble{}
	for i := range all {
		st := &all[i]
		if st.Removed {
			continue // its clients are leaving, as they were asked to
		}
		s := streams[historyKey{st.Name, false}]
		if s == nil {
			s = new(oneHistory) // it came after the last sample
		}
		for _, us := range st.Upstreams {
			if t, ok := s.upstreamTrouble(st, us, now); ok {
				t.Stream, t.Upstream = st.Name, us.Name
				found = append(found, t)
			}
			if t, ok := replicaTrouble(st, us, now); ok {
				t.Stream, t.Upstream = st.Name, us.Name
				found = append(found, t)
			}
			if t, ok := s.skipTrouble(us); ok {
				t.Stream, t.Upstream = st.Name, us.Name
				found = append(found, t)
			}
		}
		for _, t := range logTroubles(st.Name, st.Log.Store, now) {
			t.Stream = st.Name
			found = append(found, t)
		}
		for _, t := range s.clientTroubles(st) {
			t.Stream = st.Name
			found = append(found, t)
		}
	}
	for i := range found {
		if found[i].Commands == nil {
			found[i].Commands = []string{}
		}
	}
	sort.SliceStable(found, func(i, j int) bool {
		a, b := &found[i], &found[j]
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), naturally(a.Stream, b.Stream), naturally(a.Upstream, b.Upstream)) < 0
	})
	return found
}

// troubleRanks has the worst first: what keeps events from coming, then what
// loses them or clients, then what is only to be looked at.
var troubleRanks = []string{
	"log", "unwritten", "down", "finished", "gaps", "skipped", "refused", "lag", "behind", "slow", "silent", "unstable", "replica",
	"connecting", "versions",
}

func (t *trouble) rank() int {
	rank := slices.Index(troubleRanks, t.Kind)
	if t.Level != levelBad {
		rank += len(troubleRanks)
	}
	return rank
}

// upstreamTrouble is what keeps the events of an upstream from coming.
func (s *oneHistory) upstreamTrouble(st *streamStatus, us *upstreamStatus, now time.Time) (trouble, bool) {
	state := now.Sub(time.UnixMilli(us.Since))
	if us.State == phaseUp || ((us.State == phaseDown || us.State == phaseConnecting) && state < flapTime) {
		if t, ok := s.unstable(us); ok {
			return t, true
		}
	}
	switch us.State {
	case phaseDown:
		t := trouble{Kind: "down", Level: levelBad, What: "Down for " + spanText(state), Remedy: us.remedy()}
		if cause := us.cause(); cause != "" {
			t.What += ": " + cause
		}
		if wait := time.UnixMilli(us.RetryAt).Sub(now); us.RetryAt != 0 && wait > 0 {
			t.What += ". Next try in " + spanText(wait)
		}
		t.Commands = append(askCommand(us), reconnectCommand(st.Name, us.Name)...)
		return t, true
	case phaseFinished:
		return trouble{
			Kind: "finished", Level: levelWarn,
			What:     "Answered 204 " + spanText(state) + " ago: nothing more is to come, and it is not asked again",
			Remedy:   "If that is right, remove it from the configuration. Else have it connected again.",
			Commands: reconnectCommand(st.Name, us.Name),
		}, true
	case phaseConnecting:
		if state < connectingGrace {
			return trouble{}, false // as after any start
		}
		return trouble{
			Kind: "connecting", Level: levelWarn, What: "Connecting for " + spanText(state),
			Remedy:   "The server has taken the request and does not answer. Ask it yourself.",
			Commands: askCommand(us),
		}, true
	case phaseUp:
		return s.silence(st, us, now)
	default: // idle: nobody wants it
		return trouble{}, false
	}
}

// connectingGrace is how long connecting is no trouble.
const connectingGrace = 3 * time.Second

// unstable is the trouble with an upstream that comes and goes: while it does,
// it is not news each time that it is down.
func (s *oneHistory) unstable(us *upstreamStatus) (trouble, bool) {
	u := s.upstreams[us.Name]
	if u == nil {
		return trouble{}, false
	}
	_, ends := u.recent()
	if ends < unstableEnds {
		return trouble{}, false
	}
	t := trouble{
		Kind: "unstable", Level: levelWarn,
		What:     fmt.Sprintf("%s ended in the last %d minutes", plural(ends, "connection"), recentMinutes),
		Remedy:   "On a schedule it is the timeout of a proxy in between: have the upstream send comments, or raise that timeout. If idle_timeout is set, it may be shorter than the upstream's pauses.",
		Commands: askCommand(us),
	}
	if cause := us.cause(); cause != "" {
		t.What += ", the last one because: " + cause
	}
	return t, true
}

// replicaTrouble is the trouble with some of the servers of an upstream that is
// connected: all of a mirror are to be, else the first one is.
func replicaTrouble(st *streamStatus, us *upstreamStatus, now time.Time) (trouble, bool) {
	all := us.replicas
	if us.State != phaseUp || len(all) < 2 {
		return trouble{}, false
	}
	up := now.Sub(time.UnixMilli(us.Since))
	t := trouble{Kind: "replica", Level: levelWarn}
	if us.Policy != policyMirror {
		// An earlier one is not tried again while this one works, so what is
		// known of it becomes old.
		at := slices.IndexFunc(all, func(rep *replicaStatus) bool { return rep.up })
		if at < 1 || all[0].failed == "" || up > recentMinutes*time.Minute {
			return trouble{}, false
		}
		t.What = fmt.Sprintf("In use is %s, number %d of %d, for %s. The first one, %s, failed: %s", all[at].url, at+1, len(all), spanText(up), all[0].url, all[0].failed)
		t.Remedy = "Events go on. Look at the first server. It is tried again when this one fails; to go back to it when it is repaired, reconnect."
		t.Commands = append(askURL(us, all[0].url), reconnectCommand(st.Name, us.Name)...)
		return t, true
	}
	n := 0
	var missing []string
	for _, rep := range all {
		switch {
		case rep.up:
			n++
		case rep.failed != "":
			missing = append(missing, rep.url+": "+rep.failed)
		case up >= connectingGrace:
			missing = append(missing, rep.url+": it does not answer")
		}
	}
	if len(missing) == 0 {
		return trouble{}, false
	}
	t.What = fmt.Sprintf("%d of %d servers %s connected. Not %s", n, len(all), isAre(n), strings.Join(missing, ", nor "))
	t.Remedy = "Events go on as long as one is connected; if that fails, too, they stop. Look at the server that is not. It is tried again by itself."
	down := slices.IndexFunc(all, func(rep *replicaStatus) bool { return !rep.up })
	t.Commands = append(askURL(us, all[down].url), reconnectCommand(st.Name, us.Name)...)
	return t, true
}

// silence is the trouble with an upstream that is connected.
func (s *oneHistory) silence(st *streamStatus, us *upstreamStatus, now time.Time) (trouble, bool) {
	u := s.upstreams[us.Name]
	up := now.Sub(time.UnixMilli(us.Since))
	t := trouble{Kind: "silent", Level: levelWarn, Commands: append(askCommand(us), reconnectCommand(st.Name, us.Name)...)}
	const remedy = "Ask the server itself whether it has events. If it has, reconnect the upstream, and set idle_timeout so that it happens by itself."
	if us.LastEvent == 0 {
		if st.Keyed || up < firstSilence {
			return trouble{}, false // of a key it is no news
		}
		t.What = "Up for " + spanText(up) + ", and has sent nothing yet"
		t.Remedy = "If it seldom has anything to send, all is well. " + remedy
		return t, true
	}
	if u == nil || u.pause == 0 {
		return trouble{}, false // nothing is known of its habits
	}
	quiet := min(now.Sub(time.UnixMilli(us.LastEvent)), up)
	if quiet < max(leastSilence, silenceFactor*u.pause) {
		return trouble{}, false
	}
	t.What = fmt.Sprintf("Up, but silent for %s. In the hour before, its longest pause was less than %s", spanText(quiet), spanText(u.pause))
	t.Remedy = remedy
	return t, true
}

func (s *oneHistory) skipTrouble(us *upstreamStatus) (trouble, bool) {
	u := s.upstreams[us.Name]
	if u == nil {
		return trouble{}, false
	}
	skipped, _ := u.recent()
	skipped += grown(u.skipped, us.Skipped)
	if skipped == 0 {
		return trouble{}, false
	}
	return trouble{
		Kind: "skipped", Level: levelBad,
		What:   fmt.Sprintf("%s skipped in the last %d minutes, larger than max_event_size: lost for every client", was(skipped, "event"), recentMinutes),
		Remedy: "Raise max_event_size, and size in retain if that is smaller, or have the upstream send less at once.",
	}, true
}

// clientTroubles are what keeps clients from getting events.
func (s *oneHistory) clientTroubles(st *streamStatus) []trouble {
	var found []trouble
	var before recentCounts
	if len(s.marks) > 0 {
		before = s.marks[0]
	}
	n := recentCountsOf(st).since(before)
	if n.expired > 0 {
		t := trouble{
			Kind: "gaps", Level: levelBad,
			What:   fmt.Sprintf("%s in the last %d minutes: clients came back for events that are no longer retained, or read so slowly that they were overtaken", plural(n.expired, "gap"), recentMinutes),
			Remedy: "Raise the bound of retain that is reached. If the lag is or was high, too, clients read too slowly.",
		}
		if st.Log.Oldest > 0 {
			t.What += fmt.Sprintf(" (%s, of %s)", plural(st.Log.Events, "event"), spanText(time.Duration(st.Log.Newest-st.Log.Oldest)*time.Millisecond))
		}
		found = append(found, t)
	}
	if n.unknown > 0 {
		found = append(found, trouble{
			Kind: "gaps", Level: levelWarn,
			What:   fmt.Sprintf("%s in the last %d minutes: clients came back with positions that this server does not know", plural(n.unknown, "gap"), recentMinutes),
			Remedy: "After a restart of Caddy that is normal, and over by itself. Else clients are sent to different servers: have the load balancer keep each on one.",
		})
	}
	if n.full > 0 {
		t := trouble{
			Kind: "refused", Level: levelBad,
			What:   fmt.Sprintf("%s refused in the last %d minutes: max_clients was reached", was(n.full, "client"), recentMinutes),
			Remedy: "Raise max_clients, or spread the clients over more servers. A client that tries again counts again.",
		}
		if st.Clients.Max > 0 {
			t.What += fmt.Sprintf(" (now %d of %d)", st.Clients.Connected, st.Clients.Max)
		}
		found = append(found, t)
	}
	if n.streams > 0 {
		t := trouble{
			Kind: "refused", Level: levelBad,
			What:   fmt.Sprintf("%s refused in the last %d minutes: max_streams was reached", was(n.streams, "client"), recentMinutes),
			Remedy: "Raise max_streams if that many keys are real. Else somebody asks for made-up ones: authenticate before this handler.",
		}
		if st.MaxKeys > 0 {
			t.What += fmt.Sprintf(" (now %d of %d keys)", st.Keys, st.MaxKeys)
		}
		found = append(found, t)
	}
	if n.only > 0 {
		found = append(found, trouble{
			Kind: "refused", Level: levelWarn,
			What:   fmt.Sprintf("%s refused in the last %d minutes: a placeholder of only was empty for them", was(n.only, "client"), recentMinutes),
			Remedy: "Caddy's log names the placeholder. See that these clients are logged in, and that what authenticates them stands before sse_fanin.",
		})
	}
	if n.other > 0 {
		found = append(found, trouble{
			Kind: "refused", Level: levelWarn,
			What:   fmt.Sprintf("%s refused in the last %d minutes for what they asked for", was(n.other, "client"), recentMinutes),
			Remedy: "The reasons are in Caddy's log. Correct the address that these clients use.",
		})
	}
	if t, ok := s.lag(st); ok {
		found = append(found, t)
	}
	if n.timeouts > 0 {
		found = append(found, trouble{
			Kind: "slow", Level: levelWarn,
			What:   fmt.Sprintf("%s disconnected in the last %d minutes: a write took longer than write_timeout", was(n.timeouts, "client"), recentMinutes),
			Remedy: "They, or their networks, do not read, as a frozen tab; they come back and are resumed. If they are many, raise write_timeout, or send less to each with filters.",
		})
	}
	if n.overtaken > 0 {
		found = append(found, trouble{
			Kind: "slow", Level: levelWarn,
			What:   fmt.Sprintf("%s disconnected in the last %d minutes: overtaken, with slow disconnect", was(n.overtaken, "client"), recentMinutes),
			Remedy: "They read more slowly than events come, until what they should get next was no longer retained. Raise retain, or send less to each with filters.",
		})
	}
	if t, ok := s.slow(); ok {
		found = append(found, t)
	}
	return found
}

func (s *oneHistory) lag(st *streamStatus) (trouble, bool) {
	n := len(s.points)
	if n < lagSamples {
		return trouble{}, false
	}
	least, rate := float64(st.Clients.MaxLag), 0.0
	for _, p := range s.points[n-lagSamples:] {
		least = min(least, float64(p[colLag]))
		rate = max(rate, float64(p[colIn]))
	}
	const remedy = "One client or its network is slow; nobody waits for it. It is disconnected when a write takes longer than write_timeout."
	what := "The slowest client is " + plural(uint64(least), "event") + " behind"
	if held := st.Log.Events; held > 0 && !st.Keyed && least >= leastLag && least > float64(held)/2 {
		return trouble{
			Kind: "lag", Level: levelBad,
			What:   what + ", of " + plural(held, "event") + " that are retained: it is about to miss some",
			Remedy: remedy + " Raise retain if it is to catch up.",
		}, true
	}
	if least < max(leastLag, rate*lagTime.Seconds()) {
		return trouble{}, false
	}
	if rate > 0 {
		what += ", which is " + spanText(time.Duration(least/rate*float64(time.Second))) + " of the stream"
	}
	return trouble{Kind: "lag", Level: levelWarn, What: what, Remedy: remedy}, true
}

func (s *oneHistory) slow() (trouble, bool) {
	least, seen := float32(0), 0
	// of the last minute only: older points say nothing of now
	for i := len(s.points) - 1; i >= max(0, len(s.points)-minuteSteps) && seen < lagSamples; i-- {
		if p99 := s.points[i][colP99]; p99 == p99 {
			if seen == 0 || p99 < least {
				least = p99
			}
			seen++
		}
	}
	if seen < lagSamples || time.Duration(least)*time.Millisecond <= slowDelivery {
		return trouble{}, false
	}
	return trouble{
		Kind: "slow", Level: levelWarn,
		What:   "Delivery is slow: one write in a hundred is more than " + spanText(time.Duration(least)*time.Millisecond) + " late",
		Remedy: "If the lag is high, too, single clients are slow. Else the machine is short of CPU or network.",
	}, true
}
