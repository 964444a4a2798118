package natslog

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// readCount bounds how many records are read at once.
const readCount = 4096

// Read implements logstore.Store. Any replica answers; what it lacks is read from
// the leader.
func (s *Store) Read(ctx context.Context, from uint64, size int) ([]logstore.Record, error) {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	s.mu.Lock()
	last := s.lastLocked()
	s.mu.Unlock()
	return s.read(ctx, max(from, 1), last, size)
}

// read returns committed records from an offset up to last, about size bytes of
// bodies.
func (s *Store) read(ctx context.Context, from, last uint64, size int) ([]logstore.Record, error) {
	if from > last {
		return nil, s.over(ctx)
	}
	count := int(min(last-from+1, readCount))
	found, err := s.eng.read(ctx, from, count, size)
	if err == nil && (len(found) == 0 || found[0].seq != from) {
		found, err = s.readOne(ctx, from)
	}
	if err := s.over(ctx); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("reading offset %d from JetStream: %w", from, err)
	}
	records := make([]logstore.Record, 0, len(found))
	for i, m := range found {
		if m.seq != from+uint64(i) || m.seq > last {
			break // the next one finds out
		}
		r, err := logstore.DecodeRecord(m.data)
		if err != nil { // see decodeLocked
			r = logstore.Record{}
			if i > 0 {
				r.Term, r.Time = records[i-1].Term, records[i-1].Time
			}
		}
		r.Offset = m.seq
		records = append(records, r)
		if size -= len(r.Body); size <= 0 {
			break
		}
	}
	return records, nil
}

// readOne returns one record from the leader. What it has not is evicted.
func (s *Store) readOne(ctx context.Context, offset uint64) ([]message, error) {
	m, err := s.eng.record(ctx, offset)
	if err == nil {
		return []message{m}, nil
	}
	if !errors.Is(err, errNoRecord) {
		return nil, err
	}
	in, err := s.eng.info(ctx)
	switch {
	case err != nil:
		return nil, err
	case in.first > offset, in.last >= offset: // or removed by hand
		s.mu.Lock()
		s.info.first = max(s.info.first, in.first)
		s.mu.Unlock()
		return nil, logstore.ErrEvicted
	}
	return nil, errNoRecord
}

// sample returns a record and its size, whatever replica has it.
func (s *Store) sample(ctx context.Context, offset uint64) (logstore.Record, int64, error) {
	found, err := s.eng.read(ctx, offset, 1, 1)
	if err == nil && (len(found) == 0 || found[0].seq != offset) {
		found, err = s.readOne(ctx, offset)
	}
	if err != nil {
		return logstore.Record{}, 0, err
	}
	r, _ := logstore.DecodeRecord(found[0].data)
	r.Offset = offset
	return r, int64(len(found[0].data) + recordHeaders/2), nil
}

// retained returns the offsets of the oldest and the newest record.
func (s *Store) retained(ctx context.Context) (first, last uint64, err error) {
	in, err := s.eng.info(ctx)
	if err != nil {
		return 0, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return in.first, max(in.last, s.lastLocked()), nil
}

// Since implements logstore.Store.
func (s *Store) Since(ctx context.Context, t int64) (uint64, error) {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	low, last, err := s.retained(ctx)
	high := last + 1
	for low < high && err == nil {
		middle := low + (high-low)/2
		var r logstore.Record
		r, _, err = s.sample(ctx, middle)
		switch {
		case errors.Is(err, logstore.ErrEvicted):
			low, err = middle+1, nil
		case err == nil && r.Time >= t:
			high = middle
		case err == nil:
			low = middle + 1
		}
	}
	if over := s.over(ctx); over != nil {
		return 0, over
	}
	return low, err
}

// samples is how many records of a range say how large those of the range are.
const samples = 4

// Back implements logstore.Store. JetStream has no index by size, so it is
// estimated, from samples in ranges that double.
func (s *Store) Back(ctx context.Context, size int64) (uint64, error) {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	first, last, err := s.retained(ctx)
	if err != nil || first > last {
		if over := s.over(ctx); over != nil {
			err = over
		}
		return last + 1, err
	}
	for at, width := last+1, uint64(1); at > first; width *= 2 {
		width = min(width, at-first)
		each, err := s.meanSize(ctx, at-width, width)
		if over := s.over(ctx); over != nil {
			return 0, over
		}
		if err != nil {
			return 0, err
		}
		if fits := uint64(max(size, 0) / each); fits < width {
			return min(at-fits, last), nil
		}
		size -= int64(width) * each
		at -= width
	}
	return first, nil
}

// meanSize estimates the mean size of a range of records.
func (s *Store) meanSize(ctx context.Context, from, width uint64) (int64, error) {
	var sum, n int64
	step := max(width/samples, 1)
	for i := uint64(0); i < width && n < samples; i += step {
		_, size, err := s.sample(ctx, from+i)
		switch {
		case err == nil:
			sum, n = sum+size, n+1
		case !errors.Is(err, logstore.ErrEvicted):
			return 0, err
		}
	}
	if n == 0 {
		return 1 << (bits.Len(recordHeaders) - 1), nil // all evicted meanwhile
	}
	return sum / n, nil
}

// retry is for what has to be tried again and again: it waits ever longer.
type retry struct{ wait time.Duration }

// again waits, and reports whether it is to be tried again.
func (r *retry) again(ctx context.Context, least, most time.Duration) bool {
	return r.againSince(ctx, time.Now(), least, most)
}

// againSince is again for what began some time ago: that is part of the wait.
func (r *retry) againSince(ctx context.Context, began time.Time, least, most time.Duration) bool {
	r.wait = min(max(2*r.wait, least), most)
	timer := time.NewTimer(time.Until(began.Add(r.wait)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
