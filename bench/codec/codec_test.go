package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/launchdarkly/eventsource"
	gosse "github.com/tmaxmax/go-sse"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// chunkSize is the most that one read returns, as from a busy connection.
const chunkSize = 32 << 10

// chunks hands a stream out in reads of at most chunkSize.
type chunks struct{ r bytes.Reader }

func (c *chunks) Read(p []byte) (int, error) {
	return c.r.Read(p[:min(len(p), chunkSize)])
}

// impls decode a whole stream from a reader, each in the way its library means
// it, and return the number of events and the bytes of their types, data and
// ids.
var impls = []struct {
	name   string
	decode func(r io.Reader) (events, size int, err error)
}{
	{"ours", decodeOurs},
	{"tmaxmax", decodeTmaxmax},
	{"launchdarkly", decodeLaunchDarkly},
}

func decodeOurs(r io.Reader) (events, size int, err error) {
	d := sse.NewDecoder(1 << 20)
	buf := make([]byte, chunkSize)
	yield := func(ev *sse.Event) {
		events++
		size += len(ev.Type) + len(ev.Data) + len(ev.ID)
	}
	for {
		n, err := r.Read(buf)
		d.Decode(buf[:n], yield)
		if errors.Is(err, io.EOF) {
			return events, size, nil
		} else if err != nil {
			return events, size, err
		}
	}
}

func decodeTmaxmax(r io.Reader) (events, size int, err error) {
	for ev, err := range gosse.Read(r, &gosse.ReadConfig{MaxEventSize: 1 << 20}) {
		if err != nil {
			return events, size, err
		}
		events++
		size += len(ev.Type) + len(ev.Data) + len(ev.LastEventID)
	}
	return events, size, nil
}

func decodeLaunchDarkly(r io.Reader) (events, size int, err error) {
	d := eventsource.NewDecoder(r)
	for {
		ev, err := d.Decode()
		if errors.Is(err, io.EOF) {
			return events, size, nil
		} else if err != nil {
			return events, size, err
		}
		events++
		size += len(ev.Event()) + len(ev.Data()) + len(ev.Id())
	}
}

var payloads = []int{50, 100, 250, 1000, 10000}

// stream returns about 1 MiB of events with an id, a type and JSON data of
// payload bytes, and their number.
func stream(payload int) (p []byte, events int) {
	const begin, end = `{"symbol":"ACME","text":"`, `"}`
	fill := strings.Repeat("x", payload-len(begin)-len(end))
	var b bytes.Buffer
	for ; b.Len() < 1<<20; events++ {
		fmt.Fprintf(&b, "id: %d\nevent: price\ndata: %s%s%s\n\n", 1_000_000+events, begin, fill, end)
	}
	return b.Bytes(), events
}

// TestSameEvents makes sure that the benchmark compares like with like.
func TestSameEvents(t *testing.T) {
	for _, payload := range payloads {
		p, wantEvents := stream(payload)
		wantSize := wantEvents * (payload + len("1000000") + len("price"))
		for _, impl := range impls {
			t.Run(fmt.Sprintf("impl=%s/payload=%d", impl.name, payload), func(t *testing.T) {
				r := &chunks{*bytes.NewReader(p)}
				events, size, err := impl.decode(r)
				if err != nil || events != wantEvents || size != wantSize {
					t.Errorf("%d events, %d bytes, error %v; want %d and %d", events, size, err, wantEvents, wantSize)
				}
			})
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, impl := range impls {
		for _, payload := range payloads {
			b.Run(fmt.Sprintf("impl=%s/payload=%d", impl.name, payload), func(b *testing.B) {
				p, events := stream(payload)
				b.SetBytes(int64(len(p)))
				b.ReportAllocs()
				for b.Loop() {
					n, _, err := impl.decode(&chunks{*bytes.NewReader(p)})
					if err != nil || n != events {
						b.Fatalf("%d events, error %v", n, err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*events), "ns/event")
			})
		}
	}
}
