package ssefanin

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/option"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// kept is a site with a stream whose log is kept in files.
func kept(dir, options, upstreams string) string {
	return "sse_fanin /events {\nstream s\nlog file {\ndir " + dir + "\n" + options + "\n}\n" + upstreams + "\n}"
}

// durableOf returns the durable log of the stream s.
func durableOf(t *testing.T) *durable {
	t.Helper()
	var d *durable
	for _, h := range liveHubs.named("s") {
		d = h.log.Load().durable
	}
	if d == nil {
		t.Fatal("there is no log besides memory")
	}
	return d
}

func awaitWriting(t *testing.T) {
	t.Helper()
	eventually(t, 10*time.Second, "the log can be written", func() bool { return durableOf(t).writing.Load() })
}

// A restart in one process: what is in memory is gone, the files are there.
func TestLogOutlivesItsStream(t *testing.T) {
	for _, ids := range []string{idsStream, idsUpstream} {
		t.Run(ids, func(t *testing.T) {
			dir := t.TempDir()
			o := newOrigin(t, ssetest.OriginConfig{})
			site := kept(dir, "sync always", "upstream u "+o.URL()+" {\nbackoff 10ms 10ms\n}\nids "+ids)
			in := serve(t, "", site)
			c := in.connect("/events")
			up(t, o)
			for i := range 5 {
				o.Emit("", fmt.Sprint("before ", i))
			}
			gets(t, c, "before 0", "before 1", "before 2", "before 3", "before 4")
			at := c.LastEventID()
			c.Close()
			o.Emit("", "missed")
			eventually(t, 10*time.Second, "it is in the log", func() bool { return durableOf(t).log().memory.Head() == 6 })
			in.stop()

			o.Emit("", "while down")
			in.reload("", site)
			c = in.openClient(ssetest.ClientConfig{URL: "/events", LastEventID: at})
			gets(t, c, "missed", "while down")
			o.Emit("", "after")
			gets(t, c, "missed", "while down", "after")
			if n := o.TotalConnections(); n != 2 {
				t.Errorf("the origin was connected %d times", n)
			}
			if asked := o.LastEventIDs(); asked[1] == "" {
				t.Error("the origin was not asked to resume")
			}
		})
	}
}

// An upstream that sends all it has again, without ids, after a restart.
func TestRestartRecognisesWhatIsSentAgain(t *testing.T) {
	for policy, n := range map[string]int{policyFailover: 1, policyMirror: 2} {
		t.Run(policy, func(t *testing.T) {
			dir := t.TempDir()
			origins := plainOrigins(t, n)
			withoutIDs(origins)
			for _, o := range origins {
				o.SetResume(ssetest.ReplayAll)
			}
			site := kept(dir, "", "start oldest\nupstream u "+ssetest.URLs(origins)+" {\npolicy "+policy+"\nbackoff 10ms 10ms\n}")
			in := serve(t, "", site)
			c := in.connect("/events")
			for _, o := range origins {
				up(t, o)
			}
			everyMirrorUp(t, n)
			each(origins, "a", "b", "c")
			gets(t, c, "a", "b", "c")
			c.Close()
			in.stop()
			in.reload("", site)
			for _, o := range origins {
				up(t, o)
			}
			everyMirrorUp(t, n)
			each(origins, "d")
			c = in.connect("/events")
			gets(t, c, "a", "b", "c", "d")
		})
	}
}

