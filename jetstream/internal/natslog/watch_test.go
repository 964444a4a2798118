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

// mute is a JetStream whose consumers send nothing, as on a server that is behind.
type mute struct {
	engine
	consumers atomic.Int32
	most      int32 // from this one on, they do
}

func (m *mute) follow(ctx context.Context, from uint64, handle func([]message) error) error {
	if m.consumers.Add(1) >= m.most {
		return m.engine.follow(ctx, from, handle)
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// A follower that is sent nothing, though the stream has more, tries another
// consumer.
func TestConsumerThatSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(1, "")
		o := Options{Stream: "model", Servers: []string{"sim"}, Lease: 2 * time.Second}
		if err := o.complete(); err != nil {
			t.Fatal(err)
		}
		writer, err := open(t.Context(), o, s.node("writer"))
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close()
		follower, err := open(t.Context(), o, &mute{engine: s.node("follower"), most: 4})
		if err != nil {
			t.Fatal(err)
		}
		defer follower.Close()
		var following sync.WaitGroup
		defer following.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		handed := make(chan uint64, 1000) // as many as there can be
		following.Go(func() {
			_ = follower.Follow(ctx, 1, func(batch []logstore.Record) { handed <- batch[len(batch)-1].Offset })
		})
		following.Go(func() { _ = writer.Follow(ctx, 1, func([]logstore.Record) {}) })
		term, err := writer.Campaign(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := term.Append(&logstore.Record{Source: "a", Body: []byte("event")}); err != nil {
			t.Fatal(err)
		}
		began, last := time.Now(), writer.fenceLength+1
		for at := 0; at < last; {
			select {
			case offset := <-handed:
				at = int(offset)
			case <-time.After(time.Minute):
				t.Fatalf("the follower has %d of %d records after a minute", at, last)
			}
		}
		if took := time.Since(began); took > 5*unsentMost {
			t.Errorf("the follower has everything after %s", took)
		}
	})
}
