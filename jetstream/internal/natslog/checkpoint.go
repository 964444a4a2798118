package natslog

import (
	"context"
	"errors"
	"time"
)

// savedCheckpoint is what is known of the newest checkpoint.
type savedCheckpoint struct {
	rev   uint64
	head  uint64 // offset of the newest record in it
	bytes int64  // of records since then
	at    time.Time
}

const (
	// checkpointEvery is how often a checkpoint is written, if there is anything
	// new.
	checkpointEvery = 10 * time.Second

	// checkpointShare is the share of what is retained after which it is written
	// at once: what is evicted is in one.
	checkpointShare = 4
)

// checkpointDueLocked reports whether a checkpoint is to be written.
func (s *Store) checkpointDueLocked() bool {
	c := &s.saved
	if s.log.head == c.head {
		return false
	}
	every := checkpointEvery
	if s.bounds.Age > 0 {
		every = min(every, max(s.bounds.Age/checkpointShare, time.Second))
	}
	return time.Since(c.at) > every ||
		s.bounds.Events > 0 && s.log.head-c.head > s.bounds.Events/checkpointShare ||
		s.bounds.Bytes > 0 && c.bytes > s.bounds.Bytes/checkpointShare
}

// writeCheckpoint saves what is known of the log, so that a node that opens it
// need not read it all, and knows of what is no longer retained. The writer calls
// it.
func (s *Store) writeCheckpoint(ctx context.Context) {
	s.mu.Lock()
	if s.log.head == s.saved.head {
		s.mu.Unlock()
		return
	}
	head, rev := s.log.head, s.saved.rev
	s.saved.at, s.saved.bytes = time.Now(), 0
	p, err := s.log.save(s.eng.maxRecord())
	s.mu.Unlock()
	if err == nil {
		rev, err = s.eng.save(ctx, checkpointKey, p, rev)
	}
	if errors.Is(err, errRefused) { // of another writer; the next one succeeds
		_, rev, err = s.eng.load(ctx, checkpointKey)
		head = 0
	}
	s.heard(err)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saved.rev, s.saved.head = rev, head
}
