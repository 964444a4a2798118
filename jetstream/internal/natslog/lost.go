package natslog

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// reconcile compares what is known of the log with what the stream has. Where
// they differ, records were lost, and what came in their place is handed over
// next.
func (s *Store) reconcile(ctx context.Context, in streamInfo) error {
	s.mu.Lock()
	if in.incarnation != s.log.incarnation {
		s.log.adopt(in)
		s.againLocked(in, in.origin)
	}
	head, sum, unknown := s.log.head, s.log.sum, s.log.unknown
	at := min(head, in.last)
	term, known := s.log.termAt(at)
	s.mu.Unlock()
	if at < in.first || at < in.origin {
		return s.foundEnd(head, in)
	}
	var same bool
	m, err := s.eng.record(ctx, at)
	switch {
	case err != nil:
		return fmt.Errorf("reading offset %d from JetStream: %w", at, err)
	case at == head && !unknown:
		same = fingerprint(m.data) == sum
	case known:
		same = termOf(m) == term
	default:
		return s.foundEnd(head, in)
	}
	if same {
		return s.foundEnd(head, in)
	}
	to, err := s.parting(ctx, in, at)
	if err != nil {
		return err
	}
	s.o.Logger.Warn("the log has lost records, and goes on with others", zap.Uint64("from", to), zap.Uint64("known", head))
	s.mu.Lock()
	epoch := s.log.epoch()
	s.known = max(s.known, head)
	lost := s.log.rewind(to)
	s.againLocked(in, to)
	s.mu.Unlock()
	if err := s.findLatest(ctx, in.first, to, lost); err != nil {
		return err
	}
	return s.demandEpoch(ctx, epoch, to)
}

// foundEnd notes whether the stream ends before what is known.
func (s *Store) foundEnd(head uint64, in streamInfo) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.last >= head {
		s.lost = time.Time{}
		s.settleLocked()
		return nil
	}
	// An old leader that is cut off may say so, too.
	s.err = fmt.Errorf("%w: offset %d is known, the newest is %d", errLost, head, in.last)
	if s.lost.IsZero() {
		s.lost = time.Now()
	}
	if s.term != nil && time.Since(s.lost) > s.lease {
		s.term.endLocked(s.err)
	}
	s.settleLocked()
	return s.err
}

// parting returns the first offset at which the stream has another record than
// was known, not above at, where it has. Where terms are the same, records are.
func (s *Store) parting(ctx context.Context, in streamInfo, at uint64) (uint64, error) {
	s.mu.Lock()
	low := at
	if len(s.log.spans) > 0 {
		low = s.log.spans[0].first
	}
	s.mu.Unlock()
	low = max(low, in.first)
	var failed error
	n := sort.Search(int(at-min(low, at)), func(i int) bool {
		if failed != nil {
			return true
		}
		offset := low + uint64(i)
		m, err := s.eng.record(ctx, offset)
		if err != nil {
			failed = fmt.Errorf("reading offset %d from JetStream: %w", offset, err)
			return true
		}
		s.mu.Lock()
		term, known := s.log.termAt(offset)
		s.mu.Unlock()
		return !known || termOf(m) != term
	})
	if n == 0 {
		return in.first, failed // nothing is known to be the same
	}
	return low + uint64(n), failed
}

// findLatest finds the newest record of sources whose newest has been lost, from
// an offset backwards. Those that have none are forgotten.
func (s *Store) findLatest(ctx context.Context, first, before uint64, sources map[string]struct{}) error {
	for before > first && len(sources) > 0 {
		from := max(before-min(before, readCount), first)
		found := make(map[string]logstore.Latest)
		for next := from; next < before; {
			records, err := s.read(ctx, next, before-1, followBatch)
			if errors.Is(err, logstore.ErrEvicted) {
				return nil // what is older is gone, too
			}
			if err != nil {
				return err
			}
			for i := range records {
				r := &records[i]
				if _, ok := sources[r.Source]; ok && !r.Fence() {
					found[r.Source] = logstore.Latest{Offset: r.Offset, Time: r.Time, ID: r.ID}
				}
			}
			next = records[len(records)-1].Offset + 1
		}
		s.mu.Lock()
		for source, l := range found {
			s.log.sources.Set(source, l)
			delete(sources, source)
		}
		s.mu.Unlock()
		before = from
	}
	return nil
}

// demandEpoch has the writer begin an epoch, if the one who came after the loss
// did not know of it.
func (s *Store) demandEpoch(ctx context.Context, before string, from uint64) error {
	m, err := s.eng.record(ctx, from)
	if err != nil {
		return fmt.Errorf("reading offset %d from JetStream: %w", from, err)
	}
	if r, err := logstore.DecodeRecord(m.data); err == nil && r.Fence() && r.ID != before {
		return nil
	}
	return s.markLost(ctx)
}

// errAnew ends a term.
var errAnew = errors.New("the log goes on from another offset, since JetStream has lost records")

// againLocked has everything from an offset on handed over again.
func (s *Store) againLocked(in streamInfo, from uint64) {
	s.generation++
	s.info, s.extra, s.lost = in, 0, time.Time{}
	if s.term != nil {
		s.term.deposeLocked(errAnew)
	}
	if f := s.follower; f != nil && f.begun {
		f.next = min(f.next, from)
	}
	s.cond.Broadcast()
}
