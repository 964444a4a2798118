package ssefanin

import (
	"strings"
	"time"
)

// This file is about the state of a source: that of its connections, and who is
// notified of it.

// sourceState is the state of a source or a runner; for people, logs and source
// events.
type sourceState struct {
	phase   phase
	since   time.Time
	reason  reason // why it is not up
	text    string // the same with details
	retryAt time.Time
}

// phase is the state of a connection.
type phase string

const (
	phaseIdle       phase = "idle"       // not wanted: no client, or no configuration
	phaseConnecting phase = "connecting" // before the answer
	phaseUp         phase = "up"
	phaseDown       phase = "down"     // waiting to try again
	phaseFinished   phase = "finished" // answered 204: not dialled again until a reload
)

// rank returns which state of several is the one to show: the highest.
func (p phase) rank() int {
	switch p {
	case phaseUp:
		return 4
	case phaseConnecting:
		return 3
	case phaseDown:
		return 2
	case phaseFinished:
		return 1
	default: // idle
		return 0
	}
}

// status returns the state of the source: that of its best runner.
func (s *source) status() sourceState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// stateChanged is called by a runner whose state has changed. The streams are
// notified when the source has gone up or down.
func (s *source) stateChanged() {
	s.mu.Lock()
	was := s.state
	s.state = s.bestStateLocked()
	changed := s.state.phase != was.phase && (s.state.phase == phaseUp || was.phase == phaseUp)
	s.announceLocked()
	s.mu.Unlock()
	for _, use := range s.intake.list() {
		use.to.stateChanged(changed)
	}
}

// announceLocked announces to each stream that the source has gone up or down,
// or has been when the stream joined it. A source that is not wanted is not
// down. A stream that no configuration has any more, whose clients are still
// there, is not notified.
func (s *source) announceLocked() {
	now, text := phaseUp, ""
	switch st := s.state; {
	case st.phase == phaseUp:
	case (st.phase == phaseDown || st.phase == phaseFinished) && st.reason != reasonClosed:
		now = phaseDown
		if detail, ok := strings.CutPrefix(st.text, string(st.reason)+": "); ok {
			text = detail
		}
	default:
		return
	}
	for _, use := range s.intake.list() {
		if len(use.envs) > 0 && use.announced != now {
			use.announced = now
			use.to.announce(now == phaseUp, s.state.reason, text)
		}
	}
}

// bestStateLocked returns the state of the best runner; its since is when the
// source last went up or down.
func (s *source) bestStateLocked() sourceState {
	best := sourceState{phase: phaseIdle, since: s.state.since}
	for _, r := range s.runners {
		if st := r.status(); st.phase.rank() > best.phase.rank() {
			best = st
		}
	}
	if (best.phase == phaseUp) == (s.state.phase == phaseUp) {
		best.since = s.state.since // one replica is as good as the other
	} else {
		best.since = time.Now()
	}
	return best
}

// announcedTo returns what a subscription's event handlers were notified of last.
func (s *source) announcedTo(use *subscription) phase {
	s.mu.Lock()
	defer s.mu.Unlock()
	return use.announced
}

// setAnnounced has the event handlers of a subscription to a source that was not
// dialled yet know what they were notified of by the one before.
func (s *source) setAnnounced(use *subscription, was phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	use.announced = was
}
