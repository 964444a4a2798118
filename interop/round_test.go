package interop

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// A reference is a plain client, which knows what every library should hand out.
type reference struct {
	transcript
	client *ssetest.Client
}

// startReference runs a reference at the server until the test ends.
func startReference(t *testing.T, s *server) *reference {
	t.Helper()
	r := new(reference)
	r.client = ssetest.StartClient(ssetest.ClientConfig{
		URL: url(library{}, s.plain),
		OnEvent: func(e ssetest.Event) {
			r.add(message{Type: e.Type, ID: e.ID, Data: e.Data, at: e.Time})
		},
	})
	t.Cleanup(r.client.Close)
	return r
}

func newOrigin(t *testing.T) *ssetest.Origin {
	t.Helper()
	o, err := ssetest.NewOrigin(ssetest.OriginConfig{Source: "origin", Types: []string{"", "price", "build.done"}})
	must(t, err)
	t.Cleanup(o.Close)
	return o
}

// A round is what the libraries are sent in one of the situations that they come
// to, one after the other.
type round struct {
	origin   *ssetest.Origin
	ref      *reference
	programs []*program
	cutters  []*cutter // one for each program

	refBefore int   // what the reference had got when the round began
	before    []int // what the programs had
}

// begin begins a round, after everything that was sent before has arrived.
func (r *round) begin() {
	r.refBefore = r.ref.len()
	r.before = r.before[:0]
	for _, p := range r.programs {
		r.before = append(r.before, p.len())
	}
}

// clients is how many clients the stream has: the programs and the reference.
func (r *round) clients() int { return len(r.programs) + 1 }

// heartbeats waits for so many, as the reference counts them.
func (r *round) heartbeats(t *testing.T, n uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, r.ref.client.WaitComments(ctx, r.ref.client.Comments()+n))
}

// meanwhile sends events while something happens, and some before and after it. It
// checks that the reference got all of them, once and in order.
func (r *round) meanwhile(t *testing.T, happens func()) {
	t.Helper()
	from := r.origin.Last() + 1
	r.origin.SetRate(25)
	r.some(t)
	happens()
	r.some(t)
	r.origin.SetRate(0)
	to := r.origin.Last()
	eventually(t, "the reference gets everything", func() bool { return len(r.wanted()) >= int(to-from+1) })
	for i, m := range r.wanted() {
		if _, n, ok := ssetest.FindNumbered([]byte(m.Data)); !ok || n != from+uint64(i) || n > to {
			t.Fatalf("the reference got %s as number %d", m, from+uint64(i))
		}
	}
}

// some waits for some events to be sent.
func (r *round) some(t *testing.T) {
	t.Helper()
	n := r.origin.Last() + uint64(scale(12, 50))
	eventually(t, "events are sent", func() bool { return r.origin.Last() >= n })
}

// wanted is what the reference got in this round.
func (r *round) wanted() []message { return r.ref.since(r.refBefore) }

// got is what a program has handed out in this round.
func (r *round) got(i int) []message { return r.programs[i].since(r.before[i]) }

// compare has a subtest for each library, which fails when that has not got what
// the reference got, but for its faults. That something is lost shows only after
// patience.
func (r *round) compare(t *testing.T) {
	t.Helper()
	want := r.wanted()
	deadline := time.Now().Add(patience) // for all of them
	for i, p := range r.programs {
		t.Run(p.library.String(), func(t *testing.T) {
			want := p.library.expected(want)
			if len(want) > 0 {
				last := want[len(want)-1]
				_ = ssetest.Await(time.Until(deadline), "", func() bool {
					got := r.got(i)
					return len(got) > 0 && got[len(got)-1].key() == last.key()
				})
			}
			d := compare(want, r.got(i))
			p.library.forgive(&d, r.cutters[i].count())
			if d.String() != "" {
				t.Error(d)
			}
		})
	}
}

// late writes how long messages have taken in this round, which has been compared,
// and returns the names of the libraries whose median is more than the limit.
func (r *round) late(t *testing.T, limit time.Duration) (names []string) {
	t.Helper()
	write := func(name string, messages []message) (median time.Duration) {
		all := latency(messages)
		if len(all) == 0 {
			return 0 // which is the comparison's to find
		}
		median, most := medianAndMost(all)
		t.Logf("%-40s median %6s, most %6s", name, median.Round(100*time.Microsecond), most.Round(100*time.Microsecond))
		return median
	}
	write("a plain client", r.wanted())
	for i, p := range r.programs {
		if write(p.library.String(), r.got(i)) > limit {
			names = append(names, p.library.String())
		}
	}
	return names
}

// latency is how long after it was sent each numbered message was handed out.
func latency(messages []message) []time.Duration {
	var all []time.Duration
	for _, m := range messages {
		var data struct{ At int64 }
		if json.Unmarshal([]byte(m.Data), &data) == nil && data.At > 0 {
			all = append(all, m.at.Sub(time.Unix(0, data.At)))
		}
	}
	return all
}
