package natslog

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// BenchmarkCommit measures how long it takes from Append until Follow hands a
// record of 200 bytes over on another node, at 1,000 records a second.
func BenchmarkCommit(b *testing.B) {
	onServers(b, func(b *testing.B, o Options) {
		writer, other := mustOpen(b, o), mustOpen(b, o)
		took := make(chan time.Duration, b.N)
		go func() {
			_ = other.Follow(b.Context(), 1, func(batch []logstore.Record) {
				now := time.Now().UnixNano()
				for i := range batch {
					if !batch[i].Fence() {
						took <- time.Duration(now - int64(batch[i].Hash))
					}
				}
			})
		}()
		term := campaign(b, writer)
		body := bytes.Repeat([]byte{'x'}, 200)
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		b.ResetTimer()
		for range b.N {
			<-ticker.C
			if err := term.Append(&logstore.Record{Hash: uint64(time.Now().UnixNano()), Body: body}); err != nil {
				b.Fatal(err)
			}
		}
		all := make([]time.Duration, 0, b.N)
		for range b.N {
			all = append(all, <-took)
		}
		b.StopTimer()
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds()), "µs/p50")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "µs/p99")
	})
}

// BenchmarkFlatOut measures how many records of 200 bytes are committed.
func BenchmarkFlatOut(b *testing.B) {
	onServers(b, func(b *testing.B, o Options) {
		s := mustOpen(b, o)
		term := campaign(b, s)
		body := bytes.Repeat([]byte{'x'}, 200)
		b.ResetTimer()
		for range b.N {
			for errors.Is(term.Append(&logstore.Record{Body: body}), logstore.ErrNoRoom) {
				if err := term.Wait(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
		}
		if err := term.Release(context.Background()); err != nil {
			b.Fatal(err)
		}
	})
}

// onServers runs a benchmark with one server, and with a cluster of three.
func onServers(b *testing.B, run func(*testing.B, Options)) {
	for name, start := range map[string]func(testing.TB) []*server.Server{
		"single": func(t testing.TB) []*server.Server { return []*server.Server{startServer(t)} },
		"three":  startCluster,
	} {
		b.Run(name, func(b *testing.B) {
			servers := start(b)
			o := testOptions(b, urls(servers)...)
			o.Replicas = len(servers)
			run(b, o)
		})
	}
}
