package scenarios

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// clusterConfig is what a scenario wants of a cluster.
type clusterConfig struct {
	clients int
	rate    float64 // events a second, of both origins together
	lease   time.Duration
	options string // more of log jetstream
	stream  string // more of the stream
	retain  string // default: more than any scenario has
	nearest bool   // a Caddy is given the NATS server of its number only, not all
	standby bool   // every Caddy has the origins connected, which have no ids, and send nothing again

	// Where the processes run, by kind, nats or caddy, and number. Default: here.
	host func(kind string, i int) host
}

// size is how many there are of Caddy and of NATS.
const size = 3

// cluster is three Caddys that share a log on three NATS servers, two origins, and
// clients that check every event.
type cluster struct {
	t       *testing.T
	nats    []*natsServer
	nodes   []*node
	origins []*ssetest.Origin
	v       *ssetest.Verifier
	fleet   *ssetest.Fleet
	ways    []*roaming // of each client
}

func startCluster(t *testing.T, cfg clusterConfig) *cluster {
	t.Helper()
	if cfg.host == nil {
		cfg.host = func(string, int) host { return here{} }
	}
	var hosts []host
	for i := range size {
		hosts = append(hosts, cfg.host("nats", i))
	}
	c := &cluster{t: t, nats: startNATS(t, hosts), v: ssetest.NewVerifier()}
	for _, source := range []string{"a", "b"} {
		o, err := ssetest.NewOrigin(ssetest.OriginConfig{Source: source, Pad: 50, Socket: filepath.Join(t.TempDir(), "origin.sock")})
		must(t, err)
		t.Cleanup(o.Close)
		if cfg.standby {
			o.SetIDs(func(uint64) string { return "" })
			o.SetResume(ssetest.LiveOnly)
		}
		c.origins = append(c.origins, o)
	}
	for i := range size {
		servers := c.nats
		if cfg.nearest {
			servers = c.nats[i : i+1]
		}
		n := newNode(t, fmt.Sprintf("caddy-%d", i+1), cfg.host("caddy", i), c.site(&cfg, servers))
		c.nodes = append(c.nodes, n)
		n.start()
		if i == 0 {
			n.awaitReady() // it makes what all need
		}
	}
	for _, n := range c.nodes {
		n.awaitReady()
	}
	c.ways = make([]*roaming, cfg.clients)
	c.fleet = ssetest.StartFleet(ssetest.FleetConfig{
		Clients:  cfg.clients,
		Client:   ssetest.ClientConfig{URL: "http://node/events", Stubborn: true},
		Verifier: c.v,
		Each: func(i int, client *ssetest.ClientConfig) {
			c.ways[i] = newRoaming(c.nodes, i%len(c.nodes))
			client.HTTP = c.ways[i].client()
		},
	})
	t.Cleanup(c.fleet.Close)
	must(t, c.fleet.WaitOpen(within(t, patience)))
	connections := 1
	if cfg.standby {
		connections = size
	}
	for _, o := range c.origins {
		must(t, o.WaitConnections(within(t, patience), connections))
		o.SetRate(cfg.rate / float64(len(c.origins)))
	}
	c.goOn()
	return c
}

// retainAll has no event go while a scenario lasts.
const retainAll = "events 0\nsize 256MiB"

// site returns the directives of a Caddy that is to use these servers. The origins
// are sockets of the file system, which all hosts share.
func (c *cluster) site(cfg *clusterConfig, servers []*natsServer) string {
	return fmt.Sprintf(`
	sse_fanin /events {
		stream live
		upstream a %s
		upstream b %s
		backoff 100ms 1s
		retry 50ms
		heartbeat 1s
		retain {
			%s
		}
		%s
		log jetstream {
			servers %s
			replicas 3
			lease %s
			%s
		}
	}
	sse_fanin_status /status
`, c.origins[0].URL(), c.origins[1].URL(), cmp.Or(cfg.retain, retainAll), cfg.stream, urls(servers...), cfg.lease, cfg.options)
}

// goOn waits until every client has what the origins have sent by now.
func (c *cluster) goOn() {
	c.t.Helper()
	for _, o := range c.origins {
		must(c.t, c.v.WaitSeen(within(c.t, patience), o.Source(), o.Last()+1))
	}
	must(c.t, c.v.ErrIfAny())
}

// writer waits for the node that writes, other than one that does so no more.
func (c *cluster) writer(but *node) *node {
	c.t.Helper()
	var w *node
	must(c.t, ssetest.Await(patience, "another node writes", func() bool {
		for _, n := range c.nodes {
			if n != but && n.Running() && n.status().State == "writing" {
				w = n
				return true
			}
		}
		return false
	}))
	return w
}

// until lets the scenario go on for a while.
func (c *cluster) until(end time.Time) {
	c.t.Helper()
	must(c.t, ssetest.Repeat(time.Until(end), 100*time.Millisecond, c.v.ErrIfAny))
}

// silences returns the longest time without an event since it was called last, of
// every client but those that are at a node which is cut off, or stopped.
func (c *cluster) silences(but *node) (all durations) {
	for i, client := range c.fleet.Clients {
		if silence := client.TakeSilence(); c.ways[i].at() != but {
			all = append(all, silence)
		}
	}
	return all
}

// finish has the origins send no more, waits until every client has it all, and
// fails if anything was lost, came twice or was announced to be missing.
func (c *cluster) finish() {
	c.t.Helper()
	must(c.t, c.v.Settle(within(c.t, patience), c.origins...))
	for _, o := range c.origins {
		if n := o.Overruns(); n > 0 {
			c.t.Errorf("origin %s had no room for %d events", o.Source(), n)
		}
	}
	c.t.Log(c.v.Report())
}

// sameBytes fails unless all nodes send the same bytes after one position, up to
// another.
func (c *cluster) sameBytes(after, to string) {
	c.t.Helper()
	var first []byte
	for i, n := range c.nodes {
		got := n.between(after, to)
		if i == 0 {
			first = got
		} else if !bytes.Equal(got, first) {
			c.t.Errorf("after %s up to %s, %s sends %d bytes, and %s %d others", after, to, c.nodes[0].name, len(first), n.name, len(got))
		}
	}
}

// between returns what a node sends after one position, up to another, without
// comments.
func (n *node) between(after, to string) []byte {
	n.t.Helper()
	req, err := http.NewRequestWithContext(within(n.t, patience), http.MethodGet, "http://node/events", nil)
	must(n.t, err)
	req.Header.Set("Last-Event-ID", after)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.dial}}
	resp, err := client.Do(req)
	must(n.t, err)
	defer resp.Body.Close()
	var got bytes.Buffer
	for lines, last := bufio.NewReader(resp.Body), false; ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			n.t.Fatalf("reading from %s after %s: %v", n.name, after, err)
		}
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			last = strings.TrimSpace(id) == to
		}
		if !strings.HasPrefix(line, ":") {
			got.WriteString(line)
		}
		if last && line == "\n" {
			return got.Bytes()
		}
	}
}
