package scenarios

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// logFile writes the option that keeps a stream's log in files.
func logFile(dir, options string) string {
	return "log file {\ndir " + dir + "\n" + options + "\n}\n"
}

// keepAll retains whatever a test sends.
const keepAll = "retain {\nevents 0\nsize 4GiB\n}\n"

// promptly has clients and upstreams come back at once.
const promptly = "retry 20ms 60ms\nbackoff 20ms 100ms\nheartbeat 50ms\n"

// logDir returns a directory that no process has used yet.
func logDir(t *testing.T) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "log")
}

// segments returns the files of a stream's log that have events, oldest first.
func segments(t *testing.T, dir, stream string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, stream, "*.log"))
	must(t, err)
	slices.Sort(names)
	return names
}

// term returns how many times a stream's log has been written by somebody
// anew: each opening is a term.
func term(t *testing.T, dir, stream string) int {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(dir, stream, "log.json"))
	must(t, err)
	var file struct {
		Log struct{ Term int }
	}
	must(t, json.Unmarshal(body, &file))
	return file.Log.Term
}

// epochOf returns the part of a client's position that names the log.
func epochOf(id string) string {
	epoch, _, _ := strings.Cut(id, "-")
	return epoch
}

// logLine is what Caddy logs about the files of a log.
type logLine struct {
	Level, Msg, File, Error, Reason string
	Byte                            int64
}

// logLines returns the lines whose message contains a text.
func (p *process) logLines(text string) []logLine {
	var lines []logLine
	for line := range strings.Lines(p.running.Log.String()) {
		var l logLine
		if json.Unmarshal([]byte(line), &l) == nil && strings.Contains(l.Msg, text) {
			lines = append(lines, l)
		}
	}
	return lines
}

// awaitLog waits until a message with a text is logged.
func (p *process) awaitLog(text string) logLine {
	p.t.Helper()
	var lines []logLine
	eventually(p.t, patience, "logged: "+text, func() bool {
		lines = p.logLines(text)
		return len(lines) > 0
	})
	return lines[len(lines)-1]
}

// kept fails unless every client of a fleet has come back with its position
// whenever it did, and all positions are of one log.
func kept(t *testing.T, fleet *ssetest.Fleet) {
	t.Helper()
	epoch := epochOf(fleet.Clients[0].LastEventID())
	if epoch == "" {
		t.Error("the first client has no position")
	}
	for i, c := range fleet.Clients {
		if id := c.LastEventID(); epochOf(id) != epoch {
			t.Errorf("client %d is at %s, client 0 in the epoch %s", i, id, epoch)
		}
		for n, conn := range c.Connections() {
			if n > 0 && epochOf(conn.LastEventID) != epoch {
				t.Errorf("client %d came back with %q, the epoch is %s", i, conn.LastEventID, epoch)
			}
			if conn.Status != 0 && conn.Status != http.StatusOK {
				t.Errorf("client %d got status %d", i, conn.Status)
			}
		}
	}
}

// restarts is a stream that is kept in files, and clients who must not notice
// that its process is another one now and then.
type restarts struct {
	t     *testing.T
	p     *process
	a, b  *ssetest.Origin
	v     *ssetest.Verifier
	fleet *ssetest.Fleet
	site  func(i int) string
	times int
}

func startRestarts(t *testing.T, sync string) *restarts {
	t.Helper()
	times := scale(3, 20)
	if sync != "1s" { // the default is what most have
		times = scale(3, 5)
	}
	rate := scale(100.0, 500.0)
	r := &restarts{
		t:     t,
		a:     newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: rate, Pad: 100, Types: []string{"", "price"}}),
		b:     newOrigin(t, ssetest.OriginConfig{Source: "b", Rate: rate}),
		v:     ssetest.NewVerifier(),
		times: times,
	}
	dir := logDir(t)
	r.site = func(i int) string {
		return directive("/events", "stream s\n"+promptly+keepAll+logFile(dir, "sync "+sync), r.a.URL(), r.b.URL()) +
			fmt.Sprintf("respond /version %d", i)
	}
	r.p = startProcess(t, "", r.site(0))
	r.fleet = ssetest.StartFleet(ssetest.FleetConfig{
		Clients:  scale(10, 200),
		Client:   ssetest.ClientConfig{URL: r.p.url("/events")},
		Verifier: r.v,
	})
	t.Cleanup(r.fleet.Close)
	must(t, r.fleet.WaitOpen(within(t, 10*time.Second)))
	return r
}

// goOn lets the stream run, until everybody has what there is at its end.
func (r *restarts) goOn(length time.Duration) {
	r.t.Helper()
	run(r.t, length, 50*time.Millisecond, r.v.ErrIfAny)
	for _, o := range []*ssetest.Origin{r.a, r.b} {
		must(r.t, r.v.WaitSeen(within(r.t, time.Minute), o.Source(), o.Last()))
	}
}

func (r *restarts) finish() {
	r.t.Helper()
	settle(r.t, r.v, r.a, r.b)
	kept(r.t, r.fleet)
	for _, o := range []*ssetest.Origin{r.a, r.b} {
		if n := o.TotalConnections(); n < r.times+1 {
			r.t.Errorf("origin %s saw %d connections over %d restarts", o.Source(), n, r.times)
		}
		for i, id := range o.LastEventIDs() {
			if i > 0 && id == "" {
				r.t.Errorf("origin %s was not resumed the %dth time", o.Source(), i)
			}
		}
	}
	r.t.Log(r.v.Report())
}

