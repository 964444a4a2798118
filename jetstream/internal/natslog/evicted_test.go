package natslog

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// forgetful is a JetStream that commits records, and drops all it has before
// anybody hears of it.
type forgetful struct {
	engine
	forgets atomic.Bool
}

func (f *forgetful) publish(expected uint64, records [][]byte, done func(error)) {
	forgets := f.forgets.Load()
	f.engine.publish(expected, records, func(err error) {
		if !forgets || err != nil {
			done(err)
		}
	})
}

func (f *forgetful) info(ctx context.Context) (streamInfo, error) {
	in, err := f.engine.info(ctx)
	if f.forgets.Load() {
		in.first = in.last + 1
	}
	return in, err
}

func (f *forgetful) record(ctx context.Context, seq uint64) (message, error) {
	if f.forgets.Load() {
		return message{}, errNoRecord
	}
	return f.engine.record(ctx, seq)
}

func (f *forgetful) follow(ctx context.Context, from uint64, handle func([]message) error) error {
	return f.engine.follow(ctx, from, func(batch []message) error {
		if f.forgets.Load() {
			return nil
		}
		return handle(batch)
	})
}

// A record was committed and is no longer retained, as with a short age after an
// outage, and its acknowledgement was lost: the writer does not try for ever.
func TestRecordIsGoneBeforeItIsAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Options{Stream: "model", Servers: []string{"sim"}}
		if err := o.complete(); err != nil {
			t.Fatal(err)
		}
		eng := &forgetful{engine: newSim(1, "").node("writer")}
		store, err := open(t.Context(), o, eng)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		var following sync.WaitGroup
		defer following.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		following.Go(func() { _ = store.Follow(ctx, 1, func([]logstore.Record) {}) })
		term, err := store.Campaign(ctx)
		if err != nil {
			t.Fatal(err)
		}
		eng.forgets.Store(true)
		if err := term.Append(&logstore.Record{Source: "a", Body: []byte("one")}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-term.Done():
		case <-time.After(time.Minute):
			t.Fatal("the term goes on, and can append nothing")
		}
	})
}
