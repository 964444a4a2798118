package ssefanin

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// feed is a mirror under test with its time.
type feed struct {
	*mirror
	now time.Time
}

func newFeed(replicas int) *feed {
	f := &feed{mirror: newMirror(), now: time.Now()}
	for range replicas {
		slot, _ := f.add()
		f.noteUp(slot)
	}
	return f
}

func (f *feed) send(slot int, id, data string) bool {
	ev := &sse.Event{ID: []byte(id), Data: []byte(data), HasID: id != ""}
	return f.first(slot, printOf(ev), ev, f.now)
}

func TestMirrorWindowIsBounded(t *testing.T) {
	f := newFeed(2)
	for i := range 3 * mirrorWindow {
		if !f.send(0, fmt.Sprint(i), "x") {
			t.Fatalf("event %d was taken for an earlier one", i)
		}
	}
	// Two of so many ids have the same hash of 32 bits in one run out of eight.
	prints, ids := make(map[print]bool), make(map[uint32]bool)
	for _, o := range f.window {
		prints[o.print] = true
		if id, ok := o.print.id(); ok {
			ids[id] = true
		}
	}
	if len(f.window) != mirrorWindow || len(f.byHash) != len(prints) || len(f.ids) != len(ids) || len(ids) < mirrorWindow-10 {
		t.Fatalf("%d events, %d hashes of %d and %d ids of %d are remembered, want %d", len(f.window), len(f.byHash), len(prints), len(f.ids), len(ids), mirrorWindow)
	}
	if f.send(1, fmt.Sprint(2*mirrorWindow), "x") {
		t.Error("the oldest event in the window was not recognised")
	}
	if !f.send(1, fmt.Sprint(mirrorWindow-1), "x") {
		t.Error("an event beyond the window was recognised")
	}
	for range 2 * mirrorWindow { // all equal
		f.send(0, "", "tick")
	}
	if len(f.byHash) != 1 || len(f.ids) != 0 {
		t.Errorf("%d hashes and %d ids are remembered of one event without", len(f.byHash), len(f.ids))
	}
}

func TestMirrorResumesElsewhereWhatLeftTheWindow(t *testing.T) {
	f := newFeed(2)
	f.send(0, "0", "x")
	f.send(1, "0", "x")
	for i := range mirrorWindow - 1 {
		f.send(0, fmt.Sprint(i+1), "x")
	}
	if id, ok := f.resumeElsewhere(1); ok {
		t.Errorf("resumed from %s although its last event is in the window", id)
	}
	f.send(0, "newest", "x")
	if id, ok := f.resumeElsewhere(1); !ok || id != "newest" {
		t.Errorf("resumed from %q, %v; want newest", id, ok)
	}
	if _, ok := f.resumeElsewhere(0); ok {
		t.Error("the replica that is up to date is resumed elsewhere")
	}
}

func TestMirrorGivesSlotsOutAgain(t *testing.T) {
	f := newFeed(maxMirrors)
	if _, ok := f.add(); ok {
		t.Fatal("a 65th replica got a slot")
	}
	f.send(7, "1", "tick")
	f.remove(7)
	if slot, ok := f.add(); !ok || slot != 7 {
		t.Fatalf("got slot %d, %v", slot, ok)
	}
	f.noteUp(7)
	if f.send(7, "1", "tick") {
		t.Error("what another replica in the slot has sent counts as sent by this one")
	}
}

// Whatever replicas send the same events in whatever interleaving, each comes
// once and in order.
func TestMirrorKeepsTheOrderOfTheUpstream(t *testing.T) {
	for name, content := range map[string]func(i int) (id, data string){
		"ids":                   func(i int) (string, string) { return fmt.Sprint(i), "x" },
		"distinct data":         func(i int) (string, string) { return "", fmt.Sprint(i) },
		"repeated data":         func(i int) (string, string) { return "", fmt.Sprint(i * i % 7) },
		"one id for everything": func(i int) (string, string) { return "same", fmt.Sprint(i % 3) },
		"some ids": func(i int) (string, string) {
			return fmt.Sprint(i / 4), fmt.Sprint(i % 2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(50) {
				random := rand.New(rand.NewPCG(seed, 1))
				const replicas, events = 4, 500
				f := newFeed(replicas)
				f.now = f.now.Add(time.Minute)
				var at [replicas]int
				var got []int
				for slices.Min(at[:]) < events {
					slot := random.IntN(replicas)
					for range random.IntN(20) {
						if at[slot] == events {
							break
						}
						if id, data := content(at[slot]); f.send(slot, id, data) {
							got = append(got, at[slot])
						}
						at[slot]++
					}
				}
				if len(got) != events || !slices.IsSorted(got) {
					t.Fatalf("seed %d: %d events delivered of %d, in order: %v", seed, len(got), events, slices.IsSorted(got))
				}
			}
		})
	}
}

