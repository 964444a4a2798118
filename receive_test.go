package ssefanin

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// receiving is a source whose connections a test makes up: what would be read
// is handed over, and what comes out is read from the log of a stream.
type receiving struct {
	t       *testing.T
	s       *source
	in      *input
	reader  *eventlog.Reader
	runners []*runner
}

func newReceiving(t *testing.T, runners int, spec sourceSpec) *receiving {
	t.Helper()
	if spec.Resume == "" {
		spec.Resume = resumeOn
	}
	h := newHub(&definition{key: "r", label: "r", ids: idsNone, retain: eventlog.Options{MaxEvents: 1 << 20, MaxBytes: 1 << 30}}, nil)
	liveHubs.remove(h) // nobody is going to release it
	r := &receiving{t: t, s: newSource("r", &spec)}
	r.in = &input{source: r.s, hub: h, name: "u"}
	r.in.shape.Store(new(shape))
	r.in.use = r.s.subscribe(r.in)
	r.reader = h.log.Load().memory.NewReader(1)
	for range runners {
		slot := 0
		if r.s.intake.mirror != nil {
			slot, _ = r.s.intake.mirror.add()
		}
		run := newRunner(r.s, nil, slot)
		r.runners = append(r.runners, run)
		r.s.runners[string(rune('a'+len(r.runners)))] = run
	}
	return r
}

// parseEvent reads a word: data, or id/type/data. Without an id of its own, it
// has that in force.
func parseEvent(word, inForce string) *sse.Event {
	ev := &sse.Event{ID: []byte(inForce), Data: []byte(word)}
	if parts := strings.Split(word, "/"); len(parts) == 3 {
		ev.Type, ev.Data = []byte(parts[1]), []byte(parts[2])
		if parts[0] != "" {
			ev.ID, ev.HasID = []byte(parts[0]), true
		}
	}
	return ev
}

func (r *receiving) open(n int) { r.s.intake.opened(r.runners[n], time.Now()) }
func (r *receiving) cut(n int)  { r.s.intake.closed(r.runners[n]) }

// send has a runner's connection send words; one that begins with + lets time
// pass.
func (r *receiving) send(n int, words ...string) {
	r.t.Helper()
	for _, word := range words {
		if length, ok := strings.CutPrefix(word, "+"); ok {
			d, err := time.ParseDuration(length)
			must(r.t, err)
			pass(d)
			continue
		}
		run := r.runners[n]
		ev := parseEvent(word, run.decoder.LastEventID())
		run.decoder.SetLastEventID(string(ev.ID))
		r.s.intake.receive(run, ev, time.Now())
		for _, p := range [][]byte{ev.ID, ev.Type, ev.Data} { // the memory is the reader's
			for i := range p {
				p[i] = '#'
			}
		}
	}
}

// got returns the data of what has been delivered since it was asked last.
func (r *receiving) got() []string {
	r.t.Helper()
	all := []string{}
	for {
		chunk, _, err := r.reader.Next(1 << 20)
		must(r.t, err)
		if chunk == nil {
			return all
		}
		for line := range bytes.Lines(chunk) {
			if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
				all = append(all, string(bytes.TrimSpace(data)))
			}
		}
	}
}

// history has one runner's connections, which a bar separates, send words, and
// returns what is delivered of the last one. It is over two seconds after the
// last word, and not ended.
func (r *receiving) history(text string) string {
	r.t.Helper()
	connections := strings.Split(text, "|")
	for i, words := range connections {
		if i > 0 {
			r.cut(0)
		}
		r.got()
		r.open(0)
		r.send(0, strings.Fields(words)...)
	}
	pass(2 * time.Second)
	got := strings.Join(r.got(), " ")
	r.cut(0)
	if late := r.got(); len(late) > 0 {
		r.t.Errorf("%q were held for more than two seconds", late)
	}
	return got
}

// inBubble runs a test under a synthetic clock.
func inBubble(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// BenchmarkReceive is what judging an event costs, without its streams.
func BenchmarkReceive(b *testing.B) {
	for _, id := range []string{"", "1000000"} {
		b.Run("id="+id, func(b *testing.B) {
			s := newSource("b", &sourceSpec{Resume: resumeOn})
			r := newRunner(s, nil, 0)
			ev := &sse.Event{ID: []byte(id), HasID: id != "", Type: []byte("price"), Data: bytes.Repeat([]byte("x"), 250)}
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				s.intake.receive(r, ev, now)
			}
		})
	}
}
