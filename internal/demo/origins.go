package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// Events an origin can replay. The ticker makes about nine a second, so it
	// can be stopped for half an hour and still lose nothing. An event is
	// about 150 bytes: 2.5 MB.
	originRetain = 16384

	// Events written at once while a reader catches up.
	originBatch = 256

	// An idle origin sends a comment this often.
	originKeepAlive = 10 * time.Second

	// A reader that takes nothing for so long is hung up on.
	originWriteTimeout = 10 * time.Second
)

// stamp begins the data of every event, so that a reader can distinguish lost
// and repeated events from other failures on the way.
type stamp struct {
	Source string `json:"source"`
	Run    string `json:"run"` // differs with every start of the process
	Seq    uint64 `json:"seq"` // from 1, rising by 1
	At     int64  `json:"at"`  // Unix milliseconds
}

// A generator returns the data of the next event and the pause until the one
// after it. It is called by one goroutine at a time.
type generator func(stamp) (data any, pause time.Duration)

// Origin is an SSE server that makes events of its own, with ids, and honours
// Last-Event-ID. It makes them whether or not it is listening: what happens
// while it is stopped is there to be asked for when it is started again.
//
// All methods are safe for concurrent use.
type Origin struct {
	name, event, run string
	generate         generator

	// control serialises Start and Stop and is held over their I/O. It
	// protects address, the port of the first Start.
	control sync.Mutex
	address string

	mu      sync.Mutex // protects the fields below
	frames  [][]byte   // encoded events; seq n is at n % originRetain
	head    uint64     // seq of the newest event
	changed chan struct{}
	serving *serving // nil while stopped
	opened  int      // connections since the beginning
}

// NewTicker returns an origin of "price" events: random walks of a few symbols.
func NewTicker() *Origin {
	return newOrigin("ticker", "price", newPrices())
}

// NewBuilds returns an origin of "build" events: the log of a pretend CI.
func NewBuilds() *Origin {
	return newOrigin("builds", "build", newBuildLog())
}

func newOrigin(name, event string, generate generator) *Origin {
	return &Origin{
		name:     name,
		event:    event,
		run:      strconv.FormatUint(uint64(rand.Uint32()), 36),
		generate: generate,
		frames:   make([][]byte, originRetain),
		changed:  make(chan struct{}),
	}
}

// Name returns the origin's name, which is also the source in its events.
func (o *Origin) Name() string { return o.name }

// Address returns the host and port of the first Start, empty before it.
func (o *Origin) Address() string {
	o.control.Lock()
	defer o.control.Unlock()
	return o.address
}

// OriginState is the state that an origin reports.
type OriginState struct {
	Name        string `json:"name"`
	Event       string `json:"event"`
	Address     string `json:"address"`
	Running     bool   `json:"running"`
	Connections int    `json:"connections"` // open now
	Opened      int    `json:"opened"`      // since the beginning
	Seq         uint64 `json:"seq"`         // of the newest event
}

// State returns the origin's state.
func (o *Origin) State() OriginState {
	address := o.Address()
	o.mu.Lock()
	defer o.mu.Unlock()
	s := OriginState{
		Name:    o.name,
		Event:   o.event,
		Address: address,
		Running: o.serving != nil,
		Opened:  o.opened,
		Seq:     o.head,
	}
	if o.serving != nil {
		s.Connections = o.serving.open
	}
	return s
}

// serving is one Start of an origin.
type serving struct {
	origin *Origin
	server *http.Server
	served chan struct{}  // closed when Serve has returned
	conns  sync.WaitGroup // handlers; grows only while origin.serving is this one
	open   int            // the same as a number; protected by origin.mu
}

// StartAt is Start on an address of the caller's choice.
func (o *Origin) StartAt(address string) error {
	o.control.Lock()
	o.address = address
	o.control.Unlock()
	return o.Start()
}

// Start listens on a free port of the loopback interface, at later calls on
// the same one, and serves the events there. An origin that is running is left
// as it is.
func (o *Origin) Start() error {
	o.control.Lock()
	defer o.control.Unlock()
	if o.running() {
		return nil
	}
	address := o.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("starting origin %s: %w", o.name, err)
	}
	o.address = ln.Addr().String()

	s := &serving{origin: o, served: make(chan struct{})}
	s.server = &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second}
	o.mu.Lock()
	o.serving = s
	o.mu.Unlock()
	go s.serve(ln)
	return nil
}

