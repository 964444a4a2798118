package scenarios

import (
	"testing"
	"time"
)

// lease is that of the scenarios, the default.
const lease = 3 * time.Second

// takeover has the writer leave again and again, in a way, and returns how long
// clients got nothing.
func (c *cluster) takeover(times int, leave func(w *node)) (pauses durations) {
	c.t.Helper()
	for range times {
		c.goOn()
		from := c.fleet.Clients[0].LastEventID()
		w := c.writer(nil)
		c.silences(nil)
		leave(w)
		c.writer(w)
		c.goOn()
		pauses = append(pauses, c.silences(nil)...)
		w.start()
		w.awaitReady()
		c.goOn()
		c.sameBytes(from, c.fleet.Clients[0].LastEventID())
	}
	return pauses
}

func TestWriterIsKilled(t *testing.T) {
	besideOthers(t)
	c := startCluster(t, clusterConfig{clients: scale(15, 60), rate: scale(200.0, 500.0), lease: lease})
	pauses := c.takeover(scale(1, *rounds), func(w *node) { w.Kill() })
	c.finish()
	pauses.report(t, "pause after kill -9 of the writer", lease+time.Second)
}

func TestWriterExits(t *testing.T) {
	besideOthers(t)
	c := startCluster(t, clusterConfig{clients: scale(15, 60), rate: scale(200.0, 500.0), lease: lease})
	pauses := c.takeover(scale(1, *rounds), func(w *node) { w.end() })
	c.finish()
	pauses.report(t, "pause while the writer exits", time.Second)
}
