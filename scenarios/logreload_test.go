package scenarios

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// keepsAll has a client record all that a test may send: from the first event on,
// however long it takes.
const keepsAll = 1 << 16

// reloads is a stream with a log whose configuration changes, and clients that
// stay connected.
type reloads struct {
	t     *testing.T
	p     *process
	a     *ssetest.Origin
	v     *ssetest.Verifier
	fleet *ssetest.Fleet
}

// startReloads starts a process with a stream; options are its own ones.
func startReloads(t *testing.T, options string) *reloads {
	t.Helper()
	return startReloadsWith(t, func(r *reloads) string { return r.site(options) })
}

func startReloadsWith(t *testing.T, site func(*reloads) string) *reloads {
	t.Helper()
	r := &reloads{t: t, a: newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 100, Pad: 100}), v: ssetest.NewVerifier()}
	r.p = startProcess(t, "", site(r))
	r.fleet = ssetest.StartFleet(ssetest.FleetConfig{
		Clients:  scale(5, 50),
		Client:   ssetest.ClientConfig{URL: r.p.url("/events")},
		Verifier: r.v,
	})
	t.Cleanup(r.fleet.Close)
	must(t, r.fleet.WaitOpen(within(t, 10*time.Second)))
	return r
}

func (r *reloads) site(options string) string {
	return directive("/events", "stream s\n"+promptly+options, r.a.URL())
}

func (r *reloads) reload(options string) {
	r.t.Helper()
	r.p.reload("", r.site(options))
}

// more waits until everybody has some events more than there were.
func (r *reloads) more() {
	r.t.Helper()
	must(r.t, r.v.WaitSeen(within(r.t, 10*time.Second), "a", r.a.Last()+30))
	must(r.t, r.v.Err())
}

// position returns a client's position, and the number of its newest event.
func (r *reloads) position() (id string, n uint64) {
	r.t.Helper()
	c := connect(r.t, ssetest.NewVerifier(), "of the moment", ssetest.ClientConfig{URL: r.p.url("/events")})
	must(r.t, c.WaitCount(within(r.t, 10*time.Second), 5))
	c.Close()
	_, n, _ = c.Range("a")
	return c.LastEventID(), n
}

// resumes fails unless a client with this position gets what comes after number
// n, all of it.
func (r *reloads) resumes(id string, n uint64) {
	t := r.t
	t.Helper()
	v := ssetest.NewVerifier()
	c := connect(t, v, "resumed", ssetest.ClientConfig{URL: r.p.url("/events"), LastEventID: id})
	defer c.Close()
	must(t, v.WaitSeen(within(t, 10*time.Second), "a", r.a.Last()+5))
	if from, _, _ := c.Range("a"); from != n+1 {
		t.Errorf("a client that has number %d gets %d first", n, from)
	}
	if err := v.Err(); err != nil {
		t.Error(err)
	}
}

// unknown fails unless the first that a client with this position gets is a gap.
func (r *reloads) unknown(id string) {
	t := r.t
	t.Helper()
	c := connect(t, ssetest.NewVerifier(ssetest.AllowGaps()), "unknown", ssetest.ClientConfig{URL: r.p.url("/events"), LastEventID: id, Record: keepsAll})
	defer c.Close()
	must(t, c.WaitCount(within(t, 10*time.Second), 2))
	if first := c.Events()[0]; reason(first) != "unknown" {
		t.Errorf("a client with a position in another log gets %s %.80s", first.Type, first.Data)
	}
}

func (r *reloads) finish() {
	r.t.Helper()
	settle(r.t, r.v, r.a)
	nobodyDisconnected(r.t, r.fleet)
}

