package filestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// patience bounds every wait, generously.
const patience = 60 * time.Second

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// open opens a store, and closes it at the end of the test.
func open(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, s) })
	return s
}

func shut(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
}

// copyDir returns a copy of a directory as it is now: what a process that is
// killed leaves.
func copyDir(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	still.Lock()
	defer still.Unlock()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// quick returns options for tests of a log in dir, which syncs nothing really.
func quick(dir string, sync time.Duration) Options {
	return Options{Dir: dir, Sync: sync, retry: time.Millisecond, disk: &badDisk{noSync: true}}
}

// logged returns a logger and what it has logged.
func logged() (*zap.Logger, *observer.ObservedLogs) {
	core, logs := observer.New(zap.InfoLevel)
	return zap.New(core), logs
}

// event is the event of a number. The source r has the first one only.
func event(i int) *logstore.Record {
	source := "abcd"[i%4 : i%4+1]
	if i == 1 {
		source = "r"
	}
	return &logstore.Record{
		Time: 1_700_000_000_000 + int64(i), Source: source, Type: "tick", ID: fmt.Sprint(i), Hash: uint64(i),
		Body: []byte(fmt.Sprintf("data: %d %s\n\n", i, bytes.Repeat([]byte{'x'}, i%40))),
	}
}

// isEvent reports whether a record is what event made of a number.
func isEvent(r *logstore.Record, i int) bool {
	want := event(i)
	return r.Source == want.Source && r.Type == want.Type && r.ID == want.ID && r.Hash == want.Hash &&
		r.Time == want.Time && bytes.Equal(r.Body, want.Body)
}

func campaign(t testing.TB, s *Store) logstore.Term {
	t.Helper()
	term, err := s.Campaign(within(t))
	if err != nil {
		t.Fatalf("campaigning: %v", err)
	}
	return term
}

// add appends the events of numbers first to last, one by one, waiting for room.
func add(t testing.TB, term logstore.Term, first, last int) {
	t.Helper()
	for i := first; i <= last; i++ {
		put(t, term, event(i))
	}
}

func put(t testing.TB, term logstore.Term, r *logstore.Record) {
	t.Helper()
	for {
		err := term.Append(r)
		if err == nil {
			return
		}
		if !errors.Is(err, logstore.ErrNoRoom) {
			t.Fatal(err)
		}
		if err := term.Wait(within(t)); err != nil {
			t.Fatal(err)
		}
	}
}

// fill makes a log of the events of numbers 1 to n, each committed by itself,
// and closes it in order.
func fill(t testing.TB, o Options, n int) {
	t.Helper()
	s := open(t, o)
	term := campaign(t, s)
	for i := 1; i <= n; i++ {
		add(t, term, i, i)
		await(t, s, uint64(i))
	}
	shut(t, s)
}

// eventually waits for a condition of the store.
func eventually(t testing.TB, s *Store, what string, ok func(logstore.Status) bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok(s.Status()) {
		if time.Now().After(deadline) {
			t.Fatalf("waiting until %s: %+v", what, s.Status())
		}
		time.Sleep(100 * time.Microsecond) // between two looks
	}
}

// await waits until an offset is committed, and handed over.
func await(t testing.TB, s *Store, last uint64) {
	t.Helper()
	eventually(t, s, fmt.Sprint("offset ", last, " is committed"), func(st logstore.Status) bool {
		return st.Last >= last && st.Buffered == 0
	})
}

// seen is what a Follow has applied.
type seen struct {
	mu      sync.Mutex
	records []logstore.Record
}

func (n *seen) apply(batch []logstore.Record) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range batch {
		r.Body = bytes.Clone(r.Body)
		n.records = append(n.records, r)
	}
}

func (n *seen) all() []logstore.Record {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]logstore.Record(nil), n.records...)
}

// follow follows a store until the test ends. Whoever campaigns for it from now on
// waits until everything has been applied.
func follow(t testing.TB, s *Store, from uint64) *seen {
	t.Helper()
	n := new(seen)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Follow(ctx, from, n.apply) }()
	t.Cleanup(func() { cancel(); <-done })
	eventually(t, s, "it is followed", func(logstore.Status) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.follower != nil
	})
	return n
}

// readAll reads a log from its oldest record on.
func readAll(t testing.TB, s *Store) []logstore.Record {
	t.Helper()
	var all []logstore.Record
	for from := s.Status().First; ; {
		records, err := s.Read(within(t), from, 1<<20)
		if errors.Is(err, logstore.ErrEvicted) {
			all, from = nil, s.Status().First
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(records) == 0 {
			return all
		}
		all = append(all, records...)
		from = records[len(records)-1].Offset + 1
	}
}
