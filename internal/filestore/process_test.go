package filestore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// The directory that a test binary writes to, which a test has started, and how
// it syncs.
const (
	childDir  = "FILESTORE_TEST_DIR"
	childSync = "FILESTORE_TEST_SYNC"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(child(dir, os.Getenv(childSync)))
	}
	os.Exit(m.Run())
}

// child appends events to a log, each with its offset as its number, until it
// is killed, and prints the offsets that were handed over.
func child(dir, sync string) int {
	every, err := time.ParseDuration(sync)
	if err != nil {
		return 3
	}
	s, err := Open(Options{Dir: dir, Sync: every, segment: 100_000, Buffer: 64 << 10})
	if err != nil {
		fmt.Println(err)
		return 2
	}
	ctx := context.Background()
	last := s.Status().Last
	go func() {
		_ = s.Follow(ctx, last+1, func(batch []logstore.Record) { fmt.Println(batch[len(batch)-1].Offset) })
	}()
	term, err := s.Campaign(ctx)
	if err != nil {
		return 3
	}
	fmt.Println("begun")
	for i := int(last) + 1; ; i++ {
		for errors.Is(term.Append(event(i)), logstore.ErrNoRoom) {
			if term.Wait(ctx) != nil {
				return 3
			}
		}
	}
}

// start starts a child. kill ends it and waits for it.
func start(t *testing.T, dir string, sync time.Duration) (out *bufio.Scanner, kill func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), childDir+"="+dir, childSync+"="+sync.String())
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out = bufio.NewScanner(pipe)
	return out, func() {
		_ = cmd.Process.Kill()
		for out.Scan() { // what it had said before
		}
		_ = cmd.Wait()
	}
}

// Killed again and again, a process has lost nothing that was handed over.
func TestKilled(t *testing.T) {
	t.Parallel()
	for name, every := range map[string]time.Duration{"always": SyncAlways, "interval": DefaultSync, "off": SyncOff} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var epoch string
			var last uint64
			for round := range 3 {
				out, kill := start(t, dir, every)
				for lines := 0; out.Scan() && lines < 20+round*10; lines++ {
					if n, err := strconv.ParseUint(out.Text(), 10, 64); err == nil {
						last = n
					} else if out.Text() != "begun" {
						t.Fatal(out.Text())
					}
				}
				kill()
				s := open(t, quick(dir, every))
				epochs := s.Epochs()
				if round == 0 {
					epoch = epochs[0].ID
				}
				records := honest(t, s, epoch, int(last))
				if len(epochs) != 1 || epochs[0].ID != epoch {
					t.Fatalf("killed for the %dth time, the epoch %s has become %v", round+1, epoch, epochs)
				}
				if uint64(len(records)) < last || s.Status().Last < last {
					t.Fatalf("killed for the %dth time, %d records are left of %d", round+1, len(records), last)
				}
				shut(t, s)
			}
		})
	}
}

func TestTwoProcesses(t *testing.T) {
	dir := t.TempDir()
	s := open(t, quick(dir, SyncOff))
	out, kill := start(t, dir, SyncOff)
	defer kill()
	if !out.Scan() || !strings.Contains(out.Text(), logstore.ErrInUse.Error()) ||
		!strings.Contains(out.Text(), fmt.Sprint("process ", os.Getpid())) || !strings.Contains(out.Text(), dir) {
		t.Errorf("the second process says %q", out.Text())
	}
	if _, err := Open(quick(dir, SyncOff)); !errors.Is(err, logstore.ErrInUse) {
		t.Errorf("opening twice: %v", err)
	}
	shut(t, s)
	if s, err := Open(quick(dir, SyncOff)); err != nil {
		t.Errorf("opening what was closed: %v", err)
	} else {
		shut(t, s)
	}
}