func TestReloadAdjustsLog(t *testing.T) {
	besideOthers(t)
	dir := logDir(t)
	options := func(sync, memory, retain string) string {
		return "retain {\n" + retain + "\nsize 1GiB\n}\n" + logFile(dir, "sync "+sync+"\nmemory "+memory)
	}
	r := startReloads(t, options("1s", "64MiB", "events 32000"))
	must(t, r.a.WaitConnections(within(t, 10*time.Second), 1))
	must(t, r.a.Flood(within(t, time.Minute), r.fleet.Clients[0], 3500))
	r.more()
	before, files := term(t, dir, "s"), segments(t, dir, "s")
	id, n := r.position()
	for _, next := range []string{
		options("always", "64MiB", "events 32000"),
		options("always", "64KiB", "events 32000"),
		options("off", "64KiB", "events 16000"),
	} {
		r.reload(next)
		r.more()
	}
	r.resumes(id, n)
	r.reload(options("off", "64KiB", "events 1000"))
	r.more()
	eventually(t, patience, "what is not retained any more is gone", func() bool {
		now := segments(t, dir, "s")
		return len(now) > 0 && now[0] != files[0]
	})
	r.resumes(id, n)
	r.reload(options("1s", "64MiB", "events 32000"))
	r.more()
	r.resumes(id, n)
	r.finish()
	if after := term(t, dir, "s"); after != before {
		t.Errorf("the log was opened again, its term was %d and is %d", before, after)
	}
	if n := r.a.TotalConnections(); n != 1 {
		t.Errorf("the origin saw %d connections", n)
	}
}

func TestReloadChangesLog(t *testing.T) {
	besideOthers(t)
	one, other := logDir(t), logDir(t)
	r := startReloads(t, keepAll+logFile(one, ""))
	r.more()
	old, _ := r.position()
	r.reload(keepAll + logFile(other, ""))
	r.more()
	r.unknown(old)
	id, n := r.position()
	r.more()
	r.resumes(id, n)
	r.finish()
}

// A log that was not configured for a while goes on where it was: nobody who comes
// back to it misses what came meanwhile. Those who are connected get that again.
func TestLogThatWasAwayHasNoHole(t *testing.T) {
	besideOthers(t)
	awayAndBack(t, "")
}

func TestLogThatWasElsewhereHasNoHole(t *testing.T) {
	besideOthers(t)
	awayAndBack(t, logFile(logDir(t), ""))
}

func awayAndBack(t *testing.T, meanwhile string) {
	t.Helper()
	dir := logDir(t)
	r := startReloads(t, keepAll+logFile(dir, ""))
	r.more()
	old, n := r.position()
	r.reload(keepAll + meanwhile)
	r.more()
	r.reload(keepAll + logFile(dir, ""))
	must(t, r.v.WaitSeen(within(t, 10*time.Second), "a", r.a.Last()+30))
	r.resumes(old, n)
	nobodyDisconnected(t, r.fleet)
	if sum := r.v.Report(); sum.Lost > 0 || sum.Gaps > 0 {
		t.Errorf("connected clients: %s", sum)
	}
}

// The files of a log are found again when a configuration has it again.
func TestReloadRemovesLogAndAddsItAgain(t *testing.T) {
	besideOthers(t)
	dir := logDir(t)
	r := startReloads(t, keepAll+logFile(dir, ""))
	r.more()
	old, n := r.position()
	r.more()
	newer, m := r.position()
	r.reload(keepAll)
	r.more()
	r.unknown(old)
	inMemory, _ := r.position()
	r.reload(keepAll + logFile(dir, ""))
	must(t, r.v.WaitSeen(within(t, 10*time.Second), "a", r.a.Last()+30))
	r.unknown(inMemory)
	c := connect(t, ssetest.NewVerifier(), "of the log", ssetest.ClientConfig{URL: r.p.url("/events"), LastEventID: old, Record: keepsAll})
	defer c.Close()
	must(t, c.WaitCount(within(t, 10*time.Second), m-n))
	for i, e := range c.Events()[:m-n] {
		if number(e) != int(n)+1+i || epochOf(e.ID) != epochOf(old) {
			t.Fatalf("number %d of the log is %s %.80s", int(n)+1+i, e.ID, e.Data)
		}
	}
	if e := c.Events()[m-n-1]; e.ID != newer {
		t.Errorf("number %d had the id %s, and has %s", m, newer, e.ID)
	}
	nobodyDisconnected(t, r.fleet)
}

