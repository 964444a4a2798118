// Package filestore keeps the log of a stream in files: a logstore.Store for
// one process.
//
// Records are appended to segments, the newest of which grows until it has
// reached its share of what is retained. Whole segments are dropped, oldest
// first. A commit is one write of all that has been appended meanwhile, with
// `sync always` one fsync besides. What was committed survives the process,
// however it dies, and with `sync always` the machine.
package filestore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// SyncAlways has every commit wait until its records are on disk.
	SyncAlways time.Duration = 0
	// SyncOff leaves it to the system when records get to disk.
	SyncOff time.Duration = -1

	// DefaultSync is what a power cut may cost by default.
	DefaultSync = time.Second

	// DefaultBuffer is how many bytes of records may wait to be committed: some
	// seconds at full speed.
	DefaultBuffer = 16 << 20

	// The size of a segment, in bytes: a sixteenth of the bound, so that about as
	// much is dropped early. Opening reads one segment, so it is not too large.
	segmentsPerLog = 16
	minSegment     = 1 << 20
	maxSegment     = 64 << 20

	// retryEvery is how long a store that is stalled waits before it tries again.
	retryEvery = time.Second

	// closeTimeout bounds how long Close waits for what was appended, where the
	// disk takes nothing.
	closeTimeout = time.Second
)

// Options describe a store. Dir is required.
type Options struct {
	// The directory of the log's files. It is made if need be. One process has
	// it at a time.
	Dir string

	// How often what was written is forced to disk: SyncAlways, SyncOff, or an
	// interval. A power cut may cost what was committed since.
	Sync time.Duration

	// What is retained.
	Bounds logstore.Bounds

	// How many bytes of records may wait to be committed. Default: 16 MiB.
	Buffer int

	// For what people should know. Default: nothing is logged.
	Logger *zap.Logger

	disk disk // for tests; the real one by default
}

// Store is a logstore.Store in files.
type Store struct {
	o    Options
	lock *os.File
	head headFile

	// writing is the segment that is appended to; the committer's.
	writing disker

	mu       sync.Mutex // protects what follows
	cond     sync.Cond  // on mu: there is something to commit, room, or an end
	meta     meta
	bounds   logstore.Bounds
	changed  bool       // they were, since the committer looked
	segments []*segment // oldest first, without holes; the last one is written to
	state    logstore.State
	since    time.Time
	err      error
	pending  batch  // appended, not yet being committed
	taken    uint64 // offset of the newest record that is being committed, or was
	inFlight int64  // bytes of the batch that is being committed
	term     *term
	terms    uint64
	follower *follower
	closing  bool
	closeBy  time.Time // until when appended records are still tried

	done chan struct{} // closed when the committer has returned
}

// batch is what is committed by one write.
type batch struct {
	frames  []byte
	sizes   []int // of each frame
	bodies  []int // of each record's body, which is the end of its frame
	records []logstore.Record
	bytes   int64 // of the bodies
}

// Open opens the log in a directory. What it finds at the end of the newest
// segment is checked, and cut where it is not whole.
//
// The error says which file is at fault. It is a logstore.ErrInUse where
// another process has the directory.
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
	o.Logger = o.Logger.With(zap.String("dir", o.Dir))
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening a log: %w", err)
	}
	s := &Store{o: o, bounds: o.Bounds, state: logstore.Following, since: time.Now(), done: make(chan struct{})}
	s.cond.L = &s.mu
	var err error
	if s.lock, err = lockDir(o.Dir); err != nil {
		return nil, fmt.Errorf("opening a log: %w", err)
	}
	if err = s.recover(); err != nil {
		_ = s.lock.Close()
		if s.head.f != nil {
			_ = s.head.f.Close()
		}
		return nil, fmt.Errorf("opening the log in %s: %w", o.Dir, err)
	}
	s.taken = s.nextLocked() - 1
	go s.commit()
	return s, nil
}

// recover reads what there is, cuts a torn end, and decides about the epoch.
func (s *Store) recover() error {
	dir := s.o.Dir
	found, err := readMeta(dir)
	if err != nil {
		return err
	}
	head, known, err := openHead(dir)
	if err != nil {
		return err
	}
	s.head = head
	reason, err := s.loadSegments()
	if err != nil {
		return err
	}
	boot := bootID()
	next := s.nextLocked()
	switch {
	case found == nil:
		s.meta = meta{Epochs: []logstore.Epoch{{ID: newEpoch(), First: next}}}
		if next > 1 {
			reason = "the file " + metaName + " is missing"
		}
	default:
		s.meta = *found
		switch {
		case reason != "":
		case known >= next:
			reason = fmt.Sprintf("offset %d was given, but the files end with %d", known, next-1)
		case !found.Orderly && s.o.Sync != SyncAlways && (boot == "" || boot != found.Boot):
			reason = "the machine went down while the log was open"
		}
		if reason != "" {
			// Cursors beyond what is left name what is gone.
			s.meta.Epochs = append(s.meta.Epochs, logstore.Epoch{ID: newEpoch(), First: next})
		}
	}
	if reason != "" {
		s.err = errors.New(reason)
		s.o.Logger.Error("the log has lost events, or may have; a new epoch begins",
			zap.String("reason", reason), zap.Uint64("offset", next))
	}
	s.meta.Boot, s.meta.Orderly = boot, false
	s.forgetEpochsLocked()
	if err := s.meta.write(dir); err != nil {
		return err
	}
	return s.head.write(next - 1)
}