// Memory holds less than the files: clients get the rest from there.
func TestOlderEventsComeFromTheFiles(t *testing.T) {
	dir := t.TempDir()
	o := newOrigin(t, ssetest.OriginConfig{})
	site := kept(dir, "memory 64KiB", "retain {\nevents 0\nsize 64MiB\n}\nstart oldest\nfilters on\nupstream u "+o.URL())
	in := serve(t, "", site)
	awaitWriting(t)
	up(t, o)
	const n = 4000
	for i := range n {
		o.Emit("even odd"[5*(i%2):4+4*(i%2)], fmt.Sprint(i, strings.Repeat("x", 100)))
	}
	d := durableOf(t)
	eventually(t, 20*time.Second, "all of it is in the log", func() bool { return d.log().memory.Head() == n })
	if tail := d.log().memory.Tail(); tail < n/2 {
		t.Fatalf("memory holds all from %d on", tail)
	}
	if first := d.log().first(); first != 1 {
		t.Fatalf("the log begins with %d", first)
	}
	want := make([]string, n)
	for i := range want {
		want[i] = fmt.Sprint(i, strings.Repeat("x", 100))
	}
	check := func(path, cursor string, want []string) {
		t.Helper()
		c := in.openClient(ssetest.ClientConfig{URL: path, LastEventID: cursor, Record: 2 * n})
		defer c.Close()
		must(t, c.WaitCount(within(t, 20*time.Second), uint64(len(want))))
		var got []string
		for _, ev := range c.Events() {
			got = append(got, ev.Data)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s after %q: got %d events, want %d", path, cursor, len(got), len(want))
		}
	}
	check("/events", "", want)
	whole := in.openClient(ssetest.ClientConfig{URL: "/events", Record: 2 * n})
	must(t, whole.WaitCount(within(t, 20*time.Second), n))
	for _, at := range []int{1, 17, 1000, 2500, n - 1} {
		check("/events", whole.Events()[at-1].ID, want[at:])
	}
	var odd []string
	for i := 1; i < n; i += 2 {
		odd = append(odd, want[i])
	}
	check("/events?type=odd", "", odd)
	whole.Close() // else the stream is open until it has been drained
	in.stop()
	in.reload("", site)
	awaitWriting(t)
	for _, at := range []int{1, 17, 1000, 2500, n - 1} {
		check("/events", whole.Events()[at-1].ID, want[at:])
	}
}

// A log that cannot be opened: clients are answered, and go on when it can.
func TestLogThatCannotBeOpenedYet(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "s")
	must(t, os.WriteFile(folder, nil, 0o600)) // a file in its place
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, "", kept(dir, "", "heartbeat 20ms\nupstream u "+o.URL()))
	c := in.connect("/events")
	must(t, c.WaitComments(within(t, 10*time.Second), 3))
	if n := o.Accepts(); n != 0 {
		t.Errorf("the origin was dialled %d times", n)
	}
	must(t, os.Remove(folder))
	up(t, o)
	o.Emit("", "x")
	gets(t, c, "x")
}

// lateStore is a store whose Follow is slow to begin, as it may be where its
// goroutine has to wait for a processor.
type lateStore struct {
	logstore.Store
	let    <-chan struct{} // closed when Follow may begin
	before *atomic.Bool    // somebody wanted to write before
}

func (s *lateStore) Campaign(ctx context.Context) (logstore.Term, error) {
	select {
	case <-s.let:
	default:
		s.before.Store(true)
	}
	return s.Store.Campaign(ctx)
}

func (s *lateStore) Follow(ctx context.Context, from uint64, apply func([]logstore.Record)) error {
	<-s.let
	return s.Store.Follow(ctx, from, apply)
}

// lateLog is a log in files whose stores are late.
type lateLog struct {
	*FileLog
	let    chan struct{}
	before atomic.Bool
}

func (l *lateLog) Open(ctx context.Context, stream string, o logstore.OpenOptions) (logstore.Store, error) {
	store, err := l.FileLog.Open(ctx, stream, o)
	if err != nil {
		return nil, err
	}
	return &lateStore{store, l.let, &l.before}, nil
}

