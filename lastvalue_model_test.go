package ssefanin

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// valuesHub is a hub without sources that keeps last values of the type "v" by /key.
func valuesHub(retain eventlog.Options, maxValues int) *hub {
	retain.IDs = true
	def := &definition{key: "values", label: "values", ids: idsStream, retain: retain}
	def.values = def.lastValues(&LastValue{Types: []string{"v"}, Key: "/key", Max: maxValues})
	h := newHub(def, nil)
	liveHubs.remove(h) // nobody is going to release it
	return h
}

// modelEvent is an event of the model: the n-th of the stream.
type modelEvent struct {
	Key string `json:"key"`
	N   uint64 `json:"n"`
	typ string
}

// valuesModel is the stream as the test knows it.
type valuesModel struct {
	t      *testing.T
	hub    *hub
	random *rand.Rand
	n      uint64
	newest map[string]uint64 // of all keys there ever were
	all    []modelEvent      // by n, from 1
}

// publish appends events, some of which are no values.
func (m *valuesModel) publish(count int) {
	in := &input{hub: m.hub}
	in.shape.Store(new(shape))
	for range count {
		m.n++
		ev := modelEvent{Key: fmt.Sprint("k", m.random.IntN(12)), N: m.n, typ: "v"}
		if m.random.IntN(4) == 0 {
			ev.typ = "other"
		} else {
			m.newest[ev.Key] = m.n
		}
		m.all = append(m.all, ev)
		data, err := json.Marshal(ev)
		must(m.t, err)
		size := m.random.IntN(120)
		if m.random.IntN(8) == 0 { // so that the values are more than one write
			size = m.random.IntN(maxWrite + 1000)
		}
		data = fmt.Appendf(nil, "%s%*s", data, size, "")
		in.deliver(&sse.Event{Type: []byte(ev.typ), Data: data}, false, new(encoder), time.Now())
	}
}

// modelClient is a client whose turns the test gives it. What it holds outlives its
// connections, as the state of a page does.
type modelClient struct {
	m        *valuesModel
	settings clientSettings
	*client
	out *httptest.ResponseRecorder

	id     string            // that it comes back with
	next   uint64            // the stream's event that it gets next
	values map[string]uint64 // what it holds
	state  int               // last values that are still to come
	before uint64            // offset of the value before them
	gaps   int
}

func (c *modelClient) connect() {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if c.id != "" {
		r.Header.Set("Last-Event-ID", c.id)
	}
	c.out = httptest.NewRecorder()
	def := &definition{hub: c.m.hub}
	c.client = newClient(c.m.hub, &service{def: def, settings: &c.settings, logger: zap.NewNop()}, c.out, r)
	c.state, c.before = 0, 0
	if cursor, ok := eventlog.ParseCursor(c.id); ok {
		c.next = cursor.Offset + 1
	}
}

// step gives the client a turn. It gets what was written, or only the beginning of that
// if its connection fails.
func (c *modelClient) step(fails bool) (more bool) {
	c.out.Body.Reset()
	_, more, last := c.turn(time.Now(), new(frame))
	if last {
		c.m.t.Fatalf("the client was ended: %s", c.ended)
	}
	if c.id == "" && c.next == 0 { // the head is written
		c.next = c.at.reader.Position()
		if c.client.values != nil {
			d := c.client.values
			rest, _ := d.of.between(d.taken, d.next, d.end)
			c.state = len(rest)
		}
	}
	p := c.out.Body.Bytes()
	if fails && len(p) > 0 {
		p = p[:c.m.random.IntN(len(p))]
	}
	decoder := sse.NewDecoder(1 << 20)
	decoder.Decode(p, c.receive)
	if id := decoder.LastEventID(); id != "" {
		c.id = id
	}
	return more
}

