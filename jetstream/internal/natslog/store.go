package natslog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// openTimeout bounds Open, so that its caller hears what is wrong.
	openTimeout = 10 * time.Second

	// closeTimeout bounds how long Close waits for what was appended.
	closeTimeout = 500 * time.Millisecond

	// silentAfter is after how long without an answer the store is regarded as
	// stalled.
	silentAfter = 4 * time.Second
)

// Store is a logstore.Shared on NATS JetStream.
type Store struct {
	o        Options
	eng      engine
	version  string // of the server that was found
	instance string // random, of this store

	fenceLength int // a shorter one is for tests

	ctx    context.Context // ends when nothing is to go on any more
	cancel context.CancelFunc
	parts  sync.WaitGroup // goroutines of the store

	recheck chan struct{} // the tracker is to look anew; capacity 1, as one look is enough
	freed   chan struct{} // nobody may be writing; capacity 1 for the same reason

	peers peers
	kept  keptRevs

	mu     sync.Mutex // protects what follows
	cond   sync.Cond  // on mu: something has changed that somebody may wait for
	log    state
	loaded bool       // all that was committed when the store was opened is in log
	until  uint64     // what that is: an offset
	info   streamInfo // the newest
	oldest arrival    // of the first retained record
	extra  int64      // bytes of records that are newer than info
	known  uint64     // an offset that was given, of which the log may know nothing
	lost   time.Time  // since when the stream is known to end before head; zero if it does not

	contact time.Time // when JetStream has last answered
	err     error     // why it does not, or what went wrong last

	lease  time.Duration
	buffer int64
	bounds logstore.Bounds

	follower    *follower
	generation  uint64 // rises when offsets are handed over again
	campaigning bool
	term        *term
	takeovers   uint64
	refused     uint64
	resyncs     uint64
	saved       savedCheckpoint

	state   logstore.State
	since   time.Time
	closing bool
	closed  bool
	running int // calls of Follow, Campaign and the like that have not returned
}

// arrival is that of a record.
type arrival struct {
	offset uint64
	time   int64
}

// Open opens the log of a stream, and makes what is missing in NATS. A NATS that
// cannot be reached is an error, after some seconds; once the log is open, it is
// not: then the store is stalled until it can be reached again.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("opening the log of stream '%s': %w", o.Stream, err)
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	eng, err := openJetStream(ctx, &o)
	if err != nil {
		return nil, fmt.Errorf("opening the log of stream '%s': %w", o.Stream, err)
	}
	eng.conn.logOpen(o.Logger, &o)
	s, err := open(ctx, o, eng)
	if err != nil {
		return nil, fmt.Errorf("opening the log of stream '%s': %w", o.Stream, err)
	}
	s.version = eng.nc.ConnectedServerVersion()
	return s, nil
}

// open opens a log on an engine, which is the store's then.
func open(ctx context.Context, o Options, eng engine) (*Store, error) {
	s := &Store{
		o: o, eng: eng, instance: randomID(), fenceLength: fenceLength, lease: o.Lease, buffer: o.Buffer, bounds: o.Bounds,
		recheck: make(chan struct{}, 1), freed: make(chan struct{}, 1),
		state: logstore.Loading, since: time.Now(), contact: time.Now(),
	}
	s.cond.L = &s.mu
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.peers.init(s)
	err := s.load(ctx)
	if err == nil {
		err = eng.setBounds(ctx, o.Bounds)
	}
	if err == nil {
		err = eng.listen(o.Node, s.said, s.asked)
	}
	if err != nil {
		s.cancel()
		eng.close()
		return nil, err
	}
	s.parts.Go(s.track)
	s.parts.Go(s.watch)
	s.parts.Go(s.peers.run)
	return s, nil
}

// Version returns the version of the server that the log was opened on.
func (s *Store) Version() string { return s.version }

// SetLease changes after how long without a sign of this node, as the writer,
// another one takes over.
func (s *Store) SetLease(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lease = d
}

// SetBuffer changes how many bytes of records may wait to be committed.
func (s *Store) SetBuffer(size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buffer = size
	s.cond.Broadcast()
}

// SetBounds implements logstore.Store. All nodes have the same JetStream stream,
// so the newest call of any node counts.
func (s *Store) SetBounds(b logstore.Bounds) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bounds == b || s.closing {
		return
	}
	s.bounds = b
	s.parts.Go(s.changeBounds)
}

// changeBounds changes the bounds of the JetStream stream, however often that has to
// be tried. The store owns it; it ends with the store.
func (s *Store) changeBounds() {
	for {
		s.mu.Lock()
		b := s.bounds
		s.mu.Unlock()
		err := s.eng.setBounds(s.ctx, b)
		s.heard(err)
		s.mu.Lock()
		same := s.bounds == b
		s.mu.Unlock()
		if err == nil && same || !s.pause(time.Second) {
			return
		}
	}
}

