package ssefanin

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

// What the kernel has to say of a connection may be read when that has been closed,
// and its descriptor is another one's.
func TestLateEventOfAConnection(t *testing.T) {
	s := &takenScene{t: t, a: plain(t)}
	s.in = serve(t, "", "sse_fanin /events "+s.a.URL())
	connected(t, s.a)
	number := func() uint64 {
		var numbers []uint64
		eventually(t, 10*time.Second, "one connection is followed", func() bool { // once it has been taken over
			clientDepartures.mu.Lock()
			defer clientDepartures.mu.Unlock()
			numbers = slices.Collect(maps.Keys(clientDepartures.conns))
			return len(numbers) == 1
		})
		return numbers[0]
	}
	first := s.open("")
	seen := []uint64{number()}
	first.conn.Close()
	noneTaken(t)
	for i := range 5 {
		q := s.open("")
		for _, id := range seen {
			clientDepartures.happened(id, departed)
		}
		s.a.Emit("", fmt.Sprint(i))
		q.until("data: " + fmt.Sprint(i))
		seen = append(seen, number())
		q.conn.Close()
		noneTaken(t)
	}
}
