// Package filestore keeps the log of a stream in files: a logstore.Store for
// one process.
//
// Records are appended to segments, the newest of which grows until it has
// reached its share of what is retained. Whole segments are dropped, oldest
// first. A commit is one write of all that has been appended meanwhile, with
// SyncAlways one fsync besides. What was committed survives the process,
// however it dies, and with SyncAlways the machine.
//
// A store has one goroutine, the committer, which alone writes files; only
// damage that is found in reading is put aside by who found it, and who has
// something kept besides the log writes that file. The mutex is
// never held during I/O.
//
// What an epoch is good for, and when a new one begins, is in recover.go: it
// does whenever an offset may have been given that the files do not hold, so
// after a power cut, unless every commit had waited for the disk; after damage
// at the end; and if the files log.json or head are lost.
package filestore

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// SyncAlways has every commit wait until its records are on disk.
	SyncAlways time.Duration = 0
	// SyncOff leaves it to the system when records get to disk, but for those of
	// segments that are full.
	SyncOff time.Duration = -1

	// DefaultSync is what a power cut may cost by default.
	DefaultSync = time.Second

	// DefaultBuffer is how many bytes of records may wait to be committed: some
	// seconds at full speed.
	DefaultBuffer = 16 << 20

	// defaultRetry is how long a store that is stalled waits before it tries again.
	defaultRetry = time.Second

	// closeTimeout bounds how long Close waits for what was appended, where the
	// disk takes nothing.
	closeTimeout = 300 * time.Millisecond
)

// lockName is the file that one process has locked at a time.
const lockName = "lock"

// Options describe a store. Dir is required.
type Options struct {
	// The directory of the log's files. It is made if need be. One process has
	// it at a time.
	Dir string

	// How often what was written is forced to disk: SyncAlways, SyncOff, or an
	// interval. A power cut may cost what was committed since. See SetSync.
	Sync time.Duration

	// What is retained.
	Bounds logstore.Bounds

	// Whether all records are held until Hold is called. Default: none are.
	Hold bool

	// How many bytes of memory the records that wait to be committed may take.
	// Default: 16 MiB. No more waits than a quarter of what is retained.
	Buffer int

	// For what people should know. Default: nothing is logged.
	Logger *zap.Logger

	// For tests.
	disk    disk          // default: the real one
	boot    string        // default: that of the machine
	retry   time.Duration // default: defaultRetry
	segment int64         // bytes of a segment; default: from Bounds
}

// Store is a logstore.Store in files.
type Store struct {
	o    Options
	lock *os.File

	output // the committer's

	wake chan struct{} // there is something to do for the committer; capacity 1, as one wake-up is enough
	quit chan struct{} // closed by Close
	done chan struct{} // closed when the committer has returned

	mu       sync.Mutex // protects what follows
	cond     sync.Cond  // on mu: something has changed that somebody may wait for
	meta     meta
	unsaved  bool // meta differs from its file
	saved    uint64
	every    time.Duration // as Options.Sync
	bounds   logstore.Bounds
	held     uint64     // offset from which on records are held, see Hold
	changed  bool       // they were, since the committer looked
	segments []*segment // oldest first, without holes; the last one is written to
	offset   uint64     // of the record that is committed next
	lastTime int64      // arrival of the newest committed record, Unix ms
	sources  logstore.Sources
	pending  batch  // appended, not yet being committed
	appended uint64 // offset of the newest record that is committed, or may be
	inFlight int    // records that are being committed
	taken    int64  // bytes of memory that they take
	bodies   int64  // bytes of their bodies
	term     *term
	terms    uint64 // of this process
	follower *follower
	reading  int // calls of Follow, Read and the like that have not returned

	state   logstore.State
	since   time.Time
	stalled bool
	err     error

	closing bool
	closeBy time.Time // until when appended records are still tried
	closed  bool
}

// Open opens the log in a directory. What it finds at the end of the newest
// segment is checked, and cut where it is not whole. It writes nothing that a
// full disk has no room for; such a log can be read, and is stalled.
//
// The error names the file at fault. It is a logstore.ErrInUse where another
// process has the directory.
func Open(o Options) (*Store, error) {
	if o.Buffer == 0 {
		o.Buffer = DefaultBuffer
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.disk == nil {
		o.disk = realDisk{}
	}
	if o.boot == "" {
		o.boot = bootID()
	}
	if o.retry == 0 {
		o.retry = defaultRetry
	}
	o.Logger = o.Logger.With(zap.String("dir", o.Dir))
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening a log: %w", err)
	}
	s := &Store{
		o: o, every: o.Sync, bounds: o.Bounds, state: logstore.Following, since: time.Now(), unsaved: true,
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	if s.cond.L = &s.mu; !o.Hold {
		s.held = logstore.HoldNone
	}
	var err error
	if s.lock, err = lockDir(o.Dir); err != nil {
		return nil, fmt.Errorf("opening a log: %w", err)
	}
	if err = s.recover(); err != nil {
		if s.headFile != nil {
			s.headFile.close()
		}
		_ = s.lock.Close()
		return nil, fmt.Errorf("opening the log in %s: %w", o.Dir, err)
	}
	s.appended = s.offset - 1
	go s.commit()
	return s, nil
}

// Close implements logstore.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	if !s.closing {
		s.closing, s.closeBy = true, time.Now().Add(closeTimeout)
		if s.term != nil {
			s.term.endLocked(logstore.ErrClosed)
		}
		close(s.quit)
	}
	s.cond.Broadcast()
	s.mu.Unlock()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.reading > 0 {
		s.cond.Wait()
	}
	return nil
}

