package filestore

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// powerDisk is the real disk, of which it knows besides what a power cut would
// leave. An fsync that fails leaves pages that are regarded as written.
type powerDisk struct {
	realDisk
	mu    sync.Mutex // protects what follows, and every write
	disk  map[string]*platter
	names map[string]*platter // as the directory has them after a power cut
	fail  func(name string) error
}

// platter is a file on disk.
type platter struct {
	now, durable []byte
	dirty        [][2]int64 // of now
}

func newPowerDisk() *powerDisk {
	return &powerDisk{disk: make(map[string]*platter), names: make(map[string]*platter)}
}

func (d *powerDisk) open(name string, flag int) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.realDisk.open(name, flag)
	if err != nil {
		return nil, err
	}
	p := d.disk[name]
	if p == nil {
		p = new(platter)
		d.disk[name] = p
	}
	if flag&os.O_TRUNC != 0 {
		p.now, p.dirty = nil, nil
	}
	return &powerFile{f, d, p, name}, nil
}

func (d *powerDisk) rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.disk[to] = d.disk[from]
	delete(d.disk, from)
	return d.realDisk.rename(from, to)
}

func (d *powerDisk) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.disk, name)
	return d.realDisk.remove(name)
}

func (d *powerDisk) syncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.names)
	maps.Copy(d.names, d.disk)
	return d.realDisk.syncDir(dir)
}

// cut returns a directory with what a power cut would leave now. Some of what
// was not synced has got to disk, in no order.
func (d *powerDisk) cut(t *testing.T, random *rand.Rand) string {
	t.Helper()
	dir := t.TempDir()
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, p := range d.names {
		body := append([]byte(nil), p.durable...)
		for _, r := range p.dirty {
			if r[1] > int64(len(p.now)) || random.IntN(2) == 0 {
				continue
			}
			if grow := r[1] - int64(len(body)); grow > 0 {
				body = append(body, make([]byte, grow)...)
			}
			copy(body[r[0]:r[1]], p.now[r[0]:r[1]])
		}
		store(t, filepath.Join(dir, filepath.Base(name)), body)
	}
	return dir
}

type powerFile struct {
	file
	disk *powerDisk
	p    *platter
	name string
}

func (f *powerFile) WriteAt(b []byte, at int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	end := at + int64(len(b))
	if grow := end - int64(len(f.p.now)); grow > 0 {
		f.p.now = append(f.p.now, make([]byte, grow)...)
	}
	copy(f.p.now[at:], b)
	f.p.dirty = append(f.p.dirty, [2]int64{at, end})
	return f.file.WriteAt(b, at)
}

func (f *powerFile) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if size < int64(len(f.p.now)) {
		f.p.now = f.p.now[:size:size]
	}
	return f.file.Truncate(size)
}

func (f *powerFile) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	var err error
	if f.disk.fail != nil {
		err = f.disk.fail(f.name)
	}
	if err == nil {
		if len(f.p.durable) > len(f.p.now) {
			f.p.durable = f.p.durable[:len(f.p.now)]
		}
		f.p.durable = append(f.p.durable, make([]byte, len(f.p.now)-len(f.p.durable))...)
		for _, r := range f.p.dirty {
			if r[0] < int64(len(f.p.now)) {
				copy(f.p.durable[r[0]:min(r[1], int64(len(f.p.now)))], f.p.now[r[0]:])
			}
		}
	}
	f.p.dirty = nil // the system regards them as written, failed or not
	return err
}

// A power cut at any moment, whatever of the pages got to disk: with SyncAlways
// every record that was handed over is there, and otherwise no cursor of one
// that is lost is good.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for name, every := range map[string]time.Duration{"always": SyncAlways, "interval": time.Millisecond, "off": SyncOff} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(1, 2))
			for round := range 8 {
				disk := newPowerDisk()
				o := quick(t.TempDir(), every)
				o.disk, o.segment, o.boot = disk, 2000, "before"
				if round%2 == 1 { // and some fsyncs fail
					failed := 0
					disk.fail = func(string) error {
						if failed++; failed%4 == 3 {
							return syscall.EIO
						}
						return nil
					}
				}
				s := open(t, o)
				n := follow(t, s, 1)
				term := campaign(t, s)
				for i := 1; i <= 60+10*round; i++ {
					add(t, term, i, i)
					if i%7 == 0 {
						await(t, s, uint64(i))
					}
				}
				all := n.all() // acknowledged so far
				dir := disk.cut(t, random)
				acknowledged, epoch := len(all), s.Epochs()[0].ID
				shut(t, s)

				after := quick(dir, SyncAlways) // it is how it was written that counts
				after.boot, after.disk = "after", &badDisk{noSync: true}
				s = open(t, after)
				left := honest(t, s, epoch, acknowledged)
				if every == SyncAlways {
					if len(left) < acknowledged {
						t.Fatalf("round %d: %d records are left, %d were handed over", round, len(left), acknowledged)
					}
				}
				if every != SyncAlways && len(s.Epochs()) < 2 && s.Epochs()[0].ID == epoch {
					t.Fatalf("round %d: epochs %v after a power cut", round, s.Epochs())
				}
				last := s.Status().Last
				if logstore.Good(s.Epochs(), epoch, last+1) && last+1 <= uint64(acknowledged) {
					t.Fatalf("round %d: epochs %v, and the log ends with %d of %d", round, s.Epochs(), last, acknowledged)
				}
				goesOn(t, s)
				shut(t, s)
			}
		})
	}
}

