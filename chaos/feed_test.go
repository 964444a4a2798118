package chaos

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// class is what an origin can do for somebody who comes back.
type class int

const (
	resumes    class = iota // ids, and everything after the last one
	replaysAll              // ids, and everything there ever was
	liveOnly                // ids that it takes no notice of
	idless                  // no ids, nothing again
	idlessAll               // no ids, everything there ever was
)

func (c class) String() string {
	return [...]string{"resumes", "replays all", "live only", "no ids", "no ids, replays all"}[c]
}

// history is how many events the origins keep: more than a round has, and less
// than the module remembers of an upstream.
const history = 16_000

// eventTypes are the types of a feed's events, in turn.
var eventTypes = []string{"", "price", "alert"}

// feed is one content: numbered events, sent by one origin, or by several that
// are replicas of each other.
type feed struct {
	name     string
	class    class
	pad      string
	troubled atomic.Bool // something happened to its origins
	perTick  int         // events each tick
	overlap  int
	http2    bool // the origins speak it, too
	replicas []*ssetest.Origin

	mu sync.Mutex // protects n
	n  uint64

	quit    chan struct{}
	running sync.WaitGroup
}

const feedTick = 100 * time.Millisecond

func newFeed(rnd *rand.Rand, name string, replicas int) (*feed, error) {
	f := &feed{
		name:    name,
		class:   pick(rnd, resumes, resumes, resumes, replaysAll, liveOnly, idless, idlessAll),
		pad:     strings.Repeat("x", pick(rnd, 0, 100, 1000, 4000)),
		perTick: 1 + rnd.IntN(6),
		http2:   chance(rnd, 4),
		quit:    make(chan struct{}),
	}
	if replicas > 1 && rnd.IntN(3) > 0 {
		f.class = resumes
	}
	if f.class == resumes && chance(rnd, 3) {
		f.overlap = 1 + rnd.IntN(20)
	}
	for range replicas {
		cfg := ssetest.OriginConfig{
			Source:  name,
			History: history,
			Framing: ssetest.Framing(rnd.IntN(2)),
			Newline: pick(rnd, "\n", "\r\n", "\r"),
			HTTP2:   f.http2,
		}
		if chance(rnd, 3) {
			cfg.Split = 1 + rnd.IntN(3000)
		}
		o, err := ssetest.NewOrigin(cfg)
		if err != nil {
			f.close()
			return nil, err
		}
		f.replicas = append(f.replicas, o)
	}
	f.heal()
	f.running.Add(1)
	go f.emit()
	return f, nil
}

// heal takes every fault back.
func (f *feed) heal() {
	for _, o := range f.replicas {
		_ = o.Start()
		o.Clear()
		o.Stall(false)
		o.CutEvery(0)
		switch f.class {
		case resumes:
			o.SetResume(ssetest.Honour)
			o.SetOverlap(f.overlap)
		case replaysAll, idlessAll:
			o.SetResume(ssetest.ReplayAll)
		default:
			o.SetResume(ssetest.LiveOnly)
		}
		if f.class == idless || f.class == idlessAll {
			o.SetIDs(func(uint64) string { return "" })
		}
	}
}

// emit sends the feed's events at its rate until close, which waits for it.
func (f *feed) emit() {
	defer f.running.Done()
	ticker := time.NewTicker(feedTick)
	defer ticker.Stop()
	for {
		select {
		case <-f.quit:
			return
		case <-ticker.C:
			f.mu.Lock()
			f.sendLocked(f.perTick)
			f.mu.Unlock()
		}
	}
}

// burst sends k events at once.
func (f *feed) burst(k int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sendLocked(k)
}

func (f *feed) sendLocked(k int) {
	for range k {
		f.n++
		data := fmt.Sprintf(`{"source":"%s","n":%d,"pad":"%s"}`, f.name, f.n, f.pad)
		for _, o := range f.replicas {
			o.Emit(typeOf(f.n), data)
		}
	}
}

// typeOf is the type of event n; "" is an unnamed event.
func typeOf(n uint64) string { return eventTypes[n%uint64(len(eventTypes))] }

func (f *feed) last() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

func (f *feed) close() {
	close(f.quit)
	f.running.Wait()
	for _, o := range f.replicas {
		o.Close()
	}
}

func (f *feed) String() string {
	return fmt.Sprintf("%s (%s, overlap %d, %d replicas, pad %d, %d/s)", f.name, f.class, f.overlap,
		len(f.replicas), len(f.pad), f.perTick*int(time.Second/feedTick))
}

// misbehave does something to one of the feed's origins, and returns what.
func (f *feed) misbehave(rnd *rand.Rand) string {
	f.troubled.Store(true)
	i := rnd.IntN(len(f.replicas))
	o := f.replicas[i]
	answer := func(status int, header http.Header) string {
		times := 1 + rnd.IntN(3)
		o.Inject(ssetest.Fault{Kind: ssetest.Respond, Times: times, Status: status, Header: header})
		o.CutConnections()
		return fmt.Sprintf("answers %d, %d times", status, times)
	}
	next := func(kind ssetest.FaultKind, what string) string {
		o.Inject(ssetest.Fault{Kind: kind, Times: 1 + rnd.IntN(3)})
		o.CutConnections()
		return what
	}
	var what string
	switch rnd.IntN(14) {
	case 0:
		o.Stop()
		what = "is killed"
	case 1, 2:
		_ = o.Start()
		what = "is started"
	case 3:
		o.Stall(true)
		what = "stalls"
	case 4, 5:
		o.Stall(false)
		what = "goes on"
	case 6:
		n := uint64(20 + rnd.IntN(200))
		o.CutEvery(n)
		what = fmt.Sprintf("cuts every %d events", n)
	case 7:
		o.CutConnections()
		what = "cuts its connections"
	case 8:
		o.EndConnections()
		what = "ends its connections"
	case 9:
		what = answer(http.StatusServiceUnavailable, http.Header{"Retry-After": {"1"}})
	case 10:
		what = answer(pick(rnd, 404, 204, 500, 429, 200), nil)
	case 11:
		what = next(ssetest.EndAtOnce, "ends after the replay")
	case 12:
		what = next(ssetest.Drop, "drops requests")
	default:
		what = next(ssetest.CloseOnAccept, "closes what it accepts")
	}
	return fmt.Sprintf("origin %s/%d %s", f.name, i, what)
}

// disturbed reports whether a replay of the feed's may have been cut short, or
// come late, so that nobody could know it for one.
func (f *feed) disturbed() bool { return f.troubled.Load() }
