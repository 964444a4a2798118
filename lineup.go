package ssefanin

import "slices"

// lineup finds where the events that a connection begins with lie among the
// ones seen before it. It is the whole of the rule, but for time (leading) and
// where the events go (source).
//
// The run of the connection's events so far may lie in several stretches of the
// events seen. It is known for a repeat when it reaches an end, the newest
// event seen, in a stretch that fits:
//
//   - it is the only one: "ring" after "ring x ring" may be the first ring
//     again, the second, or a third;
//   - it does not merely repeat itself: ten equal ticks after ten equal ticks
//     may be ten more.
//
// While a run lies in no stretch that can still come to that, it is new. An
// event whose own id occurred once is known by that alone: at the beginning, or
// from the oldest event seen on, where the connection began with older ones.
//
// Not safe for concurrent use.
type lineup struct {
	seen     []print // oldest first
	ends     []lineEnd
	ids      map[uint32]int // index in seen by own id; idUsed: not to be known by
	runs     []stretch      // where the run lies
	broken   stretch        // where it lay before it broke off, if that was one place; else empty
	started  bool           // there is a run
	lining   bool           // false: only ids are recognised
	older    int            // new events that the connection began with, while it may come to the oldest seen
	oldestAt int            // the earliest place of a run that fits an end
}

// idUsed marks ids that occurred more than once, or were met again already.
const idUsed = -1

// stretch is a place of the run among the events seen.
type stretch struct {
	first, next int32 // of its events and after it
	sure        bool  // it was known: by an id, or when it reached an end
}

// lineEnd is an event that a replay may end with.
type lineEnd struct {
	at   int    // index after it
	fits []bool // by index: the stretch from there to the end fits
}

// verdict is the class of an event in the light of the ones before it.
type verdict int

const (
	verdictNew      verdict = iota // it and the held events; the lineup is over
	verdictFollows                 // it may be a repeat, and is to be held
	verdictReaches                 // a repeat, as is all that is held
	verdictKnown                   // a repeat, by its id
	verdictKnownOff                // a repeat, by its id; the held events are new
)

// newLineup takes the prints of the events seen before, oldest first, and how
// many of them a replay may end after, rising. It keeps seen.
func newLineup(seen []print, ends ...int) *lineup {
	l := &lineup{seen: seen, lining: true, oldestAt: len(seen)}
	for _, at := range ends {
		if at <= 0 || at > len(seen) || (len(l.ends) > 0 && at <= l.ends[len(l.ends)-1].at) {
			continue
		}
		end := lineEnd{at: at, fits: fittingStretches(seen, at)}
		if first := slices.Index(end.fits, true); first >= 0 {
			l.oldestAt = min(l.oldestAt, first)
		}
		l.ends = append(l.ends, end)
	}
	return l
}

// fittingStretches reports for each index whether the stretch from there to
// end occurs once, and does not merely repeat itself.
//
// It reads backwards, so that stretches with the same end are prefixes of one
// another. border[k-1] is the length of the longest prefix of the k latest that
// also ends them (Knuth, Morris, Pratt); it takes time in proportion to seen.
func fittingStretches(seen []print, end int) []bool {
	border := make([]int32, end)
	back := func(i int) print { return seen[end-1-i] }
	for i, k := 1, int32(0); i < end; i++ {
		for k > 0 && back(i) != back(int(k)) {
			k = border[k-1]
		}
		if back(i) == back(int(k)) {
			k++
		}
		border[i] = k
	}
	// again is the length of the longest stretch up to end that also lies
	// elsewhere; then shorter ones do, and longer ones do not.
	again, k := int32(0), int32(0)
	for i, p := range slices.Backward(seen) {
		for k > 0 && (int(k) == end || p != back(int(k))) {
			k = border[k-1]
		}
		if p == back(int(k)) {
			k++
		}
		if i+int(k) == end && k > 0 { // it is the stretch itself
			again = max(again, border[k-1])
		} else {
			again = max(again, k)
		}
	}
	fits := make([]bool, end)
	for i := range fits {
		length := int32(end - i)
		fits[i] = length > again && 2*border[length-1] < length
	}
	return fits
}