// Stop closes the listener and every connection, and waits until they are
// gone. An origin that is stopped is left as it is.
func (o *Origin) Stop() error {
	o.control.Lock()
	defer o.control.Unlock()
	o.mu.Lock()
	s := o.serving
	o.serving = nil
	o.mu.Unlock()
	if s == nil {
		return nil
	}
	err := s.server.Close()
	<-s.served
	s.conns.Wait()
	if err != nil {
		return fmt.Errorf("stopping origin %s: %w", o.name, err)
	}
	return nil
}

func (o *Origin) running() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.serving != nil
}

// serve accepts connections until the server is closed. Stop waits for it.
func (s *serving) serve(ln net.Listener) {
	defer close(s.served)
	_ = s.server.Serve(ln) // always http.ErrServerClosed once Stop was called
}

// ServeHTTP counts the connection and hands it to the origin.
func (s *serving) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o := s.origin
	o.mu.Lock()
	if o.serving != s {
		o.mu.Unlock()
		panic(http.ErrAbortHandler) // accepted just before Stop
	}
	s.conns.Add(1)
	s.open++
	o.opened++
	o.mu.Unlock()

	defer func() {
		o.mu.Lock()
		s.open--
		o.mu.Unlock()
		s.conns.Done()
	}()
	o.ServeHTTP(w, r)
}

// ServeHTTP streams the origin's events: the ones after Last-Event-ID, or from
// now on without one.
func (o *Origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "GET only", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)

	cursor := o.position(r.Header.Get("Last-Event-ID"))
	rc := http.NewResponseController(w)
	write := func(b []byte) error {
		// a writer without deadlines, as in a test, is fine
		if err := rc.SetWriteDeadline(time.Now().Add(originWriteTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err := w.Write(b); err != nil { //nolint:gosec // an event stream, which no browser takes for HTML
			return err
		}
		return rc.Flush()
	}
	if write([]byte(": "+o.name+"\nretry: 500\n\n")) != nil {
		return
	}

	keepAlive := time.NewTicker(originKeepAlive)
	defer keepAlive.Stop()
	for {
		batch, next, changed := o.after(cursor)
		if len(batch) > 0 {
			if write(batch) != nil {
				return
			}
			cursor = next
			continue
		}
		select {
		case <-r.Context().Done():
			return
		case <-keepAlive.C:
			if write([]byte(": keep-alive\n\n")) != nil {
				return
			}
		case <-changed:
		}
	}
}

// position returns the seq after which a reader with this last event id goes
// on: its own, or the newest when the id is none of this origin's.
func (o *Origin) position(lastEventID string) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	run, number, ok := strings.Cut(lastEventID, "-")
	if !ok || run != o.run {
		return o.head
	}
	seq, err := strconv.ParseUint(number, 10, 64)
	if err != nil || seq > o.head {
		return o.head
	}
	return seq
}

// after returns the next encoded events after cursor and where they end, and a
// channel that is closed when there are more. Events that were overwritten are
// skipped.
func (o *Origin) after(cursor uint64) (batch []byte, next uint64, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.head > originRetain && cursor < o.head-originRetain {
		cursor = o.head - originRetain
	}
	next = min(o.head, cursor+originBatch)
	for seq := cursor + 1; seq <= next; seq++ {
		batch = append(batch, o.frames[seq%originRetain]...)
	}
	return batch, next, o.changed
}

// Produce makes events until ctx ends. It must not be called twice.
func (o *Origin) Produce(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(o.publish(time.Now()))
		}
	}
}

// publish makes one event and returns how long to wait before the next. It
// must not be called by two goroutines at once.
func (o *Origin) publish(now time.Time) time.Duration {
	o.mu.Lock()
	seq := o.head + 1
	o.mu.Unlock()

	data, pause := o.generate(stamp{Source: o.name, Run: o.run, Seq: seq, At: now.UnixMilli()})
	frame := o.encode(seq, data)

	o.mu.Lock()
	o.frames[seq%originRetain] = frame
	o.head = seq
	close(o.changed)
	o.changed = make(chan struct{})
	o.mu.Unlock()
	return pause
}

