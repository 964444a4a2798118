package ssefanin

import (
	"bytes"
	"context"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// clockHub is a hub without sources, for clients that are served under a
// synthetic clock.
func clockHub() *hub {
	h := newHub(&definition{
		key: "clock", label: "clock", ids: idsStream,
		retain: eventlog.Options{MaxEvents: 1000, MaxBytes: 1 << 20, IDs: true},
	}, nil)
	liveHubs.remove(h) // nobody is going to release it
	return h
}

// publish appends an event, as a source does.
func publish(h *hub, data string) {
	in := &input{hub: h}
	in.shape.Store(new(shape))
	in.deliver(&sse.Event{Data: []byte(data)}, false, new(encoder), time.Now())
}

// clockClient is a client whose response is kept in memory. Its end is noted.
type clockClient struct {
	out    *httptest.ResponseRecorder
	cancel context.CancelFunc
	begun  time.Time

	mu    sync.Mutex // protects ended
	ended time.Time
}

// connect serves a client of the hub until it is ended or its cancel is called.
func (c *clockClient) connect(h *hub, settings ClientSettings) {
	resolved := settings.resolve()
	handler := &service{def: &definition{hub: h}, settings: &resolved, logger: zap.NewNop()}
	ctx, cancel := context.WithCancel(context.Background())
	c.out, c.cancel, c.begun = httptest.NewRecorder(), cancel, time.Now()
	go c.serve(handler, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
}

// serve runs the handler. It ends with the client's stream.
func (c *clockClient) serve(handler *service, r *http.Request) {
	_ = serveStream(c.out, r, handler)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = time.Now()
}

// age is how long the client was served, 0 while it still is.
func (c *clockClient) age() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended.IsZero() {
		return 0
	}
	return c.ended.Sub(c.begun)
}

func (c *clockClient) heartbeats() int {
	n := 0
	for line := range bytes.Lines(c.out.Body.Bytes()) {
		if string(line) == ":\n" {
			n++
		}
	}
	return n
}

func connectAll(h *hub, n int, settings ClientSettings) []*clockClient {
	clients := make([]*clockClient, n)
	for i := range clients {
		clients[i] = new(clockClient)
		clients[i].connect(h, settings)
	}
	synctest.Wait()
	return clients
}

func endAll(clients []*clockClient) {
	for _, c := range clients {
		c.cancel()
	}
	synctest.Wait()
}

// pass lets synthetic time go by, and whatever is due in it happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestHeartbeatsComeWhileNothingElseDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		c := connectAll(h, 1, ClientSettings{Heartbeat: new(caddy.Duration(10 * time.Second))})
		defer endAll(c)
		pass(61 * time.Second)
		if n := c[0].heartbeats(); n < 5 || n > 6 {
			t.Errorf("%d heartbeats in 61s, want one every 10s", n)
		}
	})
}

func TestNoHeartbeatsBetweenEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		c := connectAll(h, 1, ClientSettings{Heartbeat: new(caddy.Duration(10 * time.Second))})
		defer endAll(c)
		for range 20 {
			pass(6 * time.Second)
			publish(h, "x")
			synctest.Wait()
		}
		if n := c[0].heartbeats(); n != 0 {
			t.Errorf("%d heartbeats though an event came every 6s, want none", n)
		}
		if n := bytes.Count(c[0].out.Body.Bytes(), []byte("data: x\n\n")); n != 20 {
			t.Errorf("%d events, want 20", n)
		}
	})
}

func TestHeartbeatZeroIsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		c := connectAll(h, 1, ClientSettings{Heartbeat: new(caddy.Duration(0))})
		defer endAll(c)
		pass(time.Hour)
		if n := c[0].heartbeats(); n != 0 {
			t.Errorf("%d heartbeats, want none", n)
		}
	})
}

func TestHeartbeatsOfClientsThatCameApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		slow := connectAll(h, 1, ClientSettings{Heartbeat: new(caddy.Duration(time.Minute))})
		defer endAll(slow)
		pass(7 * time.Second)
		fast := connectAll(h, 1, ClientSettings{Heartbeat: new(caddy.Duration(time.Second))})
		defer endAll(fast)
		pass(30500 * time.Millisecond)
		if n := fast[0].heartbeats(); n < 29 || n > 30 {
			t.Errorf("%d heartbeats in 30s, want one every second", n)
		}
		if n := slow[0].heartbeats(); n != 0 {
			t.Errorf("%d heartbeats for the other client, want none", n)
		}
	})
}

func TestMaxAgeIsDrawnPerClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		clients := connectAll(h, 100, ClientSettings{
			MaxAge:    new(caddy.Duration(100 * time.Second)),
			Heartbeat: new(caddy.Duration(0)),
		})
		pass(101 * time.Second)
		least, most := time.Hour, time.Duration(0)
		for i, c := range clients {
			age := c.age()
			if age < 80*time.Second || age > 100*time.Second+clockStep {
				t.Errorf("client %d was ended after %s, want 80s to 100s", i, age)
			}
			least, most = min(least, age), max(most, age)
		}
		if most-least < 10*time.Second {
			t.Errorf("all clients were ended between %s and %s, want them spread", least, most)
		}
	})
}

