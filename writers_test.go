package ssefanin

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
)

// response is a response in memory that notes what is done to it. Its writes
// of events block while it is stuck, until a write deadline.
type response struct {
	header http.Header
	proto  int // major version of HTTP; 0: 1

	mu        sync.Mutex // protects what follows
	writes    []string   // of events
	at        []time.Time
	deadlines []time.Time
	stuck     chan struct{} // nil: it is not
	takes     time.Duration // each write of events
	expired   chan struct{} // closed when a write deadline has passed
	broken    any           // what its writes of events panic with
}

func newResponse() *response {
	return &response{header: make(http.Header), expired: make(chan struct{})}
}

func (r *response) Header() http.Header { return r.header }
func (r *response) WriteHeader(int)     {}
func (r *response) FlushError() error   { return nil }

func (r *response) Write(p []byte) (int, error) {
	if !bytes.Contains(p, []byte("data: ")) {
		return len(p), nil
	}
	r.mu.Lock()
	stuck, expired, broken, takes := r.stuck, r.expired, r.broken, r.takes
	r.writes = append(r.writes, string(p))
	r.at = append(r.at, time.Now())
	r.mu.Unlock()
	if broken != nil {
		panic(broken)
	}
	if takes > 0 { // a timer that is due at once crashes Go's race detector here
		<-time.After(takes)
	}
	if stuck != nil {
		select {
		case <-stuck:
		case <-expired:
			return 0, os.ErrDeadlineExceeded
		}
	}
	return len(p), nil
}

func (r *response) SetWriteDeadline(deadline time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadlines = append(r.deadlines, deadline)
	if !deadline.IsZero() {
		time.AfterFunc(time.Until(deadline), sync.OnceFunc(func() { close(r.expired) }))
	}
	return nil
}

// events are the data of the events written so far, by write.
func (r *response) events() [][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all [][]string
	for _, write := range r.writes {
		var data []string
		for line := range bytes.Lines([]byte(write)) {
			if value, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
				data = append(data, string(bytes.TrimSpace(value)))
			}
		}
		all = append(all, data)
	}
	return all
}

// served is a client of a hub whose response is kept in memory.
type served struct {
	*response
	cancel   context.CancelFunc
	ended    chan struct{} // closed when the handler has returned
	panicked any           // what the handler panicked with
}

// serveInMemory connects clients with the responses.
func serveInMemory(h *hub, settings ClientSettings, responses ...*response) []*served {
	return serveTarget(h, settings, "/", responses...)
}

// serveTarget is serveInMemory for requests with a path and a query.
func serveTarget(h *hub, settings ClientSettings, target string, responses ...*response) []*served {
	resolved := settings.resolve()
	handler := &service{def: &definition{hub: h}, settings: &resolved, logger: zap.NewNop()}
	clients := make([]*served, len(responses))
	for i, out := range responses {
		ctx, cancel := context.WithCancel(context.Background())
		clients[i] = &served{response: out, cancel: cancel, ended: make(chan struct{})}
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, target, nil)
		if out.proto > 0 {
			r.ProtoMajor = out.proto
		}
		go clients[i].run(handler, r)
	}
	synctest.Wait()
	return clients
}

// run is the goroutine of the request. It ends with the stream.
func (s *served) run(handler *service, r *http.Request) {
	defer close(s.ended)
	defer func() { s.panicked = recover() }()
	_ = serveStream(s.response, r, handler)
}

func leave(clients []*served) {
	for _, c := range clients {
		c.cancel()
	}
	synctest.Wait()
}

// writersAtWork is how many writers may be at work.
func writersAtWork() int { return max(runtime.GOMAXPROCS(0)-1, 1) }

func wantWrites(t *testing.T, who string, r *response, want [][]string) {
	t.Helper()
	if got := r.events(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s got %v, want %v", who, got, want)
	}
}

