package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

const (
	// renewals is how often a lease is renewed in its time.
	renewals = 5

	// looks is how often a candidate looks at a lease in its time.
	looks = 10

	// renewTimeout bounds one renewal, where a lease is short. A stream without a
	// leader drops what it is sent: the next one must be on its way soon after an
	// election, since candidates can read again at once.
	renewTimeout = 500 * time.Millisecond

	// freeTimeout bounds how long it is tried to give a lease back. It ends by
	// itself, too.
	freeTimeout = 300 * time.Millisecond
)

var errDeposed = errors.New("another node has taken over")

// leaseValue is what the lease's key has. It gives liveness only: that there is
// one writer is up to fences and chains.
type leaseValue struct {
	Node     string // who writes; empty: the next one takes it at once
	Instance string // of its store
	Term     uint64 // its number, or that of the term before
	Head     uint64 // an offset that was given
	Lost     bool   // of which the log may know nothing: the next term begins an epoch
	Millis   int64  // how long it lasts

	// Drained: it was given back when all that its writer had published was known
	// to be committed, up to Head. Nothing of it can come any more.
	Drained bool
}

// readLease returns the value of the lease.
func (s *Store) readLease(ctx context.Context) (leaseValue, error) {
	v, _, err := s.loadLease(ctx)
	return v, err
}

func (s *Store) loadLease(ctx context.Context) (leaseValue, uint64, error) {
	var v leaseValue
	p, rev, err := s.eng.load(ctx, leaseKey)
	if err != nil || rev == 0 {
		return v, 0, err
	}
	if err := json.Unmarshal(p, &v); err != nil {
		return v, rev, fmt.Errorf("reading the lease: %w", err)
	}
	return v, rev, nil
}

func (s *Store) saveLease(ctx context.Context, v leaseValue, rev uint64) (uint64, error) {
	p, err := json.Marshal(v)
	if err != nil {
		return 0, err
	}
	return s.eng.save(ctx, leaseKey, p, rev)
}

// lease is held by this node until lost is closed.
type lease struct {
	store   *Store
	rev     uint64 // of the goroutine that holds it
	value   leaseValue
	drained bool // the lease was, when this node took it
	lost    chan struct{}
	why     error // before lost is closed

	stop   context.CancelFunc
	ended  chan struct{} // closed when it is not renewed any more
	update chan struct{} // it is to be renewed now; capacity 1
}

