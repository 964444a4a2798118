package ssefanin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// askWait is how long another node may take to answer.
const askWait = 3 * time.Second

// cluster is what the nodes that share a log know of each other. None of it is
// on an event's way. The stream's durable owns it.
//
// Safe for concurrent use.
type cluster struct {
	durable *durable
	news    chan struct{} // has a token when there is something to tell

	mu    sync.Mutex            // protects the fields below; taken last
	store logstore.Shared       // nil until it is open, or if nobody shares it
	told  []byte                // what this node told last
	heard map[string]*heardNode // by name
}

// heardNode is another node, and what it has told.
type heardNode struct {
	raw  []byte // as it was told
	told nodeTold
	at   time.Time
}

// nodeTold is what a node tells the others of a stream.
type nodeTold struct {
	Version string `json:"version,omitempty"` // of this module, if it is known
	Writes  bool   `json:"writes"`
	Clients int    `json:"clients"`
	MaxLag  uint64 `json:"max_lag"` // events
	Head    uint64 `json:"head"`    // of its memory
	Behind  int64  `json:"behind"`  // how long ago the log had what its memory has not, ms

	// Of the writer: its sources.
	Upstreams []upstreamStatus `json:"upstreams,omitempty"`
}

// nodeStatus is the operators' view of a node that serves a stream.
type nodeStatus struct {
	Name    string `json:"name"`
	Self    bool   `json:"self"`    // it is the one that was asked
	Version string `json:"version"` // of this module; empty if it is not known
	Writes  bool   `json:"writes"`
	Clients int    `json:"clients"`
	MaxLag  uint64 `json:"max_lag"`
	Head    uint64 `json:"head"`
	Behind  int64  `json:"behind"` // ms
	Heard   int64  `json:"heard"`  // Unix ms
}

func (c *cluster) init(d *durable) {
	c.durable, c.news, c.heard = d, make(chan struct{}, 1), make(map[string]*heardNode)
}

// join begins to take part, if nodes share the store.
func (c *cluster) join(store logstore.Store) {
	shared, ok := store.(logstore.Shared)
	if !ok {
		return
	}
	shared.Answer(c.answer)
	c.mu.Lock()
	c.store = shared
	c.mu.Unlock()
	nudge(c.news)
}

// opened returns the store; nil if there is none that nodes share.
func (c *cluster) opened() logstore.Shared {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.store
}

// talk tells the other nodes how this one is, and takes over what they have told.
func (c *cluster) talk() {
	store := c.opened()
	if store == nil {
		return
	}
	text := c.own().encode()
	peers := store.Peers()
	c.mu.Lock()
	changed := !bytes.Equal(text, c.told)
	c.told = text
	_, before := c.writerLocked()
	c.hearLocked(peers)
	_, after := c.writerLocked()
	c.mu.Unlock()
	if changed {
		store.Tell(text)
	}
	if !sameStates(before, after) && !c.durable.writing.Load() {
		c.durable.hub.sourceChanged()
	}
}

// own returns what this node tells.
func (c *cluster) own() *nodeTold {
	d := c.durable
	clients, head, seen := d.hub.audience.snapshot(), d.log().memory.Head(), d.watched()
	t := &nodeTold{
		Version: ownVersion(), Writes: d.writing.Load(), Clients: clients.connected, MaxLag: clients.maxLag,
		Head: head, Behind: seen.behind(head, time.Now()).Milliseconds(),
	}
	if !t.Writes {
		return t
	}
	for _, src := range d.hub.inputs.snapshot().sources {
		t.Upstreams = append(t.Upstreams, src.status)
	}
	slices.SortFunc(t.Upstreams, func(a, b upstreamStatus) int { return strings.Compare(a.Name, b.Name) })
	return t
}

// encode returns the text. Of more upstreams than it has room for, some are left
// out.
func (t *nodeTold) encode() []byte {
	for {
		text, err := json.Marshal(t)
		if err != nil || len(text) <= logstore.MaxTold || len(t.Upstreams) == 0 {
			return text // strings and numbers cannot fail
		}
		t.Upstreams = t.Upstreams[:len(t.Upstreams)/2]
	}
}

// hearLocked takes over what other nodes have told.
func (c *cluster) hearLocked(peers []logstore.Peer) {
	known := c.heard
	c.heard = make(map[string]*heardNode, len(peers))
	for _, p := range peers {
		n := &heardNode{raw: p.Told, at: p.Heard}
		if before := known[p.Node]; before != nil && bytes.Equal(before.raw, p.Told) {
			n.told = before.told
		} else if len(p.Told) > 0 && json.Unmarshal(p.Told, &n.told) != nil {
			n.told = nodeTold{} // of another version
		}
		c.heard[p.Node] = n
	}
}