// Closed in order, a log has lost nothing in a power cut that comes later, and
// that does not begin an epoch, even if an fsync has failed meanwhile, or an earlier
// process was killed.
func TestPowerCutAfterAnOrderlyEnd(t *testing.T) {
	t.Parallel()
	for name, every := range map[string]time.Duration{"always": SyncAlways, "interval": 5 * time.Millisecond, "off": SyncOff} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := newPowerDisk()
			o := quick(t.TempDir(), every)
			o.disk, o.segment, o.boot = disk, 2000, "before"
			failed := 0
			disk.fail = func(name string) error {
				if firsts, ok := firstOf(filepath.Base(name)); ok && firsts > 0 {
					if failed++; failed == 2 || failed == 5 {
						return errors.New("the cable is loose")
					}
				}
				return nil
			}
			s := open(t, o)
			term := campaign(t, s)
			for i := 1; i <= 100; i++ {
				add(t, term, i, i)
				await(t, s, uint64(i))
			}
			shut(t, s)
			s = open(t, o) // which writes nothing
			epochs := s.Epochs()
			shut(t, s)
			o.Dir = disk.cut(t, rand.New(rand.NewPCG(3, 4)))
			o.disk, o.boot = realDisk{}, "after"
			s = open(t, o)
			if left := honest(t, s, epochs[0].ID, 100); len(left) != 100 || len(s.Epochs()) != 1 {
				t.Errorf("%d records of the epochs %v", len(left), s.Epochs())
			}
		})
	}
}

// adopt is a disk that a directory was just written to, by a process that was
// killed.
func adopt(t *testing.T, dir string) *powerDisk {
	t.Helper()
	d := newPowerDisk()
	for _, name := range files(t, dir, "*") {
		p := &platter{now: load(t, name)}
		if !strings.HasSuffix(name, segmentSuffix) {
			p.durable = p.now
		} else {
			p.dirty = [][2]int64{{0, int64(len(p.now))}}
		}
		d.disk[name], d.names[name] = p, p
	}
	return d
}

// A log that was written without fsync, by a process that was killed, is on disk
// before a power cut is believed to cost nothing, and before it is regarded as
// closed in order.
func TestPowerCutAfterAKilledProcess(t *testing.T) {
	t.Parallel()
	for name, orderly := range map[string]bool{"open": false, "closed": true} {
		for _, every := range []time.Duration{SyncAlways, time.Hour, SyncOff} {
			t.Run(fmt.Sprint(name, every), func(t *testing.T) {
				t.Parallel()
				o := quick(t.TempDir(), SyncOff)
				o.boot = "before"
				s := open(t, o)
				add(t, campaign(t, s), 1, 50)
				await(t, s, 50)
				epoch := s.Epochs()[0].ID

				o = quick(copyDir(t, o.Dir), every)
				disk := adopt(t, o.Dir)
				o.disk, o.boot = disk, "before"
				s = open(t, o)
				campaign(t, s) // so that it is ready
				if orderly {
					shut(t, s)
				}
				// nothing gets to disk by itself
				after := quick(disk.cut(t, rand.New(rand.NewPCG(5, 6))), SyncOff)
				after.boot = "after"
				s = open(t, after)
				left := len(honest(t, s, epoch, 50))
				if (orderly || every == SyncAlways) && (left != 50 || len(s.Epochs()) != 1) {
					t.Errorf("%d records of the epochs %v", left, s.Epochs())
				}
			})
		}
	}
}

// Whether a new epoch begins depends on how the log was written, not on how it
// is opened.
func TestEpochAfterTheMachineWentDown(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sync    time.Duration
		orderly bool
		boot    string
		epochs  int
	}{
		"killed, same boot":              {SyncOff, false, "before", 1},
		"killed, then another boot":      {SyncOff, false, "after", 2},
		"closed, then another boot":      {SyncOff, true, "after", 1},
		"interval, then another boot":    {time.Hour, false, "after", 2},
		"always, then another boot":      {SyncAlways, false, "after", 1},
		"always, closed, and a new boot": {SyncAlways, true, "after", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := quick(t.TempDir(), test.sync)
			o.boot = "before"
			s := open(t, o)
			add(t, campaign(t, s), 1, 10)
			await(t, s, 10)
			if test.orderly {
				shut(t, s)
			}
			for _, sync := range []time.Duration{SyncAlways, SyncOff} {
				next := quick(copyDir(t, o.Dir), sync)
				next.boot = test.boot
				s := open(t, next)
				if got := s.Epochs(); len(got) != test.epochs {
					t.Errorf("epochs %v, want %d", got, test.epochs)
				}
				if left := readAll(t, s); len(left) != 10 {
					t.Errorf("%d records are left", len(left))
				}
				shut(t, s)
			}
		})
	}
}
