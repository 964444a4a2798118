package scenarios

import (
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// Every client goes to another node every second, and takes its position along.
func TestClientsHop(t *testing.T) {
	besideOthers(t)
	c := startCluster(t, clusterConfig{clients: scale(15, 60), rate: scale(200.0, 500.0), lease: lease})
	hops, i := 0, 0
	must(t, ssetest.Repeat(scale(5*time.Second, *hopping), time.Second/time.Duration(len(c.ways)), func() error {
		c.ways[i].next()
		if c.fleet.Clients[i].Disconnect() {
			hops++
		}
		i = (i + 1) % len(c.ways)
		return c.v.ErrIfAny()
	}))
	c.finish()
	t.Logf("%d hops", hops)
}