// Positions, and where upstreams go on, are known before anything is written.
func TestNothingIsWrittenBeforeTheLogIsRead(t *testing.T) {
	file := &FileLog{Dir: t.TempDir(), MaxMemory: option.DefaultLogMemory}
	store, err := file.Open(t.Context(), "s", logstore.OpenOptions{Logger: zap.NewNop()})
	must(t, err)
	term, err := store.Campaign(t.Context())
	must(t, err)
	for i := range 3 {
		must(t, term.Append(&logstore.Record{Time: int64(i), Source: "u", ID: fmt.Sprint(i), Hash: uint64(i), Body: []byte("data: x\n\n")}))
	}
	must(t, term.Release(t.Context()))
	must(t, store.Close())

	retain := eventlog.Options{MaxBytes: 1 << 20, IDs: true}
	late := &lateLog{FileLog: file, let: make(chan struct{})}
	h := newHub(&definition{key: "late", label: "s", ids: idsStream, retain: retain, log: &logDef{
		kind: "file", key: file.Key("s"), opener: late, cache: retain,
	}}, nil)
	log := h.log.Load()
	t.Cleanup(h.release)
	log.durable.begin()
	eventually(t, 10*time.Second, "the log is open", func() bool { return log.durable.status().Last == 3 })
	if log.ready() || log.takesEvents() {
		t.Error("positions are known before the log is read")
	}
	close(late.let)
	eventually(t, 10*time.Second, "the log can be written", func() bool { return log.durable.writing.Load() })
	if head := log.memory.Head(); head != 3 {
		t.Errorf("the log ends with %d", head)
	}
	if p := log.durable.startOf("u"); p == nil || p.id != "2" || len(p.prints) != 3 {
		t.Errorf("the upstream goes on after %+v", p)
	}
	if late.before.Load() {
		t.Error("it was to be written before it was read")
	}
}

// Another process writes: what the log has is served all the same.
func TestPositionsAreKnownWhileNobodyCanWrite(t *testing.T) {
	in, o, store := serveMemoryLog(t, "", "")
	c := in.connect("/events")
	o.Emit("", "one")
	o.Emit("", "two")
	gets(t, c, "one", "two")
	first := c.Events()[0].ID
	c.Close()
	in.stop()

	writer := store.Open("another node")
	defer writer.Close()
	term, err := writer.Campaign(within(t, 10*time.Second))
	must(t, err)
	in.reload("", "sse_fanin /events {\nstream s\nlog memory_test\nupstream u "+o.URL()+"\n}")
	c = in.openClient(ssetest.ClientConfig{URL: "/events", LastEventID: first})
	gets(t, c, "two")
	must(t, term.Append(&logstore.Record{Time: time.Now().UnixMilli(), Source: "u", Body: []byte("data: three\n\n")}))
	gets(t, c, "two", "three")
	if n := o.TotalConnections(); n != 1 {
		t.Errorf("the origin was connected %d times", n)
	}
	must(t, term.Release(within(t, 10*time.Second)))
	eventually(t, 10*time.Second, "the stream writes, and connects its upstream", func() bool { return o.TotalConnections() == 2 })
}

// A log that a reload finds in another way is the same: clients get what another
// node has appended meanwhile, and nothing twice.
func TestLogFoundInAnotherWayGoesOn(t *testing.T) {
	in, o, store := serveMemoryLog(t, "", "")
	c := in.connect("/events")
	o.Emit("", "one")
	gets(t, c, "one")

	appends := func() {
		another := store.Open("another node")
		defer another.Close()
		term, err := another.Campaign(within(t, 10*time.Second))
		must(t, err)
		must(t, term.Append(&logstore.Record{Time: time.Now().UnixMilli(), Source: "u", Body: []byte("data: two\n\n")}))
		must(t, term.Release(within(t, 10*time.Second)))
	}
	beforeOpening.Store(&appends)
	in.reload("", "sse_fanin /events {\nstream s\nlog memory_test elsewhere\nupstream u "+o.URL()+"\n}")
	eventually(t, 10*time.Second, "the upstream is connected again", func() bool { return o.TotalConnections() == 2 })
	up(t, o)
	o.Emit("", "three")
	gets(t, c, "one", "two", "three")
}

// flowing serves a stream with more in files than in memory, to which events are
// added all the time.
func flowing(t *testing.T, options string) *instance {
	t.Helper()
	o := newOrigin(t, ssetest.OriginConfig{Source: "a", Pad: 100})
	in := serve(t, "", kept(t.TempDir(), "memory 64KiB", "retain {\nevents 0\nsize 64MiB\n}\n"+options+"\nupstream u "+o.URL()))
	awaitWriting(t)
	up(t, o)
	for range 5000 {
		o.EmitNumbered(1)
	}
	d := durableOf(t)
	eventually(t, 20*time.Second, "all of it is in the log", func() bool { return d.log().memory.Head() >= 5000 })
	if tail := d.log().memory.Tail(); tail < 2500 {
		t.Fatalf("memory holds all from %d on", tail)
	}
	o.SetRate(1000)
	return in
}