// loadSegments finds the segments. Of the older ones it reads the index, of the
// newest one everything. lost says why records are missing that were there;
// empty if none are.
func (s *Store) loadSegments() (lost string, err error) {
	entries, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return "", err
	}
	var firsts []uint64
	for _, e := range entries {
		if first, ok := firstOf(e.Name()); ok {
			firsts = append(firsts, first)
		}
	}
	slices.Sort(firsts)
	for i, first := range firsts {
		name := segmentName(s.o.Dir, first)
		newest := i == len(firsts)-1
		var seg *segment
		if !newest {
			seg, err = readIndex(name, first)
			if err != nil {
				s.o.Logger.Warn("reading a segment whole for want of its index", zap.String("file", name), zap.Error(err))
			}
		}
		if newest || err != nil {
			var why string
			if seg, why, err = s.scanSegment(name, first, newest); err != nil {
				return "", err
			}
			if why != "" {
				lost = why
			}
			if seg == nil {
				continue
			}
		}
		if n := len(s.segments); n > 0 && s.segments[n-1].next != first {
			// what was before the hole cannot be reached from behind it
			lost = fmt.Sprintf("offsets %d to %d are missing before %s", s.segments[n-1].next, first-1, name)
			s.o.Logger.Error("dropping what is before a hole", zap.String("reason", lost))
			for _, old := range s.segments {
				s.removeFiles(old)
			}
			s.segments = nil
			lost = "" // nothing was given twice: the end is as it was
		}
		s.segments = append(s.segments, seg)
	}
	return lost, nil
}

// scanSegment reads a segment and cuts off what is not whole. nil: nothing is
// left of it.
func (s *Store) scanSegment(name string, first uint64, newest bool) (seg *segment, lost string, err error) {
	seg, err = scan(name, first)
	bad, isDamage := errors.AsType[*damage](err)
	switch {
	case err == nil:
	case !isDamage:
		return nil, "", err
	case newest && errors.Is(bad, errTorn):
		s.o.Logger.Warn("cutting off a record that was not written whole", zap.String("file", name), zap.Int64("byte", bad.at))
		if err := s.cut(seg, ""); err != nil {
			return nil, "", err
		}
	default:
		lost = bad.Error()
		s.o.Logger.Error("the log is damaged; what comes after is kept in a file of its own, and not served",
			zap.String("file", name), zap.Int64("byte", bad.at), zap.Uint64("offset", seg.next), zap.Error(bad.err))
		if err := s.cut(seg, name+damagedSuffix); err != nil {
			return nil, "", err
		}
	}
	if seg.events() == 0 {
		return nil, lost, os.Remove(name)
	}
	return seg, lost, nil
}

// cut makes a file end where its segment does. keep is where the whole of it is
// kept, if anywhere.
func (s *Store) cut(seg *segment, keep string) error {
	if keep != "" {
		body, err := os.ReadFile(seg.name)
		if err == nil {
			err = replaceFile(keep, body)
		}
		if err != nil {
			return err
		}
	}
	return os.Truncate(seg.name, seg.size)
}

func newEpoch() string { return strings.ToLower(rand.Text()[:10]) }

// nextLocked is the offset that comes next.
func (s *Store) nextLocked() uint64 {
	if n := len(s.segments); n > 0 {
		return s.segments[n-1].next
	}
	if n := len(s.meta.Epochs); n > 0 {
		return s.meta.Epochs[n-1].First
	}
	return 1
}

func (s *Store) firstLocked() uint64 {
	if len(s.segments) > 0 {
		return s.segments[0].first
	}
	return s.nextLocked()
}

// forgetEpochsLocked drops the epochs of which nothing is retained, but the
// newest.
func (s *Store) forgetEpochsLocked() {
	first := s.firstLocked()
	for len(s.meta.Epochs) > 1 && s.meta.Epochs[1].First <= first {
		s.meta.Epochs = s.meta.Epochs[1:]
	}
}

