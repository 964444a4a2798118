//go:build unix

package scenarios

import (
	"syscall"
	"testing"
	"time"
)

// The writer is stopped for longer than its lease, and goes on as if nothing had
// happened. What it appends then is refused.
func TestWriterIsStopped(t *testing.T) {
	besideOthers(t)
	c := startCluster(t, clusterConfig{clients: scale(15, 60), rate: scale(200.0, 500.0), lease: lease})
	times := scale(1, *rounds)
	var pauses, overlaps durations
	for range times {
		c.goOn()
		w := c.writer(nil)
		c.silences(nil)
		must(t, w.Signal(syscall.SIGSTOP))
		stopped := time.Now()
		c.writer(w)
		for _, o := range c.origins {
			must(t, o.WaitConnections(within(t, patience), 2))
		}
		c.until(stopped.Add(lease + 3*time.Second))
		pauses = append(pauses, c.silences(w)...)
		must(t, w.Signal(syscall.SIGCONT))
		goesOn := time.Now()
		for _, o := range c.origins {
			must(t, o.WaitConnections(within(t, patience), 1))
		}
		overlaps = append(overlaps, time.Since(goesOn))
		c.goOn()
	}
	c.finish()
	refused := uint64(0)
	for _, n := range c.nodes {
		refused += n.status().Refused
	}
	t.Logf("%d appends of writers that went on were refused", refused)
	for _, o := range c.origins {
		if n := o.TotalConnections(); *long && n != 1+times {
			t.Errorf("origin %s has seen %d connections, want one, and one for each of %d stops", o.Source(), n, times)
		}
	}
	pauses.report(t, "pause while the writer is stopped, of clients of other nodes", lease+time.Second)
	overlaps.report(t, "two connections to an origin after the writer goes on", time.Second)
}
