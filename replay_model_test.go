package ssefanin

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	modelSeed  = flag.Uint64("model.seed", 0, "the one `seed` of the model tests of replays to run; 0: those from 1 on")
	modelSeeds = flag.Uint64("model.seeds", 300, "how many seeds to run")
)

// eachSeed runs a model test with its seeds, each under a synthetic clock.
func eachSeed(t *testing.T, f func(t *testing.T, random *rand.Rand)) {
	first, last := uint64(1), *modelSeeds
	if *modelSeed > 0 {
		first, last = *modelSeed, *modelSeed
	}
	for seed := first; seed <= last && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) {
			f(t, rand.New(rand.NewPCG(seed, 12)))
		})
		if t.Failed() {
			t.Logf("seed %d; once more: go test -run %s . -model.seed %d", seed, t.Name(), seed)
		}
	}
}

// server is an upstream under test: what it has ever sent, as words of
// receiving.send.
type server struct {
	random  *rand.Rand
	content int // data: 0 distinct, 1 all equal, else of so many kinds
	ids     int // 0 none, 1 distinct, 2 one for all, 3 now and then, 4 of few kinds
	history []string
}

func newServer(random *rand.Rand) *server {
	return &server{random: random, content: []int{0, 0, 1, 2, 3, 5}[random.IntN(6)], ids: []int{0, 0, 0, 1, 2, 3, 4}[random.IntN(7)]}
}

// emit makes a new event.
func (s *server) emit() string {
	n := len(s.history)
	data := fmt.Sprint("e", n)
	if s.content > 0 {
		data = string(rune('a' + s.random.IntN(s.content)))
	}
	id := ""
	switch {
	case s.ids == 1, s.ids == 3 && s.random.IntN(4) == 0:
		id = fmt.Sprint(n)
	case s.ids == 2:
		id = "same"
	case s.ids == 4:
		id = fmt.Sprint("k", s.random.IntN(4))
	}
	word := id + "//" + data
	s.history = append(s.history, word)
	return word
}

// replay is what a connection begins with. proper is false where it is not the
// end of the server's history, or nothing.
func (s *server) replay() (words []string, proper bool) {
	n := len(s.history)
	switch s.random.IntN(6) {
	case 0, 1:
		return slices.Clone(s.history), true
	case 2, 3:
		return slices.Clone(s.history[s.random.IntN(n+1):]), true
	case 4: // other things, in any order
		for range s.random.IntN(5) {
			if n > 0 {
				words = append(words, s.history[s.random.IntN(n)])
			}
		}
		return words, false
	default:
		return nil, true
	}
}

// oracle decides by the rule as it is written, trying all places out.
type oracle struct {
	seen      []string
	undecided int
	repeats   bool

	leading, lining bool
	line            []string // seen when the connection began
	ends            []int
	older           bool // the connection has brought new events only, which may be older than line
	used            map[string]bool
	run             []string
	first, next     int // of the run where it is sure
	sure            bool
	held            []string
	since           time.Duration
	idle            time.Duration
	delivered       []string
	dropped         int
}

func ownID(word string) string { id, _, _ := strings.Cut(word, "/"); return id }

func (o *oracle) open() {
	o.line = slices.Clone(o.seen)
	o.ends = []int{len(o.seen)}
	if o.undecided > 0 && o.undecided < len(o.seen) {
		o.ends = []int{len(o.seen) - o.undecided, len(o.seen)}
	}
	o.leading, o.lining, o.sure, o.older = true, true, false, false
	o.used, o.run, o.held = make(map[string]bool), nil, nil
	o.idle, o.since = 0, 0
}

// fits reports whether the stretch occurs once and does not repeat itself.
func (o *oracle) fits(from, to int) bool {
	stretch, n := o.line[from:to], 0
	for i := 0; i+len(stretch) <= len(o.line); i++ {
		if slices.Equal(o.line[i:i+len(stretch)], stretch) {
			n++
		}
	}
	for period := 1; 2*period <= len(stretch); period++ {
		if slices.Equal(stretch[period:], stretch[:len(stretch)-period]) {
			return false
		}
	}
	return n == 1
}

