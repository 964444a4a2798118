package filestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"syscall"
	"time"

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
}

// followBatch is about how many bytes Follow reads from files at once.
const followBatch = 1 << 20

// maxReadTries is how often the store tries to read what the disk fails to
// return, before it regards that as damaged.
const maxReadTries = 5

// unreturned reports whether an error is that of a disk which has not got what
// it was given, and not one that passes, such as too many open files.
func unreturned(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EBADMSG)
}

var errFollowed = errors.New("filestore: Follow is running already")

// begin keeps Close waiting until end.
func (s *Store) begin(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return logstore.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.reading++
	return nil
}

func (s *Store) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading--
	s.cond.Broadcast()
}

// Follow implements logstore.Store. apply must not close the store.
func (s *Store) Follow(ctx context.Context, from uint64, apply func([]logstore.Record)) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	f := &follower{apply: apply}
	s.mu.Lock()
	if s.follower != nil {
		s.mu.Unlock()
		return errFollowed
	}
	s.follower = f
	s.mu.Unlock()
	defer s.leave(f)
	stop := context.AfterFunc(ctx, s.broadcast)
	defer stop()
	for tries := 0; ; {
		from, err := s.goLive(ctx, f, from)
		if err != nil {
			return err
		}
		records, err := s.read(ctx, from, followBatch)
		switch {
		case len(records) > 0:
			apply(records)
			f.next = records[len(records)-1].Offset + 1
			tries = 0
		case err == nil, errors.Is(err, logstore.ErrEvicted): // goLive knows where to go on
		case ctx.Err() != nil, errors.Is(err, logstore.ErrClosed):
			return err
		default:
			tries++
			s.unreadable(ctx, from, tries, err)
		}
	}
}

// goLive waits until the store is closed or ctx ends, if the follower has
// everything, and returns why. Otherwise it returns where to read on.
func (s *Store) goLive(ctx context.Context, f *follower, from uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.next = max(f.next, from, s.firstLocked())
	if f.next < s.offset && !s.closing && ctx.Err() == nil {
		return f.next, nil
	}
	f.live = f.next >= s.offset
	s.cond.Broadcast()
	for ctx.Err() == nil && !f.closed {
		s.cond.Wait()
	}
	if f.closed {
		return 0, logstore.ErrClosed
	}
	return 0, ctx.Err()
}

// unreadable deals with an error of the disk, which says nothing of what is on
// it. It may pass; otherwise the follower has to go on behind.
func (s *Store) unreadable(ctx context.Context, from uint64, tries int, err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	if tries == 1 {
		s.o.Logger.Error("the log cannot be read", zap.Uint64("offset", from), zap.Error(err))
	}
	if tries >= maxReadTries && unreturned(err) {
		if seg, _ := s.find(from); seg != nil {
			s.dropDamaged(&DamageError{seg.name, seg.before(from).position, err}, seg.first)
		}
		return
	}
	timer := time.NewTimer(s.o.retry)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-s.quit:
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
	s.follower = nil
	s.cond.Broadcast()
}

// Read implements logstore.Store. A segment that is found damaged is dropped
// with all that is older, so that nobody comes past it again.
func (s *Store) Read(ctx context.Context, from uint64, size int) ([]logstore.Record, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.end()
	return s.read(ctx, from, size)
}

func (s *Store) read(ctx context.Context, from uint64, size int) ([]logstore.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	seg, err := s.find(from)
	if seg == nil {
		return nil, err
	}
	records, err := seg.read(s.o.disk, from, size)
	if len(records) > 0 {
		return records, nil // the next one fails at once
	}
	return nil, s.judge(seg, err)
}

// judge drops a segment if an error in reading it is damage, and returns
// ErrEvicted then, and where it has been dropped since it was found.
func (s *Store) judge(seg *segment, err error) error {
	bad, ok := errors.AsType[*DamageError](err)
	if !ok && errors.Is(err, os.ErrNotExist) {
		bad, ok = &DamageError{seg.name, 0, err}, true // unless it was evicted
	}
	if !ok {
		return err
	}
	s.dropDamaged(bad, seg.first)
	return fmt.Errorf("%w: %w", logstore.ErrEvicted, bad)
}

// find returns a copy of what is known of the segment with an offset; nil where
// the offset has not been given yet.
func (s *Store) find(offset uint64) (*segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, logstore.ErrClosed
	case offset < s.firstLocked():
		return nil, logstore.ErrEvicted
	case offset >= s.offset:
		return nil, nil
	}
	i := sort.Search(len(s.segments), func(i int) bool { return s.segments[i].first > offset })
	seg := *s.segments[i-1]
	if offset >= seg.next {
		return nil, logstore.ErrEvicted // the newest segment has been dropped
	}
	return &seg, nil
}

// open opens a segment for reading from an entry of its index on. The file is
// the caller's to close.
func (s *segment) open(d disk, e indexEntry) (file, *frames, error) {
	f, err := d.open(s.name, os.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	return f, &frames{file: f, at: e.position, end: s.size, offset: e.offset}, nil
}

// read returns the records from an offset on, about size bytes of bodies.
func (s *segment) read(d disk, from uint64, size int) ([]logstore.Record, error) {
	f, frames, err := s.open(d, s.before(from))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// enough for what is skipped, and most of what is wanted
	frames.ahead = min(indexStep+max(size, 0), readAhead)
	if err := frames.skip(from); err != nil {
		if broken(err) {
			err = &DamageError{s.name, frames.at, err}
		}
		return nil, err
	}
	var records []logstore.Record
	for bytes := 0; bytes < size || len(records) == 0; {
		at := frames.at
		r, _, err := frames.next()
		switch {
		case errors.Is(err, io.EOF):
			return records, nil
		case broken(err):
			return records, &DamageError{s.name, at, err}
		case err != nil:
			return records, err
		}
		records = append(records, r)
		bytes += len(r.Body)
	}
	return records, nil
}

// Since implements logstore.Store.
func (s *Store) Since(ctx context.Context, t int64) (uint64, error) {
	if err := s.begin(ctx); err != nil {
		return 0, err
	}
	defer s.end()
	for ctx.Err() == nil {
		s.mu.Lock()
		i := sort.Search(len(s.segments), func(i int) bool { return s.segments[i].lastTime >= t })
		if i == len(s.segments) {
			defer s.mu.Unlock()
			return s.offset, nil
		}
		seg := *s.segments[i]
		s.mu.Unlock()
		offset, err := seg.since(s.o.disk, t)
		if err == nil {
			return offset, nil
		}
		if err = s.judge(&seg, err); !errors.Is(err, logstore.ErrEvicted) {
			return 0, err
		}
	}
	return 0, ctx.Err()
}

// since returns the offset of the first record that arrived at t or later.
func (s *segment) since(d disk, t int64) (uint64, error) {
	f, frames, err := s.open(d, s.beforeTime(t))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for {
		at := frames.at
		r, _, err := frames.next()
		switch {
		case errors.Is(err, io.EOF):
			return s.next, nil
		case broken(err):
			return 0, &DamageError{s.name, at, err}
		case err != nil:
			return 0, err
		case r.Time >= t:
			return r.Offset, nil
		}
	}
}

// Back implements logstore.Store, to the precision of the index.
func (s *Store) Back(ctx context.Context, size int64) (uint64, error) {
	if err := s.begin(ctx); err != nil {
		return 0, err
	}
	defer s.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, seg := range slices.Backward(s.segments) {
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