// A stream that is removed and comes back with a later reload is the same one.
func TestStreamWithLogIsRemovedAndAddedAgain(t *testing.T) {
	besideOthers(t)
	dir := logDir(t)
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 100})
	site := directive("/events", "stream s\ndrain 100ms\n"+promptly+keepAll+logFile(dir, ""), a.URL())
	p := startProcess(t, "", site)
	v := ssetest.NewVerifier()
	fleet := ssetest.StartFleet(ssetest.FleetConfig{
		Clients:  scale(5, 50),
		Client:   ssetest.ClientConfig{URL: p.url("/events"), Stubborn: true},
		Verifier: v,
	})
	t.Cleanup(fleet.Close)
	for i := range scale(2, 10) {
		must(t, v.WaitSeen(within(t, 10*time.Second), "a", a.Last()+30))
		p.reload("", "respond /events 404")
		for _, c := range fleet.Clients {
			must(t, c.WaitEnd(within(t, 10*time.Second), ssetest.EndStatus, c.Ends(ssetest.EndStatus)+1))
		}
		if n := a.Connections(); n != 0 {
			eventually(t, patience, "the origin is left", func() bool { return a.Connections() == 0 })
		}
		p.reload("", site)
		if t.Failed() {
			t.Fatalf("round %d", i)
		}
	}
	must(t, v.WaitSeen(within(t, 10*time.Second), "a", a.Last()+30))
	settle(t, v, a)
	epoch := epochOf(fleet.Clients[0].LastEventID())
	for i, c := range fleet.Clients {
		for n, conn := range c.Connections() {
			if n > 0 && epochOf(conn.LastEventID) != epoch {
				t.Errorf("client %d came back with %q, the epoch is %s", i, conn.LastEventID, epoch)
			}
		}
		if conn := c.Connection(); conn.Status != http.StatusOK {
			t.Errorf("client %d: %+v", i, conn)
		}
	}
}

// The log knows the upstream's ids as well as its own positions, so that a
// stream can give either.
func TestReloadChangesIDsOfLog(t *testing.T) {
	besideOthers(t)
	dir := logDir(t)
	options := func(ids string) string { return "ids " + ids + "\n" + keepAll + logFile(dir, "") }
	r := startReloads(t, options("stream"))
	r.more()
	old, n := r.position()
	r.reload(options("upstream"))
	r.more()
	theirs, m := r.position()
	r.unknown(old)
	r.resumes(theirs, m)
	r.reload(options("stream"))
	r.more()
	r.resumes(old, n)
	r.unknown(theirs)
	r.finish()
}

// Reloads may take a stream's log away and bring it back at any moment, and exchange
// the connections to its upstream, also while these are not dialled yet: nobody who is
// connected misses anything, and each log has every event once, in order.
func TestLogsComeAndGo(t *testing.T) {
	besideOthers(t)
	logs := []string{logFile(logDir(t), ""), logFile(logDir(t), ""), ""}
	policies := []string{"failover", "mirror", "balance"}
	site := func(r *reloads, kept string) string {
		return directive("/events", fmt.Sprintf("stream s\nstart oldest\n%s%s%s\nupstream a %s %s?again {\npolicy %s\n}",
			promptly, keepAll, kept, r.a.URL(), r.a.URL(), policies[rand.N(len(policies))]))
	}
	r := startReloadsWith(t, func(r *reloads) string { return site(r, logs[0]) })
	must(t, r.v.WaitSeen(within(t, 10*time.Second), "a", r.a.Last()+5))
	for range scale(30, 300) {
		r.p.reload("", site(r, logs[rand.N(len(logs))]))
		if rand.N(2) == 0 {
			time.Sleep(rand.N(100 * time.Millisecond)) // some follow at once
		}
	}
	for _, kept := range logs[:2] {
		r.p.reload("", site(r, kept))
		v := ssetest.NewVerifier()
		c := connect(t, v, "from the oldest", ssetest.ClientConfig{URL: r.p.url("/events")})
		must(t, v.WaitSeen(within(t, 10*time.Second), "a", r.a.Last()+30))
		must(t, v.Err())
		c.Close()
	}
	r.a.SetRate(0)
	must(t, r.v.WaitSeen(within(t, 10*time.Second), "a", r.a.Last()))
	nobodyDisconnected(t, r.fleet)
	if sum := r.v.Report(); sum.Lost > 0 || sum.OutOfOrder > 0 || sum.Gaps > 0 {
		t.Errorf("connected clients: %s", sum)
	}
}
