package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// connectors is how many clients connect at the same time, where they are
	// not told to spread.
	connectors = 64

	// connectTimeout is how long a client waits for the response's head.
	connectTimeout = 20 * time.Second

	// settleInterval is the time between two looks whether all have got all.
	settleInterval = 10 * time.Millisecond

	// loadShards is how many sets of counters the connections share.
	loadShards = 16
)

// loadConfig describes clients.
type loadConfig struct {
	Addr    string // of the server
	From    string // address that the clients connect from; empty for any
	Clients int

	// What each client requests, one connection for each.
	Streams []loadStream

	Sources int // of the origin
	Payload int // bytes of an event's data

	TLS bool

	// HTTP/2, which is over TLS, with so many clients to a connection; 0 is
	// HTTP/1.1.
	StreamsPerConn int

	// The clients connect evenly over this time. Default: as fast as they can.
	Spread time.Duration

	// The first event may have any number: the clients come while there are
	// events.
	AnyFirst bool

	// Where to report the progress to; empty for nowhere.
	Progress string
}

// loadStream is one request of each client.
type loadStream struct {
	Path    string
	Sources []int // that it carries
}

// loadReport is what the clients got since the mark, and what went wrong since
// they connected.
type loadReport struct {
	Events  uint64
	Bytes   uint64        // on the wire, with all framing
	Elapsed time.Duration // from the mark to the newest event
	Latency quantiles     // from the publication to the receipt
	Faults  faults
}

// load holds the clients of a measurement.
type load struct {
	cfg      loadConfig
	conns    []*loadConn
	shards   [loadShards]shard
	progress *progress // nil if nobody wants to know

	marked     time.Time
	markEvents uint64
	markBytes  uint64
	markCounts distribution
}

// shard counts what some of the connections got.
type shard struct {
	latency histogram
	events  atomic.Uint64
	bytes   atomic.Uint64
	newest  atomic.Int64 // receipt of the newest event in Unix ns
}

// loadRole holds clients. Commands: connect, mark, settle, ends, resume.
func loadRole(c *commands) error {
	l := new(load)
	handle(c, "connect", l.connect)
	handle(c, "mark", func(none) (none, error) {
		l.mark()
		return none{}, nil
	})
	handle(c, "settle", l.settle)
	handle(c, "ends", l.waitForEnds)
	handle(c, "resume", resume)
	return c.serve()
}

// connect connects all clients and returns how long they waited for the head
// of the response, from the start of the connection.
func (l *load) connect(cfg loadConfig) (quantiles, error) {
	l.cfg = cfg
	if cfg.Progress != "" {
		var err error
		if l.progress, err = dialProgress(cfg.Progress, cfg.Clients); err != nil {
			return quantiles{}, err
		}
	}
	var (
		total = cfg.Clients * len(cfg.Streams)
		open  func(int) error // connects a stream and has it read
	)
	for i := range total {
		c := &loadConn{load: l, shard: &l.shards[i%loadShards], stream: cfg.Streams[i%len(cfg.Streams)], v: newVerifier(cfg.Sources, cfg.Payload)}
		c.v.anyNext = cfg.AnyFirst
		c.v.got = c.got
		l.conns = append(l.conns, c)
	}
	switch {
	case cfg.StreamsPerConn > 0:
		groups := newHTTP2Groups(l, total)
		open = func(i int) error { return l.conns[i].openHTTP2(groups[i/cfg.StreamsPerConn]) }
	case cfg.TLS:
		open = func(i int) error { return l.conns[i].openTLS() }
	default:
		readers := make([]*poller, pollers())
		for i := range readers {
			var err error
			if readers[i], err = newPoller(); err != nil {
				return quantiles{}, err
			}
		}
		open = func(i int) error { return l.conns[i].openHTTP1(readers[i%len(readers)]) }
	}
	return connectAll(total, cfg.Spread, open)
}

// connectAll opens connections, as fast as it goes or evenly over a time, and
// returns how long they took to have the head of their response.
func connectAll(total int, within time.Duration, open func(int) error) (quantiles, error) {
	var (
		took    histogram
		opening sync.WaitGroup
		failed  atomic.Bool                       // the rest need not be opened
		errs    = make(chan error, total)         // one each at most
		slots   = make(chan struct{}, connectors) // one for each that is connecting
		start   = time.Now()
	)
	opening.Add(total)
	if within > 0 {
		slots = make(chan struct{}, total) // nobody waits for another one
	}
	for i := range total {
		if within > 0 {
			// the schedule is what is measured: a client each so often
			time.Sleep(time.Until(start.Add(within * time.Duration(i) / time.Duration(total))))
		}
		slots <- struct{}{}
		if failed.Load() {
			return quantiles{}, fmt.Errorf("connecting %d clients: %w", total, <-errs)
		}
		go func() {
			began := time.Now()
			err := open(i)
			took.add(time.Since(began))
			if err != nil {
				failed.Store(true)
				errs <- err
			}
			<-slots
			opening.Done()
		}()
	}
	opening.Wait()
	if failed.Load() {
		return quantiles{}, fmt.Errorf("connecting %d clients: %w", total, <-errs)
	}
	var d distribution
	d.plus(&took)
	return d.quantiles(), nil
}

