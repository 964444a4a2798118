package chaos

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// What the judge finds of last values. Events are of feed f: the offset is the number, those with
// the numbers 1, 4 and 7 are prices, and those with 3, 6 and 9 unnamed.
func TestJudgingLastValues(t *testing.T) {
	event := func(n int) ssetest.Event {
		typ := typeOf(uint64(n))
		if typ == "" {
			typ = "message"
		}
		return ssetest.Event{Type: typ, ID: fmt.Sprintf("aaaaaaaaaa-%d-x", n), Data: fmt.Sprintf(`{"source":"f","n":%d}`, n)}
	}
	gap := func(offset, missed int, state string) ssetest.Event {
		id := fmt.Sprintf("aaaaaaaaaa-%d-0", offset)
		return ssetest.Event{Type: "fanin.gap", ID: id, Data: fmt.Sprintf(`{"reason":"expired","missed":%d,"resumed":%q%s}`, missed, id, state)}
	}
	for name, tc := range map[string]struct {
		from   string // the cursor that the client comes with
		events []ssetest.Event
		want   string // part of the verdict; empty: there is none
	}{
		"right":                {"aaaaaaaaaa-1-x", []ssetest.Event{gap(8, 7, `,"state":2`), event(6), event(7), event(9), event(10)}, ""},
		"none":                 {"aaaaaaaaaa-7-x", []ssetest.Event{gap(8, 1, `,"state":0`), event(9)}, "nothing of f price, which is at 7"},
		"one is missing":       {"aaaaaaaaaa-1-x", []ssetest.Event{gap(8, 7, `,"state":1`), event(7)}, "nothing of f message, which is at 6"},
		"one has changed":      {"aaaaaaaaaa-1-x", []ssetest.Event{gap(8, 7, `,"state":1`), event(7), event(9)}, ""},
		"an old one":           {"aaaaaaaaaa-1-x", []ssetest.Event{gap(8, 7, `,"state":2`), event(4), event(6), event(9)}, "f price at 4, and there is one at 7"},
		"twice":                {"aaaaaaaaaa-1-x", []ssetest.Event{gap(8, 7, `,"state":2`), event(4), event(7)}, "two last values"},
		"too new":              {"aaaaaaaaaa-1-x", []ssetest.Event{gap(8, 7, `,"state":1`), event(9)}, "is not from before the gap"},
		"out of order":         {"aaaaaaaaaa-1-x", []ssetest.Event{gap(8, 7, `,"state":2`), event(7), event(6)}, "comes after that"},
		"of another type":      {"aaaaaaaaaa-1-x", []ssetest.Event{gap(8, 7, `,"state":1`), event(5)}, "is no last value"},
		"more than said":       {"aaaaaaaaaa-1-x", []ssetest.Event{gap(8, 7, `,"state":1`), event(6), event(7)}, "offset 7 comes after 8"},
		"fewer than said":      {"aaaaaaaaaa-1-x", []ssetest.Event{gap(8, 7, `,"state":2`), event(7), event(9)}, "is not from before the gap"},
		"without state":        {"aaaaaaaaaa-1-x", []ssetest.Event{gap(8, 7, ""), event(9)}, "how many last values"},
		"at the beginning":     {"", []ssetest.Event{event(4), event(6), event(9), event(10)}, ""},
		"a hole after them":    {"", []ssetest.Event{event(4), event(6), event(8), event(10)}, "offset 10 comes after 8"},
		"twice, at the begin.": {"", []ssetest.Event{event(4), event(7), event(9)}, "offset 9 comes after 7"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &feed{name: "f"}
			s := &stream{ids: "stream", upstreams: []*upstream{{name: "u", feeds: []*feed{f}}}, values: lastValues{types: []string{"message", "price"}}}
			p := &plan{feeds: []*feed{f}, streams: []*stream{s}}
			j := newJudge(p)
			known := &watch{judge: j, stream: s, begun: time.Now(), name: "one who gets all"}
			known.connecting("aaaaaaaaaa-3-x")
			for n := 4; n <= 8; n++ {
				known.event(event(n))
			}
			w := &watch{judge: j, stream: s, begun: time.Now(), name: "client"}
			w.connecting(tc.from)
			for _, e := range tc.events {
				w.event(e)
			}
			w.complete()
			var got []string
			for _, v := range j.verdicts {
				got = append(got, v.text)
			}
			if text := strings.Join(got, "\n"); (tc.want == "") != (text == "") || !strings.Contains(text, tc.want) {
				t.Errorf("got %q, want %q", text, tc.want)
			}
		})
	}
}
