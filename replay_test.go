package ssefanin

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// replayed feeds a replay with connections of events, which are written
// id/type/data, one after the other, and returns those that were taken over of
// the last connection. A word beginning with + lets time pass.
func replayed(t *testing.T, connections ...string) string {
	t.Helper()
	r := newReplay()
	now := time.Unix(1_700_000_000, 0)
	var taken []string
	for i, events := range connections {
		if i > 0 {
			r.open(now)
		}
		taken = nil
		for word := range strings.FieldsSeq(events) {
			if length, ok := strings.CutPrefix(word, "+"); ok {
				d, err := time.ParseDuration(length)
				must(t, err)
				now = now.Add(d)
				continue
			}
			parts := strings.Split(word, "/")
			if len(parts) != 3 {
				t.Fatalf("%q is no event", word)
			}
			if !r.seen(&sse.Event{ID: []byte(parts[0]), Type: []byte(parts[1]), Data: []byte(parts[2])}, now) {
				taken = append(taken, word)
			}
		}
	}
	return strings.Join(taken, " ")
}

func TestReplayIsSuppressed(t *testing.T) {
	for name, tc := range map[string]struct {
		connections []string
		want        string
	}{
		"first connection":     {[]string{"1//a 1//a 1//a"}, "1//a 1//a 1//a"},
		"all again":            {[]string{"1//a 2//b 3//c", "1//a 2//b 3//c 4//d"}, "4//d"},
		"the last ones again":  {[]string{"1//a 2//b 3//c", "2//b 3//c 4//d"}, "4//d"},
		"nothing again":        {[]string{"1//a 2//b 3//c", "4//d 5//e"}, "4//d 5//e"},
		"late, with ids":       {[]string{"1//a 2//b", "+1h 1//a +1h 2//b 3//c"}, "3//c"},
		"other data":           {[]string{"1//a 2//b", "1//x 2//b"}, "1//x 2//b"},
		"other type":           {[]string{"1/t/a", "1/u/a"}, "1/u/a"},
		"other id":             {[]string{"1//a", "2//a"}, "2//a"},
		"ends the run":         {[]string{"1//a 2//b", "1//a 3//c 2//b 1//a"}, "3//c 2//b 1//a"},
		"no id, in the burst":  {[]string{"//tick //tick", "+999ms //tick //tick"}, ""},
		"no id, more of them":  {[]string{"//tick //tick", "//tick //tick //tick"}, "//tick"},
		"no id, after it":      {[]string{"//tick //tick", "+1s //tick //tick"}, "//tick //tick"},
		"no id, half in it":    {[]string{"//a //b //c", "//a +999ms //b +1ms //c"}, "//c"},
		"one id for all":       {[]string{"1//a 1//b", "+1s 1//a 1//b"}, "1//b"},
		"one id, in the burst": {[]string{"1//a 1//b", "1//a 1//b 1//c"}, "1//c"},
		"as often as before":   {[]string{"1//a 2//b 1//a", "1//a 2//b 1//a 2//b"}, "2//b"},
		"a third connection":   {[]string{"1//a 2//b", "1//a 2//b 3//c", "1//a 2//b 3//c 4//d"}, "4//d"},
		"an empty connection":  {[]string{"1//a 2//b", "", "1//a 2//b 3//c"}, "3//c"},
		"cut within the run":   {[]string{"1//a 2//b 3//c", "1//a", "1//a 2//b 3//c 4//d"}, "4//d"},
		"parts of each other":  {[]string{"1/ab/c", "1/a/bc"}, "1/a/bc"},
		"id or type":           {[]string{"a//x", "/a/x"}, "/a/x"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := replayed(t, tc.connections...); got != tc.want {
				t.Errorf("taken over: %q, want %q", got, tc.want)
			}
		})
	}
}

// An upstream that keeps a long history and replays all of it.
func TestLongReplayIsSuppressed(t *testing.T) {
	events := func(from, to int) string {
		var b strings.Builder
		for n := from; n <= to; n++ {
			fmt.Fprintf(&b, "%d//x ", n)
		}
		return b.String()
	}
	for _, n := range []int{recentEvents - 1, recentEvents, recentEvents + 1, 3*recentEvents/2 + 7} {
		oldest := max(n-recentEvents, 0) + 1 // of those remembered
		if got, want := replayed(t, events(1, n), events(oldest, n+2)), strings.TrimSpace(events(n+1, n+2)); got != want {
			t.Errorf("%d events: %.100q taken over, want %q", n, got, want)
		}
	}
}

// Beyond what is remembered, an event counts as new.
func TestReplayRemembersABoundedNumber(t *testing.T) {
	r := newReplay()
	now := time.Unix(1_700_000_000, 0)
	for n := range 3 * recentEvents {
		r.seen(&sse.Event{ID: fmt.Append(nil, n)}, now)
	}
	if len(r.recent) != recentEvents {
		t.Errorf("%d hashes are kept, want %d", len(r.recent), recentEvents)
	}
	r.open(now)
	if r.seen(&sse.Event{ID: fmt.Append(nil, 2*recentEvents-1)}, now) {
		t.Error("an event that was forgotten is recognised")
	}
	r.open(now)
	if !r.seen(&sse.Event{ID: fmt.Append(nil, 3*recentEvents-1)}, now) {
		t.Error("the newest event is not recognised")
	}
}

// The event's memory is the reader's, which writes over it.
func TestReplayKeepsNothingOfTheEvent(t *testing.T) {
	r := newReplay()
	now := time.Unix(1_700_000_000, 0)
	id := []byte("1")
	for _, text := range []string{"1", "2", "3"} {
		copy(id, text)
		r.seen(&sse.Event{ID: id, Data: []byte("x")}, now)
	}
	r.open(now)
	var taken []bool
	for _, text := range []string{"2", "3", "4"} {
		copy(id, text)
		taken = append(taken, !r.seen(&sse.Event{ID: id, Data: []byte("x")}, now.Add(time.Hour)))
	}
	if !slices.Equal(taken, []bool{false, false, true}) {
		t.Errorf("taken over: %t", taken)
	}
}