func mirrorSpec() sourceSpec { return sourceSpec{Policy: policyMirror} }

// What a replica's connection begins with is judged like that of an upstream
// that is alone, against what all replicas have sent. Lines are what happens:
// a replica's number and "open", "cut" or words it sends.
func TestMirrorLinesUp(t *testing.T) {
	for name, tc := range map[string]struct{ story, want string }{
		"what others have sent": {
			`0 open; 0 1 2 3; 1 open; 1 1 2 3 4; 0 4`, "1 2 3 4",
		},
		"the end of it": {
			`0 open; 0 1 2 3; 1 open; 1 2 3 4; 0 4`, "1 2 3 4",
		},
		"nothing of it": {
			`0 open; 0 1 2 3; 1 open; 0 4; 1 4 5; 0 5`, "1 2 3 4 5",
		},
		"its own, after which others have sent more": {
			`0 open; 1 open; 0 1 2; 1 1 2; 1 cut; 0 3 4; 1 open; 1 1 2 5; 0 5`, "1 2 3 4 5",
		},
		"its own, and what others have sent": {
			`0 open; 1 open; 0 1 2; 1 1 2; 1 cut; 0 3 4; 1 open; 1 1 2 3 4 5; 0 5`, "1 2 3 4 5",
		},
		"what others have sent meanwhile": {
			`0 open; 1 open; 0 1 2; 1 1 2; 1 cut; 0 3 4; 1 open; 1 3 4 5; 0 5`, "1 2 3 4 5",
		},
		"a switch, and nobody else is left": {
			`0 open; 0 on off; 0 cut; 1 open; 1 on +1s`, "on off on",
		},
		"a switch, and the other sends it, too": {
			`0 open; 0 on off; 1 open; 1 on; 0 on +1s; 1 off; 0 off`, "on off on off",
		},
		"a switch, and the other has sent it already": {
			`0 open; 0 on off; 1 open; 0 on off; 1 on off`, "on off on off",
		},
		"cut at once, while another is connected": {
			`0 open; 0 1 2; 1 open; 1 1; 1 cut; 0 3`, "1 2 3",
		},
		"cut at once, and nobody else is connected": {
			`0 open; 0 on off; 0 cut; 1 open; 1 on; 1 cut`, "on off on",
		},
		"equal ticks": {
			`0 open; 0 t t t; 1 open; 1 t; 0 t; 1 t; 0 t; 0 cut; 1 t`, "t t t t t t",
		},
		"breaks off, what the other sent since is known": {
			`0 open; 0 1 2 3; 1 open; 1 1; 0 1 9; 1 9`, "1 2 3 1 9",
		},
		"with ids, however late and after others": {
			`0 open; 0 1//a 2//b 3//c; 1 open; 1 x +10s 2//b +10s 3//c 4//d`, "a b c x d",
		},
		"with ids that repeat": {
			`0 open; 0 1//on 1//off; 0 cut; 1 open; 1 x +2s 1//on`, "on off x on",
		},
		"the id in force is not its own": {
			`0 open; 0 7//x tick; 0 cut; 1 open; 1 7//x +1m tick`, "x tick tick",
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			r := newReceiving(t, 2, mirrorSpec())
			for line := range strings.SplitSeq(tc.story, ";") {
				words := strings.Fields(line)
				n := int(words[0][0] - '0')
				switch words[1] {
				case "open":
					r.open(n)
				case "cut":
					r.cut(n)
				default:
					r.send(n, words[1:]...)
				}
			}
			if got := strings.Join(r.got(), " "); got != tc.want {
				t.Errorf("delivered %q, want %q", got, tc.want)
			}
			r.cut(0)
			r.cut(1)
		})
	}
}

// A replica that is behind by more than a second, without ids, is matched over
// its reconnects, whether it misses events meanwhile, gets all of them, or gets
// some again, and however slowly they come.
func TestMirrorReplicaThatLagsReconnects(t *testing.T) {
	for _, interval := range []time.Duration{100 * time.Millisecond, 900 * time.Millisecond, 2500 * time.Millisecond} {
		for _, missed := range []int{-2, 0, 1} {
			inBubble(t, fmt.Sprint(interval, ", missed ", missed), func(t *testing.T) {
				const lag = 7 * time.Second
				r := newReceiving(t, 2, mirrorSpec())
				r.open(0)
				r.open(1)
				const events = 300
				behind := int(lag / interval)
				for i, late := 0, -behind; late < events; i++ {
					if i < events {
						r.send(0, fmt.Sprint(i))
					}
					if late >= 0 {
						r.send(1, fmt.Sprint(late))
					}
					if i%40 == 39 && late > 2 {
						r.cut(1)
						late = min(late+missed, i-1)
						r.open(1)
					}
					late++
					pass(interval)
				}
				if got := r.got(); !slices.Equal(got, numbers(0, events)) {
					t.Errorf("%d events beside those: %q", len(got)-events, got)
				}
				r.cut(0)
				r.cut(1)
			})
		}
	}
}

