package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	// minTick is how often the origin publishes at most; at a higher rate there
	// are several events at once.
	minTick = 500 * time.Microsecond

	// stallTimeout is how long the clients may keep a windowed origin waiting.
	stallTimeout = 10 * time.Second
)

// originConfig describes an origin.
type originConfig struct {
	Sources int
	Payload int // bytes of an event's data
}

// originStarted is where an origin is.
type originStarted struct {
	URL      string // of its sources, see sourceURL
	Progress string // address that takes the clients' progress
}

// sourceURL returns the URL of one source's stream.
func sourceURL(origin string, source int) string { return origin + sourcePath(source) }

func sourcePath(source int) string { return "/events?source=" + strconv.Itoa(source) }

// sourceURLs returns the URLs of the first n sources.
func sourceURLs(origin string, n int) []string {
	urls := make([]string, n)
	for i := range urls {
		urls[i] = sourceURL(origin, i)
	}
	return urls
}

// publishConfig says what to publish.
type publishConfig struct {
	// Events per second, of all sources together, evenly spread. 0 is as fast
	// as possible.
	Rate float64

	// It ends after so long or so many events, whichever is given.
	Duration time.Duration
	Count    uint64

	// At most so many events are published that not all clients have. 0 is no
	// bound. With one source only.
	Window uint64
}

// published is what was published.
type published struct {
	Sent    []uint64      // by source
	MaxLag  time.Duration // behind the schedule, at worst
	Stalled bool          // the clients' progress stopped
}

// origin publishes numbered events from any number of sources.
type origin struct {
	cfg      originConfig
	sources  []*fanout
	sent     []uint64 // by source; the publisher's
	next     int      // source of the next event; the publisher's
	scratch  []byte   // the publisher's
	progress atomic.Uint64
	advanced chan struct{} // capacity 1: progress has changed
	done     chan published
}

// originRole serves events. Commands: start, connections, publish, and wait
// for its end.
func originRole(c *commands) error {
	o := &origin{
		advanced: make(chan struct{}, 1), // a token: look again
		done:     make(chan published, 1),
	}
	handle(c, "start", o.start)
	handle(c, "connections", func(none) (int, error) {
		n := 0
		for _, f := range o.sources {
			n += f.connections()
		}
		return n, nil
	})
	handle(c, "publish", func(cfg publishConfig) (none, error) {
		if cfg.Window > 0 && len(o.sources) != 1 {
			return none{}, errors.New("a window needs exactly one source")
		}
		go o.publish(cfg)
		return none{}, nil
	})
	handle(c, "wait", func(none) (published, error) { return <-o.done, nil })
	return c.serve()
}

func (o *origin) start(cfg originConfig) (originStarted, error) {
	o.cfg = cfg
	o.sent = make([]uint64, cfg.Sources)
	for range cfg.Sources {
		o.sources = append(o.sources, newFanout(true))
	}
	events, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return originStarted{}, fmt.Errorf("listening: %w", err)
	}
	progress, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return originStarted{}, fmt.Errorf("listening: %w", err)
	}
	go serveFanout(events, o.choose)
	go o.acceptProgress(progress)
	return originStarted{URL: "http://" + events.Addr().String(), Progress: progress.Addr().String()}, nil
}

func (o *origin) choose(r *http.Request) *fanout {
	source, err := strconv.Atoi(r.URL.Query().Get("source"))
	if err != nil || source < 0 || source >= len(o.sources) {
		return nil
	}
	return o.sources[source]
}

// acceptProgress takes the clients' progress from load processes: 8 bytes each
// time, the highest number up to which all clients have all events. It lives
// as long as the process.
func (o *origin) acceptProgress(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go o.readProgress(conn)
	}
}

// readProgress ends with its connection; acceptProgress starts it.
func (o *origin) readProgress(conn net.Conn) {
	defer conn.Close()
	var p [8]byte
	for {
		if _, err := io.ReadFull(conn, p[:]); err != nil {
			return
		}
		if seq := binary.BigEndian.Uint64(p[:]); seq > o.progress.Load() {
			o.progress.Store(seq)
			select {
			case o.advanced <- struct{}{}:
			default: // one is pending
			}
		}
	}
}

// publish publishes until the configured end and reports to done. The command
// starts it.
func (o *origin) publish(cfg publishConfig) {
	var (
		result   published
		start    = time.Now()
		total    uint64 // events so far
		schedule = start
		interval time.Duration // 0: no schedule
	)
	if cfg.Rate > 0 {
		interval = time.Duration(float64(time.Second) / cfg.Rate)
	}
	for !result.Stalled {
		now := time.Now()
		if cfg.Count > 0 && total >= cfg.Count || cfg.Duration > 0 && now.Sub(start) >= cfg.Duration {
			break
		}
		due := uint64(1)
		switch {
		case cfg.Window > 0:
			if result.Stalled = !o.waitForRoom(total, cfg.Window); result.Stalled {
				continue
			}
			if interval > 0 {
				time.Sleep(time.Until(schedule))                       // pacing is what an origin does
				schedule = maxTime(schedule, time.Now()).Add(interval) // no burst after a wait
			}
		case interval > 0:
			due = uint64(now.Sub(start).Seconds()*cfg.Rate) + 1
			if due <= total {
				next := start.Add(time.Duration(float64(total) / cfg.Rate * float64(time.Second)))
				time.Sleep(max(time.Until(next), minTick)) // as above
				continue
			}
			due -= total
			result.MaxLag = max(result.MaxLag, now.Sub(start)-time.Duration(float64(total)/cfg.Rate*float64(time.Second)))
		}
		if cfg.Count > 0 {
			due = min(due, cfg.Count-total)
		}
		for range due {
			o.publishOne()
		}
		total += due
	}
	result.Sent = o.sent
	o.done <- result
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// publishOne publishes an event of the next source in turn.
func (o *origin) publishOne() {
	source := o.next
	o.next = (o.next + 1) % len(o.sources)
	o.sent[source]++
	o.scratch = appendEvent(o.scratch[:0], source, o.sent[source], time.Now(), o.cfg.Payload)
	o.sources[source].publish(o.scratch)
}

// waitForRoom waits until fewer than window of the events published so far are
// outstanding; it is false when the clients make no progress.
func (o *origin) waitForRoom(total, window uint64) bool {
	if total < o.progress.Load()+window {
		return true
	}
	stalled := time.NewTimer(stallTimeout)
	defer stalled.Stop()
	for total >= o.progress.Load()+window {
		select {
		case <-o.advanced:
		case <-stalled.C:
			return false
		}
	}
	return true
}