// pause waits. False: the store is closed.
func (s *Store) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// Epochs implements logstore.Store.
func (s *Store) Epochs() []logstore.Epoch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log.epochs)
}

// Node implements logstore.Shared.
func (s *Store) Node() string { return s.o.Node }

// begin keeps Close waiting until end, and returns a context that ends with the
// store as well.
func (s *Store) begin(ctx context.Context) (context.Context, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, nil, logstore.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	s.running++
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(logstore.ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running--
		s.cond.Broadcast()
	}, nil
}

// over returns why a call is not to go on: its context's error, or ErrClosed.
func (s *Store) over(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}

// broadcast wakes who waits on cond, for a context that ends.
func (s *Store) broadcast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cond.Broadcast()
}

// nudge puts a token into a channel of capacity 1.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Close implements logstore.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	first := !s.closing
	s.closing = true
	t := s.term
	if t != nil {
		t.endLocked(logstore.ErrClosed)
	}
	s.mu.Unlock()
	if first {
		if t != nil {
			ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
			_ = t.drained(ctx)
			cancel()
			<-t.finished
		}
		s.peers.leave()
		s.cancel()
	}
	s.mu.Lock()
	s.cond.Broadcast()
	for s.running > 0 || !first && !s.closed {
		s.cond.Wait()
	}
	s.mu.Unlock()
	if !first {
		return nil
	}
	s.parts.Wait()
	s.eng.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.settleLocked()
	s.cond.Broadcast()
	return nil
}

// heard notes whether JetStream has answered.
func (s *Store) heard(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil, errors.Is(err, errRefused), errors.Is(err, errNoRecord), errors.Is(err, logstore.ErrEvicted):
		s.contact = time.Now()
	case s.ctx.Err() == nil && !errors.Is(err, errInterrupted) && !errors.Is(err, context.Canceled):
		s.err = err
	}
	s.settleLocked()
}

// settleLocked sets the state that follows from what is known.
func (s *Store) settleLocked() {
	state, err := s.judgeLocked()
	if state == s.state {
		if state == logstore.Stalled {
			s.err = err
		}
		return
	}
	before := s.state
	s.state, s.since = state, time.Now()
	switch {
	case state == logstore.Stalled:
		s.err = err
		s.o.Logger.Error("the log cannot be written; the stream stands still until it can", zap.Error(err))
	case before == logstore.Stalled && state != logstore.Closed:
		s.err = nil
		s.o.Logger.Info("the log can be written again")
	}
	s.cond.Broadcast()
}

func (s *Store) judgeLocked() (logstore.State, error) {
	if s.closing && s.term == nil {
		return logstore.Closed, nil
	}
	if err := s.eng.state(); err != nil {
		return logstore.Stalled, err
	}
	if silent := time.Since(s.contact); silent > silentAfter {
		return logstore.Stalled, because(fmt.Sprintf("NATS has not answered for %s", silent.Round(time.Second)), s.err)
	}
	if !s.lost.IsZero() {
		return logstore.Stalled, s.err
	}
	if s.term != nil {
		if waited := s.term.waitingLocked(); waited > silentAfter {
			return logstore.Stalled, because(fmt.Sprintf("nothing was committed for %s", waited.Round(time.Second)), s.term.trouble)
		}
		if s.term.granted {
			return logstore.Writing, nil
		}
	}
	if !s.loaded {
		return logstore.Loading, nil
	}
	return logstore.Following, nil
}

// unacknowledged returns an error that says why something was not acknowledged in
// time, or only that it was not.
func (s *Store) unacknowledged(what string) error {
	if err := s.eng.denied(); err != nil {
		return err
	}
	return errors.New(what)
}

// because returns an error with its cause, if that is known.
func because(what string, cause error) error {
	if cause == nil {
		return errors.New(what)
	}
	return fmt.Errorf("%s: %w", what, cause)
}

// Status implements logstore.Store.
func (s *Store) Status() logstore.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	st := logstore.Status{
		State: s.state, Since: s.since, Err: s.err,
		First: s.info.first, Last: s.lastLocked(), Bytes: s.info.bytes + s.extra,
		Newest: s.log.newest, Oldest: s.oldest.time,
		Term: s.log.term(), Writer: s.peers.writer(), Takeovers: s.takeovers, Refused: s.refused, Resyncs: s.resyncs,
	}
	if st.First > st.Last {
		st.First, st.Oldest, st.Newest = st.Last+1, 0, 0
	}
	if s.term != nil {
		st.Buffered, st.BufferedBytes = len(s.term.pending), s.term.bodies
		st.Writer = s.o.Node
	}
	return st
}

// lastLocked returns the offset of the newest record that is known to be
// committed.
func (s *Store) lastLocked() uint64 { return max(s.log.head, s.info.last) }

// Interface guards
var _ logstore.Shared = (*Store)(nil)