// Epochs implements logstore.Store.
func (s *Store) Epochs() []logstore.Epoch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.meta.Epochs)
}

// SetBounds implements logstore.Store.
func (s *Store) SetBounds(b logstore.Bounds) {
	s.mu.Lock()
	s.bounds, s.changed = b, true
	s.mu.Unlock()
	s.rouse()
}

// Hold implements logstore.Holder.
func (s *Store) Hold(from uint64) {
	s.mu.Lock()
	s.held, s.changed = from, true
	s.mu.Unlock()
	s.rouse()
}

// SetSync changes how often what is written is forced to disk: SyncAlways,
// SyncOff, or an interval. It does not wait. What was written before it is forced
// to disk by the new setting, too.
//
// A log that was open under anything but SyncAlways for a moment begins an epoch
// after a power cut, also if SyncAlways is set again: not every commit has waited
// for the disk. That ends when the log is opened the next time.
func (s *Store) SetSync(every time.Duration) {
	s.mu.Lock()
	s.every = every
	if every != SyncAlways && s.meta.Synced {
		s.meta.Synced, s.unsaved = false, true
	}
	s.mu.Unlock()
	s.rouse()
}

func (s *Store) syncEvery() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.every
}

// Status implements logstore.Store.
func (s *Store) Status() logstore.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := logstore.Status{
		State: s.state, Since: s.since, Err: s.err,
		First: s.firstLocked(), Last: s.offset - 1,
		Term: s.meta.Term, Takeovers: s.terms,
		Buffered: len(s.pending.records) + s.inFlight, BufferedBytes: s.pending.bytes + s.bodies,
	}
	if s.term != nil {
		st.Writer = fmt.Sprintf("process %d", os.Getpid())
	}
	for _, seg := range s.segments {
		st.Bytes += seg.size
	}
	if st.First <= st.Last {
		st.Oldest, st.Newest = s.segments[0].firstTime, s.lastTime
	}
	return st
}

func (s *Store) firstLocked() uint64 {
	if len(s.segments) > 0 {
		return s.segments[0].first
	}
	return s.offset
}

// rouse has the committer look for something to do. It does not block.
func (s *Store) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// broadcast wakes who waits on cond. It is for what ends a wait without a change
// under the mutex, such as a context: with the mutex, it cannot come between
// the look and the wait.
func (s *Store) broadcast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cond.Broadcast()
}

// settleLocked sets the state that follows from what is known.
func (s *Store) settleLocked() {
	state := logstore.Following
	switch {
	case s.closed:
		state = logstore.Closed
	case s.stalled:
		state = logstore.Stalled
	case s.term != nil && s.term.granted:
		state = logstore.Writing
	}
	if state != s.state {
		s.state, s.since = state, time.Now()
	}
	s.cond.Broadcast()
}

// stall notes that nothing can be written at present.
func (s *Store) stall(err error) {
	s.mu.Lock()
	begins := !s.stalled
	s.stalled, s.err = true, err
	s.settleLocked()
	s.mu.Unlock()
	if begins {
		s.o.Logger.Error("the log cannot be written; the stream stands still until it can", zap.Error(err))
	}
}

// resume notes that something was written.
func (s *Store) resume() {
	s.mu.Lock()
	ends, since := s.stalled, s.since
	if ends {
		s.stalled, s.err = false, nil
		s.settleLocked()
	}
	s.mu.Unlock()
	if ends {
		s.o.Logger.Info("the log can be written again", zap.Duration("stalled", time.Since(since)))
	}
}

// finish releases what is held. The committer calls it at its end.
func (s *Store) finish() {
	s.mu.Lock()
	orderly := len(s.pending.records) == 0 && s.inFlight == 0 && !s.unsaved && !s.stalled
	m := s.meta
	m.Orderly, m.known = true, s.sources.All()
	s.mu.Unlock()
	err := s.closeOutput(orderly)
	if err == nil && orderly {
		err = m.write(s.o.disk, s.o.Dir)
	}
	if err == nil && !orderly {
		err = errors.New("something could not be written any more")
	}
	if err != nil {
		s.o.Logger.Warn("the log was not closed in order", zap.Error(err))
	}
	s.headFile.close()
	s.mu.Lock()
	s.closed = true
	if s.follower != nil {
		s.follower.closed = true
	}
	s.settleLocked()
	s.mu.Unlock()
	_ = s.lock.Close()
}

// Interface guards
var _ logstore.Store = (*Store)(nil)
