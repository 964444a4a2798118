package scenarios

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// cutAtSixTenths cuts a segment in the middle of an event's data, and returns
// its new size.
func cutAtSixTenths(t *testing.T, name string) int64 {
	t.Helper()
	body, err := os.ReadFile(name)
	must(t, err)
	at := len(body)*6/10 + bytes.Index(body[len(body)*6/10:], []byte("xxxx")) + 2
	must(t, os.Truncate(name, int64(at)))
	return int64(at)
}

// flipMiddle changes one bit of a segment, and returns where.
func flipMiddle(t *testing.T, name string) int64 {
	t.Helper()
	body, err := os.ReadFile(name)
	must(t, err)
	body[len(body)/2] ^= 0x10
	must(t, os.WriteFile(name, body, 0o600))
	return int64(len(body) / 2)
}

// damagedLog is a log that is damaged while no process has it, and what its
// clients had got before.
type damagedLog struct {
	t      *testing.T
	p      *process
	origin *ssetest.Origin
	site   string
	before []ssetest.Event // in order; number n at n-1
	files  []string        // of events

	after []ssetest.Event // what a client without a position gets afterwards, control events included
}

// perSegment is how many events a segment has, about: a sixteenth of what is
// retained.
const perSegment = 1000

// startDamagedLog fills four segments and a half.
func startDamagedLog(t *testing.T) *damagedLog {
	t.Helper()
	d := &damagedLog{t: t, origin: newOrigin(t, ssetest.OriginConfig{Source: "a", Pad: 200})}
	dir := logDir(t)
	d.site = directive("/events", fmt.Sprintf("stream s\nstart oldest\nretain {\nevents %d\nsize 1GiB\n}\n", 16*perSegment)+
		promptly+logFile(dir, "memory 64KiB"), d.origin.URL())
	d.p = startProcess(t, "", d.site)
	reader := d.reader("", 20*perSegment)
	must(t, d.origin.WaitConnections(within(t, 10*time.Second), 1))
	must(t, d.origin.Flood(within(t, time.Minute), reader, 9*perSegment/2))
	d.before = reader.Events()
	reader.Close()
	d.files = segments(t, dir, "s")
	if len(d.files) < 4 {
		t.Fatalf("the log has the files %v", d.files)
	}
	return d
}

// reader starts a client that keeps what it gets.
func (d *damagedLog) reader(id string, record int) *ssetest.Client {
	d.t.Helper()
	c := ssetest.StartClient(ssetest.ClientConfig{URL: d.p.url("/events"), LastEventID: id, Record: record})
	d.t.Cleanup(c.Close)
	must(d.t, c.WaitOpen(within(d.t, 10*time.Second), 1))
	return c
}

// read has a client without a position read everything, and some events more.
func (d *damagedLog) read() {
	t := d.t
	t.Helper()
	must(t, d.origin.WaitConnections(within(t, 10*time.Second), 1))
	d.origin.EmitNumbered(10)
	reader := d.reader("", 20*perSegment)
	_, err := reader.WaitEvent(within(t, time.Minute), func(e ssetest.Event) bool { return number(e) == int(d.origin.Last()) })
	must(t, err)
	d.after = reader.Events()
	reader.Close()
	known := make(map[string]string)
	for _, e := range d.before {
		known[e.ID] = e.Data
	}
	for _, e := range d.after {
		if data, ok := known[e.ID]; ok && data != e.Data && e.Type != "fanin.gap" {
			t.Errorf("the id %s was that of %.60s, and is that of %.60s", e.ID, data, e.Data)
		}
	}
}

// number returns an event's number; 0: it has none.
func number(e ssetest.Event) int {
	_, n, _ := ssetest.FindNumbered([]byte(e.Data))
	return int(n)
}

// reason returns the reason of a gap; empty for other events.
func reason(e ssetest.Event) string {
	if e.Type != "fanin.gap" {
		return ""
	}
	_, rest, _ := strings.Cut(e.Data, `"reason":"`)
	why, _, _ := strings.Cut(rest, `"`)
	return why
}

// first returns the first event for a client that comes back with the id of
// number n, and the next one if that is a gap.
func (d *damagedLog) first(n int) (ssetest.Event, ssetest.Event) {
	d.t.Helper()
	c := d.reader(d.before[n-1].ID, 20*perSegment)
	defer c.Close()
	must(d.t, c.WaitCount(within(d.t, 10*time.Second), 2))
	events := c.Events()
	return events[0], events[1]
}

// same fails unless an event is the one that it was before.
func (d *damagedLog) same(got ssetest.Event, n int) {
	d.t.Helper()
	if want := d.before[n-1]; got.ID != want.ID || got.Type != want.Type || got.Data != want.Data {
		d.t.Errorf("number %d was %s %.60q, and is %s %.60q", n, want.ID, want.Data, got.ID, got.Data)
	}
}

