package storetest

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// openNodes opens a log as several nodes.
func openNodes(t *testing.T, o Opener, count int) []logstore.Shared {
	t.Helper()
	if !o.Shared {
		t.Skip("one process has this store at a time")
	}
	nodes := make([]logstore.Shared, count)
	names := make(map[string]bool)
	for i := range nodes {
		node, ok := o.open(t).(logstore.Shared)
		if !ok {
			t.Fatal("a store that several nodes have open is no logstore.Shared")
		}
		if name := node.Node(); name == "" || names[name] || name != node.Node() {
			t.Errorf("node %d is called '%s', others %v", i, name, names)
		}
		nodes[i], names[node.Node()] = node, true
	}
	return nodes
}

// awaitPeers waits until a node knows what the others tell, by name.
func awaitPeers(t *testing.T, node logstore.Shared, told map[string]string) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		peers := node.Peers()
		right := len(peers) == len(told)
		for _, p := range peers {
			want, known := told[p.Node]
			right = right && known && string(p.Told) == want && !p.Heard.IsZero()
		}
		if right {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s knows of %v, want %v", node.Node(), peers, told)
		}
	}
}

func tellsOtherNodes(t *testing.T, o Opener) {
	nodes := openNodes(t, o, 2)
	a, b := nodes[0], nodes[1]
	awaitPeers(t, a, map[string]string{b.Node(): ""})
	for _, text := range []string{"one", "two", "", string(bytes.Repeat([]byte("long"), logstore.MaxTold/4))} {
		told := []byte(text)
		a.Tell(told)
		clear(told)
		awaitPeers(t, b, map[string]string{a.Node(): text})
	}
	a.Tell(make([]byte, logstore.MaxTold+1)) // is not told
	a.Tell([]byte("three"))
	b.Tell([]byte("four"))
	awaitPeers(t, b, map[string]string{a.Node(): "three"})
	awaitPeers(t, a, map[string]string{b.Node(): "four"})

	late, ok := o.open(t).(logstore.Shared) // what was told before it came
	if !ok {
		t.Fatal("a store is no logstore.Shared")
	}
	awaitPeers(t, late, map[string]string{a.Node(): "three", b.Node(): "four"})
	closeStore(t, b)
	awaitPeers(t, late, map[string]string{a.Node(): "three"})
}

func asksOtherNodes(t *testing.T, o Opener) {
	nodes := openNodes(t, o, 3)
	for _, n := range nodes {
		n.Answer(func(question []byte) []byte { return append([]byte(n.Node()+" hears "), question...) })
	}
	for _, from := range nodes {
		for _, to := range nodes {
			if from == to {
				continue
			}
			answer, err := from.Ask(within(t), to.Node(), []byte("a question"))
			if want := to.Node() + " hears a question"; err != nil || string(answer) != want {
				t.Errorf("%s asks %s, and hears '%s', %v, want '%s'", from.Node(), to.Node(), answer, err, want)
			}
		}
	}
	big := bytes.Repeat([]byte("x"), logstore.MaxTold)
	if answer, err := nodes[0].Ask(within(t), nodes[1].Node(), big); err != nil || len(answer) < len(big) {
		t.Errorf("a long question is answered with %d bytes, %v", len(answer), err)
	}
	if _, err := nodes[0].Ask(within(t), "nobody", nil); !errors.Is(err, logstore.ErrNoAnswer) {
		t.Errorf("asking nobody: %v", err)
	}
	closeStore(t, nodes[1])
	if _, err := nodes[0].Ask(within(t), nodes[1].Node(), nil); !errors.Is(err, logstore.ErrNoAnswer) {
		t.Errorf("asking a node that was closed: %v", err)
	}
	if _, err := nodes[1].Ask(within(t), nodes[0].Node(), nil); !errors.Is(err, logstore.ErrClosed) {
		t.Errorf("asking from a store that was closed: %v", err)
	}
}

// endsQuestionsWithTheirContext asks somebody who takes too long.
func endsQuestionsWithTheirContext(t *testing.T, o Opener) {
	nodes := openNodes(t, o, 2)
	asked, goOn := make(chan struct{}), make(chan struct{})
	nodes[1].Answer(func([]byte) []byte {
		close(asked)
		<-goOn
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-asked
		cancel()
	}()
	if _, err := nodes[0].Ask(ctx, nodes[1].Node(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("asking with a context that ends: %v", err)
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		closeStore(t, nodes[1])
	}()
	select {
	case <-closed:
		t.Error("Close has not waited for the answer")
	case <-time.After(10 * time.Millisecond):
	}
	close(goOn)
	<-closed
}
