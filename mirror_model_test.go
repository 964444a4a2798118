package ssefanin

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// modelReplica sends the events of a mirrored upstream, some time after they
// happened.
type modelReplica struct {
	lag    int // in events
	at     int // the next event to send
	up     bool
	sent   int // without what it has sent before
	newest int // it has sent what is below
}

// Random replicas that lag, are cut, miss events or replay some: nothing is
// lost, and where the events differ, nothing comes twice.
func TestMirrorModel(t *testing.T) {
	eachSeed(t, func(t *testing.T, random *rand.Rand) {
		replicas := make([]*modelReplica, 2+random.IntN(2))
		r := newReceiving(t, len(replicas), mirrorSpec())
		inStep := true
		for i := range replicas {
			replicas[i] = &modelReplica{up: true, lag: []int{0, 0, 1, 5, 12}[random.IntN(5)]}
			r.open(i)
			inStep = inStep && replicas[i].lag == 0
		}
		// where one is steady and in step, the lag of the others stays known
		steady := random.IntN(2) == 0
		if steady {
			replicas[0].lag = 0
		}
		interval := []time.Duration{20 * time.Millisecond, 300 * time.Millisecond, 800 * time.Millisecond, 3 * time.Second}[random.IntN(4)]
		content, ids, misses := random.IntN(2), random.IntN(3) == 0, random.IntN(2) == 0
		word := func(n int) string {
			data := fmt.Sprint("e", n)
			if content == 1 {
				data = "tick"
			}
			if ids {
				return fmt.Sprint(n, "//", data)
			}
			return data
		}
		const events = 120
		union := make(map[int]bool)
		var story []string
		for now := range events + 20 {
			for i := range replicas {
				rep := replicas[i]
				// A replica is cut between runs: what is held of it then may come
				// again. And before it has sent anything, its lag is unknown.
				held := len(r.runners[i].leading.held.events) > 0
				if rep.up && !held && now >= 30 && (i > 0 || !steady) && random.IntN(25) == 0 {
					r.cut(i)
					rep.up = false
					story = append(story, fmt.Sprintf("%d cut at %d", i, now))
				}
				if !rep.up && random.IntN(3) == 0 {
					rep.up = true
					r.open(i)
					due := max(min(now-rep.lag, events), 0)
					switch random.IntN(3) {
					case 0: // what it missed is gone
						if misses {
							rep.at = max(rep.at, due)
						}
					case 1: // it goes on
					case 2: // it sends some again; ticks again are more ticks
						if content == 0 {
							rep.at -= random.IntN(rep.at + 1)
						}
					}
					story = append(story, fmt.Sprintf("%d opens at %d with %d", i, now, rep.at))
				}
				for rep.up && rep.at <= now-rep.lag && rep.at < events {
					r.send(i, word(rep.at))
					union[rep.at] = true
					if rep.at >= rep.newest {
						rep.sent, rep.newest = rep.sent+1, rep.at+1
					}
					rep.at++
				}
			}
			pass(interval)
		}
		pass(time.Minute + 2*time.Second)
		for i := range replicas {
			r.cut(i)
		}
		got := r.got()
		if content == 1 {
			for i, rep := range replicas {
				if !ids && len(got) < rep.sent-1 || ids && len(got) != len(union) {
					t.Errorf("%q\n%d events were delivered of %d, %d of them sent by %d", story, len(got), len(union), rep.sent, i)
				}
			}
			return
		}
		seen := make(map[string]int)
		for _, data := range got {
			seen[data]++
		}
		for n := range events {
			times := seen[fmt.Sprint("e", n)]
			if union[n] && times == 0 {
				t.Fatalf("%v, ids %v: %q\nevent %d is lost", interval, ids, story, n)
			}
			// where all have missed an event, a replay with it is of no known stretch
			if times > 1 && !misses && (steady || inStep) {
				for i, rep := range replicas {
					story = append(story, fmt.Sprintf("%d lags by %d", i, rep.lag))
				}
				t.Fatalf("%v, ids %v: %q\nevent %d came %d times: %q", interval, ids, story, n, times, got)
			}
		}
	})
}
