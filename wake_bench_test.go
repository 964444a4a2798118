package ssefanin

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// tally is a response that is thrown away. It counts down the writes that are
// awaited, and says when there were all.
type tally struct {
	header http.Header
	left   *atomic.Int64
	all    chan<- struct{}
}

func (t *tally) Header() http.Header { return t.header }
func (t *tally) WriteHeader(int)     {}
func (t *tally) FlushError() error   { return nil }

func (t *tally) Write(p []byte) (int, error) {
	if t.left.Add(-1) == 0 {
		t.all <- struct{}{}
	}
	return len(p), nil
}

// BenchmarkWake is what an event costs from its publication until all clients
// have been written to, without the connections: encoding, appending, waking,
// the writers, the clients' turns. In lock-step, so nothing is written together.
func BenchmarkWake(b *testing.B) {
	for _, clients := range []int{1, 10, 100, 1000, 10000} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			h := clockHub()
			settings := ClientSettings{}.resolve()
			handler := &service{def: &definition{hub: h}, settings: &settings, logger: zap.NewNop()}
			ctx, cancel := context.WithCancel(b.Context())
			var (
				left atomic.Int64
				done sync.WaitGroup
			)
			all := make(chan struct{}, 1) // one is awaited at a time
			left.Store(int64(clients))    // the heads
			for range clients {
				out := &tally{header: make(http.Header), left: &left, all: all}
				done.Go(func() {
					_ = serveStream(out, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil), handler)
				})
			}
			<-all
			in := &input{hub: h}
			in.shape.Store(new(shape))
			ev, enc := &sse.Event{Data: bytes.Repeat([]byte("x"), 250)}, new(encoder)
			b.ReportAllocs()
			for b.Loop() {
				left.Store(int64(clients))
				enc.reset()
				in.deliver(ev, false, enc, time.Now())
				<-all
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(clients), "ns/delivery")
			cancel()
			done.Wait()
		})
	}
}