// names fails unless a line names a file, and a byte in it.
func (d *damagedLog) names(line logLine, file string, from, to int64) {
	d.t.Helper()
	if line.File != file || line.Byte < from || line.Byte > to {
		d.t.Errorf("logged %+v, want %s and a byte from %d to %d", line, file, from, to)
	}
}

// The end of a log is lost. Whoever had it is told so, and nobody gets another
// event under a position that was given before.
func TestEndOfALogIsLost(t *testing.T) { //nolint:tparallel // in full length, one after the other
	besideOthers(t)
	cut := func(t *testing.T, name string) (from, to int64) {
		to = cutAtSixTenths(t, name)
		return to - 400, to // the event that is cut
	}
	flip := func(t *testing.T, name string) (from, to int64) {
		to = flipMiddle(t, name)
		return to - 400, to
	}
	exit := func(p *process) { p.terminate(patience) }
	kill := func(p *process) { p.running.Kill() }
	for _, tc := range []struct {
		name, logged string
		damage       func(t *testing.T, name string) (from, to int64) // where, about
		end          func(p *process)
	}{
		{"cut, killed", "cutting off", cut, kill},
		{"flipped, exited", "what comes after it is not served", flip, exit},
		{"cut, exited", "cutting off", cut, exit},
		{"flipped, killed", "what comes after it is not served", flip, kill},
	}[:scale(2, 4)] {
		t.Run(tc.name, func(t *testing.T) {
			besideOthers(t)
			d := startDamagedLog(t)
			tc.end(d.p)
			newest := d.files[len(d.files)-1]
			from, to := tc.damage(t, newest)
			d.p.run("", d.site)
			d.read()
			d.names(d.p.awaitLog(tc.logged), newest, from, to)

			// What is left is the same; then comes what is lost, which the origin has.
			epoch, left := epochOf(d.before[0].ID), 0
			for i, e := range d.after {
				if n := number(e); n != i+1 {
					t.Fatalf("in place %d comes number %d: %.60s", i+1, n, e.Data)
				}
				if epochOf(e.ID) == epoch {
					left = i + 1
					d.same(e, left)
				}
			}
			begins, _ := strconv.Atoi(strings.TrimSuffix(filepath.Base(newest), ".log"))
			if left <= begins || left >= len(d.before) {
				t.Fatalf("%d events are left of %d, the segment begins with %d", left, len(d.before), begins)
			}
			for _, n := range []int{1, begins - 1, begins, left - 1, left} {
				if e, _ := d.first(n); number(e) != n+1 {
					t.Errorf("after number %d, which is left, comes %.80s", n, e.Data)
				} else if n < left {
					d.same(e, n+1)
				}
			}
			for _, n := range []int{left + 1, left + 2, len(d.before) - 1, len(d.before)} {
				if e, next := d.first(n); reason(e) != "unknown" || number(next) > n+1 {
					t.Errorf("after number %d, which is lost, come %.80s and %.80s", n, e.Data, next.Data)
				}
			}
		})
	}
}

// A segment before the newest is damaged, which is found when it is read. What
// is older is gone, and the rest is as it was.
func TestMiddleOfALogIsDamaged(t *testing.T) { //nolint:tparallel // in full length, one after the other
	besideOthers(t)
	for _, memory := range []string{"64KiB", "64MiB"} {
		t.Run(memory, func(t *testing.T) {
			besideOthers(t)
			d := startDamagedLog(t)
			d.site = strings.Replace(d.site, "memory 64KiB", "memory "+memory, 1)
			d.p.terminate(patience)
			bad := d.files[1]
			at := flipMiddle(t, bad)
			begins, _ := strconv.Atoi(strings.TrimSuffix(filepath.Base(d.files[2]), ".log"))
			d.p.run("", d.site)
			d.read()
			d.names(d.p.awaitLog("is damaged"), bad, at-400, at)

			gap := slices.IndexFunc(d.after, func(e ssetest.Event) bool { return e.Type == "fanin.gap" })
			if gap >= 0 && reason(d.after[gap]) != "expired" {
				t.Errorf("the gap is %s", d.after[gap].Data)
			}
			last := 0
			for i, e := range d.after {
				n := number(e)
				switch {
				case i == gap:
					continue
				case n != last+1 && n != begins:
					t.Fatalf("number %d comes after %d", n, last)
				case n <= len(d.before):
					d.same(e, n)
				}
				last = n
			}
			for _, n := range []int{1, perSegment / 2, begins - 2} {
				if e, next := d.first(n); reason(e) != "expired" || number(next) != begins {
					t.Errorf("after number %d, which is gone, come %.80s and %.80s", n, e.Data, next.Data)
				}
			}
			for _, n := range []int{begins - 1, begins, len(d.before) - 1} {
				e, _ := d.first(n)
				d.same(e, n+1)
			}
			if epochOf(d.after[len(d.after)-1].ID) != epochOf(d.before[0].ID) {
				t.Error("it is another log")
			}
		})
	}
}
