package ssefanin

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkEventsOfOthers is what an event costs for each filtered client that is
// not to have it, from its append until it has been judged: clients with one view,
// clients with a view each, and those where there are more types than numbers.
func BenchmarkEventsOfOthers(b *testing.B) {
	const clients = 1000
	one := func(int) string { return "user.me.* public.*" }
	each := func(i int) string { return fmt.Sprintf("user.%d.* public.*", i) }
	for _, test := range []struct {
		name  string
		types func(client int) string
		users int // whose events come
	}{
		{"equal views", one, 100},
		{"different views", each, 100},
		{"different views, 100,000 types", each, 100_000},
	} {
		b.Run(test.name, func(b *testing.B) {
			h := clockHub()
			vs := &h.audience.views
			for i := range clients {
				vs.join(seeing(h, "", test.types(i)))
			}
			log := h.log.Load()
			source := h.tags.source("s", "")
			types, bodies := make([][]byte, test.users), make([][]byte, test.users)
			for i := range types {
				types[i] = fmt.Appendf(nil, "user.other-%d.message", i)
				bodies[i] = fmt.Appendf(nil, "event: %s\ndata: %0250d\n\n", types[i], i)
			}
			now := time.Now()
			for i := 0; b.Loop(); i++ {
				k := i % test.users
				log.memory.Append(now, h.tags.tag(source, types[k]), bodies[k])
				vs.judge()
				if len(vs.touched) > 0 {
					b.Fatal("an event of others is taken for a client's")
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/clients, "ns/event·client")
		})
	}
}
