package filestore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// benchBody makes a record of 200 bytes of body.
var benchBody = append(slices.Repeat([]byte("data: 0123456789abcdef01\n"), 8)[:198], '\n', '\n')

func benchRecord() *logstore.Record {
	return &logstore.Record{Time: time.Now().UnixMilli(), Source: "prices", Type: "tick", ID: "12345678", Hash: 1, Body: benchBody}
}

var benchModes = []struct {
	name string
	sync time.Duration
}{{"always", SyncAlways}, {"1s", time.Second}, {"off", SyncOff}}

// BenchmarkAppendToApply paces records, and reports the time from Append until
// Follow has them. Its ns/op is the pace.
func BenchmarkAppendToApply(b *testing.B) {
	for _, rate := range []int{1000, 10_000} {
		for _, mode := range benchModes {
			b.Run(fmt.Sprintf("%d per second/sync %s", rate, mode.name), func(b *testing.B) {
				s := open(b, Options{Dir: b.TempDir(), Sync: mode.sync})
				begun := make([]time.Time, b.N+1)
				took := make([]time.Duration, 0, b.N)
				all := make(chan struct{})
				go func() {
					_ = s.Follow(context.Background(), 1, func(batch []logstore.Record) {
						now := time.Now()
						for i := range batch {
							took = append(took, now.Sub(begun[batch[i].Offset]))
						}
						if len(took) == b.N {
							close(all)
						}
					})
				}()
				term := campaign(b, s)
				r := benchRecord()
				start := time.Now()
				b.ResetTimer()
				for i := 1; i <= b.N; i++ {
					time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(rate)))) // the pace
					begun[i] = time.Now()
					if err := term.Append(r); err != nil {
						b.Fatal(err)
					}
				}
				<-all
				b.StopTimer()
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
				b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
			})
		}
	}
}

// BenchmarkFlatOut appends as fast as there is room.
func BenchmarkFlatOut(b *testing.B) {
	for _, mode := range benchModes {
		b.Run("sync "+mode.name, func(b *testing.B) {
			s := open(b, Options{Dir: b.TempDir(), Sync: mode.sync, Bounds: logstore.Bounds{Bytes: 512 << 20}})
			var applied atomic.Int64
			all := make(chan struct{})
			go func() {
				_ = s.Follow(context.Background(), 1, func(batch []logstore.Record) {
					if applied.Add(int64(len(batch))) == int64(b.N) {
						close(all)
					}
				})
			}()
			term := campaign(b, s)
			r := benchRecord()
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				for errors.Is(term.Append(r), logstore.ErrNoRoom) {
					if err := term.Wait(context.Background()); err != nil {
						b.Fatal(err)
					}
				}
			}
			<-all
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// millionRecords makes a log of a million records, and closes it.
func millionRecords(b *testing.B) Options {
	b.Helper()
	o := Options{Dir: b.TempDir(), Sync: SyncOff}
	s := open(b, o)
	term := campaign(b, s)
	r := benchRecord()
	for range 1_000_000 {
		put(b, term, r)
	}
	if err := term.Release(within(b)); err != nil {
		b.Fatal(err)
	}
	shut(b, s)
	return o
}

// BenchmarkOpen opens a log of a million records and reads the newest 10,000.
func BenchmarkOpen(b *testing.B) {
	o := millionRecords(b)
	b.ResetTimer()
	for b.Loop() {
		s, err := Open(o)
		if err != nil {
			b.Fatal(err)
		}
		from := s.Status().Last - 10_000 + 1
		for from <= 1_000_000 {
			records, err := s.Read(context.Background(), from, followBatch)
			if err != nil {
				b.Fatal(err)
			}
			from += uint64(len(records))
		}
		b.StopTimer()
		shut(b, s)
		b.StartTimer()
	}
}

// BenchmarkReadOldest reads a log of a million records from its oldest on, in
// parts of 64 KiB.
func BenchmarkReadOldest(b *testing.B) {
	s := open(b, millionRecords(b))
	from := uint64(1)
	b.SetBytes(64 << 10)
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		records, err := s.Read(context.Background(), from, 64<<10)
		if err != nil {
			b.Fatal(err)
		}
		if from += uint64(len(records)); from > 1_000_000 {
			from = 1
		}
	}
}

// BenchmarkReadAnywhere finds and reads one record of a million.
func BenchmarkReadAnywhere(b *testing.B) {
	s := open(b, millionRecords(b))
	b.ReportAllocs()
	b.ResetTimer()
	for i := uint64(1); b.Loop(); i = (i*7919 + 13) % 1_000_000 {
		if _, err := s.Read(context.Background(), i+1, 1); err != nil {
			b.Fatal(err)
		}
	}
}
