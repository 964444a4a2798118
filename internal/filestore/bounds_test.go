package filestore

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

func TestSegmentsFollowEachOther(t *testing.T) {
	t.Parallel()
	const n = 100
	o := small(t.TempDir())
	fill(t, o, n)
	segments, indexes := files(t, o.Dir, "*.log"), files(t, o.Dir, "*.index")
	if len(segments) < 5 || len(indexes) != len(segments)-1 {
		t.Fatalf("segments %v, indexes %v", segments, indexes)
	}
	s := open(t, o)
	if records := honest(t, s, s.Epochs()[0].ID, n); len(records) != n {
		t.Errorf("%d records, want %d", len(records), n)
	}
	for i := 1; i <= n; i++ {
		if at, err := s.Since(within(t), event(i).Time); err != nil || at != uint64(i) {
			t.Fatalf("since the arrival of %d: %d, %v", i, at, err)
		}
	}
	var last uint64
	for size := int64(1); size < s.Status().Bytes; size += 500 {
		at, err := s.Back(within(t), size)
		if err != nil || last > 0 && at > last || at < 1 || at > n {
			t.Fatalf("back by %d bytes: %d, %v, after %d", size, at, err, last)
		}
		last = at
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	now := time.Now().UnixMilli()
	for name, test := range map[string]struct {
		bounds      logstore.Bounds
		time        func(i int) int64
		first, last uint64 // between which the oldest record may be
	}{
		"bytes":  {logstore.Bounds{Bytes: 20_000}, nil, 4700, 4950},
		"events": {logstore.Bounds{Events: 2500}, nil, 1000, 2501},
		// of 5,000 events a second apart, the newest now; the test may take minutes
		"age": {logstore.Bounds{Age: 1000 * time.Second}, func(i int) int64 { return now - int64(5000-i)*1000 }, 3800, 4700},
		"all": {logstore.Bounds{}, nil, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := quick(t.TempDir(), SyncOff)
			o.Bounds, o.disk = test.bounds, &badDisk{noSync: true}
			if test.bounds.Bytes > 0 {
				o.segment = test.bounds.Bytes / segmentsPerLog
			}
			s := open(t, o)
			term := campaign(t, s)
			for i := 1; i <= 5000; i++ {
				r := event(i)
				if test.time != nil {
					r.Time = test.time(i)
				}
				put(t, term, r)
				if i%50 == 0 {
					await(t, s, uint64(i))
				}
			}
			eventually(t, s, "what is too much is dropped", func(st logstore.Status) bool {
				return st.First >= test.first && st.First <= test.last && (test.bounds.Bytes == 0 || st.Bytes <= test.bounds.Bytes)
			})
			shut(t, s) // until then, files may have yet to be removed
			st := s.Status()
			segments := files(t, o.Dir, "*.log")
			if first, _ := firstOf(filepath.Base(segments[0])); first != st.First {
				t.Errorf("the oldest file is %s, the oldest offset %d", segments[0], st.First)
			}
			if got := open(t, o).Status(); got.First != st.First || got.Last != 5000 {
				t.Errorf("opened again, it has %d to %d, want %d to 5000", got.First, got.Last, st.First)
			}
		})
	}
}

// Smaller bounds evict without a record that comes.
func TestBoundsThatAreMadeSmaller(t *testing.T) {
	o := small(t.TempDir())
	fill(t, o, 200)
	s := open(t, o)
	s.SetBounds(logstore.Bounds{Bytes: 3000})
	eventually(t, s, "it is evicted", func(st logstore.Status) bool { return st.Bytes <= 3000 && st.First > 1 })
}