func TestKilledAgainAndAgain(t *testing.T) { //nolint:tparallel // in full length, one after the other
	besideOthers(t)
	for _, sync := range []string{"1s", "always"} {
		t.Run(sync, func(t *testing.T) {
			besideOthers(t)
			r := startRestarts(t, sync)
			for range r.times {
				r.goOn(scale(600*time.Millisecond, 2*time.Second))
				r.p.running.Kill()
				r.p.run("", r.site(0))
			}
			r.goOn(0)
			r.finish()
		})
	}
}

func TestRestartedInOrder(t *testing.T) { //nolint:tparallel // in full length, one after the other
	besideOthers(t)
	for _, sync := range []string{"1s", "always"} {
		t.Run(sync, func(t *testing.T) {
			besideOthers(t)
			r := startRestarts(t, sync)
			for i := range r.times {
				for n := range 2 {
					r.goOn(scale(200*time.Millisecond, 700*time.Millisecond))
					r.p.reload("", r.site(2*i+n+1))
				}
				took := r.p.terminate(patience)
				if most := scale(exitLimit, 3*time.Second); took > most {
					t.Errorf("exit took %s, want at most %s", took, most)
				}
				if code := r.p.running.ExitCode(); code != 0 {
					t.Errorf("exited with status %d", code)
				}
				r.p.run("", r.site(0))
			}
			r.goOn(0)
			r.finish()
		})
	}
}

// tracked is a client with its account.
type tracked struct {
	*ssetest.Client
	*ssetest.Track
}

// connect starts a client, and waits until it is answered.
func connect(t *testing.T, v *ssetest.Verifier, name string, cfg ssetest.ClientConfig) tracked {
	t.Helper()
	track := v.Track(name)
	cfg.Track = track
	c := ssetest.StartClient(cfg)
	t.Cleanup(c.Close)
	must(t, c.WaitOpen(within(t, 10*time.Second), 1))
	return tracked{c, track}
}

// goesOnAfter fails unless a client began with the number after the last one
// that another one got.
func (c tracked) goesOnAfter(t *testing.T, source string, before tracked) {
	t.Helper()
	first, _, ok := c.Range(source)
	if _, last, _ := before.Range(source); !ok || first != last+1 {
		t.Errorf("a client that comes back gets %s:%d first, it had %d", source, first, last)
	}
}

// The second of two processes with one directory waits for the first, and goes
// on where it was.
func TestTwoProcessesWithOneLog(t *testing.T) { //nolint:tparallel // in full length, one after the other
	besideOthers(t)
	for name, end := range map[string]func(p *process){
		"exit": func(p *process) { p.terminate(patience) },
		"kill": func(p *process) { p.running.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			besideOthers(t)
			a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 100})
			dir := logDir(t)
			site := directive("/events", "stream s\nstart oldest\n"+promptly+keepAll+logFile(dir, ""), a.URL())
			v := ssetest.NewVerifier()
			first := startProcess(t, "", site)
			before := connect(t, v, "of the first", ssetest.ClientConfig{URL: first.url("/events")})
			must(t, before.WaitCount(within(t, 10*time.Second), 50))

			second := startProcess(t, "", site)
			waiting := connect(t, v, "of the second", ssetest.ClientConfig{URL: second.url("/events")})
			must(t, waiting.WaitComments(within(t, 10*time.Second), 3))
			if conn := waiting.Connection(); conn.Status != http.StatusOK || conn.Events > 0 {
				t.Errorf("while the first has the directory, a client of the second got %+v", conn)
			}
			line := second.awaitLog("cannot be opened")
			if holder := fmt.Sprintf("process %d", first.running.PID()); !strings.Contains(line.Error, holder) || !strings.Contains(line.Error, filepath.Join(dir, "s")) {
				t.Errorf("the second says %q, want the directory and %s", line.Error, holder)
			}
			if n := a.TotalConnections(); n != 1 {
				t.Errorf("the origin has seen %d connections while one process could write", n)
			}

			end(first)
			must(t, before.WaitEnd(within(t, 10*time.Second), ssetest.EndDial, 1)) // it has read what there was
			before.Close()
			before.Finish()
			moved := connect(t, v, "of both", ssetest.ClientConfig{URL: second.url("/events"), LastEventID: before.LastEventID()})
			must(t, moved.WaitCount(within(t, 10*time.Second), 20))
			settle(t, v, a)
			moved.goesOnAfter(t, "a", before)
			oldest, _, _ := before.Range("a")
			if from, _, _ := waiting.Range("a"); from != oldest {
				t.Errorf("the second process serves from number %d on, the first had %d", from, oldest)
			}
			if n := len(waiting.Connections()); n != 1 {
				t.Errorf("the client that waited was connected %d times", n)
			}
			if n := len(second.logLines("cannot be opened")); n != 1 {
				t.Errorf("the second says %d times that it waits", n)
			}
		})
	}
}
