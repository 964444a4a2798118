package scenarios

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// crowd are clients of a process that come while events are sent, and leave.
type crowd struct {
	p       *process
	exiting atomic.Bool // the process may have been told to exit
}

// come begins the stream of a client.
func (w *crowd) come() (*strictClient, error) {
	c := &strictClient{dial: func() (net.Conn, error) { return net.Dial("tcp", w.p.addr) }}
	err := c.ask("GET /events HTTP/1.1", w.p.addr, "\r\n")
	if err == nil && (c.head.StatusCode != http.StatusOK || !c.head.Close) {
		err = fmt.Errorf("got %+v", c.head)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// follow reads so many numbered events, each of which has to be the next one.
func (c *strictClient) follow(events int) error {
	var last uint64
	for range events {
		n, err := c.numbered()
		switch {
		case err != nil:
			return err
		case last > 0 && n != last+1:
			return fmt.Errorf("event %d is followed by %d", last, n)
		}
		last = n
	}
	return nil
}

// leave ends a connection in one of the ways there are.
func (c *strictClient) leave(way int) error {
	switch way % 4 {
	case 0:
		c.close()
	case 1:
		c.reset()
	case 2:
		_, _ = fmt.Fprint(c.conn, "more")
		c.close()
	default:
		if err := c.closeWrite(); err != nil {
			return err
		}
		return c.finish()
	}
	return nil
}

// comeAndGo has one client after the other come, get some events and leave. Once the
// process exits, there may be no answer, which ends it, or an early end, which has to
// be clean.
func (w *crowd) comeAndGo(clients int) error {
	for i := range clients {
		c, err := w.come()
		if errors.Is(err, errNoAnswer) && w.exiting.Load() {
			return nil
		}
		if err != nil {
			return err
		}
		err = c.follow(3)
		switch exiting := w.exiting.Load(); {
		case err == nil && !exiting:
			err = c.leave(i)
		case exiting && (err == nil || err == io.EOF): //nolint:errorlint // readers return it as it is
			err = c.finish()
		}
		c.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// stay reads a client's stream to its end.
func (w *crowd) stay(c *strictClient) error {
	defer c.close()
	if err := c.follow(1 << 30); err != io.EOF { //nolint:errorlint // likewise
		return err
	}
	if !w.exiting.Load() {
		return errors.New("the stream has ended")
	}
	return c.finish()
}

// inParallel runs several of the same, and waits for them.
func inParallel(n int, do func() error) (wait func() error) {
	errs := make(chan error, n) // of the goroutines
	for range n {
		go func() { errs <- do() }()
	}
	return func() (err error) {
		for range n {
			err = errors.Join(err, <-errs)
		}
		return err
	}
}

// A connection is handed over between two writes, and its descriptor is soon
// another one's. Nobody may notice, also while the process exits.
func TestClientsThatComeAndGo(t *testing.T) { //nolint:tparallel // its cases load one machine
	besideOthers(t)
	for _, mode := range takenModes {
		t.Run("detach "+mode, func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{Rate: 500, Pad: 50})
			p := startProcess(t, "", directive("/events", "stream s\ndetach "+mode, o.URL()))
			w := &crowd{p: p}
			const stays, ways = 10, 8
			stay := make(chan *strictClient, stays)
			for range stays {
				c, err := w.come()
				must(t, err)
				stay <- c
			}
			ended := inParallel(stays, func() error { return w.stay(<-stay) })
			must(t, inParallel(ways, func() error { return w.comeAndGo(25) })())
			eventually(t, 10*time.Second, "all who have left are noticed", func() bool { connected, _ := p.clients("s"); return connected == stays })

			some := inParallel(ways, func() error { return w.comeAndGo(1 << 30) })
			_, before := p.clients("s")
			eventually(t, 10*time.Second, "more come", func() bool { _, total := p.clients("s"); return total > before+20 })
			w.exiting.Store(true)
			p.terminate(exitLimit)
			if err := errors.Join(ended(), some()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A client that takes nothing is let go by the write timeout, and by that of the
// server.
func TestBlockedClientsAreLetGo(t *testing.T) {
	besideOthers(t)
	const soon, late = "write_timeout 200ms", "write_timeout 10m"
	s := newTakenScene(t, ssetest.OriginConfig{Pad: 32 << 10}, map[string]*takenSite{
		"tcp":    {stream: soon},
		"tls":    {stream: soon, tls: true},
		"unix":   {stream: soon, unix: true},
		"server": {stream: late, options: "timeouts {\nwrite 1s\n}"},
	})
	s.start()
	s.each("open", func(t *testing.T, c *takenCase) { c.open(t, "") })
	s.waitRequests(1)
	s.origin.EmitNumbered(400) // 13 MB, more than windows and buffers take
	for _, c := range s.cases {
		c.waitClients(t, 0)
	}
}

// A client that was blocked when the process is told to exit, and reads from then
// on, sees a clean end, too.
func TestBlockedClientsThatReadAtTheExit(t *testing.T) {
	besideOthers(t)
	const events, size = 100, 32 << 10 // far more than a unix socket takes
	s := newTakenScene(t, ssetest.OriginConfig{Pad: size}, map[string]*takenSite{"unix": {unix: true}})
	s.start()
	blocked := make(map[*takenCase]*strictClient)
	s.each("block", func(t *testing.T, c *takenCase) {
		blocked[c] = c.open(t, "")
		reads := c.open(t, "")
		s.origin.EmitNumbered(events)
		must(t, reads.follow(events))
		reads.close()
	})
	must(t, s.p.running.Terminate())
	eventually(t, 10*time.Second, "the exit has begun", func() bool {
		conn, err := s.sites["unix"].dial()
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	s.each("end", func(t *testing.T, c *takenCase) {
		must(t, blocked[c].finish())
		if got := blocked[c].size; got >= events*size {
			t.Errorf("it was not blocked: it got %d bytes", got)
		}
	})
	if !s.p.running.WaitExit(exitLimit) {
		t.Errorf("caddy has not exited within %s", exitLimit)
	}
}
