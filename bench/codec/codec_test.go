package codec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
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

// shapes are the events that are compared, each with an id unless it says
// otherwise.
var shapes = []struct {
	name  string
	event func(n int) (wire string, size int) // size: of type, data and id
}{
	{"bare50", func(int) (string, int) {
		data := payload(50)
		return "data: " + data + "\n\n", len(data)
	}},
	{"tick50", func(n int) (string, int) { return typed(n, payload(50), "\n") }},
	{"json250", func(n int) (string, int) { return typed(n, payload(250), "\n") }},
	{"json250crlf", func(n int) (string, int) { return typed(n, payload(250), "\r\n") }},
	{"json1000", func(n int) (string, int) { return typed(n, payload(1000), "\n") }},
	{"json4096", func(n int) (string, int) { return typed(n, payload(4096), "\n") }},
	// 12 lines of 40 bytes: JSON that is indented
	{"lines12x40", func(n int) (string, int) {
		return typed(n, strings.TrimSuffix(strings.Repeat(payload(40)+"\n", 12), "\n"), "\n")
	}},
}

// payload is a JSON object of size bytes.
func payload(size int) string {
	const begin, end = `{"symbol":"ACME","text":"`, `"}`
	return begin + strings.Repeat("x", size-len(begin)-len(end)) + end
}

// typed is an event with an id and a type.
func typed(n int, data, eol string) (wire string, size int) {
	id, typ := strconv.Itoa(1_000_000+n), "price"
	wire = "id: " + id + eol + "event: " + typ + eol
	for line := range strings.SplitSeq(data, "\n") {
		wire += "data: " + line + eol
	}
	return wire + eol, len(id) + len(typ) + len(data)
}

// stream returns about 1 MiB of events, their number and what they hold.
func stream(event func(n int) (string, int)) (p []byte, events, size int) {
	for ; len(p) < 1<<20; events++ {
		wire, n := event(events)
		p = append(p, wire...)
		size += n
	}
	return p, events, size
}

// TestSameEvents makes sure that the benchmark compares like with like.
func TestSameEvents(t *testing.T) {
	for _, shape := range shapes {
		p, wantEvents, wantSize := stream(shape.event)
		for _, impl := range impls {
			t.Run(fmt.Sprintf("impl=%s/shape=%s", impl.name, shape.name), func(t *testing.T) {
				r := &chunks{*bytes.NewReader(p)}
				events, size, err := impl.decode(r)
				if err != nil || events != wantEvents || size != wantSize {
					t.Errorf("%d events, %d bytes, error %v; want %d and %d", events, size, err, wantEvents, wantSize)
				}
			})
		}
	}
}

// BenchmarkDecode decodes one stream an op. What an op allocates for the
// connection, buffers above all, is in B/op and allocs/op; allocs/event shows
// whether events are.
func BenchmarkDecode(b *testing.B) {
	for _, shape := range shapes {
		p, events, _ := stream(shape.event)
		for _, impl := range impls {
			b.Run(fmt.Sprintf("impl=%s/shape=%s", impl.name, shape.name), func(b *testing.B) {
				b.SetBytes(int64(len(p)))
				b.ReportAllocs()
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				for b.Loop() {
					n, _, err := impl.decode(&chunks{*bytes.NewReader(p)})
					if err != nil || n != events {
						b.Fatalf("%d events, error %v", n, err)
					}
				}
				runtime.ReadMemStats(&after)
				total := float64(b.N) * float64(events)
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/total, "ns/event")
				b.ReportMetric(float64(after.Mallocs-before.Mallocs)/total, "allocs/event")
			})
		}
	}
}