// writerLocked returns the node that writes, as far as it has told: of two the one
// that was heard of last, since the other has died. Nil if none is known, or it is
// this one.
func (c *cluster) writerLocked() (name string, writer *nodeTold) {
	var at time.Time
	for peer, n := range c.heard {
		if n.told.Writes && n.at.After(at) {
			name, writer, at = peer, &n.told, n.at
		}
	}
	return name, writer
}

// writer returns the name of another node that writes; empty if none is known.
func (c *cluster) writer() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	name, _ := c.writerLocked()
	return name
}

// sameStates reports whether two writers' sources are in the same states, as far
// as clients are told.
func sameStates(a, b *nodeTold) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.EqualFunc(a.Upstreams, b.Upstreams, func(a, b upstreamStatus) bool {
		return a.Name == b.Name && a.State == b.State && a.Since == b.Since && a.Reason == b.Reason
	})
}

// upstreams returns the sources of the node that writes; nil if this one does, or
// none is known.
func (c *cluster) upstreams() []upstreamStatus {
	if c.durable.writing.Load() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, w := c.writerLocked(); w != nil {
		return w.Upstreams
	}
	return nil
}

// toldStates returns the states of another node's sources, by name.
func toldStates(all []upstreamStatus) map[string]sourceState {
	states := make(map[string]sourceState, len(all))
	for _, us := range all {
		states[us.Name] = sourceState{phase: us.State, since: time.UnixMilli(us.Since), reason: us.Reason, text: us.Error}
	}
	return states
}

// nodes returns the operators' view of the nodes, by name; nil if nobody shares
// the log.
func (c *cluster) nodes() []nodeStatus {
	store := c.opened()
	if store == nil {
		return nil
	}
	own := c.own()
	all := []nodeStatus{own.status(store.Node(), time.Now())}
	all[0].Self = true
	c.mu.Lock()
	for name, n := range c.heard {
		all = append(all, n.told.status(name, n.at))
	}
	c.mu.Unlock()
	slices.SortFunc(all, func(a, b nodeStatus) int { return naturally(a.Name, b.Name) })
	return all
}

func (t *nodeTold) status(name string, heard time.Time) nodeStatus {
	return nodeStatus{
		Name: name, Version: t.Version, Writes: t.Writes, Clients: t.Clients, MaxLag: t.MaxLag,
		Head: t.Head, Behind: t.Behind, Heard: unixMilli(heard),
	}
}

// nodeQuestion is what a node asks of another; its answer is a nodeAnswer.
type nodeQuestion struct {
	// One of the words below.
	Do string `json:"do"`
	// The upstream to connect anew.
	Upstream string `json:"upstream,omitempty"`
}

// What one node can have another do.
const (
	doReconnect = "reconnect"
	doDrain     = "drain"
)

type nodeAnswer struct {
	Found int      `json:"found"`           // sources that are connected anew
	Names []string `json:"names,omitempty"` // of all there are
	Error string   `json:"error,omitempty"`
}

// answer answers another node. The store calls it.
func (c *cluster) answer(text []byte) []byte {
	var q nodeQuestion
	var a nodeAnswer
	h := c.durable.hub
	switch err := json.Unmarshal(text, &q); {
	case err != nil:
		a.Error = "the question cannot be read: " + err.Error()
	case q.Do == doReconnect:
		if !c.durable.writing.Load() {
			a.Error = "it does not write the log any more"
			break
		}
		a.Found, a.Names = h.inputs.reconnect(q.Upstream)
	case q.Do == doDrain:
		h.drain(everybody, endDrained)
	default:
		a.Error = fmt.Sprintf("it does not know '%s'; it may be of another version", q.Do)
	}
	text, _ = json.Marshal(a) // strings and numbers cannot fail
	return text
}

var errNobodyWrites = errors.New("no node writes the stream's log at present, so no upstream is connected; ask again in some seconds")

// askWriter asks the node that writes.
func (c *cluster) askWriter(q nodeQuestion) (nodeAnswer, error) {
	writer := c.writer()
	if writer == "" {
		return nodeAnswer{}, errNobodyWrites
	}
	return c.ask(writer, q)
}

func (c *cluster) ask(node string, q nodeQuestion) (a nodeAnswer, err error) {
	ctx, cancel := context.WithTimeout(c.durable.ctx, askWait)
	defer cancel()
	text, _ := json.Marshal(q) // strings cannot fail
	text, err = c.opened().Ask(ctx, node, text)
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		err = fmt.Errorf("asking the node %s: %w", node, err)
	}
	return a, err
}

// askAll asks every other node. The error names those that do not answer.
func (c *cluster) askAll(q nodeQuestion) error {
	c.mu.Lock()
	names := slices.Sorted(maps.Keys(c.heard))
	c.mu.Unlock()
	errs := make([]error, len(names))
	var asked sync.WaitGroup
	for i, name := range names {
		asked.Go(func() { _, errs[i] = c.ask(name, q) })
	}
	asked.Wait()
	return errors.Join(errs...)
}