// mark begins the window that is reported.
func (l *load) mark() {
	l.marked = time.Now()
	l.markEvents, l.markBytes = l.totals()
	l.markCounts = distribution{}
	for i := range l.shards {
		l.markCounts.plus(&l.shards[i].latency)
	}
}

func (l *load) totals() (events, bytes uint64) {
	for i := range l.shards {
		events += l.shards[i].events.Load()
		bytes += l.shards[i].bytes.Load()
	}
	return events, bytes
}

// settleConfig says what the clients should have.
type settleConfig struct {
	Sent    []uint64 // by source; nil: whatever they have
	Timeout time.Duration
}

// settle waits until all clients have everything and reports.
func (l *load) settle(cfg settleConfig) (loadReport, error) {
	deadline := time.Now().Add(cfg.Timeout)
	for l.waiting(cfg.Sent) && time.Now().Before(deadline) {
		time.Sleep(settleInterval) // the clients are busy; telling would cost them
	}
	var (
		report loadReport
		newest = l.marked
		counts distribution
	)
	for _, c := range l.conns {
		c.mu.Lock()
		report.Faults.add(c.v.faults)
		if c.ended {
			report.Faults.Disconnected++
		}
		if cfg.Sent != nil {
			report.Faults.Behind += c.v.behind(cfg.Sent, c.stream.Sources)
		}
		c.mu.Unlock()
	}
	for i := range l.shards {
		counts.plus(&l.shards[i].latency)
		if at := time.Unix(0, l.shards[i].newest.Load()); at.After(newest) {
			newest = at
		}
	}
	counts.minus(&l.markCounts)
	events, bytes := l.totals()
	report.Events, report.Bytes = events-l.markEvents, bytes-l.markBytes
	report.Elapsed = newest.Sub(l.marked)
	report.Latency = counts.quantiles()
	return report, nil
}

// waiting reports whether a client that is connected has not got everything.
func (l *load) waiting(sent []uint64) bool {
	if sent == nil {
		return false
	}
	return slices.ContainsFunc(l.conns, func(c *loadConn) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return !c.ended && c.v.behind(sent, c.stream.Sources) > 0
	})
}

// ends is how the responses of clients have ended.
type ends struct {
	Clean int // as HTTP ends a response
	Cut   int // with the connection only
	Open  int // not at all
}

func (e *ends) add(f ends) {
	e.Clean += f.Clean
	e.Cut += f.Cut
	e.Open += f.Open
}

// String names the ends that were not clean, and is empty if there are none.
func (e ends) String() string {
	if e.Cut+e.Open == 0 {
		return ""
	}
	return fmt.Sprintf("of %d clients %d were cut off, %d never saw an end", e.Clean+e.Cut+e.Open, e.Cut, e.Open)
}

// waitForEnds waits until all responses have ended, but not for longer than the
// timeout.
func (l *load) waitForEnds(timeout time.Duration) (ends, error) {
	deadline := time.Now().Add(timeout)
	for {
		var e ends
		for _, c := range l.conns {
			e.add(c.howEnded())
		}
		if e.Open == 0 || time.Now().After(deadline) {
			return e, nil
		}
		time.Sleep(settleInterval) // as in settle
	}
}

// progressRing is how many events may be on their way to the clients at once:
// more than any window.
const progressRing = 4096

// progress tells the origin up to which event all clients have everything.
// Safe for concurrent use.
type progress struct {
	clients uint32
	conn    net.Conn
	counts  [progressRing]atomic.Uint32 // clients that have it, by number modulo the size
}

func dialProgress(addr string, clients int) (*progress, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connecting to the origin: %w", err)
	}
	return &progress{clients: uint32(clients), conn: conn}, nil
}

// count notes that one more client has an event, and reports whether all have.
func (p *progress) count(seq uint64) bool {
	n := &p.counts[seq%progressRing]
	if n.Add(1) < p.clients {
		return false
	}
	n.Store(0)
	return true
}

// report tells the origin that all clients have everything up to seq. An
// origin that has gone needs to know nothing.
func (p *progress) report(seq uint64) {
	_, _ = p.conn.Write(binary.BigEndian.AppendUint64(nil, seq))
}

var errNoEventStream = errors.New("the response is no event stream")
