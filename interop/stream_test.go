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
// data. The first round that fails is the last one.
//
// At the same time it does so with clients that are detached, over HTTP/1.1.
func TestStream(t *testing.T) { //nolint:tparallel // TestLibrary would load the machine meanwhile
	all := present(t)
	for mode, over := range map[string][]library{"off": overAll(all), "on": overHTTP1(all)} {
		t.Run("detach "+mode, func(t *testing.T) {
			t.Parallel()
			testStream(t, over, "detach "+mode)
		})
	}
}

func testStream(t *testing.T, all []library, mode string) {
	t.Helper()
	o := newOrigin(t)
	s := startServer(t, o, "heartbeat 100ms\nretry 50ms 100ms\non_reload drain\ndrain 100ms\n"+mode)
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
	s.waitClients(r.clients())

	for _, test := range []struct {
		name string
		run  func(t *testing.T, s *server, r *round)
	}{
		{"heartbeats", heartbeats},
		{"events", inTime},
		{"contents", difficultContents},
		{"ends", ends},
		{"a crash", crash},
		{"cuts", cuts},
	} {
		if !t.Run(test.name, func(t *testing.T) { test.run(t, s, r) }) {
			return
		}
	}
}

// heartbeats has some pass before there is any event.
func heartbeats(t *testing.T, _ *server, r *round) {
	r.begin()
	r.heartbeats(t, 6)
	r.compare(t)
}

// inTime sends events and judges how long they take to be handed out: the median
// is to be less than 0.3 s, since a few are late whenever the machine has other
// things to do. A round is repeated, three at most, when somebody is late in it. The
// figures of a plain client, in the same round, show whether it was the machine.
func inTime(t *testing.T, _ *server, r *round) {
	const limit = 300 * time.Millisecond
	var late []string
	for range 3 {
		r.begin()
		r.meanwhile(t, func() {})
		r.compare(t)
		if late = r.late(t, limit); len(late) == 0 {
			break
		}
	}
	if len(late) > 0 {
		t.Errorf("in each of three rounds, the median was more than %s for %s", limit, strings.Join(late, ", "))
	}
}

// difficultContents sends each of the contents.
func difficultContents(t *testing.T, _ *server, r *round) {
	r.begin()
	for _, data := range contents {
		r.origin.Emit("price", data)
	}
	eventually(t, "the reference gets everything", func() bool { return len(r.wanted()) >= len(contents) })
	for i, m := range r.wanted() {
		if m.Data != contents[i] {
			t.Fatalf("the reference got %s for %q", m, contents[i])
		}
	}
	r.compare(t)
}

// ends ends everybody's stream, as a stream should end.
func ends(t *testing.T, s *server, r *round) {
	r.begin()
	r.meanwhile(t, func() {
		for range scale(1, 3) {
			s.endStreams(r.clients())
		}
	})
	r.compare(t)
}

// crash kills Caddy, and starts it again.
func crash(t *testing.T, s *server, r *round) {
	r.begin()
	r.meanwhile(t, func() {
		s.restart()
		s.waitClients(r.clients())
	})
	r.compare(t)
}

// cuts cuts connections in the middle of events. A round without follows, in which
// nothing may come that came before.
func cuts(t *testing.T, _ *server, r *round) {
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
	r.begin()
	r.meanwhile(t, func() {})
	r.compare(t)
}
