package ssefanin

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// collected waits until the garbage collector has freed what a pointer points to.
func collected[T any](t *testing.T, what string, p weak.Pointer[T]) {
	t.Helper()
	eventually(t, 5*time.Second, what+" is freed", func() bool {
		runtime.GC()
		return p.Value() == nil
	})
}

// onlyLog returns the log of the only stream, which has to have events.
func onlyLog(t *testing.T) weak.Pointer[streamLog] {
	t.Helper()
	all := liveHubs.list()
	if len(all) != 1 {
		t.Fatalf("%d streams", len(all))
	}
	log := all[0].log.Load()
	if log.memory.Head() == 0 {
		t.Fatal("the log is empty")
	}
	return weak.Make(log)
}

// A stream that was removed keeps no log, however long timers of its clients'
// connections are still to run.
func TestRemovedStreamFreesItsLog(t *testing.T) {
	for name, site := range map[string]string{
		"plain":     "sse_fanin /e %s {\nstream s\nmax_clients 1\nwrite_timeout 5m\n}",
		"on demand": "sse_fanin /e %s {\nstream s\nmax_clients 1\nwrite_timeout 5m\nconnect on_demand 1m\n}",
		"keyed":     "sse_fanin /e %s/{query.user} {\nstream s\nmax_clients 1\nmax_streams 1\nwrite_timeout 5m\n}",
	} {
		t.Run(name, func(t *testing.T) {
			a := newOrigin(t, ssetest.OriginConfig{Source: "a", Rate: 200})
			in := serveTLS(t, "", fmt.Sprintf(site, a.URL()))
			shared := tcpClient(t, (*http.Protocols).SetHTTP2)
			c := ssetest.StartClient(ssetest.ClientConfig{URL: in.url("/e?user=ann"), HTTP: shared})
			t.Cleanup(c.Close)
			must(t, c.WaitCount(within(t, 5*time.Second), 5))
			for _, user := range []string{"ann", "ann", "bob"} { // full, in either way
				resp, err := shared.Get(in.url("/e?user=" + user))
				must(t, err)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("got status %s", resp.Status)
				}
			}
			log := onlyLog(t)
			c.Close()
			in.reload("", "respond nothing")
			collected(t, "the log", log)
		})
	}
}

// The timer of a line to be logged keeps no stream that has ended.
func TestRefusalsKeepNoRemovedStream(t *testing.T) {
	var r refusals
	stream := new([64]byte)
	kept := weak.Make(stream)
	lines := 0
	refuse := func(stream *[64]byte) {
		r.add(refusedFull, func(uint64) { lines += 1 + int(stream[0]) })
	}
	for range 2 {
		refuse(stream)
	}
	r.end()
	refuse(stream) // by a request that was on its way
	collected(t, "the stream", kept)
	if n := r.load()[refusedFull]; n != 3 || lines != 1 {
		t.Errorf("%d refused in %d lines", n, lines)
	}
}

// closeNotifier is a writer of HTTP/2, as far as the end of its stream goes.
type closeNotifier struct{ *httptest.ResponseRecorder }

func (closeNotifier) CloseNotify() <-chan bool { return make(chan bool) }

// A connection that has been closed is not kept for the timers that would cut
// it.
func TestTimersKeepNoConnection(t *testing.T) {
	w := closeNotifier{httptest.NewRecorder()}
	r := httptest.NewRequest(http.MethodGet, "/", bytes.NewReader(nil))
	r.ProtoMajor = 2
	open := func() (*clientConnection, weak.Pointer[clientConnection]) {
		here, there := net.Pipe()
		t.Cleanup(func() { _, _ = here.Close(), there.Close() })
		c := &clientConnection{conn: here, server: new(acceptedConnections)}
		return c, weak.Make(c)
	}
	c, gone := open()
	c.cutUnlessEnded(w, r, time.Now().Add(time.Hour))
	collected(t, "the connection", gone)

	c, still := open()
	c.cutUnlessEnded(w, r, time.Now().Add(10*time.Millisecond))
	eventually(t, 5*time.Second, "the connection is cut", c.wasCut)
	if still.Value() != c {
		t.Error("another connection")
	}
}
