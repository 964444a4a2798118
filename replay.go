package ssefanin

const (
	// recentEvents is how many events of an upstream are remembered, to
	// recognise repeated ones. Origins that keep a history for resumption keep
	// 1,000 to 10,000 events.
	recentEvents = 16 << 10

	// recentSlack is how many more are kept, so that the older ones are moved
	// away now and then only. With 8 bytes an event: at most 160 KiB an
	// upstream.
	recentSlack = recentEvents / 4
)

// recents are the events of an upstream that were delivered last, over
// connections and replicas. Not safe for concurrent use.
type recents struct {
	prints []print // oldest first

	// undecided is how many of the newest were delivered although they may have
	// been sent again: a connection that broke during a replay leaves such. The
	// upstream's next replay may end before them, and after them.
	undecided int
	repeats   bool // it has ended before them: they were repeats
}

// add remembers an event that was new.
func (r *recents) add(p print) {
	if r.repeats {
		r.prints = r.prints[:len(r.prints)-r.undecided]
	}
	r.undecided, r.repeats = 0, false
	r.push(p)
}

// addUndecided remembers an event that was held, and is delivered because
// nothing shows that it is a repeat.
func (r *recents) addUndecided(p print) {
	if r.repeats {
		r.prints = r.prints[:len(r.prints)-r.undecided]
		r.undecided, r.repeats = 0, false
	}
	r.push(p)
	r.undecided = min(r.undecided+1, recentEvents)
}

// push appends an event. Beyond the slack, the oldest are dropped in one go.
func (r *recents) push(p print) {
	if len(r.prints) == recentEvents+recentSlack {
		r.prints = r.prints[:copy(r.prints, r.prints[recentSlack:])]
	}
	r.prints = append(r.prints, p)
}

// reached notes that a replay has come to an end of the events that lineup was
// given. last: it was the last one.
func (r *recents) reached(last bool) {
	if last {
		r.undecided = 0
	}
	r.repeats = r.undecided > 0
}

// lineup compares a connection's events with the remembered ones.
func (r *recents) lineup() *lineup {
	seen := r.prints[max(len(r.prints)-recentEvents, 0):]
	return newLineup(append([]print(nil), seen...), len(seen)-r.undecided, len(seen))
}
