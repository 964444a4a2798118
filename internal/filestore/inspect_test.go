package filestore

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

func inspected(t testing.TB, dir string, whole bool) *Report {
	t.Helper()
	r, err := inspect(dir, whole)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// walked returns what a walk calls f with.
func walked(t testing.TB, r *Report, from uint64, since int64) ([]logstore.Record, []*DamageError) {
	t.Helper()
	var records []logstore.Record
	met, err := r.Walk(from, since, func(record *logstore.Record) error {
		records = append(records, *record)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return records, met
}

// contents is what is in a directory.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, name := range files(t, dir, "*") {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = fmt.Sprint(info.ModTime(), string(load(t, name)))
	}
	return all
}

func TestInspect(t *testing.T) {
	t.Parallel()
	const n = 60
	o := small(t.TempDir())
	fill(t, o, n)
	before := contents(t, o.Dir)
	for _, whole := range []bool{false, true} {
		r := inspected(t, o.Dir, whole)
		if r.Holder != "" || !r.Orderly || len(r.Epochs) != 1 || r.First != 1 || r.Last != n || r.Records != n ||
			r.Oldest != event(1).Time || r.Newest != event(n).Time || r.Segments != len(files(t, o.Dir, "*.log")) || r.Unfinished != nil {
			t.Errorf("found %+v", r)
		}
		if len(r.Damage) > 0 || len(r.Aside) > 0 || !maps.Equal(r.Sources, latestOf(n)) {
			t.Errorf("found %v, %v, %v", r.Damage, r.Aside, r.Sources)
		}
		for _, from := range []uint64{0, 1, 2, 30, n, n + 1} {
			records, met := walked(t, r, from, 0)
			if want := n + 1 - int(max(from, 1)); len(records) != want || len(met) > 0 || want > 0 && records[0].Offset != max(from, 1) {
				t.Errorf("walking from %d meets %d records, want %d; %v", from, len(records), want, met)
			}
		}
		for _, since := range []int{0, 1, 31, n} {
			records, _ := walked(t, r, 0, event(since).Time)
			if want := n + 1 - max(since, 1); len(records) != want || !isEvent(&records[0], max(since, 1)) {
				t.Errorf("walking from the arrival of %d meets %d records, want %d", since, len(records), want)
			}
		}
		stop := errors.New("enough")
		if _, err := r.Walk(5, 0, func(*logstore.Record) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("a walk that was ended returns %v", err)
		}
	}
	if after := contents(t, o.Dir); !maps.Equal(before, after) {
		t.Error("looking has changed something")
	}
}

// A log can be looked into while it is written to and evicted from, and nothing
// of that looks like damage.
func TestInspectWhileTheLogIsOpen(t *testing.T) {
	t.Parallel()
	o := small(t.TempDir())
	s := open(t, o)
	term := campaign(t, s)
	if r := inspected(t, o.Dir, true); len(r.Damage) > 0 || r.Orderly || r.Last != 0 || r.First != 1 {
		t.Errorf("of a log that has just been opened was found %+v", r)
	}
	s.SetBounds(logstore.Bounds{Events: 50})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 3000 {
			for term.Append(event(i+1)) != nil {
				if term.Wait(within(t)) != nil {
					return
				}
			}
		}
	}()
	holder := fmt.Sprint("process ", os.Getpid())
	looks, seen := 0, uint64(0)
	for running := true; running; looks++ {
		select {
		case <-done:
			running = false
		default:
		}
		r := inspected(t, o.Dir, looks%2 == 0)
		records, met := walked(t, r, 0, 0)
		if r.Holder != holder || r.Orderly || len(r.Damage) > 0 || len(met) > 0 {
			t.Fatalf("found %+v; %v; %v", r, r.Damage, met)
		}
		for i := range records {
			if !isEvent(&records[i], int(records[i].Offset)) {
				t.Fatalf("offset %d is %+v", records[i].Offset, records[i])
			}
		}
		if r.Last < seen {
			t.Fatalf("the log ends with %d after %d", r.Last, seen)
		}
		seen = r.Last
	}
	shut(t, s)
	if r := inspected(t, o.Dir, true); r.Holder != "" || !r.Orderly || r.Last != 3000 || len(r.Damage) > 0 || r.First < 2 ||
		!maps.Equal(r.Sources, latestOf(3000)) {
		t.Errorf("found %+v", r)
	}
}

