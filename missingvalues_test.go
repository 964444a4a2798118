package ssefanin

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/lastvalue"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
	"github.com/sse-fanin/caddy-sse-fanin/logstore/storetest"
)

// overtakenNode is a node with the last values A, B and C of the events 1 to 3, of which
// two are retained, and another one that writes.
type overtakenNode struct {
	t     *testing.T
	in    *instance
	log   *storetest.Memory
	other *otherNode
	c     *ssetest.Client
}

func newOvertakenNode(t *testing.T) *overtakenNode {
	t.Helper()
	in, o, log := serveSharedLog(t, ssetest.OriginConfig{}, "", "last_value price {\nkey /s\n}\nstart last_value\nretain {\nevents 2\n}")
	n := &overtakenNode{t: t, in: in, log: log, c: in.connect("/events")}
	up(t, o)
	for i, key := range []string{"A", "B", "C"} {
		o.Emit("price", price(key, i+1))
		hasGot(t, n.c, price(key, i+1))
	}
	eventually(t, 0, "the values are stored", func() bool {
		body, err := durableOf(t).opened().(logstore.Keeper).Kept(t.Context(), keptValues)
		must(t, err)
		k, _, err := parseKept(body)
		return err == nil && k.upTo == 3
	})
	n.other = follows(t, log, nodeTold{})
	return n
}

// store has the other node store the values of the events up to an offset, by key.
func (n *overtakenNode) store(upTo uint64, values map[string]uint64) {
	n.t.Helper()
	log := n.log.Open("reader")
	defer log.Close()
	epochs := log.Epochs()
	k := keptLog{upTo: upTo, epoch: epochs[len(epochs)-1].ID, ids: idsStream, text: hubNamed(n.t, "s").log.Load().values.def.Load().text()}
	body := k.appendHead(nil)
	for _, key := range slices.SortedFunc(maps.Keys(values), func(a, b string) int { return int(values[a]) - int(values[b]) }) {
		data := []byte(price(key, int(values[key])))
		id := durableOf(n.t).log().memory.CursorBefore(values[key]+1, time.Now()).String()
		event := sse.AppendEvent(sse.AppendID(nil, id), &sse.Event{Type: []byte("price"), Data: data})
		body = appendKept(body, "u", &lastvalue.Value{Offset: values[key], Key: fmt.Sprintf("%q", key), Event: event})
	}
	must(n.t, n.other.store.(logstore.Keeper).Keep(n.t.Context(), keptValues, body))
}

// overtake has the events 4 to 7 come at once, so that this node gets the last two.
func (n *overtakenNode) overtake(during func()) {
	n.t.Helper()
	resume := n.log.Stall()
	for i, key := range []string{"A", "D", "E", "D"} {
		n.other.append(sse.Event{Type: []byte("price"), Data: []byte(price(key, i+4))})
	}
	during()
	resume()
}

// has waits until the node's last values are those, by key.
func (n *overtakenNode) has(want map[string]uint64) {
	n.t.Helper()
	var got map[string]uint64
	eventually(n.t, 0, fmt.Sprintf("the values are %v", want), func() bool {
		v := &durableOf(n.t).log().values
		now, _ := v.snapshot()
		got = make(map[string]uint64)
		for _, value := range now.Between(0, lastvalue.NoOffset) {
			got[strings.Trim(value.Key, `"`)] = value.Offset
		}
		return maps.Equal(got, want)
	})
}

// A node that eviction overtakes reads the last values that the writer has stored, before
// its clients are told of the gap.
func TestLastValuesOfANodeThatIsOvertaken(t *testing.T) {
	for name, upTo := range map[string]uint64{"up to the last event that is gone": 5, "up to one that comes": 6, "up to the newest": 7} {
		t.Run(name, func(t *testing.T) {
			n := newOvertakenNode(t)
			n.overtake(func() {
				stored := map[string]uint64{"B": 2, "C": 3, "A": 4, "D": 5}
				switch upTo {
				case 6:
					stored["E"] = 6
				case 7:
					stored["E"], stored["D"] = 6, 7
				}
				n.store(upTo, stored)
			})
			hasGot(t, n.c, price("D", 7))
			n.has(map[string]uint64{"B": 2, "C": 3, "A": 4, "E": 6, "D": 7})
			newest := make(map[string]string) // what a client knows that takes each event for a state
			for _, e := range n.c.Events() {
				switch {
				case e.Type == "price":
					newest[strings.SplitN(e.Data, ",", 2)[0]] = e.Data
				case e.Type == "fanin.gap" && !strings.Contains(e.Data, `"state":`):
					t.Errorf("the gap is %s", e.Data)
				}
			}
			if got := slices.Sorted(maps.Values(newest)); !slices.Equal(got, []string{price("A", 4), price("B", 2), price("C", 3), price("D", 7), price("E", 6)}) {
				t.Errorf("the client knows %q", got)
			}
		})
	}
}

// What is stored says nothing of the events between it and what is retained.
func TestLastValuesThatAreStoredLate(t *testing.T) {
	n := newOvertakenNode(t)
	n.overtake(func() {})
	hasGot(t, n.c, price("D", 7))
	n.has(map[string]uint64{"E": 6, "D": 7})
	n.store(4, map[string]uint64{"B": 2, "C": 3, "A": 4})
	n.other.append(sse.Event{Type: []byte("price"), Data: []byte(price("F", 8))})
	hasGot(t, n.c, price("F", 8))
	n.has(map[string]uint64{"E": 6, "D": 7, "F": 8})
	n.store(7, map[string]uint64{"B": 2, "C": 3, "A": 4, "E": 6, "D": 7})
	n.has(map[string]uint64{"B": 2, "C": 3, "A": 4, "E": 6, "D": 7, "F": 8})
}

// A node that begins to write has the newest values that anybody has.
func TestWriterWithoutSomeLastValues(t *testing.T) {
	n := newOvertakenNode(t)
	n.overtake(func() {})
	hasGot(t, n.c, price("D", 7))
	n.other.leave()
	eventually(t, 0, "it stores what it has", func() bool {
		body, err := durableOf(t).opened().(logstore.Keeper).Kept(t.Context(), keptValues)
		must(t, err)
		k, all, err := parseKept(body)
		return err == nil && k.upTo == 7 && len(all) == 2
	})
	n.has(map[string]uint64{"E": 6, "D": 7})
}