// The clock of a client whose heartbeat has just been due must not be taken
// for set to the next heartbeat: its end may come before.
func TestEndIsNotLateForAHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		clients := connectAll(h, 20, ClientSettings{
			MaxAge:    new(caddy.Duration(20 * time.Second)),
			Heartbeat: new(caddy.Duration(15 * time.Second)),
		})
		pass(time.Minute)
		for i, c := range clients {
			if age := c.age(); age < 16*time.Second || age > 20*time.Second+2*clockStep {
				t.Errorf("client %d was ended after %s, want 16s to 20s", i, age)
			}
		}
	})
}

func TestRemovedStreamEndsItsClientsOverDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		clients := connectAll(h, 100, ClientSettings{Drain: new(caddy.Duration(10 * time.Second))})
		if err := h.Destruct(); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		publish(h, "meanwhile")
		pass(6 * time.Second)
		early := 0
		for i, c := range clients {
			switch age := c.age(); {
			case age == 0:
				t.Errorf("client %d is not ended", i)
			case age < 5*time.Second:
				early++
			case age > 5*time.Second+2*clockStep && !bytes.Contains(c.out.Body.Bytes(), []byte("data: meanwhile\n\n")):
				t.Errorf("client %d was ended after %s, without an event that came before", i, age)
			}
		}
		if early < 20 || early > 80 {
			t.Errorf("%d of 100 clients were ended in the first half of the time, want about 50", early)
		}
	})
}

func TestNotifierEndsWithTheLastClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		running := h.audience.present
		for range 3 {
			c := connectAll(h, 2, ClientSettings{})
			if !running() {
				t.Fatal("no notifier with clients")
			}
			endAll(c)
			if running() {
				t.Fatal("the notifier runs without clients")
			}
			publish(h, "unseen")
		}
	})
}

func TestHubRefusesClientsOnceItIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		if err := h.Destruct(); err != nil {
			t.Fatal(err)
		}
		c := connectAll(h, 1, ClientSettings{Retry: &RetryRange{Min: caddy.Duration(3 * time.Second), Max: caddy.Duration(3 * time.Second)}})
		if c[0].out.Code != http.StatusOK || c[0].out.Body.String() != "retry: 3000\n" {
			t.Errorf("got %d and %q, want 200, retry and the end", c[0].out.Code, c[0].out.Body)
		}
		if got := c[0].out.Header().Get("Content-Type"); got != "text/event-stream" {
			t.Errorf("got type %q", got)
		}
	})
}

// An answer without the type of an event stream is final to EventSource. So also a
// client that is ended before its first turn gets the header.
func TestClientThatIsEndedAtOnceGetsTheHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		settings := ClientSettings{}.resolve()
		handler := &service{def: &definition{hub: h}, settings: &settings, logger: zap.NewNop()}
		w := httptest.NewRecorder()
		c := newClient(h, handler, w, httptest.NewRequest(http.MethodGet, "/", nil))
		if err := h.audience.subscribe(&c.sub); err != nil {
			t.Fatal(err)
		}
		c.sub.endNow(endExit)
		c.sub.wait()
		c.leave()
		synctest.Wait()
		if got := w.Header().Get("Content-Type"); got != typeEvents || !strings.HasPrefix(w.Body.String(), "retry: ") || c.ended != endExit {
			t.Errorf("got the type %q, %q, ended by %q", got, w.Body, c.ended)
		}
	})
}

// stuckWriter blocks in its first write of an event until it is released.
type stuckWriter struct {
	*httptest.ResponseRecorder
	stuck, release chan struct{}
	once           sync.Once
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("id: ")) {
		w.once.Do(func() {
			close(w.stuck)
			<-w.release
		})
	}
	return w.ResponseRecorder.Write(p)
}

// A change of ids makes another log. A client that stands in the first and is
// late must go through the second on its way to the third.
func TestIDsChangeTwiceWhileAClientIsBlocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		settings := ClientSettings{}.resolve()
		handler := &service{def: &definition{hub: h}, settings: &settings, logger: zap.NewNop()}
		ctx, cancel := context.WithCancel(t.Context())
		w := &stuckWriter{ResponseRecorder: httptest.NewRecorder(), stuck: make(chan struct{}), release: make(chan struct{})}
		go func() { _ = serveStream(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil), handler) }()
		synctest.Wait()
		publish(h, "one")
		<-w.stuck
		o := eventlog.Options{MaxEvents: 1000, MaxBytes: 1 << 20}
		publish(h, "two")
		h.applyLog(&definition{retain: o, ids: idsNone})
		publish(h, "three")
		o.IDs = true
		h.applyLog(&definition{retain: o, ids: idsStream})
		publish(h, "four")
		close(w.release)
		synctest.Wait()
		cancel()
		synctest.Wait()
		var got []string
		for line := range strings.Lines(w.Body.String()) {
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				got = append(got, strings.TrimSpace(data))
			}
		}
		if text := strings.Join(got, " "); text != "one two three four" {
			t.Errorf("got %q", text)
		}
	})
}

// Times beyond the end of the clock are never, not long ago.
func TestLongestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		long := new(caddy.Duration(math.MaxInt64))
		clients := connectAll(h, 1, ClientSettings{MaxAge: long, Heartbeat: long, WriteTimeout: long, Drain: long})
		pass(time.Hour)
		if n := clients[0].heartbeats(); n != 0 || clients[0].age() != 0 {
			t.Errorf("%d heartbeats, ended after %s", n, clients[0].age())
		}
		publish(h, "one")
		synctest.Wait()
		if !bytes.Contains(clients[0].out.Body.Bytes(), []byte("data: one\n\n")) {
			t.Error("the client got no event")
		}
		endAll(clients)
	})
}