// What was read before a segment that has been dropped meanwhile has been
// dropped, too.
func TestInspectForgetsWhatWasDropped(t *testing.T) {
	t.Parallel()
	o := small(t.TempDir())
	fill(t, o, 60)
	var firsts []uint64
	for _, name := range files(t, o.Dir, "*.log") {
		first, _ := firstOf(filepath.Base(name))
		firsts = append(firsts, first)
	}
	for _, whole := range []bool{false, true} {
		r := &Report{Dir: copyDir(t, o.Dir), Holder: "process 1"}
		r.add(firsts[0], false, whole)
		if err := os.Remove(segmentName(r.Dir, firsts[1])); err != nil {
			t.Fatal(err)
		}
		r.add(firsts[1], false, whole)
		r.add(firsts[2], false, whole)
		if len(r.segments) != 1 || r.segments[0].first != firsts[2] || len(r.Damage) > 0 {
			t.Errorf("found %v of segments, %v", len(r.segments), r.Damage)
		}
	}
}

// A log can be opened while somebody looks into it.
func TestInspectKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	o := small(t.TempDir())
	fill(t, o, 3)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = Inspect(o.Dir)
			}
		}
	}()
	for range 200 {
		s, err := Open(o)
		if err != nil {
			t.Error(err)
			break
		}
		shut(t, s)
	}
	close(stop)
	<-done
}

// Whatever byte of whichever file is another one: Check names the file, and what
// it lets through was written.
func TestCheckFindsEveryFlippedByte(t *testing.T) {
	t.Parallel()
	const n = 8
	o := small(t.TempDir())
	o.segment = 300
	fill(t, o, n)
	names := append(files(t, o.Dir, "*.log"), files(t, o.Dir, "*.index")...)
	for _, name := range append(names, filepath.Join(o.Dir, metaName), filepath.Join(o.Dir, headName)) {
		body := load(t, name)
		for at := range body {
			flip(t, name, at)
			r := inspected(t, o.Dir, true)
			if len(r.Damage) == 0 || r.Damage[0].File != name || r.Damage[0].At > int64(at) || r.Unfinished != nil {
				t.Fatalf("byte %d of %s: found %v, %v", at, name, r.Damage, r.Unfinished)
			}
			for _, whole := range []bool{false, true} {
				r := inspected(t, o.Dir, whole)
				records, met := walked(t, r, 0, 0)
				for i := range records {
					if !isEvent(&records[i], int(records[i].Offset)) {
						t.Fatalf("byte %d of %s: offset %d is %+v", at, name, records[i].Offset, records[i])
					}
				}
				if len(records) < n && len(met)+len(r.Damage) == 0 {
					t.Fatalf("byte %d of %s: %d records are found, and no damage", at, name, len(records))
				}
				if l := r.Sources["r"]; l != latestOf(1)["r"] && at > headerSize+150 {
					t.Fatalf("byte %d of %s: known of r is %v", at, name, l)
				}
			}
			store(t, name, body)
		}
	}
	if r := inspected(t, o.Dir, true); len(r.Damage) > 0 {
		t.Errorf("all is as it was, and found is %v", r.Damage)
	}
}

// An index can be whole and wrong.
func TestCheckComparesIndexes(t *testing.T) {
	t.Parallel()
	o := small(t.TempDir())
	fill(t, o, 60)
	first, _ := firstOf(filepath.Base(files(t, o.Dir, "*.log")[1]))
	for what, spoil := range map[string]func(seg *segment, sources map[string]logstore.Latest){
		"nothing":            func(*segment, map[string]logstore.Latest) {},
		"a position":         func(seg *segment, _ map[string]logstore.Latest) { seg.index[0].position++ },
		"an entry":           func(seg *segment, _ map[string]logstore.Latest) { seg.index = append(seg.index, seg.index[0]) },
		"the size":           func(seg *segment, _ map[string]logstore.Latest) { seg.size-- },
		"an arrival":         func(seg *segment, _ map[string]logstore.Latest) { seg.lastTime++ },
		"a source":           func(_ *segment, sources map[string]logstore.Latest) { delete(sources, "a") },
		"the id of a source": func(_ *segment, sources map[string]logstore.Latest) { sources["a"] = logstore.Latest{Offset: first} },
	} {
		dir := copyDir(t, o.Dir)
		name := segmentName(dir, first)
		seg, sources, err := readIndex(realDisk{}, name, first)
		if err != nil {
			t.Fatal(err)
		}
		spoil(seg, sources)
		if err := seg.writeIndex(o.disk, sources); err != nil {
			t.Fatal(err)
		}
		r := inspected(t, dir, true)
		if found := len(r.Damage) == 1 && r.Damage[0].File == seg.indexName(); found != (what != "nothing") {
			t.Errorf("%s is another one: found %v", what, r.Damage)
		}
	}
}

