package natslog

import (
	"bytes"
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// mostInFlight and mostBytesInFlight bound what was published and is not
	// acknowledged yet. Where 3 servers take 2 ms to commit a record, this is 64,000
	// a second.
	mostInFlight      = 128
	mostBytesInFlight = 4 << 20

	// fenceLength is of how many records a fence is: one more than may be in flight.
	// The expectations of an earlier writer reach up to mostInFlight-1 beyond the
	// last record before the fence, and some of what it has published may still
	// come. If the fence were shorter, the first of them would be refused, and a
	// later one might find the log just as long as it expects.
	fenceLength = mostInFlight + 1

	// ackTimeout is how long to wait for the acknowledgement of the oldest record
	// in flight. An answer that comes later is of no use, but it does no harm.
	ackTimeout = 3 * time.Second

	// resyncLeast and resyncMost bound how long to wait before records are
	// published again that the leader does not have.
	resyncLeast = 100 * time.Millisecond
	resyncMost  = time.Second
)

var errReleased = errors.New("it was released")

// term is the time in which this node writes. Records have their offsets from the
// moment they are appended: each is published with the offset before as the
// newest that is expected, so that a record can be published again and again, and
// is there once. The store's mutex protects its fields, but for the channels.
type term struct {
	store  *Store
	lease  *lease
	number uint64
	fence  uint64 // offset of its last record

	ctx    context.Context // ends when what is pending was dropped
	cancel context.CancelFunc

	granted bool // Campaign returns it
	done    chan struct{}
	over    error
	dropped bool // what is pending is not to be committed any more

	newest    int64 // arrival of the record appended last
	confirmed uint64
	pending   []entry   // offsets confirmed+1 and so on
	size      int64     // bytes of pending
	bodies    int64     // bytes of their bodies
	inFlight  int       // so many of pending were published
	flying    int64     // bytes of them
	window    int       // how many may be in flight
	moved     time.Time // when the oldest was published, or one before was confirmed
	since     time.Time // since when the oldest is pending
	fault     error     // why a record in flight was not committed
	trouble   error     // the newest fault, for people; nil once something is committed

	comparedTo uint64 // what was confirmed at the last resync; of run, as the next
	pauses     retry  // after resyncs

	wake     chan struct{} // there is something to do for run; capacity 1, as one wake-up is enough
	finished chan struct{} // closed when run has returned
}

// entry is a record that is not known to be committed.
type entry struct {
	data []byte
	body int // bytes
}

// entryMemory is what an entry takes besides its bytes.
const entryMemory = 64

func newTerm(s *Store, l *lease, f *logstore.Record) *term {
	t := &term{
		store: s, lease: l, number: f.Term, fence: f.Offset, granted: true, newest: f.Time, confirmed: f.Offset, window: mostInFlight,
		done: make(chan struct{}), wake: make(chan struct{}, 1), finished: make(chan struct{}),
	}
	t.ctx, t.cancel = context.WithCancel(s.ctx)
	return t
}

// Number implements logstore.Term.
func (t *term) Number() uint64 { return t.number }

// Done implements logstore.Term.
func (t *term) Done() <-chan struct{} { return t.done }

// Err implements logstore.Term.
func (t *term) Err() error {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	return t.over
}

// Append implements logstore.Term.
func (t *term) Append(r *logstore.Record) error {
	s := t.store
	if len(r.Body)+len(r.Source)+len(r.Type)+len(r.ID)+entryMemory > s.eng.maxRecord() {
		return logstore.ErrTooLarge
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case t.over != nil:
		return why(t.over)
	case t.size >= s.buffer:
		return logstore.ErrNoRoom
	}
	own := *r
	t.newest = max(t.newest, r.Time)
	own.Term, own.Time = t.number, t.newest
	e := entry{own.AppendTo(make([]byte, 0, len(r.Body)+len(r.Source)+len(r.Type)+len(r.ID)+entryMemory)), len(r.Body)}
	if len(t.pending) == 0 {
		t.since = time.Now()
	}
	t.pending = append(t.pending, e)
	t.size += int64(len(e.data) + entryMemory)
	t.bodies += int64(e.body)
	nudge(t.wake)
	return nil
}

// Wait implements logstore.Term.
func (t *term) Wait(ctx context.Context) error {
	s := t.store
	stop := context.AfterFunc(ctx, s.broadcast)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case t.over != nil:
			return why(t.over)
		case t.size < s.buffer:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		s.cond.Wait()
	}
}

