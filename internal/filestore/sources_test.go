package filestore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

func latest(t testing.TB, s *Store) map[string]logstore.Latest {
	t.Helper()
	all, err := s.Latest(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// latestOf is what is known of the sources of the events 1 to n, each at its
// number.
func latestOf(n int) map[string]logstore.Latest {
	all := make(map[string]logstore.Latest)
	for i := 1; i <= n; i++ {
		r := event(i)
		all[r.Source] = logstore.Latest{Offset: uint64(i), Time: r.Time, ID: r.ID}
	}
	return all
}

// honestSources fails unless what a store knows of its sources was written, is
// not lost, and is no older than what is retained.
func honestSources(t testing.TB, s *Store, retained []logstore.Record) {
	t.Helper()
	all, last := latest(t, s), s.Status().Last
	for source, l := range all {
		if r := event(int(l.Offset)); r.Source != source || r.ID != l.ID || r.Time != l.Time || l.Offset > last {
			t.Fatalf("known of %q is %v, which was not written there; the log ends with %d", source, l, last)
		}
	}
	newest := make(map[string]uint64)
	for i := range retained {
		newest[retained[i].Source] = retained[i].Offset
	}
	for source, offset := range newest {
		if all[source].Offset != offset {
			t.Fatalf("known of %q is %v, whose newest record has offset %d", source, all[source], offset)
		}
	}
}

// sameSources fails unless a store knows the sources of the events 1 to n.
func sameSources(t testing.TB, s *Store, n int) {
	t.Helper()
	if got := latest(t, s); !maps.Equal(got, latestOf(n)) {
		t.Fatalf("known of the sources is %v, want %v", got, latestOf(n))
	}
}

// evicted makes a log of the events 1 to n, of which nothing but the newest
// segments is retained, as a process leaves it that is killed.
func evicted(t testing.TB, n, segments int) Options {
	t.Helper()
	o := small(t.TempDir())
	s := open(t, o)
	term := campaign(t, s)
	for i := 1; i <= n; i++ {
		add(t, term, i, i)
		await(t, s, uint64(i))
	}
	all := files(t, o.Dir, "*.log")
	first, _ := firstOf(filepath.Base(all[len(all)-segments]))
	s.SetBounds(logstore.Bounds{Events: uint64(n) - first + 1})
	eventually(t, s, "the rest is evicted", func(st logstore.Status) bool {
		return st.First == first && len(files(t, o.Dir, "*.log")) == segments && len(files(t, o.Dir, "*.index")) == segments-1
	})
	o.Dir = copyDir(t, o.Dir)
	shut(t, s)
	return o
}

// Whatever file is damaged or lost, the sources are known whose records were
// evicted long ago.
func TestSourcesOutliveTheirRecords(t *testing.T) {
	t.Parallel()
	const n = 61
	for _, segments := range []int{1, 2, 4} {
		whole := evicted(t, n, segments)
		names := files(t, whole.Dir, "*.index")
		if segments > 1 { // the newest one does not say what came before it
			names = append(names, filepath.Join(whole.Dir, metaName), filepath.Join(whole.Dir, headName))
		}
		for _, name := range append(names, "nothing") {
			for what, damage := range map[string]func(name string){
				"lost":    func(name string) { _ = os.Remove(name) },
				"damaged": func(name string) { flip(t, name, len(load(t, name))-3) },
				"empty":   func(name string) { store(t, name, nil) },
			} {
				t.Run(fmt.Sprintf("%d segments, %s %s", segments, filepath.Base(name), what), func(t *testing.T) {
					t.Parallel()
					o := whole
					o.Dir = copyDir(t, whole.Dir)
					if name != "nothing" {
						damage(filepath.Join(o.Dir, filepath.Base(name)))
					}
					for _, whole := range []bool{false, true} {
						if r := inspected(t, o.Dir, whole); !maps.Equal(r.Sources, latestOf(n)) {
							t.Errorf("a look shows of the sources %v, want %v", r.Sources, latestOf(n))
						}
						s := open(t, o)
						honestSources(t, s, readAll(t, s))
						sameSources(t, s, n)
						shut(t, s)
					}
				})
			}
		}
	}
}

// What is cut off or damaged at the end is not known of any more, not even after
// the offsets were given to others, and the process killed.
func TestSourcesAreNotKnownOfWhatIsLost(t *testing.T) {
	t.Parallel()
	const n = 58
	for name, lose := range map[string]func(t *testing.T, o Options, newest string){
		"cut off": func(t *testing.T, _ Options, newest string) {
			if err := os.Truncate(newest, int64(len(load(t, newest))-100)); err != nil {
				t.Fatal(err)
			}
		},
		"damaged":             func(t *testing.T, _ Options, newest string) { flip(t, newest, headerSize+frameSize+150) },
		"damaged at the head": func(t *testing.T, _ Options, newest string) { flip(t, newest, 3) },
		"lost":                func(_ *testing.T, _ Options, newest string) { _ = os.Remove(newest) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, orderly := range []bool{false, true} { // log.json has all of them then
				o := small(t.TempDir())
				fill(t, o, n-1)
				s := open(t, o)
				r := event(n)
				r.Source = "lost"
				put(t, campaign(t, s), r)
				await(t, s, n)
				if !orderly {
					o.Dir = copyDir(t, o.Dir)
				}
				shut(t, s)
				segments := files(t, o.Dir, "*.log")
				lose(t, o, segments[len(segments)-1])

				s = open(t, o)
				left := int(s.Status().Last)
				if left >= n || left < n/2 {
					t.Fatalf("the log ends with %d", left)
				}
				honest(t, s, "", 0)
				if l, known := latest(t, s)["lost"]; known {
					t.Errorf("orderly: %v, the log ends with %d, and known is %v", orderly, left, l)
				}
				add(t, campaign(t, s), left+1, n+30)
				await(t, s, n+30)
				sameSources(t, s, n+30)
				o.Dir = copyDir(t, o.Dir)
				s = open(t, o)
				sameSources(t, s, n+30)
			}
		})
	}
}

// A segment that is dropped while it is written to leaves its sources behind.
func TestSourcesOfADroppedSegment(t *testing.T) {
	t.Parallel()
	for _, more := range []int{0, 5} {
		o := quick(t.TempDir(), SyncOff)
		s := open(t, o)
		term := campaign(t, s)
		add(t, term, 1, 20)
		await(t, s, 20)
		flip(t, segmentName(o.Dir, 1), headerSize+frameSize+5)
		if _, err := s.Read(within(t), 1, 1<<20); !errors.Is(err, logstore.ErrEvicted) {
			t.Errorf("reading what is damaged: %v", err)
		}
		add(t, term, 21, 20+more)
		await(t, s, uint64(20+more))
		sameSources(t, s, 20+more)
		eventually(t, s, "what was known is saved", func(logstore.Status) bool {
			m, err := readMeta(realDisk{}, o.Dir)
			return err == nil && m != nil && len(m.known) == len(latestOf(20))
		})
		o.Dir = copyDir(t, o.Dir)
		s = open(t, o)
		sameSources(t, s, 20+more)
	}
}

// An index that was made by an earlier writer of the same segment, and has
// offsets beyond what is left, is not believed.
func TestSourcesOfAStaleIndex(t *testing.T) {
	t.Parallel()
	const n = 60
	o := small(t.TempDir())
	fill(t, o, n)
	segments := files(t, o.Dir, "*.log")
	newest := segments[len(segments)-1]
	if err := os.Remove(newest); err != nil { // the one before has an index
		t.Fatal(err)
	}
	before := segments[len(segments)-2]
	if err := os.Truncate(before, int64(len(load(t, before))-1)); err != nil {
		t.Fatal(err)
	}
	s := open(t, o)
	left := int(s.Status().Last)
	honest(t, s, "", 0)
	r := event(left + 1)
	r.Source = "other"
	put(t, campaign(t, s), r)
	await(t, s, uint64(left+1))
	want := latestOf(left)
	want["other"] = logstore.Latest{Offset: uint64(left + 1), Time: r.Time, ID: r.ID}
	o.Dir = copyDir(t, o.Dir)
	s = open(t, o)
	if got := latest(t, s); !maps.Equal(got, want) {
		t.Errorf("known of the sources is %v, want %v", got, want)
	}
}

func TestSourcesOnDisk(t *testing.T) {
	t.Parallel()
	sources := map[string]logstore.Latest{
		"":                        {Offset: 1, Time: 5, ID: "x"},
		"a":                       {Offset: 1 << 60, Time: 1 << 50, ID: strings.Repeat("\xff", logstore.MaxLatestText)},
		strings.Repeat("b", 4000): {Offset: 7},
	}
	body := appendSources(nil, sources)
	if len(body) > sourcesSize(sources) {
		t.Errorf("%d bytes, and %d were expected", len(body), sourcesSize(sources))
	}
	if got, ok := parseSources(body, 1<<60+1); !ok || !maps.Equal(got, sources) {
		t.Errorf("%v has become %v", sources, got)
	}
	if got, ok := parseSources(body, 1<<60); ok {
		t.Errorf("a record at the end of the log is taken for one of it: %v", got)
	}
	for n := 1; n < len(body); n++ {
		if got, ok := parseSources(body[:n], 1<<62); ok && len(got) >= len(sources) {
			t.Errorf("%d bytes of %d are %v", n, len(body), got)
		}
	}
	many := make(map[string]logstore.Latest)
	for i := range logstore.MaxSources + 1 {
		many[fmt.Sprint(i)] = logstore.Latest{Offset: uint64(i)}
	}
	if _, ok := parseSources(appendSources(nil, many), 1<<62); ok {
		t.Error("more sources than there can be are taken")
	}
}

// FuzzSources reads anything as a table of sources, and as the index that has
// it, with the checksums that would stand there.
func FuzzSources(f *testing.F) {
	f.Add(appendSources(nil, latestOf(9)), uint64(10), uint64(1))
	f.Add([]byte{}, uint64(1), uint64(1))
	f.Add([]byte{1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, uint64(1<<63), uint64(1<<60))
	f.Fuzz(func(t *testing.T, body []byte, next, count uint64) {
		sources, ok := parseSources(body, next)
		if ok {
			for source, l := range sources {
				if l.Offset >= next || l.Time < 0 || len(source) > logstore.MaxLatestText || len(l.ID) > logstore.MaxLatestText {
					t.Fatalf("known of %q is %v, before %d", source, l, next)
				}
			}
			if again, ok := parseSources(appendSources(nil, sources), next); !ok || !maps.Equal(again, sources) {
				t.Fatalf("%v has become %v", sources, again)
			}
		}
		whole := &segment{first: 1, next: next, size: 1 << 10, index: make([]indexEntry, 3)}
		index := whole.appendIndex(nil, nil)
		for i := range 8 {
			index[16+8*5+i] = byte(count >> (8 * i))
		}
		index = append(index, body...)
		sum := indexChecksum(index)
		for i := range 4 {
			index[12+i] = byte(sum >> (8 * i))
		}
		read := &segment{first: 1}
		got, err := read.parseIndex(bytes.Clone(index), 1<<20)
		if err == nil && (count > uint64(3+len(body)/indexEntrySize) || uint64(len(read.index)) != count) {
			t.Fatalf("%d entries are read of %d", len(read.index), count)
		}
		if count == 3 && ok && next > 1 && (err != nil || !maps.Equal(got, sources)) {
			t.Fatalf("%v has become %v, %v", sources, got, err)
		}
	})
}