// Where a client begins does not move on while the events there are read.
func TestBeginningStaysWhileOlderEventsAreRead(t *testing.T) {
	in := flowing(t, "start 4000")
	for range 8 {
		c := in.connect("/events")
		must(t, c.WaitCount(within(t, 10*time.Second), 4000))
		c.Close()
	}
}

// Clients that are resumed by time ask once, however much comes meanwhile.
func TestOlderEventsAreAskedForOnce(t *testing.T) {
	in := flowing(t, "start oldest")
	const clients = 20
	for range clients {
		in.connect("/events", func(cfg *ssetest.ClientConfig) {
			cfg.LastEventID, cfg.BytesPerSecond = "aaaaaaaaaa-5-"+strconv.FormatInt(time.Now().Add(-time.Hour).UnixMilli(), 36), 100_000
		})
	}
	older := &durableOf(t).older
	c := in.connect("/events", func(cfg *ssetest.ClientConfig) { cfg.Record = 1 })
	eventually(t, 20*time.Second, "a client has come to what was new when it came", func() bool {
		if n := older.waiting(); n > clients+1 {
			t.Fatalf("%d questions of %d clients", n, clients+1)
		}
		return c.Count() > 5000
	})
}

// Those who have left cost nobody anything.
func TestClientsThatLeaveAskNoMore(t *testing.T) {
	in := flowing(t, "start oldest")
	for range 5 {
		var all []*ssetest.Client
		for range 100 {
			all = append(all, in.client(ssetest.ClientConfig{URL: "/events", BytesPerSecond: 50_000, Once: true}))
		}
		for _, c := range all {
			in.waitOpen(c)
			c.Close()
		}
	}
	waitSubscribers(t, 0)
	if n := durableOf(t).older.waiting(); n > 0 {
		t.Errorf("%d questions of clients that have left", n)
	}
	must(t, in.connect("/events").WaitCount(within(t, 10*time.Second), 5000))
}

// What a store has not committed when a reload takes it away is sent again by the
// upstream, which still has it.
func TestReloadTakesAStalledLogAway(t *testing.T) {
	in, o, store := serveMemoryLog(t, "", "")
	c := in.connect("/events")
	o.Emit("", "one")
	gets(t, c, "one")
	resume := store.Stall()
	defer resume()
	o.Emit("", "two")
	o.Emit("", "three")
	becomes(t, "s", "the store has two more to commit", func(st streamStatus) bool { return st.Log.Store.Buffered == 2 })
	in.reload("", "sse_fanin /events {\nstream s\nupstream u "+o.URL()+" {\nbackoff 10ms 10ms\n}\n}")
	gets(t, c, "one", "two", "three")
}

// A log that comes back goes on where it was: it has every event once, and in order,
// though the upstream goes on sending while the stream gets it.
func TestLogThatComesBackHasNoEventTwice(t *testing.T) {
	dir := t.TempDir()
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", History: 1 << 20})
	options := quick + "\nretain {\nevents 0\nsize 1GiB\n}\nstart oldest\nupstream a " + a.URL()
	site := kept(dir, "", options)
	in := serve(t, "", site)
	up(t, a)
	a.SetRate(1000)
	d := durableOf(t)
	eventually(t, 10*time.Second, "an event is in the log", func() bool { return d.log().memory.Head() > 0 })
	a.SetRate(0)
	for range 5 {
		awaitWriting(t)
		in.reload("", "sse_fanin /events {\nstream s\n"+options+"\n}")
		up(t, a)
		a.SetRate(50_000)
		in.reload("", site)
		a.SetRate(0)
	}
	_, v := followNumbered(t, in, "/events")
	settle(t, v, a)
}
