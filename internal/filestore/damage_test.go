package filestore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// small returns options for a log of small segments that is opened very often.
func small(dir string) Options {
	o := quick(dir, SyncOff)
	o.disk, o.segment, o.boot = &badDisk{noSync: true}, 900, "boot"
	return o
}

// files returns the names of the files of a log that match a pattern.
func files(t testing.TB, dir, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func load(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func store(t testing.TB, name string, body []byte) {
	t.Helper()
	if err := os.WriteFile(name, body, 0o600); err != nil {
		t.Fatal(err)
	}
}

func flip(t testing.TB, name string, at int) {
	t.Helper()
	body := load(t, name)
	body[at] ^= 0x10
	store(t, name, body)
}

// honest fails unless all that a store has is what was written, and no cursor of
// an epoch is good for an offset that is lost, and nothing is known of a source
// that is lost. It returns what is left.
func honest(t testing.TB, s *Store, epoch string, written int) []logstore.Record {
	t.Helper()
	records := readAll(t, s)
	for i := range records {
		if r := &records[i]; !isEvent(r, int(r.Offset)) {
			t.Fatalf("offset %d is %+v, which was not written there", r.Offset, *r)
		}
		if i > 0 && records[i].Offset != records[i-1].Offset+1 {
			t.Fatalf("offset %d comes after %d", records[i].Offset, records[i-1].Offset)
		}
		if _, ok := logstore.EpochAt(s.Epochs(), records[i].Offset); !ok {
			t.Fatalf("offset %d is of no epoch: %v", records[i].Offset, s.Epochs())
		}
	}
	honestSources(t, s, records)
	last := s.Status().Last
	for offset := range uint64(written + 1) {
		if offset > last && logstore.Good(s.Epochs(), epoch, offset) {
			t.Fatalf("a cursor of offset %d is good, of which the log ends with %d: %v", offset, last, s.Epochs())
		}
	}
	return records
}

// goesOn fails unless a store takes a record and has it afterwards.
func goesOn(t testing.TB, s *Store) {
	t.Helper()
	next := s.Status().Last + 1
	put(t, campaign(t, s), event(int(next)))
	await(t, s, next)
	records := readAll(t, s)
	if len(records) == 0 || records[len(records)-1].Offset != next {
		t.Fatalf("%d records after offset %d was appended", len(records), next)
	}
}

func TestTornEndIsCutAtEveryByte(t *testing.T) {
	t.Parallel()
	const n = 12
	o := small(t.TempDir())
	o.segment = 1 << 20
	fill(t, o, n)
	name := segmentName(o.Dir, 1)
	whole := load(t, name)
	seg, err := scan(o.disk, name, 1, new(logstore.Sources))
	if err != nil {
		t.Fatal(err)
	}
	meta, headBody := load(t, filepath.Join(o.Dir, metaName)), load(t, filepath.Join(o.Dir, headName))
	epoch := epochOf(t, meta)
	// where the last frames end
	ends := make(map[int]uint64)
	at := headerSize
	for offset := uint64(1); offset <= n; offset++ {
		_, size, err := parseFrame(whole[at:], offset)
		if err != nil {
			t.Fatal(err)
		}
		at += size
		ends[at] = offset
	}
	if int64(at) != seg.size {
		t.Fatalf("frames end at %d, the segment at %d", at, seg.size)
	}
	left := uint64(n)
	for size := len(whole) - 1; left > n-3; size-- {
		for end := size; ; end-- {
			if offset, ok := ends[end]; ok {
				left = offset
				break
			}
		}
		for what, last := range map[string]uint64{"of acknowledged records": n, "of others": left} {
			store(t, name, whole[:size])
			store(t, filepath.Join(o.Dir, metaName), meta)
			h, _, _ := parseHead(headBody)
			h.last = last
			store(t, filepath.Join(o.Dir, headName), headBodyOf(h))
			s := open(t, o)
			records := honest(t, s, epoch, int(last))
			if len(records) != int(left) {
				t.Fatalf("cut to %d bytes: %d records, want %d", size, len(records), left)
			}
			if epochs, want := s.Epochs(), 1; last == n {
				want = 2
				if len(epochs) != want || epochs[1].First != left+1 {
					t.Fatalf("cut to %d bytes, %s: epochs %v", size, what, epochs)
				}
			} else if len(epochs) != want {
				t.Fatalf("cut to %d bytes, %s: epochs %v", size, what, epochs)
			}
			shut(t, s)
		}
	}
}

func epochOf(t testing.TB, body []byte) string {
	t.Helper()
	m, err := parseMeta(body)
	if err != nil {
		t.Fatal(err)
	}
	return m.Epochs[len(m.Epochs)-1].ID
}

// Whatever byte of whichever file is another one: no record that was not
// written, and no other record where one was.
func TestFlippedByteAnywhereIsNoOtherEvent(t *testing.T) {
	t.Parallel()
	const n = 10
	o := small(t.TempDir())
	o.segment = 400
	fill(t, o, n)
	names := append(files(t, o.Dir, "*.log"), files(t, o.Dir, "*.index")...)
	if len(names) < 3 {
		t.Fatalf("files %v, want more segments than one", names)
	}
	names = append(names, filepath.Join(o.Dir, metaName), filepath.Join(o.Dir, headName))
	bodies := make(map[string][]byte)
	for _, name := range names {
		bodies[name] = load(t, name)
	}
	epoch := epochOf(t, bodies[filepath.Join(o.Dir, metaName)])
	for _, broken := range names {
		for at := range bodies[broken] {
			for _, name := range files(t, o.Dir, "*") {
				if bodies[name] == nil {
					_ = os.Remove(name)
				}
			}
			for name, body := range bodies {
				store(t, name, body)
			}
			flip(t, broken, at)
			s, err := Open(o)
			if err != nil {
				t.Fatalf("byte %d of %s: %v", at, filepath.Base(broken), err)
			}
			honest(t, s, epoch, n)
			if at%50 == 0 {
				goesOn(t, s)
			}
			shut(t, s)
		}
	}
}

func TestTruncatedNewestSegmentBeginsAnEpoch(t *testing.T) {
	const n = 200
	o := quick(t.TempDir(), SyncOff)
	fill(t, o, n)
	var epoch string
	name := segmentName(o.Dir, 1)
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	epoch = epochOf(t, load(t, filepath.Join(o.Dir, metaName)))
	if err := os.Truncate(name, info.Size()*6/10); err != nil {
		t.Fatal(err)
	}
	logger, logs := logged()
	o.Logger = logger
	s := open(t, o)
	left := honest(t, s, epoch, n)
	if len(left) < n/2 || len(left) >= n*7/10 {
		t.Errorf("%d records are left of %d", len(left), n)
	}
	last := s.Status().Last
	if !logstore.Good(s.Epochs(), epoch, last) || logstore.Good(s.Epochs(), epoch, last+1) {
		t.Errorf("epochs %v, the log ends with %d", s.Epochs(), last)
	}
	cut := logs.FilterMessageSnippet("cutting off").All()
	if len(cut) != 1 || cut[0].ContextMap()["file"] != name || cut[0].ContextMap()["byte"] == int64(0) {
		t.Errorf("logged %v", logs.All())
	}
	goesOn(t, s)
}

func TestDamageInTheNewestSegmentBeginsAnEpoch(t *testing.T) {
	const n = 30
	o := small(t.TempDir())
	o.segment = 1 << 20
	fill(t, o, n)
	name := segmentName(o.Dir, 1)
	whole := load(t, name)
	epoch := epochOf(t, load(t, filepath.Join(o.Dir, metaName)))
	flip(t, name, len(whole)/2)
	logger, logs := logged()
	o.Logger = logger
	s := open(t, o)
	left := len(honest(t, s, epoch, n))
	if left == 0 || left >= n {
		t.Fatalf("%d records are left of %d", left, n)
	}
	found := logs.FilterMessageSnippet("not served").All()
	if len(found) != 1 || found[0].ContextMap()["file"] != name {
		t.Errorf("logged %v", logs.All())
	}
	epochs := s.Epochs()
	if len(epochs) != 2 || epochs[1].First != uint64(left+1) {
		t.Errorf("epochs %v, %d records are left", epochs, left)
	}
	if len(load(t, name)) != len(whole) {
		t.Error("what comes after the damage was not kept")
	}
	shut(t, s)

	s = open(t, o)
	if again := s.Epochs(); len(again) != 2 {
		t.Errorf("opened once more, the log has the epochs %v", again)
	}
	goesOn(t, s)
	shut(t, s)
	for _, index := range files(t, o.Dir, "*.index") {
		_ = os.Remove(index)
	}
	s = open(t, o)
	if records := honest(t, s, epoch, n); len(records) != left+1 {
		t.Errorf("%d records, want the %d that were left and one", len(records), left)
	}
	if again := s.Epochs(); len(again) != 2 || again[1] != epochs[1] {
		t.Errorf("epochs %v have become %v", epochs, again)
	}
}

func TestDamageInAnOlderSegmentIsFoundByReading(t *testing.T) {
	t.Parallel()
	const n = 60
	for name, read := range map[string]func(t *testing.T, s *Store, last uint64) error{
		"Read": func(t *testing.T, s *Store, last uint64) error {
			for from := last; ; {
				records, err := s.Read(within(t), from, 1)
				if err != nil {
					return err
				}
				from = records[len(records)-1].Offset + 1
			}
		},
		"Since": func(t *testing.T, s *Store, last uint64) error {
			_, err := s.Since(within(t), event(int(last)).Time)
			if err != nil {
				return err
			}
			return logstore.ErrEvicted
		},
		"Follow": func(t *testing.T, s *Store, _ uint64) error {
			n := follow(t, s, 1)
			eventually(t, s, "everything that is left was followed", func(st logstore.Status) bool {
				all := n.all()
				return len(all) > 0 && all[len(all)-1].Offset == st.Last
			})
			return logstore.ErrEvicted
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := small(t.TempDir())
			fill(t, o, n)
			segments := files(t, o.Dir, "*.log")
			if len(segments) < 5 {
				t.Fatalf("segments %v", segments)
			}
			bad := segments[2]
			flip(t, bad, len(load(t, bad))-20)
			logger, logs := logged()
			o.Logger = logger
			s := open(t, o)
			epochs := s.Epochs()
			next, _ := firstOf(filepath.Base(segments[3]))
			if err := read(t, s, next-1); !errors.Is(err, logstore.ErrEvicted) {
				t.Errorf("reading ended with %v", err)
			}
			if st := s.Status(); st.First != next || st.Last != n || st.Err == nil {
				t.Errorf("status %+v, want everything from %d on", st, next)
			}
			found := logs.FilterMessageSnippet("damaged").All()
			if len(found) != 1 || found[0].ContextMap()["file"] != bad || found[0].ContextMap()["byte"].(int64) < headerSize {
				t.Errorf("logged %v", logs.All())
			}
			eventually(t, s, "the files are put aside", func(logstore.Status) bool {
				return len(files(t, o.Dir, "*.log")) == len(segments)-3 && len(files(t, o.Dir, "*.damaged")) == 1
			})
			if now := s.Epochs(); fmt.Sprint(now) != fmt.Sprint(epochs) {
				t.Errorf("epochs %v have become %v", epochs, now)
			}
			goesOn(t, s)
		})
	}
}

// The newest segment is checked when the log is opened. What happens to it
// later is found by reading, while records are appended to it.
func TestDamageInTheOpenSegmentIsFoundByReading(t *testing.T) {
	o := quick(t.TempDir(), SyncAlways)
	s := open(t, o)
	n := follow(t, s, 1)
	term := campaign(t, s)
	add(t, term, 1, 20)
	await(t, s, 20)
	flip(t, segmentName(o.Dir, 1), headerSize+frameSize+5)
	if _, err := s.Read(within(t), 1, 1<<20); !errors.Is(err, logstore.ErrEvicted) {
		t.Errorf("reading what is damaged: %v", err)
	}
	if st := s.Status(); st.First != 21 || st.Last != 20 {
		t.Errorf("offsets %d to %d are retained, want none before 21", st.First, st.Last)
	}
	add(t, term, 21, 40)
	await(t, s, 40)
	if all := n.all(); len(all) != 40 {
		t.Errorf("%d records were followed", len(all))
	}
	epochs := s.Epochs()
	killed := copyDir(t, o.Dir)
	o.Dir = killed
	s = open(t, o)
	if records := honest(t, s, epochs[0].ID, 40); len(records) != 20 || len(s.Epochs()) != 1 {
		t.Errorf("%d records of the epochs %v", len(records), s.Epochs())
	}
}

func TestMissingFiles(t *testing.T) {
	t.Parallel()
	const n = 60
	all := func(left int) bool { return left == n }
	some := func(left int) bool { return left > 0 && left < n }
	none := func(left int) bool { return left == 0 }
	for name, test := range map[string]struct {
		lose       func(dir string, segments []string) []string
		left       func(n int) bool
		sameEpochs bool
	}{
		"an index": {func(_ string, seg []string) []string {
			return []string{strings.TrimSuffix(seg[1], ".log") + ".index"}
		}, all, true},
		"a segment in the middle": {func(_ string, seg []string) []string { return seg[2:3] }, some, true},
		"the newest segment":      {func(_ string, seg []string) []string { return seg[len(seg)-1:] }, some, false},
		"every segment":           {func(_ string, seg []string) []string { return seg }, none, false},
		metaName:                  {func(dir string, _ []string) []string { return []string{filepath.Join(dir, metaName)} }, all, false},
		headName:                  {func(dir string, _ []string) []string { return []string{filepath.Join(dir, headName)} }, all, false},
		"both": {func(dir string, _ []string) []string {
			return []string{filepath.Join(dir, headName), filepath.Join(dir, metaName)}
		}, all, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := small(t.TempDir())
			fill(t, o, n)
			epoch := epochOf(t, load(t, filepath.Join(o.Dir, metaName)))
			for _, file := range test.lose(o.Dir, files(t, o.Dir, "*.log")) {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
			s := open(t, o)
			left := honest(t, s, epoch, n)
			if !test.left(len(left)) {
				t.Errorf("%d records are left", len(left))
			}
			epochs := s.Epochs()
			if same := len(epochs) == 1 && epochs[0].ID == epoch; same != test.sameEpochs {
				t.Errorf("epochs %v, there was %s", epochs, epoch)
			}
			if term := campaign(t, s); term.Number() < 2 {
				t.Errorf("term %d comes after 1", term.Number())
			} else if err := term.Release(within(t)); err != nil {
				t.Fatal(err)
			}
			goesOn(t, s)
			shut(t, s)
			s = open(t, o)
			if again := s.Epochs(); fmt.Sprint(again) != fmt.Sprint(epochs) {
				t.Errorf("opened once more, the epochs %v are %v", epochs, again)
			}
			if index := files(t, o.Dir, "*.index"); len(index) != len(files(t, o.Dir, "*.log"))-1 {
				t.Errorf("indexes %v", index)
			}
		})
	}
}

// What only a process that died can have left is removed, and nothing else.
func TestLeftovers(t *testing.T) {
	o := small(t.TempDir())
	fill(t, o, 20)
	gone := []string{"log.json.new", "00000000000000000001.index.new", "00000000000000000777.index"}
	kept := []string{"notes.new", "notes.index", "777.index", "777.log", "00000000000000000001.log.damaged", "log.json.bak"}
	for _, name := range append(gone, kept...) {
		store(t, filepath.Join(o.Dir, name), []byte("x"))
	}
	s := open(t, o)
	campaign(t, s) // so that nothing is being written
	if left := readAll(t, s); len(left) != 20 {
		t.Errorf("%d records are left", len(left))
	}
	for _, name := range gone {
		if len(files(t, o.Dir, name)) > 0 {
			t.Errorf("%s is left", name)
		}
	}
	for _, name := range kept {
		if len(files(t, o.Dir, name)) == 0 {
			t.Errorf("%s is gone", name)
		}
	}
}

func TestCorruptIndexIsMadeAgain(t *testing.T) {
	const n = 60
	o := small(t.TempDir())
	fill(t, o, n)
	index := files(t, o.Dir, "*.index")[1]
	body := load(t, index)
	flip(t, index, len(body)-1)
	s := open(t, o)
	if records := readAll(t, s); len(records) != n {
		t.Errorf("%d records, want %d", len(records), n)
	}
	if string(load(t, index)) != string(body) {
		t.Error("the index is not what it was")
	}
}

// What a newer program has written is refused, and left as it is.
func TestNewerFormatIsRefused(t *testing.T) {
	o := small(t.TempDir())
	o.segment = 1 << 20
	fill(t, o, 10)
	name := segmentName(o.Dir, 1)
	whole := load(t, name)
	newer := append([]byte(nil), whole...)
	newer[8] = formatVersion + 1
	sum := headerChecksum(newer)
	for i := range 4 {
		newer[12+i] = byte(sum >> (8 * i))
	}
	store(t, name, newer)
	if _, err := Open(o); !errors.Is(err, errVersion) || !strings.Contains(err.Error(), name) {
		t.Errorf("opening a segment of a newer format: %v", err)
	}
	if string(load(t, name)) != string(newer) {
		t.Error("the segment was changed")
	}
	store(t, name, whole)
	metaFile := filepath.Join(o.Dir, metaName)
	log := strings.Replace(`{"version":1,"epochs":[{"ID":"a","First":1}]}`, "1", "2", 1)
	store(t, metaFile, []byte(`{"checksum":"`+checksumText([]byte(log))+`","log":`+log+`}`))
	if _, err := Open(o); err == nil || !strings.Contains(err.Error(), metaFile) {
		t.Errorf("opening a log of a newer format: %v", err)
	}
}
