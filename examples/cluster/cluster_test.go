package main

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// startCluster starts everything, until the test ends.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	listen, err := loopbackAddress("127.0.0.1:0")
	must(t, err)
	c, err := start(t.Context(), listen, t.TempDir(), builtPrograms(t))
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range c.processes() {
				t.Logf("%s wrote:\n%s", p.name, p.lastLines(30))
			}
		}
		if err := c.close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// press presses a button of the page.
func press(t *testing.T, c *cluster, name, button string) {
	t.Helper()
	res, err := http.Post(c.url()+"cluster/nodes/"+name+"/"+button, "", nil)
	must(t, err)
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s", button, name, res.Status)
	}
}

// writer returns the name of the Caddy that writes the log; empty if none does.
func (s *clusterState) writer() string {
	for _, n := range s.Caddys {
		if n.Log == "writing" {
			return n.Name
		}
	}
	return ""
}

// leader returns the name of the NATS server that leads the log; empty if none
// does.
func (s *clusterState) leader() string {
	for _, n := range s.NATS {
		if n.Leads {
			return n.Name
		}
	}
	return ""
}

// whole reports whether everything is as at the beginning.
func (s *clusterState) whole() bool {
	whole := s.writer() != "" && s.leader() != ""
	for _, n := range s.Caddys {
		whole = whole && (n.Log == "writing" || n.Log == "following")
	}
	for _, n := range s.NATS {
		whole = whole && n.Running && n.Healthy
	}
	return whole
}

// findStamp is ssetest.FindNumbered for the origins of this example.
func findStamp(data []byte) (source []byte, n uint64, ok bool) {
	var stamp struct {
		Source string
		Seq    uint64
	}
	if json.Unmarshal(data, &stamp) != nil || stamp.Seq == 0 {
		return nil, 0, false
	}
	return []byte(stamp.Source), stamp.Seq, true
}

// A client of the balancer gets every event once while a Caddy and then a NATS
// server are killed, those that matter most, and started again.
func TestClientMissesNothing(t *testing.T) {
	c := startCluster(t)
	ctx := t.Context()
	state := func() *clusterState {
		s := c.state(ctx)
		return &s
	}
	verifier := ssetest.NewVerifier(ssetest.ParseNumbered(findStamp))
	client := ssetest.StartClient(ssetest.ClientConfig{URL: c.url() + "events", Track: verifier.Track("client"), Stubborn: true})
	defer client.Close()
	seen := func(n uint64) {
		t.Helper()
		waiting, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		must(t, client.WaitCount(waiting, client.Count()+n))
	}
	seen(20)

	var before *clusterState
	eventually(t, "everything is well", func() bool {
		before = state()
		return before.whole()
	})
	press(t, c, before.writer(), "kill")
	eventually(t, "another Caddy writes", func() bool {
		writer := state().writer()
		return writer != "" && writer != before.writer()
	})
	seen(10)
	press(t, c, before.writer(), "start")
	eventually(t, "the Caddy is back", func() bool {
		before = state()
		return before.whole()
	})

	press(t, c, before.leader(), "kill")
	eventually(t, "another NATS server leads", func() bool {
		leader := state().leader()
		return leader != "" && leader != before.leader()
	})
	seen(10)
	press(t, c, before.leader(), "start")
	eventually(t, "the NATS server is back", func() bool { return state().whole() })
	seen(10)

	for _, o := range state().Origins {
		if o.Connections != 1 {
			t.Errorf("%s has %d connections", o.Name, o.Connections)
		}
	}
	client.Close()
	if err := verifier.Err(); err != nil {
		t.Error(err)
	}
	t.Log(verifier.Report())
}