// However many clients are blocked in a write, the others get their events
// soon: each look finds more of the blocked ones. Once they are known, they
// delay nobody.
func TestBlockedClientsDelayTheOthersOnce(t *testing.T) {
	const soon = 15 * longTurn
	for _, test := range []struct {
		name            string
		blocked, others int // major versions of HTTP
	}{
		{"HTTP/1.1", 1, 1},
		{"HTTP/2", 2, 2},
		{"HTTP/2 and HTTP/1.1", 2, 1},
		{"HTTP/1.1 and HTTP/2", 1, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := clockHub()
				release := make(chan struct{})
				responses := make([]*response, 1000)
				for i := range responses {
					responses[i] = newResponse()
					responses[i].proto = test.others
					if i%10 != 0 {
						responses[i].proto, responses[i].stuck = test.blocked, release
					}
				}
				clients := serveInMemory(h, ClientSettings{}, responses...)
				publish(h, "one")
				pass(soon)
				publish(h, "two")
				synctest.Wait() // and no time
				for i, r := range responses {
					want := [][]string{{"one"}, {"two"}}
					if r.stuck != nil {
						want = [][]string{{"one"}} // and it is still being written
					}
					wantWrites(t, fmt.Sprintf("client %d", i), r, want)
				}
				close(release)
				synctest.Wait()
				for i, r := range responses {
					wantWrites(t, fmt.Sprintf("client %d, released,", i), r, [][]string{{"one"}, {"two"}})
				}
				leave(clients)
				clientWriters.mu.Lock()
				defer clientWriters.mu.Unlock()
				if n := len(clientWriters.idle); n != 0 || clientWriters.queue.first != nil || len(clientWriters.atWork) != 0 || clientWriters.load != 0 {
					t.Errorf("%d idle writers and %d at work, which count %d, are left without clients", n, len(clientWriters.atWork), clientWriters.load)
				}
				if clientWriters.watching {
					t.Error("the watch is left without clients")
				}
			})
		})
	}
}

// No more writers than may be are at work, until one of them is found to be
// blocked. More may be where a write waits for another goroutine.
func TestWritersAtWorkAreLimited(t *testing.T) {
	for _, test := range []struct {
		name  string
		proto int
		limit int // how many are being written to at once; after a while twice that
	}{
		{"HTTP/1.1", 1, writersAtWork()},
		{"HTTP/2", 2, writersAtWork() * multiplexedShare},
		{"HTTP/3", 3, writersAtWork() * multiplexedShare},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := clockHub()
				all := 4 * test.limit
				release := make(chan struct{})
				responses := make([]*response, all)
				for i := range responses {
					responses[i] = newResponse()
					responses[i].proto, responses[i].stuck = test.proto, release
				}
				clients := serveInMemory(h, ClientSettings{}, responses...)
				begun := func() (n int) {
					for _, r := range responses {
						n += len(r.events())
					}
					return n
				}
				publish(h, "one")
				synctest.Wait()
				if n := begun(); n != test.limit {
					t.Errorf("%d are written to at once, want %d", n, test.limit)
				}
				pass(longTurn)
				if n := begun(); n != 2*test.limit {
					t.Errorf("%d are written to after %s, want %d", n, longTurn, 2*test.limit)
				}
				close(release)
				synctest.Wait()
				if n := begun(); n != all {
					t.Errorf("%d were written to, want all", n)
				}
				leave(clients)
			})
		})
	}
}

// Where clients stand in the queue for long, all processors write. (With many
// processors one more makes too little difference to be seen here.)
func TestLongQueueTakesAllProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const turns = 100 // of each writer at work, if there were no more
		h := clockHub()
		limit := writersAtWork()
		responses := make([]*response, turns*limit)
		for i := range responses {
			responses[i] = newResponse()
			responses[i].takes = longTurn / 2
		}
		clients := serveInMemory(h, ClientSettings{}, responses...)
		rest := func(from time.Duration) time.Duration { // with one writer more
			return (turns*longTurn/2 - from) * time.Duration(limit) / time.Duration(limit+1)
		}
		least, noticed := longQueue+rest(longQueue)-longTurn, longQueue+2*longTurn
		most := noticed + rest(noticed) + longTurn
		for i, data := range []string{"one", "two"} { // a long queue that is over changes nothing
			begun := time.Now()
			publish(h, data)
			pass(time.Second)
			var last time.Duration
			for _, r := range responses {
				last = max(last, r.at[i].Sub(begun))
			}
			if last < least || last > most {
				t.Errorf("the last client got event %q after %s, want %s to %s", data, last, least, most)
			}
		}
		leave(clients)
	})
}

// Clients that block again and again delay the others only once.
func TestSlowClientIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		slow, fast := make([]*response, writersAtWork()), newResponse()
		for i := range slow {
			slow[i] = newResponse()
		}
		clients := serveInMemory(h, ClientSettings{}, slow...)
		clients = append(clients, serveInMemory(h, ClientSettings{}, fast)...)
		for i, test := range []struct {
			what        string
			takes, want time.Duration
		}{
			{"they block", 10 * longTurn, longTurn},
			{"they are being written to", 10 * longTurn, 0},
			{"they have blocked, and are behind", 10 * longTurn, 0},
			{"they catch up", 0, 0},
			{"they have caught up", 0, 0},
			{"they block again", 10 * longTurn, longTurn},
		} {
			for _, r := range slow {
				r.mu.Lock()
				r.takes = test.takes
				r.mu.Unlock()
			}
			begun := time.Now()
			publish(h, test.what)
			pass(8 * longTurn)
			if got := fast.at[i].Sub(begun); got != test.want {
				t.Errorf("%s: the other client waited for %s, want %s", test.what, got, test.want)
			}
		}
		pass(time.Second)
		leave(clients)
	})
}

