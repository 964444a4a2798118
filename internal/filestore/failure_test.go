package filestore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// Whichever call fails, once or several times in a row, by an error or for want
// of room: everything that was appended is handed over once, in order, and is
// there afterwards.
func TestGoesOnAfterEachFailure(t *testing.T) {
	t.Parallel()
	const n = 14
	run := func(t *testing.T, o Options, disk *badDisk) {
		s, err := Open(o)
		for tries := 0; err != nil; tries++ {
			if tries > 5 {
				t.Fatalf("opening: %v", err)
			}
			s, err = Open(o)
		}
		defer shut(t, s)
		ctx, cancel := context.WithCancel(context.Background())
		got, done := new(seen), make(chan struct{})
		go func() { defer close(done); _ = s.Follow(ctx, 1, got.apply) }()
		term := campaign(t, s)
		for i := 1; i <= n; i++ {
			add(t, term, i, i)
			await(t, s, uint64(i))
		}
		if err := term.Release(within(t)); err != nil {
			t.Errorf("releasing: %v", err)
		}
		killed := o
		killed.Dir, killed.disk = copyDir(t, o.Dir), &badDisk{noSync: true}
		after := open(t, killed)
		records := honest(t, after, s.Epochs()[0].ID, n)
		if len(records) != n || len(after.Epochs()) != 1 {
			t.Errorf("killed, it has %d records of the epochs %v", len(records), after.Epochs())
		}
		shut(t, after)
		cancel()
		<-done
		for i, r := range got.all() {
			if r.Offset != uint64(i+1) || !isEvent(&r, i+1) {
				t.Fatalf("the follower got offset %d in place %d", r.Offset, i+1)
			}
		}
		if all := got.all(); len(all) != n {
			t.Errorf("the follower got %d records", len(all))
		}
	}
	for name, every := range map[string]time.Duration{"always": SyncAlways, "interval": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			measure := &badDisk{noSync: true}
			o := quick(t.TempDir(), every)
			o.disk, o.segment, o.boot = measure, 400, "boot"
			run(t, o, measure)
			calls := measure.calls.Load()
			step := int64(1)
			if every != SyncAlways {
				step = 2 // most calls are the same ones
			}
			for at := int64(1); at <= calls; at += step {
				disk := &badDisk{noSync: true}
				disk.failAt.Store(at)
				disk.failN.Store(1 + at%3)
				if at%2 == 0 {
					disk.why = syscall.ENOSPC
				}
				o.Dir, o.disk = t.TempDir(), disk
				run(t, o, disk)
				if t.Failed() {
					t.Fatalf("call %d of %d had failed", at, calls)
				}
			}
		})
	}
}

func TestFullDiskIsSaidOnceAndLeft(t *testing.T) {
	disk := new(badDisk)
	logger, logs := logged()
	o := quick(t.TempDir(), SyncAlways)
	o.disk, o.Logger, o.Buffer = disk, logger, 64<<10
	s := open(t, o)
	n := follow(t, s, 1)
	term := campaign(t, s)
	add(t, term, 1, 10)
	await(t, s, 10)
	disk.full.Store(true)
	last := 10
	for ; ; last++ {
		if err := term.Append(event(last + 1)); errors.Is(err, logstore.ErrNoRoom) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, s, "it is stalled", func(st logstore.Status) bool { return st.State == logstore.Stalled })
	calls := disk.calls.Load()
	for disk.calls.Load() < calls+30 { // it tries again and again
		time.Sleep(time.Millisecond) // between two looks
	}
	st := s.Status()
	if !errors.Is(st.Err, syscall.ENOSPC) || st.Last != 10 || st.Buffered != last-10 || st.BufferedBytes == 0 {
		t.Errorf("status %+v, %d records wait", st, last-10)
	}
	if term.Err() != nil || len(n.all()) != 10 {
		t.Errorf("the term's error is %v, %d records were handed over", term.Err(), len(n.all()))
	}
	disk.full.Store(false)
	await(t, s, uint64(last))
	if st := s.Status(); st.State != logstore.Writing || st.Err != nil {
		t.Errorf("status %+v", st)
	}
	if all := n.all(); len(all) != last {
		t.Errorf("%d records were handed over, want %d", len(all), last)
	}
	if a, b := logs.FilterMessageSnippet("stands still").Len(), logs.FilterMessageSnippet("again").Len(); a != 1 || b != 1 {
		t.Errorf("logged %v", logs.All())
	}
}

// Bounds that are made smaller make room on a disk that is full.
func TestFullDiskIsMadeRoomOn(t *testing.T) {
	disk := new(badDisk)
	o := small(t.TempDir())
	o.disk = disk
	s := open(t, o)
	term := campaign(t, s)
	add(t, term, 1, 100)
	await(t, s, 100)
	disk.full.Store(true)
	add(t, term, 101, 101)
	eventually(t, s, "it is stalled", func(st logstore.Status) bool { return st.State == logstore.Stalled })
	before := s.Status().Bytes
	s.SetBounds(logstore.Bounds{Bytes: 2000})
	eventually(t, s, "there is room", func(st logstore.Status) bool { return st.Bytes <= 2000 && st.Bytes < before })
	disk.full.Store(false)
	await(t, s, 101)
}

