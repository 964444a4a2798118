package ssefanin

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// BenchmarkPublish is what an event costs with and without last values: without, with
// those of another type, and as one of 10,000 keys.
func BenchmarkPublish(b *testing.B) {
	for _, bc := range []struct {
		name   string
		values *LastValue
	}{
		{"none", nil},
		{"other", &LastValue{Types: []string{"other"}, Key: "/symbol"}},
		{"value", &LastValue{Types: []string{"price"}}},
		{"key", &LastValue{Types: []string{"price"}, Key: "/symbol"}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			def := &definition{key: "b", label: "b", ids: idsStream, retain: eventlog.Options{MaxEvents: 10_000, MaxBytes: 64 << 20, IDs: true}}
			def.values = def.lastValues(bc.values)
			h := newHub(def, nil)
			liveHubs.remove(h)
			in := &input{hub: h}
			in.shape.Store(new(shape))
			events := make([]sse.Event, 10_000)
			for i := range events {
				events[i] = sse.Event{Type: []byte("price"), Data: fmt.Appendf(nil, `{"symbol":"S%d","bid":[101.25,300],"ask":[101.5,200],"time":1764190000000,"venue":"%100d"}`, i, 7)}
			}
			enc, now := new(encoder), time.Now()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				enc.reset()
				in.deliver(&events[i%len(events)], false, enc, now)
			}
		})
	}
}

// nowhere is a response that is thrown away.
type nowhere struct{ header http.Header }

func (d nowhere) Header() http.Header         { return d.header }
func (d nowhere) WriteHeader(int)             {}
func (d nowhere) FlushError() error           { return nil }
func (d nowhere) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkBeginWithLastValues is what it costs that 1,000 clients begin at once with
// 10,000 values each, without the connections. Between each two clients an event comes.
func BenchmarkBeginWithLastValues(b *testing.B) {
	const clients = 1000
	h := valuesHub(eventlog.Options{MaxEvents: 1000, MaxBytes: 64 << 20}, 10_000)
	in := &input{hub: h}
	in.shape.Store(new(shape))
	put := func(i int) {
		in.deliver(&sse.Event{Type: []byte("v"), Data: fmt.Appendf(nil, `{"key":%d,"venue":"%100d"}`, i%10_000, i)}, false, new(encoder), time.Now())
	}
	for i := range 10_000 {
		put(i)
	}
	settings := ClientSettings{Start: startValues}.resolve()
	svc := &service{def: &definition{hub: h}, settings: &settings, logger: zap.NewNop()}
	b.ReportAllocs()
	for b.Loop() {
		all := make([]*client, clients)
		for i := range all {
			all[i] = newClient(h, svc, nowhere{make(http.Header)}, httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/", nil))
			all[i].turn(time.Now(), new(frame)) // its head; it has its snapshot
			put(i)
		}
		for _, c := range all {
			for more := true; more; {
				_, more, _ = c.turn(time.Now(), new(frame))
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/clients, "µs/client")
}
