package natslog

import (
	"errors"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// unsentMost is for how long a follower may be sent nothing while the stream has
// more. Its consumer sends what the server has that it is on, and one that was cut
// off may be behind the others for 2 minutes (nats-server, pull request 7846).
const unsentMost = 3 * time.Second

// watch asks for the state of the stream, so that Status does not have to. Open
// starts it, Close ends it by its context.
func (s *Store) watch() {
	const (
		tick  = 500 * time.Millisecond
		idle  = 4  // ticks between looks while nothing comes
		audit = 10 // ticks between looks at what is behind what is known
	)
	head, since := uint64(0), time.Now() // since then, there is more than head
	for n := 0; s.pause(tick); n++ {
		s.mu.Lock()
		moved := s.log.head > s.info.last
		if s.log.head != head || head >= s.info.last {
			head, since = s.log.head, time.Now()
		}
		s.settleLocked()
		s.mu.Unlock()
		if time.Since(since) >= unsentMost {
			since = time.Now()
			s.look() // the next consumer may be on another server
		}
		if moved || n%idle == 0 {
			s.heard(s.refresh())
		}
		if n%audit == audit-1 {
			s.audit()
		}
	}
}

// refresh asks for the state of the stream.
func (s *Store) refresh() error {
	in, err := s.eng.info(s.ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	oldest := s.oldest
	current := in.incarnation == s.log.incarnation
	lost := in.last < s.log.head
	s.mu.Unlock()
	if !current || lost {
		s.look()
		return nil
	}
	if in.first <= in.last && (oldest.offset != in.first || oldest.time == 0) {
		if oldest, err = s.oldestArrival(in); errors.Is(err, errNoRecord) {
			return nil // the next look finds another one
		} else if err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.incarnation == s.log.incarnation && in.last >= s.info.last {
		s.info, s.oldest = in, oldest
		if s.log.head <= in.last {
			s.extra = 0
		}
	}
	return nil
}

// oldestArrival returns the arrival of the oldest record. The fences that a log
// begins with have none; then it is that of the first event.
func (s *Store) oldestArrival(in streamInfo) (arrival, error) {
	for at := in.first; at <= in.last; at += fenceLength {
		m, err := s.eng.record(s.ctx, at)
		if err != nil {
			return arrival{}, err
		}
		if r, err := logstore.DecodeRecord(m.data); err != nil || r.Time > 0 {
			return arrival{in.first, r.Time}, nil
		}
	}
	return arrival{offset: in.first}, nil
}

// audit compares the newest record that is known with that of the stream.
// Records may be lost without a sign: the consumer waits for what comes after
// those that it has sent.
func (s *Store) audit() {
	s.mu.Lock()
	head, sum, unknown := s.log.head, s.log.sum, s.log.unknown
	s.mu.Unlock()
	if unknown || head == 0 {
		return
	}
	m, err := s.eng.record(s.ctx, head)
	if err == nil && fingerprint(m.data) != sum {
		s.look()
	}
}
