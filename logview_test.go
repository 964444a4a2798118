package ssefanin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
	"github.com/sse-fanin/caddy-sse-fanin/logstore/storetest"
)

func init() {
	caddy.RegisterModule(new(memoryLog))
}

// memoryLog keeps logs in a store that can be made to stall. The argument, if
// there is one, is another way to find the same log.
type memoryLog struct {
	Way string `json:"way,omitempty"`
}

// memoryStore is the store of all streams with a memoryLog, beforeOpening is
// called before one is opened.
var (
	memoryStore   atomic.Pointer[storetest.Memory]
	beforeOpening atomic.Pointer[func()]
)

func (*memoryLog) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: logNamespace + ".memory_test", New: func() caddy.Module { return new(memoryLog) }}
}

func (l *memoryLog) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	d.Args(&l.Way)
	return nil
}

func (l *memoryLog) Key(stream string) string { return stream + l.Way }
func (*memoryLog) Memory() int64              { return 1 << 20 }
func (*memoryLog) Adjust(logstore.Store)      {}

func (*memoryLog) Open(_ context.Context, stream string, o logstore.OpenOptions) (logstore.Store, error) {
	if before := beforeOpening.Swap(nil); before != nil {
		(*before)()
	}
	store := memoryStore.Load().Open("node of " + stream)
	store.SetBounds(o.Bounds)
	return store, nil
}

// serveMemoryLog serves a stream s with a memoryLog, whose upstream is connected.
func serveMemoryLog(t *testing.T, global, more string) (*instance, *ssetest.Origin, *storetest.Memory) {
	t.Helper()
	store := storetest.NewMemory()
	memoryStore.Store(store)
	o := newOrigin(t, ssetest.OriginConfig{})
	in := serve(t, global, "sse_fanin /events {\nstream s\nlog memory_test\nupstream u "+o.URL()+"\n}\n"+more)
	up(t, o)
	return in, o, store
}

// blocked has a file stand where the folder of the stream s should be.
func blocked(t *testing.T) (dir, folder string) {
	t.Helper()
	dir = t.TempDir()
	folder = filepath.Join(dir, "s")
	must(t, os.WriteFile(folder, nil, 0o600))
	return dir, folder
}

// What a stream with `log file` shows: what is in the files, not in memory.
func TestStatusOfALogInFiles(t *testing.T) {
	before := time.Now().Add(-time.Millisecond).UnixMilli()
	o := newOrigin(t, ssetest.OriginConfig{})
	site := kept(t.TempDir(), "memory 64KiB", "retain {\nevents 0\nsize 64MiB\nage 1h\n}\nupstream u "+o.URL())
	in := serve(t, "", site)
	up(t, o)
	const n = 3000
	for i := range n {
		o.Emit("", fmt.Sprint(i, strings.Repeat("x", 100)))
	}
	st := becomes(t, "s", "all of it is in the log", func(st streamStatus) bool {
		return st.Log.Store != nil && st.Log.Store.Last >= n && st.Log.Store.Buffered == 0 && st.Log.Store.MemoryFirst > 1
	})
	l, s := st.Log, st.Log.Store
	if s.Kind != "file" || s.State != logstore.Writing || s.Since < before || s.Error != "" || s.First != 1 || s.Events != s.Last ||
		s.Bytes < 100*n || s.MemoryFirst < n/2 || s.Term != 1 || s.Takeovers != 1 || s.Writer != fmt.Sprint("process ", os.Getpid()) ||
		s.BufferedBytes != 0 || s.Refused != 0 || s.Resyncs != 0 {
		t.Errorf("store: got %+v", s)
	}
	if len(s.Epochs) != 1 || s.Epochs[0].First != 1 || s.Epochs[0].ID != l.Epoch {
		t.Errorf("epochs: got %+v, the present one is %q", s.Epochs, l.Epoch)
	}
	if l.Tail != 1 || l.Head != s.Last || l.Events != s.Events || l.Bytes != s.Bytes || l.Memory == 0 || l.Memory > 64<<10 ||
		l.Oldest < before || l.Newest < l.Oldest {
		t.Errorf("log: got %+v", l)
	}
	if l.MaxEvents != 0 || l.MaxBytes != 64<<20 || l.MaxAge != time.Hour.Milliseconds() || l.MaxMemory != 64<<10 {
		t.Errorf("bounds: got %+v", l)
	}
	if got := in.value(`caddy_sse_fanin_retained_events{stream="s"}`); got != float64(s.Events) {
		t.Errorf("%v events are retained, want %d", got, s.Events)
	}
	if got := in.value(`caddy_sse_fanin_retained_bytes{stream="s"}`); got != float64(l.Memory) {
		t.Errorf("%v bytes of memory are taken, want %d", got, l.Memory)
	}

	// after a restart, the beginning is still that of the first event
	in.stop()
	in.reload("", site)
	awaitWriting(t)
	again := streamNamed(t, "s").Log
	if again.Epoch != l.Epoch || again.Oldest != l.Oldest || again.Store.First != 1 || again.Store.Term != 2 || again.Store.Takeovers != 1 {
		t.Errorf("after a restart: got %+v, %+v", again, again.Store)
	}
}

