package filestore

import (
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// hookedDisk is the real disk. Once it is armed, it calls hook after a write to a
// segment, once.
type hookedDisk struct {
	realDisk
	armed chan struct{} // closed by the test
	hook  func()        // set before
	once  sync.Once     // for hook
}

func (d *hookedDisk) open(name string, flag int) (file, error) {
	f, err := d.realDisk.open(name, flag)
	if err == nil && strings.HasSuffix(name, segmentSuffix) {
		f = &hookedFile{f, d}
	}
	return f, err // the head is the real file, whatever the store does with it
}

type hookedFile struct {
	file
	disk *hookedDisk
}

func (f *hookedFile) WriteAt(p []byte, at int64) (int, error) {
	n, err := f.file.WriteAt(p, at)
	select {
	case <-f.disk.armed:
		f.disk.once.Do(f.disk.hook)
	default:
	}
	return n, err
}

// A file system that is frozen, here between the two writes of a commit, holds
// up the log and nothing else. The garbage collector cannot stop a goroutine that
// waits for it in any other way than in a system call, and all others would wait
// for that one.
func TestFrozenFileSystemHoldsUpNothingElse(t *testing.T) { // alone: it collects garbage a hundred times
	volume, err := ssetest.MountVolume(t.TempDir())
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := volume.Unmount(); err != nil {
			t.Error(err)
		}
	})
	d := &hookedDisk{armed: make(chan struct{})}
	s := open(t, Options{Dir: filepath.Join(volume.Dir, "log"), Sync: SyncOff, disk: d})
	n := follow(t, s, 1)
	term := campaign(t, s)
	add(t, term, 1, 5)
	await(t, s, 5)

	frozen := make(chan error, 1) // the hook does not wait for the test
	d.hook = func() { frozen <- volume.Freeze() }
	close(d.armed)
	add(t, term, 6, 6)
	if err := <-frozen; err != nil {
		t.Fatal(err)
	}
	var longest time.Duration
	for range 100 {
		begun := time.Now()
		runtime.GC()
		longest = max(longest, time.Since(begun))
	}
	t.Logf("the longest of 100 collections took %v", longest)
	add(t, term, 7, 10) // it does not wait, either
	if st := s.Status(); st.Last != 5 || len(n.all()) != 5 {
		t.Errorf("%d records were handed over, and the last is %d; want 5, as the head of the sixth could not be written",
			len(n.all()), st.Last)
	}
	if err := volume.Thaw(); err != nil {
		t.Fatalf("the process stood still: %v", err)
	}
	await(t, s, 10)
	if got := len(n.all()); got != 10 {
		t.Errorf("%d records were handed over afterwards, want 10", got)
	}
}
