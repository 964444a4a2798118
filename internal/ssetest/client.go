package ssetest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// ClientConfig describes a Client. Only URL is required.
type ClientConfig struct {
	// Where to connect; with Socket its host is only the Host header.
	URL string

	// Path of a unix socket to connect to instead.
	Socket string

	// The client to use: h2, h2c, TLS. Its Timeout must be 0. Default: an own
	// HTTP/1.1 transport with one connection at a time.
	HTTP *http.Client

	// More request header fields.
	Header http.Header

	// Last-Event-ID of the first request. Default: none.
	LastEventID string

	// The delay before a reconnect is the server's retry, but at most this
	// long. Default: 50ms.
	MaxDelay time.Duration

	// End after the first connection that was answered: attempts during a
	// reload may be refused, and are repeated.
	Once bool

	// Reconnect even after a status other than 200 or a wrong type, where an
	// EventSource gives up.
	Stubborn bool

	// Bytes read per second; negative reads the head and nothing more.
	// Default: 0, as fast as they come.
	BytesPerSecond int

	// Newest events and connections kept. Default: 1000 events; negative keeps
	// none. Connections: 100.
	Record int

	// Called for every event, by the client's goroutine.
	OnEvent func(Event)

	// Checks every event.
	Track *Track
}

const (
	defaultMaxDelay = 50 * time.Millisecond
	defaultRecord   = 1000
	maxConnections  = 100
)

// Event is one dispatched event.
type Event struct {
	Type string // "message" when unnamed
	Data string
	ID   string // the last event id, this event's or an older one
	Time time.Time
}

// Client is an EventSource that keeps account. Its methods are safe for
// concurrent use.
type Client struct {
	cfg       ClientConfig
	http      *http.Client
	transport *http.Transport // the client's own, else nil
	parser    parser          // run's own

	mon         monitor // protects everything up to the next blank line
	events      []Event
	count       uint64
	newest      time.Time     // when the newest event came
	silence     time.Duration // see TakeSilence
	comments    uint64
	retry       time.Duration
	hasRetry    bool
	id          []byte // the last event id
	connections []Connection
	total       int // connections ever
	answered    int // connections that got a head
	ends        [endKinds]int
	open        bool // the newest connection has its head
	hangUp      context.CancelCauseFunc
	ended       bool
	err         error

	starting sync.Once
	cancel   context.CancelFunc // ends run; set by Start
	running  sync.WaitGroup     // the goroutine run
}

// NewClient returns a client that does nothing until Start or Run.
func NewClient(cfg ClientConfig) *Client {
	if cfg.MaxDelay <= 0 {
		cfg.MaxDelay = defaultMaxDelay
	}
	if cfg.Record == 0 {
		cfg.Record = defaultRecord
	}
	c := &Client{cfg: cfg, http: cfg.HTTP, id: []byte(cfg.LastEventID)}
	if c.http == nil {
		c.transport = &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
		c.transport.Protocols.SetHTTP1(true)
		if cfg.Socket != "" {
			c.transport.DialContext = c.dialSocket
		}
		c.http = &http.Client{Transport: c.transport}
	}
	c.parser = parser{event: c.onEvent, comment: c.onComment, retry: c.onRetry, id: []byte(cfg.LastEventID)}
	return c
}

func (c *Client) dialSocket(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", c.cfg.Socket)
}

// StartClient is NewClient and Start.
func StartClient(cfg ClientConfig) *Client {
	c := NewClient(cfg)
	c.Start()
	return c
}

// Start connects in a goroutine of its own, once.
func (c *Client) Start() {
	c.starting.Do(func() {
		ctx, cancel := context.WithCancel(context.Background())
		c.mon.Lock()
		c.cancel = cancel
		c.mon.Unlock()
		c.running.Add(1)
		go c.run(ctx)
	})
}

// run keeps the client connected. Start starts it; Close ends it and waits.
func (c *Client) run(ctx context.Context) {
	defer c.running.Done()
	_ = c.Run(ctx)
}

// Run connects and reconnects until ctx ends, which is no error, or until the
// client gives up as an EventSource would. Call it or Start, and only once.
func (c *Client) Run(ctx context.Context) error {
	err := c.loop(ctx)
	c.mon.Lock()
	c.ended, c.err = true, err
	c.mon.signalLocked()
	c.mon.Unlock()
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
	return err
}