// Epochs are forgotten once no cursor of theirs can be resumed.
func TestEpochsAreForgotten(t *testing.T) {
	t.Parallel()
	o := small(t.TempDir())
	var want []logstore.Epoch
	for i := range 4 {
		o.boot = fmt.Sprint("boot ", i)
		s := open(t, o)
		next := int(s.Status().Last) + 1
		add(t, campaign(t, s), next, next+30)
		await(t, s, uint64(next+30))
		want = s.Epochs()
		o.Dir = copyDir(t, o.Dir)
	}
	if len(want) != 4 {
		t.Fatalf("epochs %v after three power cuts", want)
	}
	o.boot = "boot 3"
	s := open(t, o)
	for left := len(want); left > 1; left-- {
		first := want[len(want)-left+1].First
		for s.Status().First <= first {
			was := s.Status()
			s.SetBounds(logstore.Bounds{Bytes: was.Bytes - 1})
			epochs := s.Epochs()
			if now := s.Status().First; len(epochs) != left && now <= first {
				t.Fatalf("epochs %v, the oldest offset is %d, and a cursor may stand before it", epochs, now)
			}
			eventually(t, s, "more is evicted", func(st logstore.Status) bool { return st.First > was.First || st.First == s.newest().first })
			if s.Status().First == s.newest().first {
				break
			}
		}
	}
	if got := s.Epochs(); len(got) != 1 || got[0] != want[3] {
		t.Errorf("epochs %v, want the newest of %v", got, want)
	}
	eventually(t, s, "it is saved", func(logstore.Status) bool {
		m, err := readMeta(realDisk{}, o.Dir)
		return err == nil && m != nil && len(m.Epochs) == 1
	})
}

// The list of epochs is bounded on a machine that goes down again and again.
func TestEpochsAreBounded(t *testing.T) {
	s := new(Store)
	s.segments = []*segment{{first: 100, next: 200}}
	s.offset = 200
	for i := range 3 * maxEpochs {
		s.meta.Epochs = append(s.meta.Epochs, logstore.Epoch{ID: fmt.Sprint(i), First: 200})
		s.forgetEpochsLocked()
	}
	if n := len(s.meta.Epochs); n != maxEpochs {
		t.Errorf("%d epochs", n)
	}
	if _, ok := logstore.EpochAt(s.meta.Epochs, 100); !ok {
		t.Errorf("the oldest record is of no epoch: %v", s.meta.Epochs[:2])
	}
}

// What waits for the disk does not push everything out that is retained when it
// is committed at last.
func TestWhatWaitsIsAShareOfWhatIsRetained(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		bounds logstore.Bounds
		want   int
	}{
		"events":     {logstore.Bounds{Events: 8000}, 2000},
		"few events": {logstore.Bounds{Events: 10}, minEvents},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := new(badDisk)
			o := quick(t.TempDir(), SyncOff)
			o.disk, o.Bounds = disk, test.bounds
			s := open(t, o)
			term := campaign(t, s)
			disk.full.Store(true)
			n := 0
			for n < 2*test.want && term.Append(event(n+1)) == nil {
				n++
			}
			if n != test.want {
				t.Errorf("%d records wait, want %d", n, test.want)
			}
			disk.full.Store(false)
			await(t, s, uint64(n))
			shut(t, s)
		})
	}
}

// What is held stays, also when the log is opened anew, but not without a bound.
func TestHeldRecordsStay(t *testing.T) {
	t.Parallel()
	o := quick(t.TempDir(), SyncOff)
	o.Bounds, o.segment, o.Hold = logstore.Bounds{Bytes: 20_000}, 1000, true
	fill(t, o, 1000)
	s := open(t, o)
	if first := s.Status().First; first != 1 {
		t.Fatalf("the oldest record is %d, and all are held", first)
	}
	s.Hold(500)
	eventually(t, s, "what is not held goes", func(st logstore.Status) bool { return st.First > 400 && st.First <= 500 })
	s.Hold(logstore.HoldNone)
	eventually(t, s, "the bound is kept", func(st logstore.Status) bool { return st.Bytes <= 20_000 })
}

func TestHeldRecordsAreBounded(t *testing.T) {
	s := &Store{bounds: logstore.Bounds{Bytes: 100}}
	for range 10 {
		s.segments = append(s.segments, &segment{first: 1, next: 2, size: mostHeld / 4})
	}
	if n := len(s.overdueLocked()); n != 5 {
		t.Errorf("%d segments are to go, want 5", n)
	}
}
