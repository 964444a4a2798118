package scenarios

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// valued is a cluster whose stream keeps last values, of keys that the two origins share.
type valued struct {
	*cluster
	n      int               // events so far
	newest map[string]string // data by origin and key
}

// emit has an origin send a value.
func (v *valued) emit(origin int, key string) {
	v.n++
	o := v.origins[origin]
	data := fmt.Sprintf(`{"key":%q,"source":%q,"value":%d}`, key, o.Source(), v.n)
	o.Emit("price", data)
	v.newest[o.Source()+key] = data
}

// emitMany sends more events than the log retains, of a few keys.
func (v *valued) emitMany() {
	for i := range 400 {
		v.emit(i%2, fmt.Sprint("busy", i%6))
	}
}

// values are what a client gets at a node before anything else, and whether that is what
// there should be. The origins send nothing meanwhile.
func (v *valued) values(n *node) (got []ssetest.Event, right bool) {
	v.t.Helper()
	client := ssetest.StartClient(ssetest.ClientConfig{
		URL: "http://node/events", Stubborn: true,
		HTTP: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.dial}},
	})
	defer client.Close()
	must(v.t, client.WaitOpen(within(v.t, patience), 1))
	must(v.t, client.WaitComments(within(v.t, patience), client.Comments()+1)) // a heartbeat: they have all been sent
	got = client.Events()
	data := make([]string, len(got))
	for i, e := range got {
		data[i] = e.Data
	}
	slices.Sort(data)
	return got, slices.Equal(data, slices.Sorted(maps.Values(v.newest)))
}

// everywhere waits until each node has the right values, and fails unless these are
// the same everywhere, with the same ids and in the same order.
func (v *valued) everywhere(when string) []ssetest.Event {
	v.t.Helper()
	var first []ssetest.Event
	for i, n := range v.nodes {
		var got []ssetest.Event
		err := ssetest.Await(patience, n.name+" has the values", func() (right bool) {
			got, right = v.values(n)
			return right
		})
		if err != nil {
			v.t.Fatalf("%s: %v; it has %s, want %q", when, err, listed(got), slices.Sorted(maps.Values(v.newest)))
		}
		if i == 0 {
			first = got
		} else if !sameEvents(got, first) {
			v.t.Errorf("%s: %s has %s, %s has %s", when, v.nodes[0].name, listed(first), n.name, listed(got))
		}
	}
	return first
}

func sameEvents(a, b []ssetest.Event) bool {
	return slices.EqualFunc(a, b, func(a, b ssetest.Event) bool { return a.ID == b.ID && a.Type == b.Type && a.Data == b.Data })
}

func listed(events []ssetest.Event) string {
	var all []string
	for _, e := range events {
		all = append(all, e.ID+" "+e.Data)
	}
	return strings.Join(all, ", ")
}

// keep checks that values which nothing has changed are as they were.
func (v *valued) keep(when string, before, after []ssetest.Event) {
	v.t.Helper()
	now := make(map[string]string)
	for _, e := range after {
		now[e.Data] = e.ID
	}
	for _, e := range before {
		if id, ok := now[e.Data]; ok && id != e.ID {
			v.t.Errorf("%s: the value %s has the id %s, had %s", when, e.Data, id, e.ID)
		}
	}
}

var errNotStored = errors.New("the last values are not stored")

// awaitStored waits until values are stored that are good for what the log retains.
func (v *valued) awaitStored(writer *node) {
	v.t.Helper()
	v.nats[0].ask("the last values are stored", func(_ *nats.Conn, js jetstream.JetStream) error {
		kv, err := js.KeyValue(v.t.Context(), strings.TrimPrefix(leaseBucket, "KV_"))
		if err != nil {
			return err
		}
		head, err := kv.Get(v.t.Context(), "live.kept-values")
		if err != nil {
			return err
		}
		var where struct{ Set int }
		if err := json.Unmarshal(head.Value(), &where); err != nil {
			return err
		}
		chunk, err := kv.Get(v.t.Context(), fmt.Sprintf("live.kept-values-%d-0", where.Set))
		if err != nil {
			return err
		}
		if upTo, _ := binary.Uvarint(chunk.Value()[1:]); upTo+1 < writer.status().First {
			return errNotStored
		}
		return nil
	})
}

// Last values outlive their events, whichever nodes are restarted or killed.
func TestLastValuesAtEveryNode(t *testing.T) {
	besideOthers(t)
	options := "last_value price {\nkey /key\n}\nstart last_value"
	c := startCluster(t, clusterConfig{lease: lease, retain: "events 40", stream: options})
	v := &valued{cluster: c, newest: make(map[string]string)}
	for i := range 20 {
		v.emit(i%2, fmt.Sprint("quiet", i/2))
	}
	v.emitMany()
	quiet := v.everywhere("at first")
	w := c.writer(nil)
	oldest := offsetOf(t, quiet[0].ID)
	err := ssetest.Await(patience, "the oldest value is not in the log any more", func() bool { return w.status().First > oldest })
	if err != nil {
		t.Fatalf("%v: that begins with %d, the value is %d", err, w.status().First, oldest)
	}

	v.awaitStored(w)
	w.Kill()
	next := c.writer(w)
	v.emit(0, "quiet0")
	v.emitMany()
	v.awaitStored(next)
	w.start()
	w.awaitReady()
	got := v.everywhere("after the writer was killed")
	v.keep("after the writer was killed", quiet, got)

	next.reload(strings.Replace(next.config, "heartbeat 1s", "heartbeat 1001ms", 1))
	v.emit(1, "quiet1")
	got = v.everywhere("after a reload")
	v.keep("after a reload", quiet, got)

	for _, n := range c.nodes {
		n.end()
	}
	for _, n := range c.nodes {
		n.start()
	}
	for _, n := range c.nodes {
		n.awaitReady()
	}
	if after := v.everywhere("after all were restarted"); !sameEvents(after, got) {
		t.Errorf("after all were restarted there are %s, were %s", listed(after), listed(got))
	}

	v.awaitStored(c.writer(nil))
	for _, n := range c.nodes {
		n.Kill()
	}
	for _, n := range c.nodes {
		n.start()
	}
	for _, n := range c.nodes {
		n.awaitReady()
	}
	if after := v.everywhere("after all were killed"); !sameEvents(after, got) {
		t.Errorf("after all were killed there are %s, were %s", listed(after), listed(got))
	}
}

// offsetOf is the offset in an id.
func offsetOf(t *testing.T, id string) (offset uint64) {
	t.Helper()
	parts := strings.Split(id, "-")
	if _, err := fmt.Sscan(parts[1], &offset); err != nil {
		t.Fatalf("the id is %q", id)
	}
	return offset
}
