package filestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// follower is a running Follow. The store's mutex protects it, but for apply.
type follower struct {
	apply  func([]logstore.Record)
	live   bool   // it has applied all that is committed, and the committer goes on
	next   uint64 // with this offset
	busy   bool   // the committer is in apply
	closed bool
	err    error
}

func (f *follower) end(err error) { f.closed, f.err = true, err }

// followBatch is about how many bytes Follow reads from files at once.
const followBatch = 1 << 20

// Follow implements logstore.Store.
func (s *Store) Follow(ctx context.Context, from uint64, apply func([]logstore.Record)) error {
	f := &follower{apply: apply}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return logstore.ErrClosed
	}
	s.follower = f
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, s.cond.Broadcast)
	defer stop()
	defer s.leave(f)
	for {
		s.mu.Lock()
		if from >= s.nextLocked() {
			f.live, f.next = true, from
			s.cond.Broadcast()
			for ctx.Err() == nil && !f.closed {
				s.cond.Wait()
			}
			err := f.err
			s.mu.Unlock()
			if err == nil {
				err = ctx.Err()
			}
			return err
		}
		from = max(from, s.firstLocked())
		s.mu.Unlock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		records, err := s.Read(ctx, from, followBatch)
		switch {
		case errors.Is(err, logstore.ErrEvicted):
			continue // what is there now
		case err != nil:
			return err
		case len(records) > 0:
			apply(records)
			from = records[len(records)-1].Offset + 1
		}
	}
}

// leave waits until the committer is done with a follower.
func (s *Store) leave(f *follower) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.closed = true
	for f.busy {
		s.cond.Wait()
	}
	if s.follower == f {
		s.follower = nil
	}
}

// Read implements logstore.Store. A segment that is found damaged is dropped
// with all that is older, so that nobody comes past it again.
func (s *Store) Read(ctx context.Context, from uint64, size int) ([]logstore.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	seg, err := s.find(from)
	if seg == nil {
		return nil, err
	}
	records, err := seg.read(from, size)
	if bad, ok := errors.AsType[*damage](err); ok {
		if len(records) > 0 {
			return records, nil // the next one fails at once
		}
		s.dropDamaged(bad, seg.first)
		return nil, fmt.Errorf("%w: %w", logstore.ErrEvicted, bad)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, logstore.ErrEvicted // since it was found
	}
	return records, err
}

// find returns a copy of what is known of the segment with an offset; nil where
// the offset has not been given yet.
func (s *Store) find(offset uint64) (*segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state == logstore.Closed:
		return nil, logstore.ErrClosed
	case offset < s.firstLocked():
		return nil, logstore.ErrEvicted
	case offset >= s.nextLocked():
		return nil, nil
	}
	i := sort.Search(len(s.segments), func(i int) bool { return s.segments[i].first > offset })
	seg := *s.segments[i-1]
	return &seg, nil
}

// dropDamaged drops a segment that cannot be read, and what is older. The
// newest segment is kept: new records are appended to it.
func (s *Store) dropDamaged(bad *damage, first uint64) {
	s.mu.Lock()
	var dropped []*segment
	for len(s.segments) > 1 && s.segments[0].first <= first {
		dropped = append(dropped, s.segments[0])
		s.segments = s.segments[1:]
	}
	if len(dropped) > 0 {
		s.err = bad
		s.forgetEpochsLocked()
	}
	s.mu.Unlock()
	for i, seg := range dropped {
		if i == len(dropped)-1 {
			if err := os.Rename(seg.name, seg.name+damagedSuffix); err == nil {
				_ = os.Remove(seg.indexName())
				continue
			}
		}
		s.removeFiles(seg)
	}
	if len(dropped) > 0 {
		s.o.Logger.Error("the log is damaged; what is older than the damage is gone",
			zap.String("file", bad.file), zap.Int64("byte", bad.at), zap.Error(bad.err))
	}
}

// read returns the records from an offset on, about size bytes of bodies.
func (s *segment) read(from uint64, size int) ([]logstore.Record, error) {
	f, err := os.Open(s.name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	e := s.before(from)
	frames := frames{file: f, at: e.position, end: s.size, offset: e.offset}
	var records []logstore.Record
	for bytes := 0; bytes < size || len(records) == 0; {
		at := frames.at
		r, _, err := frames.next()
		switch {
		case errors.Is(err, io.EOF):
			return records, nil
		case err != nil:
			if _, ok := errors.AsType[*os.PathError](err); ok {
				return records, err
			}
			return records, &damage{s.name, at, err}
		case r.Offset >= from:
			records = append(records, r)
			bytes += len(r.Body)
		}
	}
	return records, nil
}

// Since implements logstore.Store.
func (s *Store) Since(ctx context.Context, t int64) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	next := s.nextLocked()
	i := sort.Search(len(s.segments), func(i int) bool { return s.segments[i].lastTime >= t })
	if i == len(s.segments) {
		s.mu.Unlock()
		return next, nil
	}
	seg := *s.segments[i]
	s.mu.Unlock()
	f, err := os.Open(seg.name)
	if errors.Is(err, os.ErrNotExist) {
		return s.Since(ctx, t) // it was evicted since
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	e := seg.beforeTime(t)
	frames := frames{file: f, at: e.position, end: seg.size, offset: e.offset}
	for {
		at := frames.at
		r, _, err := frames.next()
		switch {
		case errors.Is(err, io.EOF):
			return seg.next, nil
		case err != nil:
			return 0, &damage{seg.name, at, err}
		case r.Time >= t:
			return r.Offset, nil
		}
	}
}

// Back implements logstore.Store, to the precision of the index.
func (s *Store) Back(ctx context.Context, size int64) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.segments) - 1; i >= 0; i-- {
		seg := s.segments[i]
		if whole := seg.size - headerSize; whole < size {
			size -= whole
			continue
		}
		// the first entry of the index from which on it is no more than size
		j := sort.Search(len(seg.index), func(j int) bool { return seg.size-seg.index[j].position <= size })
		if j < len(seg.index) {
			return seg.index[j].offset, nil
		}
		if i == len(s.segments)-1 {
			return seg.index[len(seg.index)-1].offset, nil // the newest, at least
		}
		return seg.next, nil
	}
	return s.firstLocked(), nil
}