// Release implements logstore.Term. Releasing twice is no error.
func (t *term) Release(ctx context.Context) error {
	t.store.mu.Lock()
	t.endLocked(errReleased)
	t.store.mu.Unlock()
	if err := t.drained(ctx); err != nil {
		return err
	}
	select {
	case <-t.finished:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drained waits until nothing is pending. When ctx ends, what is pending is
// dropped: nobody has seen it. What is in flight may still be committed, and the
// next fence finds it.
func (t *term) drained(ctx context.Context) error {
	s := t.store
	stop := context.AfterFunc(ctx, s.broadcast)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(t.pending) > 0 {
		if err := ctx.Err(); err != nil {
			t.dropLocked()
			return err
		}
		s.cond.Wait()
	}
	return nil
}

func (t *term) endLocked(why error) {
	if t.over == nil {
		t.over = why
		close(t.done)
		t.store.cond.Broadcast()
	}
	nudge(t.wake)
}

func (t *term) dropLocked() {
	t.cancel()
	t.dropped, t.pending, t.size, t.bodies, t.inFlight, t.flying = true, nil, 0, 0, 0, 0
	t.store.cond.Broadcast()
	nudge(t.wake)
}

// deposeLocked ends the term: nothing of it can be committed any more.
func (t *term) deposeLocked(why error) {
	if t.over == nil {
		t.store.o.Logger.Warn("this node does not write the log any more", zap.Uint64("term", t.number), zap.Error(why))
	}
	t.endLocked(why)
	t.dropLocked()
}

// waitingLocked returns for how long nothing was committed that is pending.
func (t *term) waitingLocked() time.Duration {
	if len(t.pending) == 0 {
		return 0
	}
	return time.Since(t.since)
}

// run publishes what is appended. Campaign starts it; it ends when the term is
// over and nothing is pending, and gives the lease back.
func (t *term) run() {
	defer close(t.finished)
	defer t.cancel()
	for t.step() {
		timer := time.NewTimer(t.look())
		select {
		case <-t.wake:
		case <-timer.C:
		case <-t.lease.lost:
			t.store.mu.Lock()
			t.deposeLocked(t.lease.why)
			t.store.mu.Unlock()
		}
		timer.Stop()
	}
	s := t.store
	s.mu.Lock()
	drained := !t.dropped
	s.mu.Unlock()
	t.lease.release(drained)
	ctx, cancel := context.WithTimeout(context.Background(), freeTimeout)
	s.writeCheckpoint(ctx)
	cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.term = nil
	s.settleLocked()
	s.cond.Broadcast()
}

// look returns how long run may wait: until the oldest record in flight is too
// old, or a checkpoint may be due.
func (t *term) look() time.Duration {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	wait := time.Second
	if t.inFlight > 0 {
		wait = min(wait, max(ackTimeout-time.Since(t.moved), 0))
	}
	return wait
}

// step does what there is to do. False: the term is over and nothing is pending.
func (t *term) step() bool {
	s := t.store
	s.mu.Lock()
	late := t.inFlight > 0 && time.Since(t.moved) >= ackTimeout
	if late && t.fault == nil {
		t.fault = s.unacknowledged("NATS has not acknowledged it in time")
	}
	fault, due := t.fault, t.fault == nil && s.checkpointDueLocked() // its answer is waited for
	ends := t.over != nil && len(t.pending) == 0
	s.mu.Unlock()
	switch {
	case ends:
		return false
	case fault != nil:
		t.resync(fault)
	default:
		t.publish()
	}
	if due {
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		s.writeCheckpoint(ctx)
		cancel()
	}
	return true
}

// publish publishes what may be in flight.
func (t *term) publish() {
	s := t.store
	for {
		s.mu.Lock()
		if t.fault != nil || t.inFlight >= len(t.pending) || t.inFlight >= t.window || t.flying >= mostBytesInFlight {
			s.mu.Unlock()
			return
		}
		if t.inFlight == 0 {
			t.moved = time.Now()
		}
		e := t.pending[t.inFlight]
		offset := t.confirmed + 1 + uint64(t.inFlight)
		t.inFlight++
		t.flying += int64(len(e.data))
		s.mu.Unlock()
		s.eng.publish(offset-1, [][]byte{e.data}, func(err error) { t.answered(offset, err) })
	}
}

// answered takes the answer to a publication into account. The engine calls it.
func (t *term) answered(offset uint64, err error) {
	s := t.store
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case offset <= t.confirmed || t.dropped: // an answer to an earlier one came late
	case err == nil:
		t.confirmLocked(offset)
	default:
		if errors.Is(err, errRefused) {
			s.refused++
		}
		if t.fault == nil {
			t.fault = err
		}
		nudge(t.wake)
	}
}

// confirmLocked notes that everything up to an offset is committed: no record is
// without the one before.
func (t *term) confirmLocked(offset uint64) {
	n := int(min(offset-t.confirmed, uint64(len(t.pending))))
	for _, e := range t.pending[:n] {
		t.size -= int64(len(e.data) + entryMemory)
		t.bodies -= int64(e.body)
		if t.inFlight > 0 {
			t.inFlight--
			t.flying -= int64(len(e.data))
		}
	}
	clear(t.pending[:n])
	t.pending = t.pending[n:]
	if len(t.pending) == 0 {
		t.pending = nil
	}
	t.confirmed = offset
	t.window = min(2*t.window, mostInFlight)
	t.moved, t.trouble = time.Now(), nil
	t.since = t.moved
	t.store.contact = t.moved
	t.store.cond.Broadcast()
	nudge(t.wake)
}

// errForeign ends a term.
var errForeign = errors.New("something else was published to the log's subject")

// appliedLocked takes records into account that the tracker has applied. One of
// another term behind the fence ends this one. So does what is no record, where
// records are pending: it may have the place of one of them.
func (t *term) appliedLocked(records []logstore.Record) {
	for i := range records {
		r := &records[i]
		switch {
		case r.Offset <= t.fence || t.dropped:
		case r.Term != t.number:
			t.deposeLocked(errDeposed)
		case r.Offset > t.confirmed && r.Fence() && len(t.pending) > 0:
			t.deposeLocked(errForeign)
		case r.Offset > t.confirmed:
			t.confirmLocked(r.Offset)
		}
	}
}

// resync finds out which of the records in flight are committed, after something
// was wrong: the leader is asked, since no answer says what is committed. The
// rest is published again, one at first.
func (t *term) resync(fault error) {
	s := t.store
	s.mu.Lock()
	s.resyncs++
	t.trouble = fault
	t.inFlight, t.flying, t.window = 0, 0, 1
	s.mu.Unlock()
	s.heard(fault)
	for {
		began := time.Now()
		missing := t.compare()
		s.mu.Lock()
		stop := t.dropped || len(t.pending) == 0
		if t.confirmed != t.comparedTo {
			t.comparedTo, t.pauses = t.confirmed, retry{}
		}
		s.mu.Unlock()
		if stop || !t.rest(began) || missing {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.fault = nil
}

// rest waits before it goes on, since it began, ever longer until something is
// committed: a leader that is cut off answers at once, and refuses everything.
// False: the term is to end.
func (t *term) rest(began time.Time) bool {
	select {
	case <-t.lease.lost:
		t.store.mu.Lock()
		defer t.store.mu.Unlock()
		t.deposeLocked(t.lease.why)
		return false
	default:
	}
	return t.pauses.againSince(t.ctx, began, resyncLeast, resyncMost)
}

// compare reads on from the last record that is confirmed. It returns true when
// the leader has no more, and false when it does not answer.
func (t *term) compare() bool {
	s := t.store
	for {
		s.mu.Lock()
		next := t.confirmed + 1
		var own []byte
		if len(t.pending) > 0 {
			own = t.pending[0].data
		}
		s.mu.Unlock()
		if own == nil {
			return true
		}
		m, err := s.eng.record(t.ctx, next)
		s.heard(err)
		if errors.Is(err, errNoRecord) {
			t.lookForEvicted(next)
		}
		if err != nil {
			return errors.Is(err, errNoRecord)
		}
		s.mu.Lock()
		if next == t.confirmed+1 && len(t.pending) > 0 {
			if !bytes.Equal(m.data, own) {
				t.deposeLocked(errDeposed)
			} else {
				t.confirmLocked(next)
			}
		}
		s.mu.Unlock()
	}
}

var errEvicted = errors.New("JetStream has dropped records before it was known that they are committed")

// lookForEvicted ends the term if the stream has had a record at an offset, and
// retains it no longer: then nothing shows whose it was, and none can be appended
// there.
func (t *term) lookForEvicted(offset uint64) {
	s := t.store
	in, err := s.eng.info(t.ctx)
	s.heard(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && in.first > offset && offset == t.confirmed+1 && len(t.pending) > 0 {
		t.deposeLocked(errEvicted)
	}
}

// Interface guards
var _ logstore.Term = (*term)(nil)