// Both replicas are cut, the one that lags a while later, within its lag, and
// none resumes. What the first has missed, the other brings, amid what the first
// has brought already.
func TestMirrorReplicaThatLagsBringsWhatOthersMissed(t *testing.T) {
	for _, missed := range []int{1, 3, 10} {
		inBubble(t, fmt.Sprint(missed), func(t *testing.T) {
			const interval, behind, events = 100 * time.Millisecond, 30, 250
			r := newReceiving(t, 2, mirrorSpec())
			up := []bool{true, true}
			r.open(0)
			r.open(1)
			for i := range events + behind {
				for n, cutAt := range []int{100, 115} {
					switch i {
					case cutAt:
						r.cut(n)
						up[n] = false
					case cutAt + missed:
						r.open(n)
						up[n] = true
					}
				}
				if i < events && up[0] {
					r.send(0, fmt.Sprint(i))
				}
				if late := i - behind; late >= 0 && up[1] {
					r.send(1, fmt.Sprint(late))
				}
				pass(interval)
			}
			r.cut(0)
			r.cut(1)
			times := make(map[string]int)
			for _, word := range r.got() {
				times[word]++
			}
			for _, word := range numbers(0, events) {
				if times[word] != 1 {
					t.Errorf("%s came %d times", word, times[word])
				}
			}
		})
	}
}

// A replica that lags from the start brings events from before the others' first,
// and its lag is known all the same. Both are cut now and then, and resume
// nothing.
func TestMirrorReplicaThatLagsFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval, behind, begin, events, down = 50 * time.Millisecond, 60, 1000, 600, 3
		r := newReceiving(t, 2, mirrorSpec())
		r.open(0)
		r.open(1)
		sent := make(map[string]bool)
		for i := range events {
			for n, period := range []int{64, 84} {
				switch i % period {
				case period - down:
					r.cut(n)
				case 0:
					if i > 0 {
						r.open(n)
					}
				}
				if i%period < period-down {
					word := fmt.Sprint(begin + i - n*behind)
					sent[word] = true
					r.send(n, word)
				}
			}
			pass(interval)
		}
		if got := r.got(); len(got) != len(sent) {
			t.Errorf("%d events were delivered, and %d sent", len(got), len(sent))
		}
		r.cut(0)
		r.cut(1)
	})
}

// A replica that comes, or comes back, while equal events do, and replays
// nothing, is in step with the others all the same: when they die, none of its
// events is taken for an old one.
func TestMirrorReplicaComesBetweenRepeatedData(t *testing.T) {
	for name, before := range map[string]int{"the first time": 0, "again": 20} {
		inBubble(t, name, func(t *testing.T) {
			r := newReceiving(t, 2, mirrorSpec())
			r.open(0)
			r.open(1)
			for i := range 50 {
				pass(100 * time.Millisecond)
				r.send(0, "tick")
				if i < before {
					r.send(1, "tick")
				}
			}
			r.cut(1)
			r.open(1)
			r.got()
			for i := range 20 {
				pass(100 * time.Millisecond)
				r.send(i%2, "tick")
				r.send(1-i%2, "tick")
			}
			if n := len(r.got()); n != 20 {
				t.Errorf("%d events were delivered of 20 that both sent", n)
			}
			for range 20 { // 0 is away for good
				pass(100 * time.Millisecond)
				r.send(1, "tick")
			}
			if n := len(r.got()); n != 20 {
				t.Errorf("%d events were delivered of 20 that the only one left sent", n)
			}
			r.cut(0)
			r.cut(1)
		})
	}
}

// The lag of a replica that stood still for long is forgotten when it is in
// step again, and it never counts for more than a minute.
func TestMirrorForgetsALag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiving(t, 2, mirrorSpec())
		r.open(0)
		r.open(1)
		r.send(0, "0")
		pass(time.Hour)
		r.send(1, "0")
		m := r.s.intake.mirror
		if behind := m.noteUp(1); behind != maxBehind {
			t.Errorf("it counts as %s behind", behind)
		}
		for _, word := range numbers(1, 200) {
			r.send(0, word)
			r.send(1, word)
		}
		if behind := m.noteUp(1); behind > time.Millisecond {
			t.Errorf("it counts as %s behind", behind)
		}
	})
}
