package interop

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// TestLibrary runs each library at a server that has nothing to do with Caddy: a
// few bytes, written by hand. What a library does wrong there is its own, and is
// what the tests of streams forgive. It fails, too, when a library does right what
// is noted as a fault.
func TestLibrary(t *testing.T) {
	t.Parallel()
	for _, l := range present(t) {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			s := newHandwritten(t,
				head+chunk("retry: 50\nid: 1\ndata:\ndata: begins with a line end\n\nid: 2\ndata: cut\n"),
				"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
				head+chunk("id: 3\ndata: the last one\n\n"),
			)
			p := startProgram(t, l.plain(), s.url, "")
			eventually(t, "it gets the first event", func() bool { return p.len() > 0 })
			s.close(0) // it has read what there is of the second one
			s.close(1)

			want := []message{{Type: "message", ID: "1", Data: "\nbegins with a line end"}}
			if l.handsOutCut {
				want = append(want, message{Type: "message", ID: "2", Data: "cut"})
			}
			if !l.givesUp {
				want = append(want, message{Type: "message", ID: "3", Data: "the last one"})
			}
			want = l.expected(want)
			if l.givesUp {
				eventually(t, "it gives up", func() bool { return !p.running() })
			} else {
				eventually(t, "it gets the last event", func() bool { return p.len() >= len(want) })
			}
			if d := compare(want, p.since(0)); d.String() != "" {
				t.Error(d)
			}
			asked := "1"
			if l.losesCut {
				asked = "2"
			}
			if position := s.positions[1].Load(); position != asked {
				t.Errorf("after an event that was cut it asks for what follows %q, want %q", position, asked)
			}
		})
	}
}

// head is the head of an event stream.
const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

// chunk is a part of a body.
func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// A handwritten server answers each connection with bytes, and closes it when it is
// told to.
type handwritten struct {
	url         string
	answers     []string
	connections atomic.Int32
	positions   []atomic.Value  // what each connection has asked for, a string
	closing     []chan struct{} // closed for each connection that is to be
}

// newHandwritten starts a server for as many connections as there are answers. It
// ends with the test.
func newHandwritten(t *testing.T, answers ...string) *handwritten {
	t.Helper()
	h := &handwritten{answers: answers, positions: make([]atomic.Value, len(answers))}
	for range answers {
		h.closing = append(h.closing, make(chan struct{}))
	}
	server := httptest.NewServer(http.HandlerFunc(h.handle))
	h.url = server.URL
	t.Cleanup(func() {
		for n := range h.closing {
			h.close(n)
		}
		server.Close()
	})
	return h
}

// close closes a connection, now or as soon as it has come. Only the test calls it.
func (h *handwritten) close(n int) {
	select {
	case <-h.closing[n]: // it has been called before
	default:
		close(h.closing[n])
	}
}

func (h *handwritten) handle(w http.ResponseWriter, r *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	n := int(h.connections.Add(1)) - 1
	if n >= len(h.answers) {
		return
	}
	position := r.Header.Get("Last-Event-ID")
	if position == "" {
		position = r.URL.Query().Get("lastEventId")
	}
	h.positions[n].Store(position)
	_, _ = conn.Write([]byte(h.answers[n]))
	<-h.closing[n]
}
