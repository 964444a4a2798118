package scenarios

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// arrivalIn returns the time in a client's position, Unix ms.
func arrivalIn(t *testing.T, id string) int64 {
	t.Helper()
	at, err := strconv.ParseInt(id[strings.LastIndex(id, "-")+1:], 36, 64)
	must(t, err)
	return at
}

// A process that was killed, and another with its files, of which memory holds the
// newest alone: clients get what arrived at a millisecond or later, no event less
// and no event more.
func TestSinceAfterARestart(t *testing.T) {
	besideOthers(t)
	const n = 3000
	a := newOrigin(t, ssetest.OriginConfig{Source: "a", Pad: 100})
	site := directive("/events", "stream s\nstart oldest\n"+promptly+keepAll+logFile(logDir(t), "memory 64KiB"), a.URL()) +
		"sse_fanin /hour s {\nstart 1h\n" + "heartbeat 50ms\n}\nsse_fanin /live s {\n" + "heartbeat 50ms\n}\n"
	p := startProcess(t, "", site)
	must(t, a.WaitConnections(within(t, 10*time.Second), 1))
	whole := ssetest.StartClient(ssetest.ClientConfig{URL: p.url("/events"), Record: 2 * n})
	t.Cleanup(whole.Close)
	must(t, whole.WaitOpen(within(t, 10*time.Second), 1))
	for i := range n {
		a.EmitNumbered(1)
		if i%100 == 99 { // so that they arrive at many milliseconds
			must(t, whole.WaitCount(within(t, 10*time.Second), uint64(i+1)))
		}
	}
	all := whole.Events()
	whole.Close()
	p.running.Kill()
	p.run("", site)

	// wants fails unless a client gets the events from a number on, and then no more
	// before a heartbeat.
	wants := func(path string, from int) {
		t.Helper()
		c := ssetest.StartClient(ssetest.ClientConfig{URL: p.url(path), Record: 2 * n})
		defer c.Close()
		must(t, c.WaitCount(within(t, 20*time.Second), uint64(n-from)))
		must(t, c.WaitComments(within(t, 10*time.Second), c.Comments()+1))
		got := c.Events()
		same := slices.EqualFunc(got, all[from:], func(a, b ssetest.Event) bool {
			return a.ID == b.ID && a.Data == b.Data && a.Type == b.Type
		})
		if !same {
			t.Errorf("%s: got %d events, want %d", path, len(got), n-from)
		}
	}
	firstFrom := func(at int64) int {
		return slices.IndexFunc(all, func(e ssetest.Event) bool { return arrivalIn(t, e.ID) >= at })
	}
	for _, i := range []int{0, 1, 99, 100, 777, 1500, n - 101, n - 1} {
		at := arrivalIn(t, all[i].ID)
		from := firstFrom(at)
		wants(fmt.Sprintf("/events?since=%d", at), from)
		wants("/live?since="+time.UnixMilli(at).UTC().Format(time.RFC3339Nano), from)
		if next := firstFrom(at + 1); next >= 0 {
			wants(fmt.Sprintf("/live?since=%d.%03d", (at+1)/1000, (at+1)%1000), next)
		}
	}
	wants("/events?since=0", 0)
	wants("/hour", 0)
	wants("/events?since=0&lastEventId="+all[n-2].ID, n-1)
	wants(fmt.Sprintf("/events?since=%d", arrivalIn(t, all[n-1].ID)+1), n)
}