// A client that comes to more than one turn's worth gets all of it.
func TestCatchingUpTakesAllItsTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		var want [][]string
		for i := range 5 {
			data := fmt.Sprintf("%d%s", i, bytes.Repeat([]byte("x"), maxWrite-100))
			publish(h, data)
			want = append(want, []string{data})
		}
		out := newResponse()
		clients := serveInMemory(h, ClientSettings{Start: startOldest}, out)
		if got := out.events(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %d of %d events", len(got), len(want))
		}
		leave(clients)
	})
}

// What happens to a client during its turn is looked for after it.
func TestClientThatLeavesDuringItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		out := newResponse()
		out.stuck = make(chan struct{})
		clients := serveInMemory(h, ClientSettings{}, out)
		publish(h, "one")
		synctest.Wait()
		leave(clients)
		close(out.stuck)
		synctest.Wait()
		select {
		case <-clients[0].ended:
		default:
			t.Error("the client is still served")
			pass(time.Minute)
		}
	})
}

// A client that catches up takes turns with the others: each turn is one write
// of at most maxWrite.
func TestTurnsAreShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		out := newResponse()
		settings := ClientSettings{}.resolve()
		handler := &service{settings: &settings, logger: zap.NewNop()}
		c := newClient(h, handler, out, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		if _, more, last := c.turn(time.Now(), new(frame)); more || last {
			t.Fatalf("after the head: more %t, last %t", more, last)
		}
		for i := range 5 {
			publish(h, fmt.Sprintf("%d%s", i, bytes.Repeat([]byte("x"), maxWrite-100)))
		}
		for i := range 5 {
			_, more, last := c.turn(time.Now(), new(frame))
			if more != (i < 4) || last {
				t.Errorf("turn %d: more %t, last %t", i, more, last)
			}
			if n := len(out.events()); n != i+1 {
				t.Errorf("turn %d: %d writes", i, n)
			}
		}
	})
}

// A deadline is set only for a write that takes its time, and taken back when
// the write ends.
func TestDeadlinesAreForBlockedWrites(t *testing.T) {
	const timeout = 10 * time.Second
	for _, test := range []struct {
		name    string
		blocked time.Duration
		want    []time.Duration // from the write on; -1 is none
		ended   bool
	}{
		{"not blocked", 0, nil, false},
		{"blocked for long", 8 * time.Second, []time.Duration{timeout, -1}, false},
		{"blocked for ever", time.Hour, []time.Duration{timeout, -1}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := clockHub()
				out := newResponse()
				if test.blocked > 0 {
					out.stuck = make(chan struct{})
					time.AfterFunc(test.blocked, sync.OnceFunc(func() { close(out.stuck) }))
				}
				clients := serveInMemory(h, ClientSettings{WriteTimeout: new(caddy.Duration(timeout))}, out)
				begun := time.Now()
				publish(h, "one")
				pass(timeout + time.Second)
				select {
				case <-clients[0].ended:
					if !test.ended {
						t.Error("the client was ended")
					}
				default:
					if test.ended {
						t.Error("the client is still served")
					}
				}
				out.mu.Lock()
				var got []time.Duration
				for _, deadline := range out.deadlines {
					if deadline.IsZero() {
						got = append(got, -1)
					} else {
						got = append(got, deadline.Sub(begun))
					}
				}
				out.mu.Unlock()
				if !slices.Equal(got, test.want) {
					t.Errorf("got deadlines %v, want %v", got, test.want)
				}
				leave(clients)
				pass(test.blocked)
			})
		})
	}
}

// What a writer between us and the connection panics with reaches the server
// where it expects it, and nobody else notices.
func TestPanicInAWriteEndsOneClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		bad, good := newResponse(), newResponse()
		bad.broken = http.ErrAbortHandler
		clients := serveInMemory(h, ClientSettings{}, bad, good)
		publish(h, "one")
		synctest.Wait()
		select {
		case <-clients[0].ended:
		default:
			t.Fatal("the client is still served")
		}
		if got := clients[0].panicked; got != http.ErrAbortHandler {
			t.Errorf("the handler panicked with %v, want http.ErrAbortHandler", got)
		}
		publish(h, "two")
		synctest.Wait()
		wantWrites(t, "the other client", good, [][]string{{"one"}, {"two"}})
		leave(clients)
	})
}

