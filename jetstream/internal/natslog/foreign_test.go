package natslog

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// late is a JetStream that what is published reaches when it is let go.
type late struct {
	engine

	mu   sync.Mutex // protects the fields below
	held bool
	kept []func()
}

func (l *late) publish(expected uint64, records [][]byte, done func(error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	send := func() { l.engine.publish(expected, records, done) }
	if l.held {
		l.kept = append(l.kept, send)
		return
	}
	send()
}

func (l *late) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = true
}

func (l *late) letGo() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = false
	for _, send := range l.kept {
		send()
	}
	l.kept = nil
}

// What somebody else publishes takes the place of a record that is on its way. That
// is not taken for committed.
func TestSomethingElseInPlaceOfARecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(1, "")
		o := Options{Stream: "model", Servers: []string{"sim"}}
		if err := o.complete(); err != nil {
			t.Fatal(err)
		}
		eng := &late{engine: s.node("writer")}
		store, err := open(t.Context(), o, eng)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		var following sync.WaitGroup
		defer following.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex // protects got
		var got []string
		following.Go(func() {
			_ = store.Follow(ctx, 1, func(batch []logstore.Record) {
				mu.Lock()
				defer mu.Unlock()
				for i := range batch {
					if !batch[i].Fence() {
						got = append(got, string(batch[i].Body))
					}
				}
			})
		})
		term, err := store.Campaign(ctx)
		if err != nil {
			t.Fatal(err)
		}
		eng.hold()
		if err := term.Append(&logstore.Record{Source: "a", Body: []byte("one")}); err != nil {
			t.Fatal(err)
		}
		s.node("operator").publish(store.Status().Last, [][]byte{[]byte("rubbish")}, func(error) {})
		select {
		case <-term.Done():
		case <-time.After(time.Minute):
			t.Fatal("the term goes on, though its record cannot have been committed")
		}
		eng.letGo()
		if err := term.Release(ctx); err != nil && !errors.Is(err, logstore.ErrOver) {
			t.Fatal(err)
		}
		if term, err = store.Campaign(ctx); err != nil {
			t.Fatal(err)
		}
		if err := term.Append(&logstore.Record{Source: "a", Body: []byte("one")}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // of the bubble: everything has come
		mu.Lock()
		defer mu.Unlock()
		if len(got) != 1 || got[0] != "one" {
			t.Errorf("handed over was %q", got)
		}
	})
}