// places are the stretches where the run lies, and may come to an end.
func (o *oracle) places() (firsts []int, reached int) {
	reached = -1
	for first := range o.line {
		next := first + len(o.run)
		switch {
		case o.sure && first != o.first:
			continue
		case o.sure:
			next = o.next
		case next > len(o.line) || !slices.Equal(o.line[first:next], o.run):
			continue
		}
		promises := false
		for _, end := range o.ends {
			if end >= next && (o.sure || o.fits(first, end)) {
				promises = true
				if end == next {
					reached, o.first, o.next = end, first, end
				}
			}
		}
		if promises {
			firsts = append(firsts, first)
		}
	}
	return firsts, reached
}

func (o *oracle) truncate() {
	if o.repeats {
		o.seen = o.seen[:len(o.seen)-o.undecided]
		o.undecided, o.repeats = 0, false
	}
}

func (o *oracle) release() {
	for _, word := range o.held {
		o.truncate()
		o.undecided++
		o.seen = append(o.seen, word)
		o.delivered = append(o.delivered, word)
	}
	o.held = nil
}

func (o *oracle) pause(d time.Duration) {
	o.idle += d
	o.since += d
	if !o.leading || !o.lining {
		return
	}
	firsts, _ := o.places()
	if o.idle >= time.Second || len(o.held) > 0 && len(firsts) > 1 && o.since >= time.Second {
		o.release()
		o.lining = false
	}
}

func (o *oracle) receive(word string) {
	o.idle = 0
	deliver := func() {
		o.release()
		o.truncate()
		o.undecided, o.leading = 0, false
		o.seen = append(o.seen, word)
		o.delivered = append(o.delivered, word)
	}
	if !o.leading {
		deliver()
		return
	}
	occurs := func(id string) (n, at int) {
		for i, before := range o.line {
			if ownID(before) == id {
				n, at = n+1, i
			}
		}
		return n, at
	}
	if o.older && (!o.lining || word != o.line[0]) {
		deliver()
		o.leading = o.lining
		return
	}
	begins := len(o.used) == 0 && len(o.run) == 0 && !o.older
	o.older = false
	if id := ownID(word); id != "" && !o.used[id] {
		if n, at := occurs(id); n == 1 && o.line[at] == word {
			o.used[id] = true
			o.receiveKnown(at)
			return
		}
	}
	if !o.lining {
		deliver()
		return
	}
	if o.sure {
		if o.next == len(o.line) || o.line[o.next] != word {
			deliver()
			return
		}
		o.next++
	}
	o.run = append(o.run, word)
	firsts, reached := o.places()
	switch {
	case len(firsts) == 0:
		deliver()
		if begins && ownID(word) != "" && len(o.line) > 0 && ownID(o.line[0]) != "" {
			n, _ := occurs(ownID(o.line[0]))
			o.older = n == 1
		}
		if o.older {
			o.leading, o.run = true, nil
		}
	case reached >= 0:
		o.reach(reached)
	default:
		if len(o.held) == 0 {
			o.since = 0
		}
		o.held = append(o.held, word)
	}
}

func (o *oracle) reach(end int) {
	o.dropped += len(o.held) + 1
	o.held, o.sure = nil, true
	if end == len(o.line) {
		o.undecided = 0
	}
	o.repeats = o.undecided > 0
}

func (o *oracle) receiveKnown(at int) {
	follows := false
	if o.lining {
		for first := range o.line {
			switch {
			case o.sure && first == o.first && o.next == at:
			case !o.sure && len(o.run) > 0 && first+len(o.run) == at && slices.Equal(o.line[first:at], o.run) &&
				slices.ContainsFunc(o.ends, func(end int) bool { return end >= at && o.fits(first, end) }):
			default:
				continue
			}
			follows = true
			o.first = first
		}
	}
	if !follows {
		o.release()
		o.first = at
	}
	if o.lining {
		o.sure, o.next = true, at+1
		if follows && slices.Contains(o.ends, at+1) {
			o.reach(at + 1)
			return
		}
	}
	o.dropped++
}

