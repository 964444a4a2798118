package filestore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// Whether a power cut may have cost something depends on every setting since the
// log was opened, not on the last one.
func TestEpochAfterSyncWasChanged(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		opened time.Duration
		set    []time.Duration
		epochs int
	}{
		"always, and again":         {SyncAlways, []time.Duration{SyncAlways}, 1},
		"from always to off":        {SyncAlways, []time.Duration{SyncOff}, 2},
		"from always to intervals":  {SyncAlways, []time.Duration{time.Hour}, 2},
		"there and back":            {SyncAlways, []time.Duration{SyncOff, SyncAlways}, 2},
		"there and back, intervals": {SyncAlways, []time.Duration{time.Hour, SyncAlways}, 2},
		"from off to always":        {SyncOff, []time.Duration{SyncAlways}, 2},
		"from intervals to always":  {time.Hour, []time.Duration{SyncAlways}, 2},
	} {
		for _, at := range []int{0, 5} { // before the first record, and between two
			t.Run(fmt.Sprint(name, " at ", at), func(t *testing.T) {
				t.Parallel()
				o := quick(t.TempDir(), test.opened)
				o.boot = "before"
				s := open(t, o)
				set := func() {
					for _, every := range test.set {
						s.SetSync(every)
					}
				}
				if at == 0 {
					set()
				}
				term := campaign(t, s)
				add(t, term, 1, 5)
				await(t, s, 5)
				if at > 0 {
					set()
				}
				add(t, term, 6, 10)
				await(t, s, 10)

				next := quick(copyDir(t, o.Dir), SyncAlways)
				next.boot = "after"
				s = open(t, next)
				if got := s.Epochs(); len(got) != test.epochs {
					t.Errorf("epochs %v, want %d", got, test.epochs)
				}
				add(t, campaign(t, s), 11, 20)
				await(t, s, 20)

				// opened again, it is as good as new
				next = quick(copyDir(t, next.Dir), SyncAlways)
				next.boot = "later"
				s = open(t, next)
				if got := s.Epochs(); len(got) != test.epochs {
					t.Errorf("opened once more with SyncAlways, the log has the epochs %v", got)
				}
			})
		}
	}
}

// As long as the file says that every commit waits for the disk, every one does.
func TestNothingIsCommittedBeforeThePromiseIsTakenBack(t *testing.T) {
	t.Parallel()
	disk := new(badDisk)
	var refuse atomic.Bool
	var synced atomic.Int64
	disk.onSync = func(name string) error {
		switch {
		case strings.HasSuffix(name, metaName+newSuffix) && refuse.Load():
			return fmt.Errorf("no room for %s", metaName)
		case strings.HasSuffix(name, segmentSuffix):
			synced.Add(1)
		}
		return nil
	}
	o := quick(t.TempDir(), SyncAlways)
	o.disk = disk
	s := open(t, o)
	term := campaign(t, s)
	add(t, term, 1, 5)
	await(t, s, 5)
	refuse.Store(true)
	s.SetSync(SyncOff)
	before := synced.Load()
	add(t, term, 6, 10)
	eventually(t, s, "it is stalled, or has gone on", func(st logstore.Status) bool {
		return st.State == logstore.Stalled || st.Last == 10
	})
	if st := s.Status(); st.Last > 5 && synced.Load() == before {
		t.Errorf("offset %d is committed, and may not be on disk", st.Last)
	}
	refuse.Store(false)
	await(t, s, 10)
	before = synced.Load()
	add(t, term, 11, 11)
	await(t, s, 11)
	if synced.Load() != before {
		t.Error("with SyncOff a commit waits for the disk")
	}
}

// A batch that is being committed in parts is, too.
func TestPromiseIsKeptInTheMiddleOfABatch(t *testing.T) {
	t.Parallel()
	disk := new(badDisk)
	o := small(t.TempDir())
	o.Sync, o.disk = SyncAlways, disk
	var s *Store
	var begun atomic.Bool // the store writes, and s is known
	var mu sync.Mutex     // protects what follows
	synced := make(map[string]bool)
	hang := make(chan struct{})
	disk.onSync = func(name string) error {
		switch {
		case !begun.Load():
			return nil
		case strings.HasSuffix(name, metaName+newSuffix):
			return errors.New("it is to say what it said")
		}
		<-hang // until everything is appended
		mu.Lock()
		defer mu.Unlock()
		if strings.HasSuffix(name, segmentSuffix) {
			if synced[name] = true; len(synced) == 2 {
				s.SetSync(SyncOff)
			}
		}
		return nil
	}
	opened := open(t, o)
	term := campaign(t, opened)
	s = opened
	begun.Store(true)
	add(t, term, 1, 100)
	close(hang)
	await(t, s, 100)
	mu.Lock()
	defer mu.Unlock()
	if len(synced) < 4 || !synced[s.newest().name] {
		t.Errorf("synced are %v, and not the newest segment, %s", synced, s.newest().name)
	}
}

// What was written before a change is forced to disk by the new setting.
func TestSetSyncConcernsWhatWasWritten(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ opened, set time.Duration }{
		"from off to always":          {SyncOff, SyncAlways},
		"from off to an interval":     {SyncOff, 5 * time.Millisecond},
		"from an interval to another": {time.Hour, 5 * time.Millisecond},
		"from an interval to always":  {time.Hour, SyncAlways},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := new(badDisk)
			var synced atomic.Int64
			disk.onSync = func(name string) error {
				if strings.HasSuffix(name, segmentSuffix) {
					synced.Add(1)
				}
				return nil
			}
			o := quick(t.TempDir(), test.opened)
			o.disk = disk
			s := open(t, o)
			add(t, campaign(t, s), 1, 5)
			await(t, s, 5)
			if n := synced.Load(); n > 0 {
				t.Fatalf("%d fsyncs before the change", n)
			}
			s.SetSync(test.set)
			eventually(t, s, "it is on disk", func(logstore.Status) bool { return synced.Load() > 0 })
		})
	}
}

// A power cut after changes at any moment: what was committed while every commit
// waited for the disk is there, and no cursor of what is lost is good.
func TestPowerCutAfterSyncWasChanged(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(7, 8))
	settings := []time.Duration{SyncAlways, SyncOff, time.Millisecond, time.Hour}
	for round := range 20 {
		disk := newPowerDisk()
		o := quick(t.TempDir(), settings[round%len(settings)])
		o.disk, o.segment, o.boot = disk, 2000, "before"
		s := open(t, o)
		n := follow(t, s, 1)
		term := campaign(t, s)
		every, safe := o.Sync, 0
		for i := 1; i <= 60; i++ {
			if random.IntN(8) == 0 {
				every = settings[random.IntN(len(settings))]
				s.SetSync(every)
			}
			add(t, term, i, i)
			if i%3 == 0 {
				await(t, s, uint64(i))
			}
			if every == SyncAlways && i%3 == 0 {
				safe = i // an fsync is of all that was written before
			}
		}
		acknowledged, epochs := len(n.all()), s.Epochs()
		dir := disk.cut(t, random)
		shut(t, s)
		after := quick(dir, SyncAlways)
		after.boot = "after"
		s = open(t, after)
		if left := honest(t, s, epochs[0].ID, acknowledged); len(left) < safe {
			t.Fatalf("round %d: %d records are left, %d were on disk", round, len(left), safe)
		}
		goesOn(t, s)
		shut(t, s)
	}
}