// Behind damage, the next segment is read, and it is said which records are lost.
func TestInspectGoesOnBehindDamage(t *testing.T) {
	t.Parallel()
	const n = 60
	o := small(t.TempDir())
	fill(t, o, n)
	segments := files(t, o.Dir, "*.log")
	bad := segments[1]
	first, _ := firstOf(filepath.Base(bad))
	next, _ := firstOf(filepath.Base(segments[2]))
	flip(t, bad, len(load(t, bad))-20) // in its last record
	r := inspected(t, o.Dir, true)
	want := fmt.Sprintf("offset %d is missing", next-1)
	if len(r.Damage) != 1 || r.Damage[0].File != bad || r.Damage[0].At < headerSize || !strings.Contains(r.Damage[0].Error(), want) {
		t.Errorf("found %v, want that %s", r.Damage, want)
	}
	if r.First != 1 || r.Last != n || r.Records != n-1 {
		t.Errorf("found %+v", r)
	}
	// with indexes, it is met on the way
	r = inspected(t, o.Dir, false)
	records, met := walked(t, r, first, 0)
	if len(r.Damage) > 0 || len(met) != 1 || met[0].File != bad || !errors.Is(met[0], errDamaged) || len(records) != n-int(first) {
		t.Errorf("found %v; %d records and %v on the way", r.Damage, len(records), met)
	}
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}
	r = inspected(t, o.Dir, true)
	want = fmt.Sprintf("offsets %d to %d are missing", first, next-1)
	if len(r.Damage) != 1 || r.Damage[0].File != segments[0] || !strings.Contains(r.Damage[0].Error(), want) {
		t.Errorf("found %v, want that %s", r.Damage, want)
	}
}

// A record that a killed process has not written whole is no damage, unless it
// had been committed.
func TestInspectTellsUnfinishedFromLost(t *testing.T) {
	t.Parallel()
	const n = 20
	o := quick(t.TempDir(), SyncOff)
	s := open(t, o)
	add(t, campaign(t, s), 1, n)
	await(t, s, n)
	o.Dir = copyDir(t, o.Dir)
	name := segmentName(o.Dir, 1)
	whole := load(t, name)
	r := event(n + 1)
	r.Offset = n + 1
	frame := appendFrame(nil, r)
	for size := range len(frame) - 1 {
		store(t, name, append(slices.Clip(whole), frame[:size+1]...))
		r := inspected(t, o.Dir, true)
		if len(r.Damage) > 0 || r.Unfinished == nil || r.Unfinished.At != int64(len(whole)) || r.Last != n || r.Orderly {
			t.Fatalf("of a record of which %d bytes were written was found %+v", size+1, r)
		}
	}
	store(t, name, whole[:len(whole)-1])
	if r := inspected(t, o.Dir, true); len(r.Damage) != 1 || r.Damage[0].File != name || r.Unfinished != nil || r.Last != n-1 {
		t.Errorf("of a committed record that is cut off was found %+v", r)
	}
	// opened, the log is what it is, and there is nothing more to say
	shut(t, open(t, o))
	if r := inspected(t, o.Dir, true); len(r.Damage) > 0 || len(r.Epochs) != 2 || r.Last != n-1 {
		t.Errorf("found %+v", r)
	}
}

func TestInspectMissingFiles(t *testing.T) {
	t.Parallel()
	const n = 60
	whole := small(t.TempDir())
	fill(t, whole, n)
	segments := files(t, whole.Dir, "*.log")
	for what, lost := range map[string][]string{
		metaName:      {metaName},
		headName:      {headName},
		"an index":    {strings.Replace(filepath.Base(segments[1]), segmentSuffix, indexSuffix, 1)},
		"the newest":  {filepath.Base(segments[len(segments)-1])},
		"a segment":   {filepath.Base(segments[1])},
		"all of them": nil,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir := copyDir(t, whole.Dir)
			if lost == nil {
				for _, name := range segments {
					lost = append(lost, filepath.Base(name))
				}
			}
			for _, name := range lost {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			r := inspected(t, dir, true)
			if len(r.Damage) != 1 {
				t.Errorf("found %v", r.Damage)
			}
			o := whole
			o.Dir = dir
			shut(t, open(t, o)) // which says so, and goes on
			if r := inspected(t, dir, true); len(r.Damage) > 0 {
				t.Errorf("opened since, the log has %v", r.Damage)
			}
		})
	}
}

func TestInspectWhatIsNoLog(t *testing.T) {
	dir := t.TempDir()
	store(t, filepath.Join(dir, "notes.log"), []byte("x"))
	if _, err := Inspect(dir); !errors.Is(err, ErrNoLog) || !strings.Contains(err.Error(), dir) {
		t.Errorf("looking into a directory of something else: %v", err)
	}
	if _, err := Inspect(filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("looking into a directory that there is not: %v", err)
	}
	if is, err := IsLog(dir); is || err != nil {
		t.Errorf("it is taken for a log: %v, %v", is, err)
	}
}
