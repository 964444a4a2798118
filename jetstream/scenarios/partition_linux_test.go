package scenarios

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// The writer is cut off from NATS, and comes back.
func TestWriterIsCutOff(t *testing.T) {
	besideOthers(t)
	network := newNetwork(t)
	c := startCluster(t, clusterConfig{
		clients: scale(15, 60), rate: scale(200.0, 500.0), lease: lease,
		host: func(string, int) host { return network.add() },
	})
	w := c.writer(nil)
	c.silences(nil)
	network.setAside(w.host.(*machine))
	cut := time.Now()
	c.writer(w)
	must(t, ssetest.Await(30*time.Second, "the node that is cut off is not ready", func() bool { return w.readiness() == http.StatusServiceUnavailable }))
	noticed := time.Since(cut)
	c.until(cut.Add(scale(8*time.Second, 30*time.Second)))
	pauses := c.silences(w)
	network.heal(w.host.(*machine))
	began := time.Now()
	c.goOn()
	caughtUp := time.Since(began)
	w.awaitReady()
	c.finish()
	pauses.report(t, "pause when the writer is cut off, of clients of other nodes", lease+time.Second)
	t.Logf("the node that was cut off was not ready %s later", noticed.Round(time.Millisecond))
	t.Logf("the clients of the node that was cut off had everything %s after it was healed", caughtUp.Round(time.Millisecond))
}

// lead makes a NATS server the one that leads a JetStream stream.
func (s *natsServer) lead(stream string) {
	s.t.Helper()
	s.ask(s.name+" leads", func(nc *nats.Conn, js jetstream.JetStream) error {
		info, err := js.Stream(s.t.Context(), stream)
		if err != nil || info.CachedInfo().Cluster.Leader == s.name {
			return err
		}
		request, err := json.Marshal(map[string]any{"placement": map[string]string{"preferred": s.name}})
		if err == nil {
			_, err = nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, request, 2*time.Second)
		}
		if err == nil {
			err = errNotCurrent
		}
		return err
	})
}

// The NATS server that leads the log is cut off from the two others, with the
// writer on its side.
func TestLeaderIsCutOff(t *testing.T) {
	besideOthers(t)
	if !*long {
		t.Skip("it takes too long; see -long")
	}
	network := newNetwork(t)
	machines := []host{network.add(), network.add(), network.add()}
	c := startCluster(t, clusterConfig{
		clients: 60, rate: 1000, lease: lease, nearest: true,
		host: func(_ string, i int) host { return machines[i] },
	})
	c.awaitReplicas()
	w := c.writer(nil)
	i := slices.Index(c.nodes, w)
	c.nats[i].lead(jetStreamName)
	c.goOn()
	c.silences(nil)
	before := w.status()
	if before.State != "writing" {
		t.Fatalf("%s does not write any more: %+v", w.name, before)
	}
	const length = 15 * time.Second
	network.setAside(machines[i].(*machine))
	c.until(time.Now().Add(length))
	after, pauses := w.status(), c.silences(w)
	network.heal(machines[i].(*machine))
	began := time.Now()
	c.goOn()
	caughtUp := time.Since(began)
	for _, n := range c.nodes {
		n.awaitReady()
	}
	c.finish()
	resyncs := after.Resyncs - before.Resyncs
	t.Logf("%d resyncs in %s, at most 2 a second are wanted; %d appends refused", resyncs, length, after.Refused-before.Refused)
	if most := uint64(2 * length.Seconds()); resyncs > most {
		t.Errorf("%d resyncs, want at most %d", resyncs, most)
	}
	t.Logf("pause when the leader is cut off with the writer, of clients of other nodes: %s", pauses)
	t.Logf("everybody had everything %s after it was healed", caughtUp.Round(time.Millisecond))
}
