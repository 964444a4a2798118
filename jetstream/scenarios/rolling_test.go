package scenarios

import "testing"

// All Caddys are restarted, one after the other, and wait for each other as a
// rolling update has them do.
func TestRollingRestart(t *testing.T) {
	besideOthers(t)
	c := startCluster(t, clusterConfig{clients: scale(60, 1000), rate: scale(200.0, 1000.0), lease: lease})
	c.silences(nil)
	for _, n := range c.nodes {
		n.end()
		n.start()
		n.awaitReady()
		c.goOn()
	}
	pauses := c.silences(nil)
	c.finish()
	t.Logf("pauses while all are restarted: %s", pauses)
}