// Random upstreams, connections and cuts, against the rule tried out place by
// place, and against what must hold whatever the rule is.
func TestReplayModel(t *testing.T) {
	eachSeed(t, func(t *testing.T, random *rand.Rand) {
		s, o := newServer(random), new(oracle)
		r := newReceiving(t, 1, sourceSpec{})
		var script []string
		sent, heard, clean := 0, 0, true // heard: how much of the history was sent
		for range 2 + random.IntN(5) {
			r.open(0)
			o.open()
			words, proper := s.replay()
			replayed := len(words)
			from := len(s.history) - replayed
			clean = clean && proper && from <= heard
			for range random.IntN(7) {
				words = append(words, s.emit())
			}
			if cut := random.IntN(3*len(words) + 1); cut < len(words) {
				words = words[:cut]
				clean = clean && cut >= replayed
			}
			heard = max(heard, from+len(words))
			slow := random.IntN(4) == 0
			for i, word := range words {
				if slow && random.IntN(2) == 0 {
					pause := []string{"+300ms", "+700ms", "+1500ms"}[random.IntN(3)]
					script = append(script, pause)
					r.send(0, pause)
					d, _ := time.ParseDuration(pause)
					o.pause(d)
					clean = clean && i > replayed
				}
				script = append(script, word)
				r.send(0, word)
				o.receive(word)
				sent++
			}
			r.cut(0)
			o.release()
			script = append(script, "|")
		}
		got := r.got()
		want := []string{}
		for _, word := range o.delivered {
			want = append(want, word[strings.LastIndex(word, "/")+1:])
		}
		story := strings.Join(script, " ")
		if !slices.Equal(got, want) {
			t.Fatalf("%s\n got %q\nwant %q", story, got, want)
		}
		if n := int(r.s.counts.duplicates.Load()); len(got)+n != sent || n != o.dropped {
			t.Errorf("%s\n%d events were sent, %d delivered, %d dropped", story, sent, len(got), n)
		}
		switch {
		case s.content == 1 && s.ids == 0 && sent != len(got):
			// one event may be the newest again; from two on they all come
			if first := strings.Index(story, "|"); strings.Count(story[:max(first, 0)], "a") != 1 {
				checkTicks(t, story, got, sent)
			}
		case s.content == 0:
			checkDistinct(t, story, got, clean)
		}
	})
}

// checkTicks checks that of equal events all come, but for those while only one
// had been seen.
func checkTicks(t *testing.T, story string, got []string, sent int) {
	t.Helper()
	single := 0
	for connection := range strings.SplitSeq(story, "|") {
		if n := strings.Count(connection, "a"); n > 1 {
			break
		} else if n == 1 {
			single++
		}
	}
	if sent-len(got) > max(single, 1) {
		t.Errorf("%s\n%d ticks of %d were delivered", story, len(got), sent)
	}
}

// checkDistinct checks that of events that all differ none is lost, and, where
// every replay was a whole end of the history, none comes twice or out of order.
func checkDistinct(t *testing.T, story string, got []string, clean bool) {
	t.Helper()
	var want []string
	for word := range strings.FieldsSeq(story) {
		data := word[strings.LastIndex(word, "/")+1:]
		if data[0] == 'e' && !slices.Contains(want, data) {
			want = append(want, data)
		}
	}
	var once []string
	for _, data := range got {
		if !slices.Contains(once, data) {
			once = append(once, data)
		}
	}
	if !slices.Equal(once, want) {
		t.Errorf("%s\n%q are lost or out of order", story, got)
	}
	if clean && len(got) != len(once) {
		t.Errorf("%s\n%q came, some twice that could be known", story, got)
	}
}
