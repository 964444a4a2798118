package ssefanin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// benchLogs are the ways to keep a log, by the option `sync`; memory alone comes
// first.
var benchLogs = []string{"", syncOff, "1s", syncAlways}

// benchStream returns a stream that keeps its log so, which can be written.
func benchStream(b *testing.B, sync string, retain eventlog.Options) *hub {
	b.Helper()
	retain.IDs = true
	def := &definition{key: namedKey("bench"), label: "bench", name: "bench", ids: idsStream, retain: retain}
	if sync != "" {
		file := &FileLog{Dir: b.TempDir(), Sync: sync}
		must(b, file.Provision(caddy.Context{}))
		def.log = &logDef{
			kind: "file", key: file.Key("bench"), opener: file,
			bounds: logstore.Bounds{Events: uint64(retain.MaxEvents), Bytes: retain.MaxBytes},
			cache:  eventlog.Options{MaxEvents: retain.MaxEvents, MaxBytes: min(retain.MaxBytes, file.Memory()), IDs: true},
		}
	}
	h := newHub(def, nil)
	h.attach(def)
	b.Cleanup(func() {
		h.detach(def)
		_ = h.Destruct() // has no error
	})
	must(b, awaitLog(h))
	return h
}

// BenchmarkEventToReader paces events, and reports the time from an event's
// arrival until a reader of the log has it. Its ns/op is the pace.
func BenchmarkEventToReader(b *testing.B) {
	for _, rate := range []int{1000, 10_000} {
		for _, sync := range benchLogs {
			b.Run(fmt.Sprintf("%d per second/sync=%s", rate, sync), func(b *testing.B) {
				h := benchStream(b, sync, eventlog.Options{MaxEvents: 10_000, MaxBytes: 64 << 20})
				begun, took := make([]time.Time, b.N+1), make([]time.Duration, 0, b.N)
				log := h.log.Load()
				done := make(chan struct{})
				go func() {
					defer close(done)
					reader := log.memory.NewReader(1)
					for len(took) < b.N {
						<-log.memory.Appended()
						for {
							first := reader.Position()
							chunk, n, err := reader.Next(maxWrite)
							if err != nil || chunk == nil {
								break
							}
							now := time.Now()
							for i := range n {
								took = append(took, now.Sub(begun[first+uint64(i)]))
							}
						}
					}
				}()
				in := &input{hub: h, name: "u"}
				in.shape.Store(new(shape))
				ev, enc := &sse.Event{Type: []byte("tick"), Data: bytes.Repeat([]byte("x"), 200)}, new(encoder)
				start := time.Now()
				b.ResetTimer()
				for i := 1; i <= b.N; i++ {
					time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(rate)))) // the pace
					begun[i] = time.Now()
					enc.reset()
					in.deliver(ev, false, enc, begun[i])
				}
				<-done
				b.StopTimer()
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
				b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
			})
		}
	}
}

// BenchmarkEventsFlatOut has events arrive as fast as there is room for them.
func BenchmarkEventsFlatOut(b *testing.B) {
	for _, sync := range benchLogs {
		b.Run("sync="+sync, func(b *testing.B) {
			h := benchStream(b, sync, eventlog.Options{MaxEvents: 100_000, MaxBytes: 512 << 20})
			in := &input{hub: h, name: "u"}
			in.shape.Store(new(shape))
			ev, enc := &sse.Event{Type: []byte("tick"), Data: bytes.Repeat([]byte("x"), 200)}, new(encoder)
			log := h.log.Load()
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if room := in.hasRoom(); room != nil {
					<-room
				}
				enc.reset()
				in.deliver(ev, false, enc, time.Now())
			}
			for log.memory.Head() < uint64(b.N) {
				<-log.memory.Appended()
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkLogStart opens a log of a million events, up to where all positions
// are known.
func BenchmarkLogStart(b *testing.B) {
	dir := b.TempDir()
	raw, err := json.Marshal(FileLog{Dir: dir})
	must(b, err)
	file := new(FileLog)
	must(b, json.Unmarshal(raw, file))
	must(b, file.Provision(caddy.Context{}))
	retain := eventlog.Options{MaxBytes: 4 << 30, IDs: true}
	def := &definition{key: namedKey("bench"), label: "bench", name: "bench", ids: idsStream, retain: retain}
	def.log = &logDef{
		kind: "file", key: filepath.Join(dir, "bench"), opener: file,
		bounds: logstore.Bounds{Bytes: retain.MaxBytes},
		cache:  eventlog.Options{MaxBytes: file.Memory(), IDs: true},
	}
	start := func() *hub {
		h := newHub(def, nil)
		h.attach(def)
		must(b, awaitLog(h))
		return h
	}
	end := func(h *hub) {
		h.detach(def)
		_ = h.Destruct() // has no error
	}
	h := start()
	in := &input{hub: h, name: "u"}
	in.shape.Store(new(shape))
	ev, enc := &sse.Event{Type: []byte("tick"), Data: bytes.Repeat([]byte("x"), 200)}, new(encoder)
	const events = 1_000_000
	for range events {
		if room := in.hasRoom(); room != nil {
			<-room
		}
		enc.reset()
		in.deliver(ev, false, enc, time.Now())
	}
	for h.log.Load().memory.Head() < events {
		<-h.log.Load().memory.Appended()
	}
	end(h)
	b.ResetTimer()
	for b.Loop() {
		h := start()
		b.StopTimer()
		if head := h.log.Load().memory.Head(); head != events {
			b.Fatalf("the log ends with %d", head)
		}
		end(h)
		b.StartTimer()
	}
}

// awaitLog waits until a stream's log can be written.
func awaitLog(h *hub) error {
	return ssetest.Await(patience, "the log can be written", h.log.Load().takesEvents)
}
