package sse

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// benchStream is about 1 MiB of typical events.
func benchStream(payload int, eol string) []byte {
	const begin, end = `{"symbol":"ACME","text":"`, `"}`
	var b strings.Builder
	for i := 0; b.Len() < 1<<20; i++ {
		fill := strings.Repeat("x", max(0, payload-len(begin)-len(end)))
		fmt.Fprintf(&b, "id: %d%[2]sevent: price%[2]sdata: %s%s%s%[2]s%[2]s", 1000000+i, eol, begin, fill, end)
	}
	return []byte(b.String())
}

func BenchmarkDecode(b *testing.B) {
	for _, bm := range []struct {
		name    string
		payload int
		eol     string
		chunk   int
	}{
		{"payload=50", 50, "\n", 32 << 10},
		{"payload=250", 250, "\n", 32 << 10},
		{"payload=1000", 1000, "\n", 32 << 10},
		{"payload=4096", 4096, "\n", 32 << 10},
		{"payload=250/eol=crlf", 250, "\r\n", 32 << 10},
		{"payload=250/eol=cr", 250, "\r", 32 << 10},
		{"payload=250/chunk=100", 250, "\n", 100},
	} {
		b.Run(bm.name, func(b *testing.B) {
			stream := benchStream(bm.payload, bm.eol)
			d := NewDecoder(1 << 20)
			events := 0
			yield := func(*Event) { events++ }
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				for chunk := range slices.Chunk(stream, bm.chunk) {
					d.Decode(chunk, yield)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(events), "ns/event")
		})
	}
}

func BenchmarkAppendEvent(b *testing.B) {
	for _, bm := range []struct{ name, data string }{
		{"payload=50", strings.Repeat("x", 50)},
		{"payload=250", strings.Repeat("x", 250)},
		{"payload=1000", strings.Repeat("x", 1000)},
		{"payload=4096", strings.Repeat("x", 4096)},
		{"lines=12x40", strings.TrimSuffix(strings.Repeat(strings.Repeat("x", 40)+"\n", 12), "\n")},
	} {
		b.Run(bm.name, func(b *testing.B) {
			ev := &Event{ID: []byte("1000000"), Type: []byte("price"), Data: []byte(bm.data)}
			buf := AppendEvent(nil, ev)
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for b.Loop() {
				buf = AppendEvent(buf[:0], ev)
			}
		})
	}
}