func (o *Origin) encode(seq uint64, data any) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "event: %s\nid: %s-%d\ndata: ", o.event, o.run, seq)
	enc := json.NewEncoder(&b) // one line, and its newline
	enc.SetEscapeHTML(false)
	if err := enc.Encode(data); err != nil {
		panic(err) // the generators make nothing that has no JSON
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// price is the data of a "price" event.
type price struct {
	stamp
	Symbol string  `json:"symbol"`
	Price  float64 `json:"price"`
	Open   float64 `json:"open"` // the first price of this run
}

// newPrices returns a generator of random walks.
func newPrices() generator {
	symbols := []string{"ACME", "BOLT", "KITE", "MOSS", "NOVA", "ORCA"}
	open := make([]float64, len(symbols))
	last := make([]float64, len(symbols))
	for i := range symbols {
		open[i] = cents(20 + 380*rand.Float64())
		last[i] = open[i]
	}
	return func(s stamp) (any, time.Duration) {
		i := rand.IntN(len(symbols))
		// steps of 0.25 %, pulled back to the open so that no run ends at zero
		drift := 0.02 * (open[i] - last[i])
		last[i] = cents(max(0.01, last[i]+drift+last[i]*0.0025*rand.NormFloat64()))
		data := price{stamp: s, Symbol: symbols[i], Price: last[i], Open: open[i]}
		return data, between(50*time.Millisecond, 180*time.Millisecond)
	}
}

// buildLine is the data of a "build" event: a line of a build's log.
type buildLine struct {
	stamp
	Build  int    `json:"build"`
	Repo   string `json:"repo"`
	Step   string `json:"step"`
	Index  int    `json:"index"` // of the step, from 1
	Steps  int    `json:"steps"`
	Status string `json:"status"` // running, passed or failed; of the build
	Line   string `json:"line"`
}

// buildSteps are what a pretend build goes through. A %d stands for a number.
var buildSteps = []struct {
	name    string
	lines   []string
	failure string
}{
	{"checkout", []string{"fetching origin/main", "HEAD is now at %07x"}, ""},
	{"deps", []string{"resolving %d modules", "cache hit, %d MB restored"}, ""},
	{"lint", []string{"checking %d files", "no issues found"}, "%d issues found"},
	{"test", []string{
		"ok   internal/auth    0.%ds", "ok   internal/queue   1.%ds",
		"ok   internal/store   2.%ds", "ok   internal/api     0.%ds", "%d tests passed",
	}, "FAIL internal/queue   expected 3 items, got %d"},
	{"build", []string{"compiling %d packages", "linking, stripped", "image of %d MB"}, ""},
	{"deploy", []string{"pushing layer %d of 9", "rolling out to staging", "healthy after %d s"}, "unhealthy after %d s, rolled back"},
}

// newBuildLog returns a generator of build logs, one build after the other.
func newBuildLog() generator {
	repos := []string{"web", "api", "worker", "docs"}
	var (
		number  = 400 + rand.IntN(100)
		repo    = repos[rand.IntN(len(repos))]
		step    int
		line    int
		failing = -1 // the step this build fails in
	)
	return func(s stamp) (any, time.Duration) {
		st := buildSteps[step]
		text := st.lines[line]
		status := "running"
		pause := between(250*time.Millisecond, 800*time.Millisecond)
		done := false
		line++
		switch {
		case step == failing && line == len(st.lines):
			text, status, done = st.failure, "failed", true
		case line == len(st.lines) && step == len(buildSteps)-1:
			status, done = "passed", true
		}
		data := buildLine{
			stamp: s, Build: number, Repo: repo, Step: st.name, Index: step + 1, Steps: len(buildSteps),
			Status: status, Line: fill(text),
		}
		if line == len(st.lines) {
			step, line = step+1, 0
		}
		if done {
			pause += time.Second
			number, repo, step, line, failing = number+1, repos[rand.IntN(len(repos))], 0, 0, -1
			if rand.IntN(3) == 0 {
				failing = []int{2, 3, 5}[rand.IntN(3)]
			}
		}
		return data, pause
	}
}

// fill puts a number where the text has a verb for one.
func fill(text string) string {
	switch {
	case strings.Contains(text, "%07x"):
		return fmt.Sprintf(text, rand.IntN(1<<28))
	case strings.Contains(text, "%d of 9"):
		return fmt.Sprintf(text, 1+rand.IntN(9))
	case strings.Contains(text, "%d"):
		return fmt.Sprintf(text, 4+rand.IntN(92))
	default:
		return text
	}
}

func cents(v float64) float64 { return math.Round(v*100) / 100 }

func between(lo, hi time.Duration) time.Duration { return lo + rand.N(hi-lo) }