// A log can be opened and read on a disk that is full. Nothing is appended
// before it is known for good how it was opened.
func TestFullDiskIsReadFrom(t *testing.T) {
	o := quick(t.TempDir(), SyncAlways)
	fill(t, o, 20)
	disk := new(badDisk)
	disk.full.Store(true)
	o.disk = disk
	s := open(t, o)
	n := follow(t, s, 1)
	eventually(t, s, "all was followed", func(logstore.Status) bool { return len(n.all()) == 20 })
	eventually(t, s, "it is stalled", func(st logstore.Status) bool { return st.State == logstore.Stalled })
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		_, err := s.Campaign(ctx)
		result <- err
	}()
	eventually(t, s, "it is campaigned for", func(st logstore.Status) bool { return st.Term == 2 })
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("campaigning for a log on a full disk: %v", err)
	}
	disk.full.Store(false)
	goesOn(t, s)
}

// What was appended but cannot be committed does not keep Close.
func TestClosingWhileTheDiskIsFull(t *testing.T) {
	t.Parallel()
	disk := new(badDisk)
	o := quick(t.TempDir(), SyncOff)
	o.disk = disk
	s := open(t, o)
	term := campaign(t, s)
	add(t, term, 1, 10)
	await(t, s, 10)
	epochs := s.Epochs()
	disk.full.Store(true)
	add(t, term, 11, 20)
	short, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := term.Release(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("releasing: %v", err)
	}
	begun := time.Now()
	shut(t, s)
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("closing took %v", took)
	}
	disk.full.Store(false)
	s = open(t, o)
	// of the record that was cut in half by the disk nothing is left, or all
	if left := honest(t, s, epochs[0].ID, 10); len(left) < 10 || len(s.Epochs()) != 1 {
		t.Errorf("%d records of the epochs %v", len(left), s.Epochs())
	}
	goesOn(t, s)
}

// An fsync that fails shows nothing, and one that takes its time keeps nobody
// from asking.
func TestFsync(t *testing.T) {
	t.Parallel()
	t.Run("fails", func(t *testing.T) {
		t.Parallel()
		disk := new(badDisk)
		var failing atomic.Bool
		disk.onSync = func(string) error {
			if failing.Load() {
				return syscall.EIO
			}
			return nil
		}
		o := quick(t.TempDir(), SyncAlways)
		o.disk = disk
		s := open(t, o)
		n := follow(t, s, 1)
		term := campaign(t, s)
		add(t, term, 1, 10)
		await(t, s, 10)
		failing.Store(true)
		add(t, term, 11, 20)
		eventually(t, s, "it is stalled", func(st logstore.Status) bool {
			return st.State == logstore.Stalled && errors.Is(st.Err, syscall.EIO)
		})
		if got := len(n.all()); got != 10 {
			t.Errorf("%d records were handed over, 10 are on disk", got)
		}
		// a process that is killed now does not take them for committed, either
		h, known, _ := parseHead(load(t, filepath.Join(o.Dir, headName)))
		if !known || !h.suspect || h.last != 10 {
			t.Errorf("the head is %+v, %v", h, known)
		}
		failing.Store(false)
		await(t, s, 20)
		if got := len(n.all()); got != 20 {
			t.Errorf("%d records were handed over", got)
		}
	})
	t.Run("hangs", func(t *testing.T) {
		t.Parallel()
		for name, every := range map[string]time.Duration{"always": SyncAlways, "interval": time.Millisecond} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				disk := new(badDisk)
				var hang atomic.Bool
				release, hangs := make(chan struct{}), make(chan struct{})
				var once sync.Once
				disk.onSync = func(name string) error {
					if hang.Load() && strings.HasSuffix(name, segmentSuffix) {
						once.Do(func() { close(hangs) })
						<-release
					}
					return nil
				}
				o := quick(t.TempDir(), every)
				o.disk = disk
				s := open(t, o)
				n := follow(t, s, 1)
				term := campaign(t, s)
				hang.Store(true)
				add(t, term, 1, 10)
				<-hangs
				_, _, _ = s.Status(), s.Epochs(), term.Err()
				s.SetBounds(logstore.Bounds{Events: 1 << 20})
				add(t, term, 11, 20)
				if every != SyncAlways { // nobody waits for it
					await(t, s, 20)
					if got := len(n.all()); got != 20 {
						t.Errorf("%d records were handed over", got)
					}
				}
				closed := make(chan struct{})
				go func() { defer close(closed); shut(t, s) }()
				<-term.Done()
				_ = s.Status()
				close(release)
				<-closed
			})
		}
	})
}

