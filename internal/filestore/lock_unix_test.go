//go:build unix

package filestore

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// Somebody who has a look does not keep a process from opening a log. Somebody
// who stays does.
func TestLookingIsNoUse(t *testing.T) {
	t.Parallel()
	o := quick(t.TempDir(), SyncOff)
	fill(t, o, 1)
	f, err := os.Open(filepath.Join(o.Dir, lockName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := int(f.Fd())
	look := func() {
		// a process that another test starts has the files until it runs its program
		err := ssetest.Await(patience, "the log is free", func() bool {
			return syscall.Flock(fd, syscall.LOCK_SH|syscall.LOCK_NB) == nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var s *Store
	for again := true; again; {
		look()
		begun := time.Now()
		looked := make(chan time.Duration, 1) // how long it took
		time.AfterFunc(time.Millisecond, func() {
			_ = syscall.Flock(fd, syscall.LOCK_UN)
			looked <- time.Since(begun)
		})
		s, err = Open(o)
		// on a busy machine it may be a long look
		again = <-looked > 40*time.Millisecond && errors.Is(err, logstore.ErrInUse)
	}
	if err != nil {
		t.Fatalf("opening a log while somebody has a look: %v", err)
	}
	shut(t, s)
	look()
	if s, err := Open(o); !errors.Is(err, logstore.ErrInUse) {
		t.Errorf("opening a log that somebody has: %v", err)
		if err == nil {
			shut(t, s)
		}
	}
}