// Both the admin API and the status page have it, under the documented names; a
// stream without a log besides memory has nothing of it.
func TestStatusOfALogAsJSON(t *testing.T) {
	a := plain(t)
	in := serve(t, "", kept(t.TempDir(), "", "upstream u "+a.URL())+"\nsse_fanin /plain {\nstream p\nupstream u "+a.URL()+"\n}\nsse_fanin_status /status")
	awaitWriting(t)
	type logs []struct {
		Name string
		Log  map[string]json.RawMessage
	}
	_, page := in.get("/status", "application/json")
	var fromPage struct{ Streams logs }
	must(t, json.Unmarshal([]byte(page), &fromPage))
	var fromAdmin logs
	_, body, _ := admin(t, http.MethodGet, "/sse_fanin/streams")
	must(t, json.Unmarshal([]byte(body), &fromAdmin))
	for from, all := range map[string]logs{"page": fromPage.Streams, "admin API": fromAdmin} {
		if len(all) != 2 {
			t.Fatalf("%s: %d streams", from, len(all))
		}
		for _, st := range all {
			raw, ok := st.Log["store"]
			_, memory := st.Log["max_memory"]
			if kept := st.Name == "s"; ok != kept || memory != kept {
				t.Errorf("%s: %s has a store: %t, max_memory: %t", from, st.Name, ok, memory)
			}
			if !ok {
				continue
			}
			var store map[string]any
			must(t, json.Unmarshal(raw, &store))
			const want = "behind buffered buffered_bytes bytes dir epochs error events first kind last last_error memory_first memory_last refused resyncs since state takeovers term writer writes"
			var names []string
			for name := range store {
				names = append(names, name)
			}
			if got := strings.Join(slices.Sorted(slices.Values(names)), " "); got != want {
				t.Errorf("%s: the store has %s, want %s", from, got, want)
			}
			if epochs := store["epochs"].([]any); len(epochs) != 1 || epochs[0].(map[string]any)["id"] == "" || epochs[0].(map[string]any)["first"] != 1.0 {
				t.Errorf("%s: epochs %v", from, epochs)
			}
		}
	}
}

// A log that cannot be opened is stalled, and nothing of it is made up.
func TestStatusOfALogThatCannotBeOpened(t *testing.T) {
	dir, folder := blocked(t)
	in := serve(t, "", kept(dir, "", "retain {\nevents 5\n}\nconnect on_demand\nupstream u "+plain(t).URL())+"\nsse_fanin_status /status")
	st := becomes(t, "s", "it is stalled", func(st streamStatus) bool { return st.Log.Store.State == logstore.Stalled })
	s := st.Log.Store
	if s.Error == "" || !strings.Contains(s.Error, folder) || s.First != 0 || s.Last != 0 || s.Events != 0 || s.Epochs == nil || len(s.Epochs) != 0 {
		t.Errorf("store: got %+v", s)
	}
	if l := st.Log; l.Epoch != "" || l.Events != 0 || l.MaxEvents != 5 || l.MaxMemory != 64<<20 {
		t.Errorf("log: got %+v", l)
	}
	if got := troublesOf(t, "s"); !strings.HasPrefix(got, "log: The log has not been writable for ") || !strings.Contains(got, s.Error) {
		t.Errorf("the verdict is %q", got)
	}
	// not even a stream that is connected on demand is ready
	resp, body := in.get("/status?ready", "")
	var ready readiness
	must(t, json.Unmarshal([]byte(body), &ready))
	if m := ready.Missing; resp.StatusCode != http.StatusServiceUnavailable || len(m) != 1 || m[0].Stream != "s" || m[0].Error != "the log is stalled: "+s.Error {
		t.Errorf("?ready: got %s: %s", resp.Status, body)
	}
	must(t, os.Remove(folder))
	eventually(t, 10*time.Second, "it is ready", func() bool {
		resp, _ := in.get("/status?ready", "")
		return resp.StatusCode == http.StatusOK
	})
	if got := troublesOf(t, "s"); got != "" {
		t.Errorf("the verdict is %q", got)
	}
}