// What the disk fails to return may come yet. What never comes is given up.
func TestReadingFails(t *testing.T) {
	t.Parallel()
	o := small(t.TempDir())
	fill(t, o, 60)
	segments := files(t, o.Dir, "*.log")
	disk := &badDisk{noSync: true}
	var fails, errno atomic.Int64
	errno.Store(int64(syscall.EIO))
	disk.onRead = func(name string) error {
		if name == segments[1] && fails.Add(-1) >= 0 {
			return &os.PathError{Op: "read", Path: name, Err: syscall.Errno(errno.Load())}
		}
		return nil
	}
	o.disk = disk
	s := open(t, o)
	fails.Store(maxReadTries - 1)
	n := follow(t, s, 1)
	eventually(t, s, "all was followed", func(logstore.Status) bool { return len(n.all()) == 60 })
	shut(t, s)

	// too many open files say nothing of what is in them
	errno.Store(int64(syscall.EMFILE))
	s = open(t, o)
	fails.Store(3 * maxReadTries)
	n = follow(t, s, 1)
	eventually(t, s, "all was followed", func(logstore.Status) bool { return len(n.all()) == 60 })
	shut(t, s)

	errno.Store(int64(syscall.EIO))
	s = open(t, o)
	fails.Store(1 << 40)
	next, _ := firstOf(filepath.Base(segments[2]))
	if _, err := s.Read(within(t), next-1, 1); !errors.Is(err, syscall.EIO) {
		t.Errorf("reading what cannot be read: %v", err)
	}
	n = follow(t, s, 1)
	eventually(t, s, "the rest was followed", func(logstore.Status) bool {
		all := n.all()
		return len(all) > 0 && all[len(all)-1].Offset == 60
	})
	if st := s.Status(); st.First != next {
		t.Errorf("offsets from %d on are retained, want %d", st.First, next)
	}
}

func TestUnwritableDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	store(t, file, nil)
	if _, err := Open(quick(filepath.Join(file, "log"), SyncOff)); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("opening a log below a file: %v", err)
	}
	if os.Getuid() == 0 {
		return // may write anywhere
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(quick(dir, SyncOff)); !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), dir) {
		t.Errorf("opening a log in a directory that is read-only: %v", err)
	}
}

func TestTooLargeRecord(t *testing.T) {
	s := open(t, quick(t.TempDir(), SyncOff))
	term := campaign(t, s)
	if err := term.Append(&logstore.Record{Body: make([]byte, maxRecord)}); !errors.Is(err, logstore.ErrTooLarge) {
		t.Errorf("appending %d bytes: %v", maxRecord, err)
	}
	goesOnWith(t, s, term)
}

func goesOnWith(t *testing.T, s *Store, term logstore.Term) {
	t.Helper()
	next := s.Status().Last + 1
	put(t, term, event(int(next)))
	await(t, s, next)
}

// Terms, readers, followers and the end come in any order.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	for round := range 3 {
		o := small(t.TempDir())
		o.Bounds.Bytes = 20_000
		s := open(t, o)
		var all sync.WaitGroup
		run := func(do func(ctx context.Context) error) {
			all.Go(func() {
				for i := 0; ; i++ {
					ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i%5)*time.Millisecond)
					err := do(ctx)
					cancel()
					if errors.Is(err, logstore.ErrClosed) {
						return
					}
				}
			})
		}
		var number atomic.Int64
		run(func(ctx context.Context) error {
			term, err := s.Campaign(ctx)
			if err != nil {
				return err
			}
			for range 30 {
				// a record that was not taken leaves a number free
				if err := term.Append(event(int(number.Add(1)))); err != nil {
					number.Add(-1)
				}
			}
			return term.Release(ctx)
		})
		var followed uint64
		run(func(ctx context.Context) error {
			return s.Follow(ctx, followed+1, func(batch []logstore.Record) {
				if first := batch[0].Offset; first != followed+1 && first <= followed {
					t.Errorf("offset %d came after %d", first, followed)
				}
				for i := range batch {
					if batch[i].Offset != batch[0].Offset+uint64(i) {
						t.Error("a batch has a hole")
					}
				}
				followed = batch[len(batch)-1].Offset
			})
		})
		for range 2 {
			run(func(ctx context.Context) error {
				records, err := s.Read(ctx, s.Status().First, 1<<10)
				for i, r := range records {
					if r.Offset != records[0].Offset+uint64(i) {
						t.Error("what was read has a hole")
					}
				}
				return err
			})
		}
		run(func(ctx context.Context) error {
			_, err := s.Since(ctx, event(int(number.Load())/2).Time)
			return err
		})
		eventually(t, s, "much was appended", func(st logstore.Status) bool { return st.Last > uint64(100*(1+round%3)) })
		shut(t, s)
		all.Wait()
		if st := s.Status(); st.State != logstore.Closed || t.Failed() {
			t.Fatalf("round %d: %+v", round, st)
		}
		last := s.Status().Last
		s = open(t, o)
		if got := s.Status().Last; got != last || len(s.Epochs()) != 1 {
			t.Errorf("the log ends with %d, it had ended with %d: %s", got, last, fmt.Sprint(s.Epochs()))
		}
		shut(t, s)
	}
}
