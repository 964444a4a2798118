package filestore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// batcher campaigns.
func batcher(t *testing.T, s *Store) logstore.Batcher {
	t.Helper()
	term, err := s.Campaign(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return term.(logstore.Batcher)
}

// begun is a batcher's term with a first record, so that a segment is open.
func begun(t *testing.T, s *Store) logstore.Batcher {
	t.Helper()
	term := batcher(t, s)
	put(t, term, event(1))
	await(t, s, 1)
	return term
}

// Where that takes a write and no more, all is done when Commit returns.
func TestCommitWritesItself(t *testing.T) {
	for name, every := range map[string]time.Duration{"off": SyncOff, "interval": time.Hour} {
		t.Run(name, func(t *testing.T) {
			s := open(t, quick(t.TempDir(), every))
			n := follow(t, s, 1)
			term := begun(t, s)
			eventually(t, s, "the follower has everything", func(logstore.Status) bool { return len(n.all()) == 1 })
			here := 0
			for i := 2; i <= 100; i++ {
				if err := term.Add(event(i)); err != nil {
					t.Fatal(err)
				}
				term.Commit()
				if st := s.Status(); st.Buffered == 0 && st.Last == uint64(i) && len(n.all()) == i {
					here++
				}
				await(t, s, uint64(i))
			}
			if here < 50 { // the committer may be at work, but not for long
				t.Errorf("%d of 99 records were there when Commit returned", here)
			}
		})
	}
}

// With SyncAlways, and what is much, the committer writes.
func TestCommitLeavesToTheCommitter(t *testing.T) {
	for name, test := range map[string]struct {
		every time.Duration
		size  int
	}{"always": {SyncAlways, 10}, "much": {SyncOff, maxHere}} {
		t.Run(name, func(t *testing.T) {
			s := open(t, quick(t.TempDir(), test.every))
			term := begun(t, s)
			var mu sync.Mutex
			in := false
			ctx, cancel := context.WithCancel(context.Background())
			followed := make(chan struct{})
			go func() {
				defer close(followed)
				_ = s.Follow(ctx, 2, func([]logstore.Record) {
					mu.Lock() // blocks for ever in Commit's goroutine
					defer mu.Unlock()
					in = true
				})
			}()
			defer func() { cancel(); <-followed }()
			r := event(2)
			r.Body = make([]byte, test.size)
			mu.Lock()
			if err := term.Add(r); err != nil {
				t.Error(err)
			}
			term.Commit()
			mu.Unlock()
			eventually(t, s, "it is applied", func(logstore.Status) bool {
				mu.Lock()
				defer mu.Unlock()
				return in
			})
		})
	}
}

// A write that hangs keeps its caller alone waiting.
func TestWriteHangsInCommit(t *testing.T) {
	disk := &badDisk{noSync: true}
	var hang atomic.Bool
	hangs, release := make(chan struct{}), make(chan struct{})
	disk.onWrite = func(name string) {
		if strings.HasSuffix(name, segmentSuffix) && hang.CompareAndSwap(true, false) {
			close(hangs)
			<-release
		}
	}
	o := quick(t.TempDir(), time.Millisecond)
	o.disk = disk
	s := open(t, o)
	n := follow(t, s, 1)
	term := begun(t, s)
	hang.Store(true)
	first := make(chan struct{})
	go func() {
		defer close(first)
		if err := term.Add(event(2)); err != nil {
			t.Error(err)
		}
		term.Commit()
	}()
	<-hangs
	for i := 3; i <= 10; i++ {
		if err := term.Add(event(i)); err != nil {
			t.Error(err)
		}
		term.Commit()
	}
	s.SetSync(SyncOff)
	s.SetBounds(logstore.Bounds{Events: 1 << 20})
	if st := s.Status(); st.Last != 1 || st.Buffered != 9 || term.Err() != nil {
		t.Errorf("status %+v, %v", st, term.Err())
	}
	closed := make(chan struct{})
	go func() { defer close(closed); shut(t, s) }()
	<-term.Done()
	close(release)
	<-first
	<-closed
	if all := n.all(); len(all) != 10 {
		t.Errorf("%d records were applied", len(all))
	}
}

// What fails in Commit's goroutine is written by the committer, before what comes
// later.
func TestWriteFailsInCommit(t *testing.T) {
	for name, file := range map[string]string{"segment": segmentSuffix, "head": headName} {
		t.Run(name, func(t *testing.T) {
			disk := &badDisk{noSync: true}
			var failing atomic.Bool
			disk.fail = func(name string) error {
				if failing.Load() && strings.HasSuffix(name, file) {
					return syscall.ENOSPC
				}
				return nil
			}
			o := quick(t.TempDir(), SyncOff)
			o.disk = disk
			s := open(t, o)
			n := follow(t, s, 1)
			term := begun(t, s)
			failing.Store(true)
			for i := 2; i <= 10; i++ {
				if err := term.Add(event(i)); err != nil {
					t.Fatal(err)
				}
				term.Commit()
			}
			eventually(t, s, "it is stalled", func(st logstore.Status) bool { return st.State == logstore.Stalled })
			if st := s.Status(); st.Last != 1 || st.Buffered != 9 || len(n.all()) != 1 {
				t.Errorf("status %+v, %d records were applied", st, len(n.all()))
			}
			failing.Store(false)
			await(t, s, 10)
			for i, r := range n.all() {
				if r.Offset != uint64(i+1) || !isEvent(&r, i+1) {
					t.Fatalf("offset %d was applied in place %d", r.Offset, i+1)
				}
			}
		})
	}
}

// Commits, the committer's work, failures, other settings and the end come in any
// order.
func TestCommitsAtOnce(t *testing.T) {
	t.Parallel()
	const each = 500 // records of a source in a round
	random := rand.New(rand.NewPCG(5, 6))
	dir := t.TempDir()
	var applied []logstore.Record // by one follower after the other
	next := make(map[string]int)  // number of each source
	for round := range 12 {
		disk := &badDisk{noSync: true}
		var failing atomic.Bool
		disk.onSync = func(name string) error {
			if failing.Load() && strings.HasSuffix(name, segmentSuffix) {
				return syscall.EIO
			}
			return nil
		}
		o := quick(dir, []time.Duration{time.Millisecond, SyncOff, SyncAlways}[round%3])
		o.disk, o.segment, o.Buffer = disk, 20_000, 64<<10
		s := open(t, o)
		followed := make(chan struct{})
		go func() {
			defer close(followed)
			_ = s.Follow(context.Background(), uint64(len(applied)+1), func(batch []logstore.Record) {
				for _, r := range batch {
					if r.Offset != uint64(len(applied)+1) {
						t.Errorf("offset %d came after %d", r.Offset, len(applied))
					}
					r.Body = append([]byte(nil), r.Body...)
					applied = append(applied, r)
				}
			})
		}()
		term := batcher(t, s)
		var adding sync.Mutex // Add is for one goroutine at a time
		var all sync.WaitGroup
		for g := range 4 {
			source := fmt.Sprint("source ", g)
			seed := random.Uint64()
			all.Go(func() {
				random := rand.New(rand.NewPCG(seed, 1))
				for i := next[source]; i < (round+1)*each; {
					adding.Lock()
					var err error
					for range min(1+random.IntN(5), (round+1)*each-i) {
						if err = term.Add(numbered(source, i)); err != nil {
							break
						}
						i++
					}
					adding.Unlock()
					term.Commit()
					if errors.Is(err, logstore.ErrNoRoom) {
						err = term.Wait(within(t))
					}
					if errors.Is(err, logstore.ErrOver) {
						return
					}
				}
			})
		}
		meddled, stop := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(meddled)
			random := rand.New(rand.NewPCG(uint64(round), 2))
			for {
				select {
				case <-stop:
					disk.full.Store(false)
					failing.Store(false)
					return
				default:
				}
				switch random.IntN(6) {
				case 0:
					s.SetSync([]time.Duration{SyncAlways, SyncOff, time.Millisecond, time.Hour}[random.IntN(4)])
				case 1:
					s.SetBounds(logstore.Bounds{Bytes: 1 << 40, Events: 1 << 40, Age: time.Duration(random.IntN(2)) << 60})
				case 2:
					disk.full.Store(true)
				case 3:
					failing.Store(true)
				default:
					disk.full.Store(false)
					failing.Store(false)
				}
				time.Sleep(time.Duration(random.IntN(1000)) * time.Microsecond) // between two of them
			}
		}()
		if round%2 == 0 { // close it in the midst of it
			time.Sleep(time.Duration(5+random.IntN(10)) * time.Millisecond)
			closed := make(chan struct{})
			go func() { defer close(closed); shut(t, s) }()
			<-term.Done()
			close(stop)
			<-closed
			all.Wait()
			<-meddled
		} else {
			all.Wait()
			close(stop)
			<-meddled
			eventually(t, s, "all is committed", func(st logstore.Status) bool {
				return st.Buffered == 0 && st.Last == uint64(4*each*(round+1))
			})
			shut(t, s)
		}
		<-followed

		o = quick(dir, SyncAlways)
		s = open(t, o)
		left := readAll(t, s)
		shut(t, s)
		clear(next)
		for i, r := range left {
			want := numbered(r.Source, next[r.Source])
			if r.Offset != uint64(i+1) || r.Hash != want.Hash || string(r.Body) != string(want.Body) {
				t.Fatalf("round %d: record %d is offset %d of %s, %q, want %q", round, i+1, r.Offset, r.Source, r.Body, want.Body)
			}
			next[r.Source]++
		}
		if len(left) < len(applied) {
			t.Fatalf("round %d: %d records were applied, and %d are there", round, len(applied), len(left))
		}
		for i, r := range applied {
			if r.Source != left[i].Source || string(r.Body) != string(left[i].Body) {
				t.Fatalf("round %d: %+v was applied, and %+v is there", round, r, left[i])
			}
		}
	}
}

// numbered is the record of a number of a source.
func numbered(source string, i int) *logstore.Record {
	r := event(i)
	r.Source, r.Time = source, 1_700_000_000_000
	return r
}