func (s *Store) removeFiles(seg *segment) {
	for _, name := range []string{seg.name, seg.indexName()} {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			s.o.Logger.Warn("a file of the log could not be removed", zap.String("file", name), zap.Error(err))
		}
	}
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
	s.cond.Broadcast()
}

// Status implements logstore.Store.
func (s *Store) Status() logstore.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := logstore.Status{
		State: s.state, Since: s.since, Err: s.err,
		First: s.firstLocked(), Last: s.nextLocked() - 1,
		Term: s.meta.Term, Takeovers: s.terms,
		Buffered: len(s.pending.records), BufferedBytes: s.pending.bytes + s.inFlight,
	}
	if s.term != nil {
		st.Writer = fmt.Sprintf("process %d", os.Getpid())
	}
	for _, seg := range s.segments {
		st.Bytes += seg.size
	}
	return st
}

func (s *Store) setStateLocked(state logstore.State, err error) {
	if state != s.state {
		s.state, s.since = state, time.Now()
	}
	if err != nil {
		s.err = err
	}
}

// Close implements logstore.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	if !s.closing {
		s.closing, s.closeBy = true, time.Now().Add(closeTimeout)
		if s.term != nil {
			s.term.endLocked(logstore.ErrClosed)
		}
	}
	s.mu.Unlock()
	s.cond.Broadcast()
	<-s.done
	return nil
}

// finish releases what is held. The committer calls it at its end.
func (s *Store) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	orderly := len(s.pending.records) == 0
	if s.writing != nil {
		orderly = s.writing.Sync() == nil && orderly
		_ = s.writing.Close()
	}
	if orderly {
		s.meta.Orderly = true
		if err := s.meta.write(s.o.Dir); err != nil {
			s.o.Logger.Warn("the log was not closed in order", zap.Error(err))
		}
	}
	_ = s.head.f.Close()
	_ = s.lock.Close()
	s.setStateLocked(logstore.Closed, nil)
	if s.follower != nil {
		s.follower.end(logstore.ErrClosed)
	}
	s.cond.Broadcast()
}

// Campaign implements logstore.Store. The only process that has the directory
// is the writer.
func (s *Store) Campaign(ctx context.Context) (logstore.Term, error) {
	stop := context.AfterFunc(ctx, s.cond.Broadcast)
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.closing:
			return nil, logstore.ErrClosed
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case s.term == nil && s.caughtUpLocked():
			// the term before the file that says so: it is nobody else's
			t := &term{store: s, number: s.meta.Term + 1, done: make(chan struct{})}
			s.term, s.meta.Term = t, t.number
			next := s.meta
			next.Epochs = slices.Clone(next.Epochs)
			s.mu.Unlock()
			err := next.write(s.o.Dir)
			s.mu.Lock()
			if err == nil && !s.closing {
				s.terms++
				s.setStateLocked(logstore.Writing, nil)
				return t, nil
			}
			s.term = nil
			if err != nil {
				s.stallLocked(err)
				s.waitLocked(retryEvery)
			}
		default:
			s.cond.Wait()
		}
	}
}

// caughtUpLocked reports whether nothing of an earlier term is on its way, and
// Follow, if it runs, has applied everything.
func (s *Store) caughtUpLocked() bool {
	return s.inFlight == 0 && len(s.pending.records) == 0 && (s.follower == nil || s.follower.live)
}

// waitLocked waits for a signal, at most so long.
func (s *Store) waitLocked(atMost time.Duration) {
	timer := time.AfterFunc(atMost, s.cond.Broadcast)
	defer timer.Stop()
	s.cond.Wait()
}

// stallLocked notes that nothing can be written at present.
func (s *Store) stallLocked(err error) {
	if s.state != logstore.Stalled {
		s.o.Logger.Error("the log cannot be written; the stream stands still until it can", zap.Error(err))
	}
	s.setStateLocked(logstore.Stalled, err)
}

// resumeLocked notes that something was written.
func (s *Store) resumeLocked() {
	if s.state != logstore.Stalled {
		return
	}
	s.o.Logger.Info("the log can be written again", zap.Duration("stalled", time.Since(s.since)))
	state := logstore.Following
	if s.term != nil {
		state = logstore.Writing
	}
	s.setStateLocked(state, nil)
	s.err = nil
}

// disk makes the files that are written to.
type disk interface {
	create(name string) (disker, error)
	open(name string) (disker, error)
}

// disker is a file that is written to.
type disker interface {
	WriteAt(p []byte, at int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

type realDisk struct{}

func (realDisk) create(name string) (disker, error) {
	return os.OpenFile(filepath.Clean(name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
}

func (realDisk) open(name string) (disker, error) {
	return os.OpenFile(filepath.Clean(name), os.O_RDWR, 0o600)
}

// Interface guards
var _ logstore.Store = (*Store)(nil)
