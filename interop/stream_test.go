package interop

import (
	"strings"
	"testing"
	"time"
)

// contents are data that are easily got wrong.
var contents = []string{
	"one\ntwo\n\nfour",
	"ends with a line end\n",
	"\nbegins with one",
	"  blanks and a tab\t ",
	": no comment\ndata: no field\nid: 1",
	`{"quotes":"\"\\","colon":":"}`,
	"ä €, 𝄞 and 👩‍👩‍👧",
	"other line ends, which are none here:\u0085 \u2028 \u2029 \v \f \x1c",
	"other control characters: \x01 \x1f \x7f",
	"\ufeffa byte order mark, and one inside: \ufeff",
	"a large line " + strings.Repeat("€uro", 50_000),
	strings.Repeat("many lines\n", 5000) + "and the last",
}

// TestStream runs every library at one stream, over a connection that can be cut.
// At first nobody sends anything, and heartbeats pass: none of them may be handed
// out as a message. Then events are sent at a rate, then contents that are easily
// got wrong. Then streams end, Caddy is killed, and connections are cut, while
// events are sent. Each is to be handed out once, in order, with its type, id and
// data.
func TestStream(t *testing.T) {
	all := overAll(present(t))
	o := newOrigin(t)
	s := startServer(t, o, "heartbeat 100ms\nretry 50ms 100ms\non_reload drain\ndrain 100ms")
	r := &round{origin: o, ref: startReference(t, s)}
	for _, l := range all {
		addr := s.plain
		if l.http2 {
			addr = s.secure
		}
		c := startCutter(t, addr)
		r.cutters = append(r.cutters, c)
		r.programs = append(r.programs, startProgram(t, l, url(l, c.addr()), s.certFile))
	}
	s.waitClients(len(all) + 1)

	t.Run("heartbeats", func(t *testing.T) {
		r.begin()
		r.heartbeats(t, 6)
		r.compare(t)
	})
	t.Run("events", func(t *testing.T) { inTime(t, r) })
	t.Run("contents", func(t *testing.T) {
		r.begin()
		for _, data := range contents {
			o.Emit("price", data)
		}
		r.heartbeats(t, 2)
		for i, m := range r.wanted() {
			if m.Data != contents[i] {
				t.Fatalf("the reference got %s for %q", m, contents[i])
			}
		}
		r.compare(t)
	})
	t.Run("ends", func(t *testing.T) {
		r.begin()
		r.meanwhile(t, func() {
			for range scale(1, 3) {
				s.endStreams(len(all) + 1)
			}
		})
		r.compare(t)
	})
	t.Run("a crash", func(t *testing.T) {
		r.begin()
		r.meanwhile(t, func() {
			s.restart()
			s.waitClients(len(all) + 1)
		})
		r.compare(t)
	})
	t.Run("cuts", func(t *testing.T) {
		r.begin()
		for _, c := range r.cutters {
			c.begin()
		}
		r.meanwhile(t, func() {
			for i, c := range r.cutters {
				eventually(t, r.programs[i].library.String()+" is cut off", func() bool { return c.count() >= scale(2, 6) })
				c.stop()
			}
		})
		r.compare(t)
		r.begin() // nothing comes late that has come before
		r.meanwhile(t, func() {})
		r.compare(t)
	})
}

// inTime sends events and judges how long they take to be handed out: the median
// is to be less than 0.3 s, since a few are late whenever the machine has other
// things to do. A round is repeated, three at most, when somebody is late in it. The
// figures of a plain client, in the same round, show whether it was the machine.
func inTime(t *testing.T, r *round) {
	const limit = 300 * time.Millisecond
	var late []string
	for range 3 {
		r.begin()
		r.meanwhile(t, func() {})
		if late = r.late(t, limit); len(late) == 0 {
			break
		}
	}
	r.compare(t)
	if len(late) > 0 {
		t.Errorf("in each of three rounds, the median was more than %s for %s", limit, strings.Join(late, ", "))
	}
}