// next judges the next event of the connection. Where it is a repeat, through
// is how many of the events seen before there are up to its first time. After
// verdictNew the lineup must not be asked again, unless by way of again or while
// it reachesBack.
func (l *lineup) next(p print) (v verdict, through int) {
	if l.older > 0 {
		return l.nextOlder(p)
	}
	if at, ok := l.known(p); ok {
		return l.nextKnown(at), at + 1
	}
	if !l.lining {
		return verdictNew, 0
	}
	begins := !l.started
	l.extend(p)
	for _, run := range l.runs {
		if l.reached(run) {
			run.sure = true
			l.runs = append(l.runs[:0], run)
			return verdictReaches, int(run.next)
		}
	}
	if len(l.runs) > 0 {
		return verdictFollows, 0
	}
	if _, hasID := p.id(); begins && hasID && l.tellsOldest() {
		l.older = 1
	}
	return verdictNew, 0
}

// reachesBack reports whether the connection may have begun before what was seen:
// an upstream that is asked to resume may send more than it had sent the first
// time, events from before it and then all that was seen. After verdictNew the
// lineup may be asked again as long as that is so.
func (l *lineup) reachesBack() bool { return l.older > 0 }

// tellsOldest reports whether the oldest event seen can be known by its id.
func (l *lineup) tellsOldest() bool {
	if len(l.seen) == 0 {
		return false
	}
	id, ok := l.seen[0].id()
	return ok && l.ids[id] != idUsed // known has made ids of an event with an id
}

// nextOlder judges an event that follows others from before those seen.
func (l *lineup) nextOlder(p print) (v verdict, through int) {
	if l.lining && p == l.seen[0] {
		if at, ok := l.known(p); ok {
			l.older = 0
			return l.nextKnown(at), at + 1
		}
	}
	if l.older++; !l.lining || l.older > recentEvents {
		l.older = 0
	}
	return verdictNew, 0
}

// known returns the index of the event's first time if its own id identifies
// it.
func (l *lineup) known(p print) (at int, ok bool) {
	id, ok := p.id()
	if !ok {
		return 0, false
	}
	if l.ids == nil {
		l.ids = make(map[uint32]int)
		for i, before := range l.seen {
			if id, ok := before.id(); ok {
				if _, twice := l.ids[id]; twice {
					i = idUsed
				}
				l.ids[id] = i
			}
		}
	}
	at, ok = l.ids[id]
	if !ok || at == idUsed || l.seen[at] != p {
		return 0, false
	}
	l.ids[id] = idUsed
	return at, true
}

// nextKnown goes on from an event that its id has identified.
func (l *lineup) nextKnown(at int) verdict {
	v, first := verdictKnownOff, int32(at)
	if i := slices.IndexFunc(l.runs, func(run stretch) bool { return int(run.next) == at }); i >= 0 {
		v, first = verdictKnown, l.runs[i].first
	}
	if !l.lining {
		return v
	}
	l.started = true
	run := stretch{first: first, next: int32(at) + 1, sure: true}
	l.runs = append(l.runs[:0], run)
	if v == verdictKnown && l.reached(run) {
		return verdictReaches
	}
	return v
}

// extend goes on with the stretches that the event follows; the first event
// begins them.
func (l *lineup) extend(p print) {
	if !l.started {
		l.started = true
		for i := l.oldestAt; i < len(l.seen); i++ {
			if run := (stretch{first: int32(i), next: int32(i) + 1}); l.seen[i] == p && l.promises(run) {
				l.runs = append(l.runs, run)
			}
		}
		return
	}
	l.broken = stretch{}
	if len(l.runs) == 1 {
		l.broken = l.runs[0]
	}
	l.runs = slices.DeleteFunc(l.runs, func(run stretch) bool {
		return int(run.next) == len(l.seen) || l.seen[run.next] != p
	})
	for i := range l.runs {
		l.runs[i].next++
	}
	l.runs = slices.DeleteFunc(l.runs, func(run stretch) bool { return !l.promises(run) })
}

// promises reports whether the run may reach an end in this stretch.
func (l *lineup) promises(run stretch) bool {
	return slices.ContainsFunc(l.ends, func(end lineEnd) bool { return end.accepts(run) && int(run.next) <= end.at })
}

// reached reports whether the run has reached an end in this stretch.
func (l *lineup) reached(run stretch) bool {
	return slices.ContainsFunc(l.ends, func(end lineEnd) bool { return end.accepts(run) && int(run.next) == end.at })
}

func (e *lineEnd) accepts(run stretch) bool {
	return run.sure || (int(run.first) < e.at && e.fits[run.first])
}

// again has the next event begin another run, after verdictNew.
func (l *lineup) again() { l.started, l.runs, l.broken, l.older = false, nil, stretch{}, 0 }

// ambiguous reports whether the run lies in several stretches.
func (l *lineup) ambiguous() bool { return len(l.runs) > 1 }

// close ends lining up; from now on only ids are recognised.
func (l *lineup) close() {
	l.lining, l.runs, l.ends = false, nil, nil
}
