package scenarios

import (
	"fmt"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// peak is the most resident memory that the process has had, in bytes.
func (p *process) peak() int64 { return p.memory("VmHWM") }

// Far more is retained than there is memory for. Clients that begin with the
// oldest event get all of it, exactly, and the process stays small.
func TestLogIsLargerThanMemory(t *testing.T) {
	besideOthers(t)
	const size, most = 8 << 10, 400 << 20
	n := longest(5_000, 256_000) // 40 MiB, or 2 GiB
	origin := newOrigin(t, ssetest.OriginConfig{Source: "a", Pad: size, History: 5000})
	dir := logDir(t)
	site := directive("/events", "stream s\n"+promptly+keepAll+logFile(dir, "memory "+scale("1MiB", "64MiB")), origin.URL()) +
		directive("/oldest", "stream s\nstart oldest\nheartbeat 200ms\n")
	p := prepareProcess(t)
	p.env = append(p.env, "GOMEMLIMIT=256MiB")
	p.run("", site)
	v := ssetest.NewVerifier()
	live := connect(t, v, "live", ssetest.ClientConfig{URL: p.url("/events")})
	must(t, origin.WaitConnections(within(t, 10*time.Second), 1))
	origin.EmitNumbered(1)
	must(t, live.WaitCount(within(t, 10*time.Second), 1))
	first := live.LastEventID()
	for sent := 1; sent < n; { // never so far ahead that the origin or the client is overtaken
		k := min(50, n-sent)
		origin.EmitNumbered(k)
		sent += k
		must(t, v.WaitSeen(within(t, time.Minute), "a", uint64(sent)))
	}
	filled := p.peak()

	// with the same process, and with one that has only the files
	for _, again := range []bool{false, true} {
		if again {
			p.terminate(patience)
			p.run("", site)
		}
		connect(t, v, fmt.Sprintf("oldest, %t", again), ssetest.ClientConfig{URL: p.url("/oldest"), Record: -1})
		connect(t, v, fmt.Sprintf("resumes, %t", again), ssetest.ClientConfig{URL: p.url("/events"), Record: -1, LastEventID: first})
		must(t, v.WaitSeen(within(t, scale(time.Minute, 10*time.Minute)), "a", uint64(n)))
		must(t, v.Err())
		if peak := p.peak(); peak > most {
			t.Errorf("the process has had %d MiB of memory, allowed are %d", peak>>20, most>>20)
		} else {
			t.Logf("the process had %d MiB at most, %d while the log was filled", peak>>20, filled>>20)
		}
	}
	report := v.Report()
	if want := uint64(n + 2*(2*n-1)); report.Numbered != want {
		t.Errorf("%d events were read, want %d", report.Numbered, want)
	}
	t.Log(report)
}