// A writer's time may be older than the notifier's, so that a client finds
// nothing to do when it is woken for its clock. It is looked at soon again.
func TestWhatWasDueIsLookedAtAgain(t *testing.T) {
	h := clockHub()
	settings := ClientSettings{}.resolve()
	handler := &service{settings: &settings, logger: zap.NewNop()}
	c := newClient(h, handler, newResponse(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	h.audience.subscribers = []*subscriber{&c.sub}
	c.sub.beat.Store(100)
	for _, now := range []int64{100, 100 + int64(clockStep)} {
		var woken turns
		l := &glance{now: now}
		h.audience.lookAtClocksLocked(l, &woken)
		if woken.take() != &c.sub {
			t.Error("the client was not woken")
		}
		if want := now + int64(clockStep); l.due != want {
			t.Errorf("the next look is at %d, want %d", l.due, want)
		}
		c.sub.turn.Store(turnIdle) // it has had its turn, and found nothing
	}
}

// clientWith returns a client with a value of `coalesce`.
func clientWith(h *hub, coalesce time.Duration) *subscriber {
	settings := ClientSettings{Coalesce: new(caddy.Duration(coalesce))}.resolve()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	return &newClient(h, &service{settings: &settings, logger: zap.NewNop()}, newResponse(), r).sub
}

// As long as clients that were woken wait for a writer, no window opens: when
// there is more to do than can be done, there is more to coalesce.
func TestWindowOpensWhenTheLastIsHandedOut(t *testing.T) {
	h := clockHub()
	fast, slow := clientWith(h, 0), clientWith(h, 10)
	h.audience.windows.join(fast)
	h.audience.windows.join(slow)
	l := &glance{now: 100, appended: true}
	step := func(what string, ended bool, next int64, waiting bool) {
		t.Helper()
		var woken turns
		gotNext := h.audience.lookAtWindowsLocked(l, &woken)
		gotEnded := woken.first != nil
		for sub := woken.take(); sub != nil; sub = woken.take() {
			sub.turn.Store(turnIdle) // it has had its turn
		}
		if gotEnded != ended || gotNext != next || l.waiting != waiting {
			t.Errorf("%s: ended %t, next %d, waiting %t, want %t, %d, %t", what, gotEnded, gotNext, l.waiting, ended, next, waiting)
		}
		l.appended = false
	}
	step("an event", true, 110, false)
	l.now = 110
	step("the end of the window", true, never, false)
	l.handing, l.appended = true, true
	step("an event while clients wait for a writer", true, never, false)
	l.now = 125
	step("later", false, never, false)
	l.handing = false
	step("when all have had their turn", false, 135, false)
	h.audience.windows.leave(fast)
	l.appended = true
	step("an event in an open window", false, 135, true)
	l.now = 135
	step("the end of that", true, never, false)
	step("it was written after its end", false, never, false)
}

// Events wait for others during coalesce, and are then written at once. A
// client without it does not wait for those with it.
func TestCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		late, later, now := newResponse(), newResponse(), newResponse()
		clients := serveInMemory(h, ClientSettings{Coalesce: new(caddy.Duration(10 * time.Millisecond))}, late)
		clients = append(clients, serveInMemory(h, ClientSettings{Coalesce: new(caddy.Duration(50 * time.Millisecond))}, later)...)
		clients = append(clients, serveInMemory(h, ClientSettings{}, now)...)
		begun := time.Now()
		for _, data := range []string{"one", "two", "three"} {
			publish(h, data)
			pass(4 * time.Millisecond)
		}
		pass(100 * time.Millisecond)
		wantWrites(t, "with 10ms", late, [][]string{{"one", "two", "three"}})
		wantWrites(t, "with 50ms", later, [][]string{{"one", "two", "three"}})
		wantWrites(t, "without", now, [][]string{{"one"}, {"two"}, {"three"}})
		for _, test := range []struct {
			r    *response
			want time.Duration
		}{{late, 10 * time.Millisecond}, {later, 50 * time.Millisecond}, {now, 0}} {
			if got := test.r.at[0].Sub(begun); got != test.want {
				t.Errorf("first write after %s, want %s", got, test.want)
			}
		}
		// and once more: the windows were closed
		publish(h, "four")
		pass(4 * time.Millisecond)
		publish(h, "five")
		pass(10 * time.Millisecond)
		wantWrites(t, "with 10ms", late, [][]string{{"one", "two", "three"}, {"four", "five"}})
		leave(clients)
		if n := h.audience.windows.count; n != 0 {
			t.Errorf("%d windows are left without clients", n)
		}
	})
}