func TestReadinessOfLogs(t *testing.T) {
	in := func(state logstore.State, err string) logStatus {
		return logStatus{Store: &storeStatus{State: state, Error: err}}
	}
	now := time.Now()
	unwritten := func(state logstore.State, since time.Duration) logStatus {
		return logStatus{Store: &storeStatus{State: state, Unwritten: now.Add(-since).UnixMilli(), Error: "no answer"}}
	}
	idle, fed := []*upstreamStatus{{Name: "a", State: phaseIdle}}, []*upstreamStatus{{Name: "a", State: phaseUp}}
	for name, tc := range map[string]struct {
		stream streamStatus
		want   string
	}{
		"writing":                      {streamStatus{Upstreams: fed, Log: in(logstore.Writing, "")}, ""},
		"writing, none up":             {streamStatus{Upstreams: idle, Log: in(logstore.Writing, "")}, "0 of 1 [a] "},
		"writing, an old error":        {streamStatus{Upstreams: fed, Log: in(logstore.Writing, "power cut")}, ""},
		"following":                    {streamStatus{Upstreams: idle, Log: in(logstore.Following, "")}, ""},
		"loading":                      {streamStatus{Upstreams: idle, Log: in(logstore.Loading, "")}, "0 of 1 [a] the log is loading"},
		"stalled while upstreams last": {streamStatus{Upstreams: fed, Log: in(logstore.Stalled, "no space")}, "1 of 1 [] the log is stalled: no space"},
		"closed":                       {streamStatus{Upstreams: fed, Log: in(logstore.Closed, "")}, "1 of 1 [] the log is closed"},
		"on demand, writing":           {streamStatus{OnDemand: true, Upstreams: idle, Log: in(logstore.Writing, "")}, ""},
		"on demand, stalled":           {streamStatus{OnDemand: true, Upstreams: idle, Log: in(logstore.Stalled, "no space")}, "0 of 0 [] the log is stalled: no space"},
		"during a takeover":            {streamStatus{Upstreams: idle, Log: unwritten(logstore.Following, 5*time.Second)}, ""},
		"nobody writes":                {streamStatus{Upstreams: idle, Log: unwritten(logstore.Following, 20*time.Second)}, "0 of 0 [] no node has written the log for 20 s"},
		"nobody writes on demand":      {streamStatus{OnDemand: true, Log: unwritten(logstore.Following, 20*time.Second)}, "0 of 0 [] no node has written the log for 20 s"},
		"nobody can write":             {streamStatus{Upstreams: idle, Log: unwritten(logstore.Stalled, 20*time.Second)}, "0 of 1 [a] the log is stalled: no answer"},
		"removed":                      {streamStatus{Removed: true, Log: in(logstore.Stalled, "no space")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			for _, m := range (&StatusPage{Quorum: 1}).missing([]streamStatus{tc.stream}, now) {
				got = fmt.Sprint(m.Up, " of ", m.Quorum, " ", m.Down, " ", m.Error)
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestTroubleOfALog(t *testing.T) {
	wrapped := func(err error) error {
		return fmt.Errorf("opening a log: %w", &fs.PathError{Op: "open", Path: "/log/s", Err: err})
	}
	for name, tc := range map[string]struct {
		state    logstore.State
		since    time.Duration
		err      error
		dir      string
		want     string // kind and level
		remedy   string
		commands string
	}{
		"writing":           {logstore.Writing, time.Hour, nil, "/log/s", "", "", ""},
		"writing, once bad": {logstore.Writing, time.Hour, errors.New("power cut"), "/log/s", "", "", ""},
		"writing, damaged":  {logstore.Writing, time.Minute, errors.New("power cut"), "/log/s", "s log warn", "Clients that had some of them", "caddy sse-fanin log /log/s --check"},
		"following":         {logstore.Following, time.Hour, nil, "", "", "", ""},
		"just loading":      {logstore.Loading, 10 * time.Second, nil, "/log/s", "", "", ""},
		"loading":           {logstore.Loading, 5 * time.Minute, nil, "/log/s", "s log warn", "Opening a large log", ""},
		"a full disk":       {logstore.Stalled, 3 * time.Minute, wrapped(syscall.ENOSPC), "/log/s", "s log bad", "Free space on the disk, or lower size in retain.", "df -h /log/s, du -sh /log/s"},
		"a quota":           {logstore.Stalled, 3 * time.Minute, wrapped(syscall.EDQUOT), "/log/a b", "s log bad", "Free space", "df -h '/log/a b', du -sh '/log/a b'"},
		"no right":          {logstore.Stalled, 3 * time.Minute, wrapped(syscall.EACCES), "/log/s", "s log bad", "Give Caddy the right to write", "ls -la /log/s"},
		"read-only":         {logstore.Stalled, 3 * time.Minute, wrapped(syscall.EROFS), "/log/s", "s log bad", "The file system is read-only.", "findmnt -T /log/s"},
		"a file":            {logstore.Stalled, 3 * time.Minute, wrapped(syscall.ENOTDIR), "/log/s", "s log bad", "There is a file", "ls -ld /log/s"},
		"in use":            {logstore.Stalled, 3 * time.Minute, fmt.Errorf("%w: /log/s is held by process 4711", logstore.ErrInUse), "/log/s", "s log bad", "One process has a directory at a time. Stop process 4711", "ps -fp 4711"},
		"in use by us":      {logstore.Stalled, 3 * time.Minute, fmt.Errorf("%w: /log/s is held by process %d", logstore.ErrInUse, os.Getpid()), "/log/s", "s log bad", "That is the number of this Caddy.", ""},
		"in use by a new":   {logstore.Stalled, 3 * time.Minute, fmt.Errorf("%w: /log/s is held by process that has just begun", logstore.ErrInUse), "/log/s", "s log bad", "One process has a directory at a time. Stop the other one", ""},
		"a bad disk":        {logstore.Stalled, 3 * time.Minute, wrapped(syscall.EIO), "/log/s", "s log bad", "Look at the disk", "df -h /log/s, caddy sse-fanin log /log/s --check"},
		"another kind":      {logstore.Stalled, 3 * time.Minute, errors.New("no servers"), "", "s log bad", "Look at what keeps the log", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, v, _ := trial()
			v.Log.Store = &storeStatus{State: tc.state, Since: s.now.Add(-tc.since).UnixMilli(), err: tc.err, Dir: tc.dir}
			if tc.err != nil {
				v.Log.Store.Error = tc.err.Error()
			}
			if got := s.kinds(); got != tc.want {
				t.Fatalf("got %q, want %q", got, tc.want)
			}
			for _, tr := range s.troubles([]streamStatus{v.streamStatus}, s.now) {
				if !strings.HasPrefix(tr.Remedy, tc.remedy) || strings.Join(tr.Commands, ", ") != tc.commands {
					t.Errorf("got %q, %q", tr.Remedy, tr.Commands)
				}
				if tr.Level == levelBad && tr.What != "The log has not been writable for 3 min: "+tc.err.Error()+". Clients get nothing new until it is" {
					t.Errorf("got %q", tr.What)
				}
			}
		})
	}
}

// What keeps all events from clients comes first.
func TestTroubleOfALogComesFirst(t *testing.T) {
	s, v, us := trial()
	us.State, us.Since = phaseDown, s.now.Add(-time.Hour).UnixMilli()
	v.Gaps.Expired += 45
	v.Log.Store = &storeStatus{State: logstore.Stalled, Since: s.now.UnixMilli()}
	if got, want := s.kinds(), "s log bad, s/a down bad, s gaps bad"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMetricsOfALog(t *testing.T) {
	in, o, store := serveMemoryLog(t, "", "")
	for i := range 3 {
		o.Emit("", fmt.Sprint(i))
	}
	becomes(t, "s", "all of it is in the log", func(st streamStatus) bool {
		return st.Upstreams[0].Events == 3 && st.Log.Store.Buffered == 0 && st.Log.Store.Last == 3
	})
	last := float64(streamNamed(t, "s").Log.Store.Last)
	metric := func(name string) string { return "caddy_sse_fanin_log_" + name + `{stream="s"}` }
	state := func(state logstore.State) string {
		return `caddy_sse_fanin_log_state{state="` + string(state) + `",stream="s"}`
	}
	wantMetrics(t, in, map[string]float64{
		state(logstore.Writing): 1, state(logstore.Stalled): 0, state(logstore.Loading): 0, state(logstore.Following): 0, state(logstore.Closed): 0,
		metric("head_offset"): last, metric("first_offset"): 1, metric("buffered_events"): 0, metric("buffered_bytes"): 0,
		metric("writes"): 1, metric("nodes"): 1, metric("memory_head_offset"): last, metric("last_error_timestamp_seconds"): 0,
		metric("term"): 1, metric("takeovers_total"): 1, metric("refused_appends_total"): 0, metric("resyncs_total"): 0,
		`caddy_sse_fanin_retained_events{stream="s"}`: last,
	})
	if in.value(metric("bytes")) == 0 || in.value("caddy_sse_fanin_log_commit_delay_seconds_count"+`{stream="s"}`) == 0 {
		t.Errorf("got\n%s", in.metrics())
	}
	resume := store.Stall()
	defer resume()
	o.Emit("", "waits")
	wantMetrics(t, in, map[string]float64{
		state(logstore.Writing): 0, state(logstore.Stalled): 1, metric("writes"): 1, metric("buffered_events"): 1,
		metric("buffered_bytes"): float64(len("data: waits\n\n")), metric("head_offset"): last,
	})
	eventually(t, 10*time.Second, "the error is seen", func() bool { return in.value(metric("last_error_timestamp_seconds")) > 1.7e9 })
	resume()
	wantMetrics(t, in, map[string]float64{state(logstore.Writing): 1, metric("buffered_events"): 0, metric("head_offset"): last + 1})
	store.Depose()
	wantMetrics(t, in, map[string]float64{metric("takeovers_total"): 2})
	if got := in.value(metric("term")); got < 2 {
		t.Errorf("the second term has the number %v", got)
	}
}

// Streams that are kept in memory only have none of these series.
func TestNoMetricsWithoutALog(t *testing.T) {
	in := serve(t, "", directive("/e", "stream s\nupstream u "+plain(t).URL()))
	if text := in.metrics(); strings.Contains(text, "caddy_sse_fanin_log_") {
		t.Errorf("got\n%s", text)
	}
}

func TestEventsOfALogThatStalls(t *testing.T) {
	global, events := recordEvents(t)
	_, _, store := serveMemoryLog(t, global, "")
	wantEvents(t, events, "upstream_up stream=s upstream=u")
	resume := store.Stall()
	defer resume()
	const stalled = "log_stalled stream=s error=the store stands still"
	wantEvents(t, events, "upstream_up stream=s upstream=u", stalled)
	resume()
	wantEvents(t, events, "upstream_up stream=s upstream=u", stalled, "log_recovered stream=s")
}

func TestEventsOfALogThatCannotBeOpened(t *testing.T) {
	global, events := recordEvents(t)
	dir, folder := blocked(t)
	o := plain(t)
	serve(t, global, kept(dir, "", "upstream u "+o.URL()))
	eventually(t, 10*time.Second, "it is told", func() bool { return len(events()) == 1 })
	if got := events()[0]; !strings.HasPrefix(got, "log_stalled stream=s error=") || !strings.Contains(got, folder) {
		t.Errorf("got %q", got)
	}
	must(t, os.Remove(folder))
	eventually(t, 10*time.Second, "it is told", func() bool { return slices.Contains(events(), "log_recovered stream=s") })
}
