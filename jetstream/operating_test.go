package jetstream

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// shownStream is what the tests look at in the admin API's view of a stream.
type shownStream struct {
	Upstreams []struct{ Name, State string }
	Log       struct {
		Store struct {
			State, Writer string
			Writes        bool
			Nodes         []shownNode
		}
	}
}

type shownNode struct {
	Name         string
	Self, Writes bool
	Clients      int
}

// ask asks the admin API, and returns the answer's status and body.
func (n *node) ask(method, path string) (status int, body string) {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, "http://caddy"+path, nil)
	must(n.t, err)
	resp, err := n.admin.Do(req)
	must(n.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(n.t, err)
	return resp.StatusCode, string(text)
}

// shown returns the stream as the node's admin API has it.
func (n *node) shown() (st shownStream) {
	n.t.Helper()
	_, body := n.ask(http.MethodGet, "/sse_fanin/streams/live")
	if err := json.Unmarshal([]byte(body), &st); err != nil {
		n.t.Fatalf("%v: %s", err, body)
	}
	return st
}

// self returns the node as it shows itself.
func (st *shownStream) self() shownNode {
	for _, n := range st.Log.Store.Nodes {
		if n.Self {
			return n
		}
	}
	return shownNode{}
}

// Whichever of two Caddys an operator asks, both are shown, and both do what they
// are asked to.
func TestOperatingFromAnyNode(t *testing.T) {
	nats := startNATS(t, documented(t))
	options := "servers " + nats.url("nats") + "\nuser caddy " + password + "\nlease 1m" // the writer is to stay it, however busy the machine
	o := newOrigin(t)
	writer := startNode(t, o, options)
	writer.awaitReady()
	follower := startNode(t, o, options)
	follower.awaitReady()
	one := writer.connect("", nil)
	two := follower.connect("", nil)
	for _, n := range []*node{writer, follower} {
		n.eventually("both nodes are shown with their clients, and the upstream as the writer has it", func() bool {
			st := n.shown()
			all := st.Log.Store.Nodes
			return len(all) == 2 && all[0].Clients == 1 && all[1].Clients == 1 && all[0].Writes != all[1].Writes &&
				st.self().Writes == (n == writer) && st.Log.Store.Writes == (n == writer) && st.Upstreams[0].State == "up"
		})
	}
	names := writer.shown().Log.Store.Nodes
	if names[0].Name == names[1].Name {
		t.Errorf("the nodes are %+v", names)
	}
	_, metrics := follower.ask(http.MethodGet, "/metrics")
	for _, series := range []string{
		`caddy_sse_fanin_log_writes{stream="live"} 0`, `caddy_sse_fanin_log_nodes{stream="live"} 2`,
		`caddy_sse_fanin_upstream_up{stream="live",upstream="a"} 0`, `caddy_sse_fanin_log_state{state="following",stream="live"} 1`,
	} {
		if !strings.Contains(metrics, series) {
			t.Errorf("the follower's metrics have no %s", series)
		}
	}

	before := o.TotalConnections()
	if status, body := follower.ask(http.MethodPost, "/sse_fanin/streams/live/upstreams/a/reconnect"); status != http.StatusOK {
		t.Errorf("reconnect on the follower: got %d: %s", status, body)
	}
	follower.eventually("the writer connects the upstream anew", func() bool { return o.TotalConnections() > before })
	if status, body := follower.ask(http.MethodPost, "/sse_fanin/streams/live/drain?nodes=all"); status != http.StatusOK {
		t.Errorf("drain of all: got %d: %s", status, body)
	}
	must(t, one.WaitEnd(within(t, patience), ssetest.EndClean, 1))
	must(t, two.WaitEnd(within(t, patience), ssetest.EndClean, 1))
	if denied := nats.denied(); len(denied) > 0 {
		t.Errorf("the permissions are not enough: %s", strings.Join(denied, "\n"))
	}
}

// While NATS cannot be reached no node is ready, and the verdict says what to look
// at.
func TestReadinessWithoutNATS(t *testing.T) {
	nats := startNATS(t, documented(t))
	options := "servers " + nats.url("nats") + "\nuser caddy " + password + "\nlease 1s"
	n := startNode(t, newOrigin(t), options)
	n.awaitReady()
	nats.Shutdown()
	n.eventually("it is not ready", func() bool {
		status, body := n.readiness()
		return status == http.StatusServiceUnavailable && strings.Contains(body, "the log is stalled: ")
	})
	resp, err := http.Get("http://" + n.addr + "/status")
	must(t, err)
	defer resp.Body.Close()
	var page struct {
		Troubles []struct {
			Kind, Remedy string
			Commands     []string
		}
	}
	must(t, json.NewDecoder(resp.Body).Decode(&page))
	if len(page.Troubles) == 0 || page.Troubles[0].Kind != "log" || !strings.HasPrefix(page.Troubles[0].Remedy, "Look whether the NATS servers run") ||
		!strings.HasSuffix(page.Troubles[0].Commands[1], "stream info sse_fanin_live") {
		t.Errorf("the verdict is %+v", page.Troubles)
	}
}
