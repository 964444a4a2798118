package scenarios

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// What arrived from a time on is the same at every node, to the millisecond, also
// at one that was not there when it arrived.
func TestSinceAtEveryNode(t *testing.T) {
	besideOthers(t)
	c := startCluster(t, clusterConfig{clients: 1, rate: 300, lease: lease})
	open := func(n *node, path string) *ssetest.Client {
		client := ssetest.StartClient(ssetest.ClientConfig{
			URL: "http://node" + path, Record: 1 << 16,
			HTTP: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.dial}},
		})
		t.Cleanup(client.Close)
		return client
	}
	whole := open(c.nodes[0], "/events")
	late := c.nodes[size-1]
	late.end()
	must(t, whole.WaitCount(within(t, patience), 500))
	late.start()
	late.awaitReady()
	for _, o := range c.origins {
		o.SetRate(0)
	}
	c.finish()
	must(t, ssetest.Await(patience, "the client has all", func() bool {
		return whole.LastEventID() == c.fleet.Clients[0].LastEventID()
	}))
	all := whole.Events()
	arrival := func(e ssetest.Event) int64 {
		at, err := strconv.ParseInt(e.ID[strings.LastIndex(e.ID, "-")+1:], 36, 64)
		must(t, err)
		return at
	}
	// what came in the same millisecond as the first one may have come before the client
	later := slices.IndexFunc(all, func(e ssetest.Event) bool { return arrival(e) > arrival(all[0]) })
	for _, i := range []int{later, len(all) / 2, len(all) - 1} {
		at := arrival(all[i])
		from := slices.IndexFunc(all, func(e ssetest.Event) bool { return arrival(e) >= at })
		for _, n := range c.nodes {
			client := open(n, fmt.Sprintf("/events?since=%d", at))
			must(t, client.WaitCount(within(t, patience), uint64(len(all)-from)))
			must(t, client.WaitComments(within(t, patience), client.Comments()+1))
			got := client.Events()
			if !slices.EqualFunc(got, all[from:], func(a, b ssetest.Event) bool { return a.ID == b.ID && a.Data == b.Data }) {
				t.Errorf("%s, since %s: got %d events, want %d", n.name, time.UnixMilli(at).Format(time.RFC3339Nano), len(got), len(all)-from)
			}
		}
	}
}
