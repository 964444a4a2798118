package scenarios

import (
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

var errNotCurrent = errors.New("a replica is behind")

// leader returns the NATS server that leads what a JetStream stream is kept by.
func (c *cluster) leader(stream string) *natsServer {
	c.t.Helper()
	var name string
	c.nats[0].ask("the stream "+stream+" has a leader", func(_ *nats.Conn, js jetstream.JetStream) error {
		s, err := js.Stream(c.t.Context(), stream)
		if err == nil {
			name = s.CachedInfo().Cluster.Leader
		}
		return err
	})
	i := slices.IndexFunc(c.nats, func(s *natsServer) bool { return s.name == name })
	if i < 0 {
		c.t.Fatalf("the stream %s has the leader %q", stream, name)
	}
	return c.nats[i]
}

// awaitReplicas waits until all servers have all of the log.
func (c *cluster) awaitReplicas() {
	c.t.Helper()
	c.nats[0].ask("all replicas are current", func(_ *nats.Conn, js jetstream.JetStream) error {
		for _, stream := range []string{jetStreamName, leaseBucket} {
			s, err := js.Stream(c.t.Context(), stream)
			if err != nil {
				return err
			}
			cluster := s.CachedInfo().Cluster
			if cluster.Leader == "" || len(cluster.Replicas) != len(c.nats)-1 || slices.ContainsFunc(cluster.Replicas, func(p *jetstream.PeerInfo) bool { return !p.Current || p.Offline }) {
				return errNotCurrent
			}
		}
		return nil
	})
}

// election tells when a stream's leader is elected, as a server hears of it.
func (s *natsServer) election(stream string) <-chan time.Time {
	s.t.Helper()
	elected := make(chan time.Time, 1)
	nc, err := nats.Connect("nats://"+s.addr, nats.SetCustomDialer(s.host), nats.IgnoreDiscoveredServers())
	must(s.t, err)
	s.t.Cleanup(nc.Close)
	_, err = nc.Subscribe("$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED."+stream, func(*nats.Msg) {
		select {
		case elected <- time.Now():
		default:
		}
	})
	must(s.t, err)
	must(s.t, nc.Flush())
	return elected
}

// The NATS server that leads the log is killed. A follower of it waits for 4 to 9
// seconds at random before it wants to be elected, which no writer can shorten.
func TestLeaderIsKilled(t *testing.T) {
	besideOthers(t)
	c := startCluster(t, clusterConfig{clients: scale(15, 60), rate: scale(200.0, 1000.0), lease: lease})
	var elections, pauses durations
	most := 10 * time.Second
	for range scale(1, max(*rounds/4, 1)) {
		c.awaitReplicas()
		c.goOn()
		l := c.leader(jetStreamName)
		other := c.nats[0]
		if other == l {
			other = c.nats[1]
		}
		elected := other.election(jetStreamName)
		c.silences(nil)
		killed := time.Now()
		l.Kill()
		c.goOn()
		pauses = append(pauses, c.silences(nil)...)
		select {
		case at := <-elected:
			elections = append(elections, at.Sub(killed))
			most = max(most, at.Sub(killed)+2*time.Second)
		case <-within(t, patience).Done():
			t.Fatal("NATS has not said that it elected another leader")
		}
		l.start()
	}
	c.finish()
	for _, o := range c.origins {
		if n := o.TotalConnections(); *long && n != 1 {
			t.Errorf("origin %s was connected %d times, want once", o.Source(), n)
		}
	}
	t.Logf("of which NATS takes to elect another: %s", elections)
	pauses.report(t, "pause after kill -9 of the leader in NATS", most)
}

// All of NATS is down for longer than the writer holds its upstreams, and a Caddy
// is started meanwhile.
func TestNATSIsDown(t *testing.T) {
	besideOthers(t)
	c := startCluster(t, clusterConfig{clients: scale(15, 60), rate: scale(200.0, 500.0), lease: lease, options: "hold " + scale("5s", "30s")})
	started := c.nodes[2]
	if c.writer(nil) == started {
		started = c.nodes[1]
	}
	c.goOn()
	for _, s := range c.nats {
		s.Kill()
	}
	killed := time.Now()
	started.Kill()
	started.start()
	must(t, ssetest.Await(patience, "the Caddy that is started listens", func() bool { return started.readiness() != 0 }))
	began := time.Now()
	newcomer := ssetest.StartClient(ssetest.ClientConfig{URL: "http://node/events", HTTP: newRoaming([]*node{started}, 0).client(), Track: c.v.Track("newcomer")})
	t.Cleanup(newcomer.Close)
	must(t, newcomer.WaitOpen(within(t, patience), 1))
	answered := durations{time.Since(began)}
	if conn := newcomer.Connection(); conn.Status != http.StatusOK {
		t.Errorf("a Caddy that was started without NATS answers %d", conn.Status)
	}
	for _, n := range c.nodes {
		must(t, ssetest.Await(patience, n.name+" is not ready", func() bool { return n.readiness() == http.StatusServiceUnavailable }))
	}
	c.until(killed.Add(scale(12*time.Second, *down)))
	for _, s := range c.nats {
		s.start()
	}
	up := time.Now()
	c.goOn()
	recovered := durations{time.Since(up)}
	for _, n := range c.nodes {
		n.awaitReady()
	}
	c.finish()
	answered.report(t, "answer of a Caddy that was started without NATS", time.Second)
	t.Logf("from the start of NATS until everybody has everything: %s", recovered)
	for _, o := range c.origins {
		t.Logf("origin %s was connected %d times", o.Source(), o.TotalConnections())
	}
}
