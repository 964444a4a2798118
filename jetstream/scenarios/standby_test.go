package scenarios

import (
	"testing"
	"time"
)

// With `standby`, upstreams that send nothing again lose nothing, either: the node
// that takes over has what the writer could not append.
func TestWriterIsKilledWhileOthersStandBy(t *testing.T) {
	besideOthers(t)
	c := startCluster(t, clusterConfig{
		clients: scale(15, 60), rate: scale(200.0, 500.0), lease: lease, options: "standby on", standby: true,
	})
	pauses := c.takeover(scale(1, *rounds), func(w *node) { w.Kill() })
	c.finish()
	pauses.report(t, "pause after kill -9 of the writer", lease+time.Second)
}