func (c *Client) loop(ctx context.Context) error {
	for {
		conn := c.connect(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case conn.End == EndStatus && !c.cfg.Stubborn:
			return conn.Err
		case c.cfg.Once && conn.End != EndDial:
			return nil
		}
		timer := time.NewTimer(c.delay())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

func (c *Client) delay() time.Duration {
	c.mon.Lock()
	defer c.mon.Unlock()
	if c.hasRetry {
		return min(c.retry, c.cfg.MaxDelay)
	}
	return c.cfg.MaxDelay
}

// Close ends a started client and waits for it.
func (c *Client) Close() {
	c.mon.Lock()
	cancel := c.cancel
	c.mon.Unlock()
	if cancel != nil {
		cancel()
	}
	c.running.Wait()
}

// Disconnect hangs up; the client resumes after the usual delay. It is false
// when no connection was open.
func (c *Client) Disconnect() bool {
	c.mon.Lock()
	defer c.mon.Unlock()
	if !c.open || c.hangUp == nil {
		return false
	}
	c.hangUp(errDisconnect)
	return true
}

// Events returns the newest events, see Record.
func (c *Client) Events() []Event {
	c.mon.Lock()
	defer c.mon.Unlock()
	return slices.Clone(c.events[max(len(c.events)-c.cfg.Record, 0):])
}

// Count is the number of events so far.
func (c *Client) Count() uint64 {
	c.mon.Lock()
	defer c.mon.Unlock()
	return c.count
}

// TakeSilence returns the longest time between an event and the next one, among
// the events since the last call of TakeSilence, each with the one before it.
func (c *Client) TakeSilence() time.Duration {
	c.mon.Lock()
	defer c.mon.Unlock()
	silence := c.silence
	c.silence = 0
	return silence
}

// Comments is the number of comment lines so far, heartbeats mostly.
func (c *Client) Comments() uint64 {
	c.mon.Lock()
	defer c.mon.Unlock()
	return c.comments
}

// Retry is the newest retry value and whether there was one.
func (c *Client) Retry() (time.Duration, bool) {
	c.mon.Lock()
	defer c.mon.Unlock()
	return c.retry, c.hasRetry
}

// LastEventID returns the id that the next reconnect will send.
func (c *Client) LastEventID() string {
	c.mon.Lock()
	defer c.mon.Unlock()
	return string(c.id)
}

// Connections returns the newest 100 connections, the last one perhaps open.
func (c *Client) Connections() []Connection {
	c.mon.Lock()
	defer c.mon.Unlock()
	return slices.Clone(c.connections)
}

// Connection returns the newest connection; zero before the first.
func (c *Client) Connection() Connection {
	c.mon.Lock()
	defer c.mon.Unlock()
	if len(c.connections) == 0 {
		return Connection{}
	}
	return c.connections[len(c.connections)-1]
}

// Ends is how many connections ended in this way.
func (c *Client) Ends(kind EndKind) int {
	c.mon.Lock()
	defer c.mon.Unlock()
	return c.ends[kind]
}

// Err is why the client gave up, nil while it has not.
func (c *Client) Err() error {
	c.mon.Lock()
	defer c.mon.Unlock()
	return c.err
}

// WaitOpen waits until n connections were answered (which includes an answer
// that is refused). Attempts that failed before that do not count: right after
// a reload, a listener may reset a connection.
func (c *Client) WaitOpen(ctx context.Context, n int) error {
	return c.wait(ctx, fmt.Sprintf("connection %d", n), func() bool {
		return c.answered >= n
	})
}

// WaitCount waits for at least n events in total.
func (c *Client) WaitCount(ctx context.Context, n uint64) error {
	return c.wait(ctx, fmt.Sprintf("%d events", n), func() bool { return c.count >= n })
}

// WaitComments waits for at least n comments in total.
func (c *Client) WaitComments(ctx context.Context, n uint64) error {
	return c.wait(ctx, fmt.Sprintf("%d comments", n), func() bool { return c.comments >= n })
}

// WaitEnd waits until connections ended n times in this way.
func (c *Client) WaitEnd(ctx context.Context, kind EndKind, n int) error {
	return c.wait(ctx, fmt.Sprintf("%d ends %s", n, kind), func() bool { return c.ends[kind] >= n })
}

// WaitEvent waits for a recorded event, an earlier one included, that match
// accepts. It is called with a lock held: it must not call the client.
func (c *Client) WaitEvent(ctx context.Context, match func(Event) bool) (Event, error) {
	var found Event
	err := c.wait(ctx, "an event", func() bool {
		i := slices.IndexFunc(c.events, match)
		if i >= 0 {
			found = c.events[i]
		}
		return i >= 0
	})
	return found, err
}

// WaitDone waits until the client has ended and returns why.
func (c *Client) WaitDone(ctx context.Context) error {
	if err := c.mon.wait(ctx, func() bool { return c.ended }); err != nil {
		return fmt.Errorf("waiting for the client's end: %w", err)
	}
	return c.Err()
}

// wait waits for cond; a client that has ended cannot fulfil it any more.
func (c *Client) wait(ctx context.Context, what string, cond func() bool) error {
	met := false
	err := c.mon.wait(ctx, func() bool { met = cond(); return met || c.ended })
	if met {
		return nil
	}
	c.mon.Lock()
	defer c.mon.Unlock()
	if err == nil {
		err = fmt.Errorf("client has ended: %w", c.err)
		if c.err == nil {
			err = errClientEnded
		}
	}
	return fmt.Errorf("waiting for %s (now %d connections, %d events, %d comments): %w",
		what, c.total, c.count, c.comments, err)
}