// acquire waits until this node holds the lease.
//
// It takes it only after it has read the same revision again and again for as
// long as it lasts. Time in which nothing could be read does not count, so that
// an election inside NATS costs nobody the lease, and no clocks are compared.
func (s *Store) acquire(ctx context.Context) (*lease, error) {
	var seen uint64             // revision
	var unchanged time.Duration // how long it is known to be the newest
	var before time.Time        // the last look that succeeded; zero if one has failed since
	for {
		s.mu.Lock()
		lasts := s.lease
		s.mu.Unlock()
		value, rev, err := s.loadLease(ctx)
		s.heard(err)
		if over := s.over(ctx); over != nil {
			return nil, over
		}
		now := time.Now()
		if value.Millis > 0 {
			lasts = time.Duration(value.Millis) * time.Millisecond
		}
		every := lasts / looks
		switch {
		case errors.Is(err, errNoStream):
			s.remakeBucket(ctx)
			before = time.Time{}
		case err != nil:
			before = time.Time{}
		case rev != seen:
			s.peers.noteWriter(value.Node)
			seen, unchanged, before = rev, 0, now
		case before.IsZero():
			before = now
		default:
			unchanged += min(now.Sub(before), 2*every) // this process may have been stopped
			before = now
		}
		if err == nil && (value.Node == "" || value.Instance == s.instance || unchanged >= lasts) {
			l, err := s.takeLease(ctx, value, rev)
			if err == nil {
				return l, nil
			}
			s.heard(err)
			before = time.Time{}
		}
		timer := time.NewTimer(every)
		select {
		case <-timer.C:
		case <-s.freed:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// takeLease takes the lease if it still has a revision.
func (s *Store) takeLease(ctx context.Context, value leaseValue, rev uint64) (*lease, error) {
	drained := value.Drained
	s.mu.Lock()
	value.Node, value.Instance, value.Millis, value.Drained = s.o.Node, s.instance, s.lease.Milliseconds(), false
	s.mu.Unlock()
	rev, err := s.saveLease(ctx, value, rev)
	if err != nil {
		return nil, err
	}
	l := &lease{
		store: s, rev: rev, value: value, drained: drained, lost: make(chan struct{}),
		ended: make(chan struct{}), update: make(chan struct{}, 1),
	}
	var renewing context.Context
	renewing, l.stop = context.WithCancel(s.ctx)
	go l.keep(renewing)
	return l, nil
}

// keep renews the lease. The lease owns it; it ends when it is lost, or by stop,
// and release waits for it.
func (l *lease) keep(ctx context.Context) {
	defer close(l.ended)
	begun := time.Now() // the renewal before
	for {
		l.store.mu.Lock()
		every := l.store.lease / renewals
		l.store.mu.Unlock()
		timer := time.NewTimer(time.Until(begun.Add(every)))
		select {
		case <-timer.C:
		case <-l.update:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
		begun = time.Now()
		err := l.renew(ctx, max(every, renewTimeout))
		switch {
		case errors.Is(err, errRefused):
			if l.why = l.reclaim(ctx); l.why != nil {
				close(l.lost)
				return
			}
		case errors.Is(err, errNoStream):
			l.store.remakeBucket(ctx)
		default:
			// No answer says nothing of who writes; so it goes on.
			l.store.heard(err)
		}
	}
}

// renew writes what there is to say. Where no answer comes in time, it may have been
// written all the same: reclaim finds that out when the next one is refused.
func (l *lease) renew(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	v := l.next()
	rev, err := l.store.saveLease(ctx, v, l.rev)
	if err == nil {
		l.rev, l.value = rev, v
	}
	return err
}

// next returns the value that the lease is to have. What earlier terms knew is
// kept until the present one has its fence.
func (l *lease) next() leaseValue {
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	v := l.value
	v.Millis = s.lease.Milliseconds()
	if t := s.term; t != nil && t.lease == l {
		v.Term, v.Head, v.Lost = t.number, t.confirmed, false
	}
	return v
}

// reclaim looks whether the lease still is this node's, after a renewal was
// refused: an earlier one may have come late.
func (l *lease) reclaim(ctx context.Context) error {
	value, rev, err := l.store.loadLease(ctx)
	switch {
	case err != nil:
		return nil // the next renewal is refused, too
	case rev == 0: // the bucket was made anew, and nobody has taken it
	case value.Instance != l.store.instance:
		return fmt.Errorf("%w: %s", errDeposed, value.Node)
	case value.Lost && !l.value.Lost:
		return errors.New("another node knows of records that the log has lost")
	}
	l.rev = rev
	return nil
}

// release gives the lease back, so that another node takes it at once. drained says
// that nothing is on its way that was published under it.
func (l *lease) release(drained bool) {
	l.stop()
	<-l.ended
	select {
	case <-l.lost:
		return
	default:
	}
	s := l.store
	v := l.next()
	v.Node, v.Instance, v.Drained = "", "", drained
	ctx, cancel := context.WithTimeout(context.Background(), freeTimeout)
	defer cancel()
	rev := l.rev
	for r := (retry{}); ; {
		_, err := s.saveLease(ctx, v, rev)
		if err == nil {
			s.peers.free()
			return
		}
		if errors.Is(err, errRefused) { // a renewal may have come late
			var now leaseValue
			if now, rev, err = s.loadLease(ctx); err == nil && now.Instance != s.instance {
				return
			}
		}
		if s.eng.state() != nil || !r.again(ctx, retryLeast, freeTimeout/4) {
			return
		}
	}
}

// remakeBucket makes the bucket of the lease anew if it is gone: without it, nobody
// could take over.
func (s *Store) remakeBucket(ctx context.Context) {
	made, err := s.eng.makeBucket(ctx)
	s.heard(err)
	if made {
		s.o.Logger.Warn("the bucket that says who writes is gone, and is made anew")
	}
}

// markLost has the next term begin an epoch, and the present one end: offsets
// were given that the log has lost.
func (s *Store) markLost(ctx context.Context) error {
	value, rev, err := s.loadLease(ctx)
	if err != nil || value.Lost {
		return err
	}
	value.Lost = true
	_, err = s.saveLease(ctx, value, rev)
	return err
}
