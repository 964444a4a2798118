package ssefanin

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestReplayIsRecognised(t *testing.T) {
	ticks := strings.Repeat("tick +200ms ", 9)
	for name, tc := range map[string]struct{ connections, want string }{
		// without ids: by lining up with the end of what was seen
		"a switch":                {"on off | on", "on"},
		"with a hole":             {"a b c | a c", "a c"},
		"two places":              {"ring x ring | ring", "ring"},
		"two places, one goes on": {"ring x ring | ring x ring y", "y"},
		"two places, none does":   {"ring x ring | ring y", "ring y"},
		"all":                     {"1 2 3 | 1 2 3 4", "4"},
		"the last ones":           {"1 2 3 | 2 3 4", "4"},
		"the last one":            {"x 3 | 3", ""},
		"nothing":                 {"1 2 3 | 4 5", "4 5"},
		"in another order":        {"1 2 3 | 2 1 3", "2 1 3"},
		"breaks off":              {"1 2 3 | 1 2 4 3", "1 2 4 3"},
		"twice":                   {"1 2 3 | 1 2 3 1 2 3", "1 2 3"},
		"equal, one":              {"a a | a", "a"},
		"equal, all of them":      {"a a | a a", "a a"},
		"equal, more of them":     {"a a | a a a", "a a a"},
		"equal at the end":        {"x a a | a a", "a a"},
		"equal, and all before":   {"x a a | x a a b", "b"},
		"in turn, some":           {"a b a b | a b", "a b"},
		"in turn, all":            {"a b a b | a b a b", "a b a b"},
		"in turn, and one before": {"x a b a b | x a b a b c", "c"},
		"ticks":                   {ticks + "|" + ticks, strings.TrimSpace(strings.Repeat("tick ", 9))},
		"other type":              {"/t/a | /u/a", "a"},
		"a third connection":      {"1 2 | 1 2 3 | 1 2 3 4", "4"},
		"an empty connection":     {"1 2 | | 1 2 3", "3"},

		// a replay that breaks off is delivered, but the next one is known
		"cut in the replay":          {"1 2 3 4 | 1 2 | 1 2 3 4 5", "5"},
		"and it was new":             {"1 2 3 4 | 1 2 | 1 2 3 4 1 2 5", "5"},
		"and the next knows both":    {"1 2 3 4 | 1 2 | 1 2 3 4 5 | 1 2 3 4 5 6", "6"},
		"cut twice":                  {"1 2 3 4 | 1 2 | 1 2 3 | 1 2 3 4 5", "5"},
		"nothing after the cut":      {"1 2 3 4 | 1 2 | 5", "5"},
		"it is no repeat of the cut": {"on off | on | on", "on"},

		// time
		"a pause":              {"1 2 3 | 1 +1001ms 2 3 4", "1 2 3 4"},
		"short pauses":         {"1 2 3 | 1 +900ms 2 +900ms 3 +900ms 4", "4"},
		"nothing comes":        {"1 2 3 | 1 2", "1 2"},
		"late":                 {"tick | +1s tick", "tick"},
		"later":                {"1 2 3 | +2s 3 4", "3 4"},
		"after what it knows":  {"7//x tick | 7//x +1s tick", "tick"},
		"a tick minutes later": {"7//x tick | 7//x +5m tick +5m tick", "tick tick"},

		// ids
		"ids":                 {"1//a 2//b 3//c | 1//a 2//b 3//c 4//d", "d"},
		"ids, some":           {"1//a 2//b 3//c | 2//b 4//d", "d"},
		"ids, at any time":    {"1//a 2//b | +1h 1//a +1h 2//b +1h 3//c", "c"},
		"ids, in any order":   {"1//a 2//b | 2//b 1//a 3//c", "c"},
		"ids, twice":          {"1//a 2//b | 1//a 1//a", "a"},
		"ids, until it ends":  {"1//a 2//b | 1//a 3//c 2//b 1//a", "c b a"},
		"ids, other data":     {"1//a 2//b | 1//x 2//b", "x b"},
		"ids, other type":     {"1/t/a | 1/u/a", "a"},
		"other ids":           {"1//a | 2//a", "a"},
		"one id for all":      {"1//a 1//b | 1//a 1//b 1//c", "c"},
		"one id, a switch":    {"1//on 1//off | 1//on", "on"},
		"one id, equal":       {"1//a 1//a | 1//a", "a"},
		"an id comes again":   {"1//a 2//b 1//c | 1//a 2//b", "a"},
		"id or none":          {"a | 1//a", "a"},
		"none or id":          {"1//a | a", "a"},
		"the id in force":     {"7//x a b c | a b c d", "d"},
		"the id in force, on": {"7//x on off | on", "on"},
		"few ids":             {"1//a b c 2//d e f | 2//d e f g", "g"},
		"few ids, after one":  {"1//a b c 2//d e f | e f g", "g"},
		"few ids, all":        {"a b 2//c d | a b 2//c d e", "e"},
		"a greeting":          {"hello 1//a 2//b | hello 2//b 3//c", "hello c"},
		"another greeting":    {"hello 1//a 2//b | hi 2//b 3//c", "hi b c"},

		// more than was sent the first time
		"from before":               {"3//c 4//d 5//e | 1//a 2//b 3//c 4//d 5//e 6//f", "a b f"},
		"from before, then a pause": {"3//c 4//d | 1//a +1s 3//c 4//d", "a c d"},
		"from before, with a hole":  {"3//c 4//d 5//e | 1//a 4//d 5//e", "a d e"},
		"from before, in two ways":  {"3//c 4//d | 1//a 3//x 4//d", "a x d"},
		"from before, one id":       {"1//c 1//d | 2//a 1//c 1//d", "a c d"},
		"from before, few ids":      {"c 4//d | 1//a c 4//d", "a c d"},
		"from before, and again":    {"3//c 4//d | 2//b 3//c 4//d 5//e | 3//c 4//d 5//e 6//f", "f"},
		"from before, once":         {"3//c | 2//b 3//c 3//c", "b c"},

		"parts of each other": {"1/ab/c | 1/a/bc", "bc"},
		"id or type":          {"a//x | /a/x", "x"},
		"type or data":        {"/a/b | /b/a", "a"},
	} {
		inBubble(t, name, func(t *testing.T) {
			r := newReceiving(t, 1, sourceSpec{})
			if got := r.history(tc.connections); got != tc.want {
				t.Errorf("%s: delivered %q, want %q", tc.connections, got, tc.want)
			}
		})
	}
}

func TestResumeOffRecognisesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiving(t, 1, sourceSpec{Resume: resumeOff})
		if got := r.history("1//a 2//b | 1//a 2//b | 1//a 2//b x"); got != "a b x" {
			t.Errorf("delivered %q", got)
		}
	})
}

// What is held is delivered after a second, or at once when the connection or
// the stream's use of the source ends, with its own arrival and id.
func TestHeldEventsAreDelivered(t *testing.T) {
	for name, tc := range map[string]struct {
		release func(r *receiving)
		after   time.Duration
	}{
		"silence":      {func(*receiving) { pass(time.Second) }, time.Second},
		"the end":      {func(r *receiving) { r.cut(0) }, 0},
		"new event":    {func(r *receiving) { r.send(0, "x") }, 0},
		"unsubscribed": {func(r *receiving) { r.s.unsubscribe(r.in.use) }, 0},
	} {
		inBubble(t, name, func(t *testing.T) {
			r := newReceiving(t, 1, sourceSpec{})
			r.open(0)
			r.send(0, "7//a", "b", "c")
			r.cut(0)
			r.open(0)
			r.got()
			r.send(0, "b")
			pass(10 * time.Millisecond)
			if got := r.got(); len(got) > 0 {
				t.Fatalf("%q are not held", got)
			}
			arrived := time.Now().Add(-10 * time.Millisecond)
			tc.release(r)
			if got := r.got(); len(got) == 0 || got[0] != "b" {
				t.Fatalf("got %q, want b", got)
			}
			if name != "new event" {
				if newest := r.in.hub.log.Load().memory.Stats().Newest; !newest.Equal(arrived.Truncate(time.Millisecond)) {
					t.Errorf("it arrived at %s, want %s", newest, arrived)
				}
				if id := string(r.in.use.lastID); id != "7" {
					t.Errorf("its id is %q, want 7", id)
				}
			}
			if n := r.s.counts.duplicates.Load(); n != 0 {
				t.Errorf("%d duplicates were counted", n)
			}
			r.cut(0)
		})
	}
}

func TestDuplicatesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiving(t, 1, sourceSpec{})
		r.history("1 2 3 | 1 2 3 4 | 9//a | 9//a 1 2")
		if n := r.s.counts.duplicates.Load(); n != 4 {
			t.Errorf("%d duplicates, want 4", n)
		}
	})
}

// A stretch that may become a replay for a long while yet does not keep new
// events back.
func TestEventsAreNotHeldForLong(t *testing.T) {
	for name, tc := range map[string]struct {
		before  []string
		again   []string
		longest time.Duration
	}{
		"ticks":                {repeated("ok", 1000), repeated("ok", 100), 0},
		"ticks with a failure": {append(append(repeated("ok", 200), "fail"), repeated("ok", 50)...), repeated("ok", 100), replayPatience},
		"numbers":              {numbers(0, 1000), numbers(0, 900), maxReplay * replayPatience},
	} {
		inBubble(t, name, func(t *testing.T) {
			r := newReceiving(t, 1, sourceSpec{})
			r.open(0)
			r.send(0, tc.before...)
			r.cut(0)
			r.open(0)
			r.got()
			begun, got := time.Now(), 0
			for i, word := range tc.again {
				r.send(0, word)
				pass(500 * time.Millisecond)
				if got += len(r.got()); time.Since(begun) > tc.longest && got < i {
					t.Fatalf("%d of %d events were delivered after %s", got, i, time.Since(begun))
				}
			}
			r.cut(0)
		})
	}
}

func repeated(word string, n int) []string {
	return strings.Fields(strings.Repeat(word+" ", n))
}

func numbers(from, to int) []string {
	var words []string
	for n := from; n < to; n++ {
		words = append(words, fmt.Sprint(n))
	}
	return words
}

// A replay of 10,000 events of 1 KiB is recognised; of one that is larger than
// what may be held nothing is lost.
func TestHeldEventsAreBounded(t *testing.T) {
	for name, tc := range map[string]struct{ events, size, want int }{
		"ordinary":  {10_000, 1 << 10, 1},
		"too large": {1_100, 16 << 10, 1_101},
		"one event": {1, leastHeld + 1, 2},
	} {
		inBubble(t, name, func(t *testing.T) {
			r := newReceiving(t, 1, sourceSpec{MaxEventSize: 1 << 20})
			fill := strings.Repeat("x", tc.size)
			words := numbers(0, tc.events)
			for i := range words {
				words[i] += fill[len(words[i]):]
			}
			if tc.events == 1 {
				words = append(words, "end")
			}
			r.open(0)
			r.send(0, words...)
			r.cut(0)
			r.got()
			r.open(0)
			r.send(0, words[:tc.events]...)
			r.send(0, "new")
			r.cut(0)
			if n := len(r.got()); n != tc.want {
				t.Errorf("%d events were delivered, want %d", n, tc.want)
			}
		})
	}
}

// An upstream that keeps a long history and replays all of it.
func TestLongReplayIsRecognised(t *testing.T) {
	for _, id := range []string{"", "%s//x"} {
		for _, n := range []int{recentEvents - 1, recentEvents, recentEvents + 1, recentEvents + recentSlack, 3*recentEvents + 7} {
			inBubble(t, fmt.Sprint(n, id), func(t *testing.T) {
				words := numbers(0, n)
				if id != "" {
					for i := range words {
						words[i] = fmt.Sprintf(id, words[i])
					}
				}
				r := newReceiving(t, 1, sourceSpec{})
				r.open(0)
				r.send(0, words...)
				r.cut(0)
				r.got()
				r.open(0)
				r.send(0, words[max(n-recentEvents, 0):]...)
				r.send(0, "new")
				if got := r.got(); len(got) != 1 {
					t.Errorf("%d events were delivered, want 1", len(got))
				}
				r.cut(0)
				if len(r.runners[0].recents.prints) > recentEvents+recentSlack {
					t.Errorf("%d events are remembered", len(r.runners[0].recents.prints))
				}
			})
		}
	}
}