// receive takes an event, which must be the one that the model has next.
func (c *modelClient) receive(ev *sse.Event) {
	t := c.m.t
	cursor, ok := eventlog.ParseCursor(string(ev.ID))
	if !ok {
		t.Fatalf("an event with the id %q", ev.ID)
	}
	if string(ev.Type) == "fanin.gap" {
		var gap struct {
			Reason  string
			Resumed string
			State   *int
		}
		must(t, json.Unmarshal(ev.Data, &gap))
		if gap.State == nil || gap.Resumed != string(ev.ID) || c.state != 0 && gap.Reason != gapExpired {
			t.Fatalf("the gap is %s with the id %q", ev.Data, ev.ID)
		}
		c.gaps++
		c.state, c.next, c.before = *gap.State, cursor.Offset+1, 0
		return
	}
	var got modelEvent
	must(t, json.Unmarshal(ev.Data, &got))
	got.typ = string(ev.Type)
	if cursor.Offset != got.N || got != c.m.all[got.N-1] {
		t.Fatalf("event %+v with the id %q is none of the stream's", got, ev.ID)
	}
	if c.state > 0 {
		if got.typ != "v" || got.N <= c.before || got.N >= c.next {
			t.Fatalf("%+v is no value before %d, after that of %d", got, c.next, c.before)
		}
		c.state--
		c.before = got.N
		c.values[got.Key] = got.N
		return
	}
	if got.N != c.next {
		t.Fatalf("got event %d, want %d", got.N, c.next)
	}
	c.next++
	if got.typ == "v" {
		c.values[got.Key] = got.N
	}
}

// verify compares what the client holds, once it has everything, with the stream.
func (c *modelClient) verify() {
	t := c.m.t
	if c.state != 0 {
		t.Fatalf("%d values have not come", c.state)
	}
	v := &c.m.hub.log.Load().values
	for key, n := range c.values {
		if n != c.m.newest[key] && v.stats().Evicted == 0 {
			t.Fatalf("it holds event %d of %s, and the newest is %d", n, key, c.m.newest[key])
		}
	}
	now, _ := v.snapshot()
	for _, value := range now.Between(0, ^uint64(0)) {
		if want := c.m.all[value.Offset-1]; c.values[want.Key] != want.N {
			t.Fatalf("it has not got the value %+v", want)
		}
	}
}

// Whatever is published and evicted meanwhile, however slow a client is and wherever its
// connections fail: once it has everything, it holds the newest of each key, and
// nothing comes twice or in another order.
func TestLastValuesModel(t *testing.T) {
	gaps := 0
	for seed := range uint64(15) {
		random := rand.New(rand.NewPCG(seed, 0))
		m := &valuesModel{t: t, random: random, newest: make(map[string]uint64)}
		m.hub = valuesHub(eventlog.Options{MaxEvents: 1 + random.IntN(60), MaxBytes: 4 << 20}, 6+random.IntN(10))
		var clients []*modelClient
		for i := range 3 {
			c := &modelClient{m: m, values: make(map[string]uint64)}
			c.settings = ClientSettings{Start: startValues, Prime: []string{primeOn, primeOff}[i%2]}.resolve()
			c.connect()
			clients = append(clients, c)
		}
		for range 300 {
			c := clients[random.IntN(len(clients))]
			switch random.IntN(12) {
			case 0, 1, 2:
				m.publish(1 + random.IntN(20))
			case 3:
				c.step(true)
				c.leave()
			case 4:
				c.leave()
			case 5:
				for c.step(false) {
				}
				c.verify()
			default:
				c.step(false)
			}
		}
		for _, c := range clients {
			for c.step(false) {
			}
			c.verify()
			gaps += c.gaps
			c.leave()
			c.returnValues()
		}
		if n := len(m.hub.log.Load().values.taken); n != 0 {
			t.Fatalf("%d snapshots are held by nobody", n)
		}
	}
	if gaps < 25 {
		t.Errorf("there were %d gaps, too few to tell anything", gaps)
	}
}

// leave ends the client's connection, and begins another one.
func (c *modelClient) leave() {
	c.returnValues()
	if c.id == "" {
		c.next = 0 // it begins anew
	}
	c.connect()
}
