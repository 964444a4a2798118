package ssefanin

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// Over HTTP/1.1 each delivery is a chunk of its own, and the connection ends with
// the last one, as the header says.
func TestEachDeliveryIsAChunk(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events "+a.URL()+" {\ndrain 1ms\nretry 3s\n}\nrespond /other other")
	q := in.send("GET /events HTTP/1.1", "\r\n")
	if q.resp.TransferEncoding == nil || !q.resp.Close || q.resp.ContentLength != -1 {
		t.Fatalf("got %+v", q.resp)
	}
	next := func(want string) {
		t.Helper()
		if got, err := ssetest.ReadChunk(q.r); err != nil || !strings.HasSuffix(got, want) || len(want) == 0 && len(got) > 0 {
			t.Fatalf("got the chunk %q, %v, want %q", got, err, want)
		}
	}
	next("retry: 3000\n: sse_fanin\n")
	connected(t, a)
	for i := range 3 {
		a.Emit("", fmt.Sprint(i))
		next(fmt.Sprintf("data: %d\n\n", i))
	}
	in.reload("", "respond /other other")
	next("")
	if rest, err := io.ReadAll(q.r); err != nil || len(rest) > 0 {
		t.Errorf("after the last chunk there are %q, %v", rest, err)
	}
}

// Over HTTP/1.0, which has no chunks, the stream ends with the connection.
func TestStreamOverHTTP10EndsWithTheConnection(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events "+a.URL()+" {\ndrain 1ms\n}")
	q := in.send("GET /events HTTP/1.0", "Connection: keep-alive\r\n\r\n")
	if q.resp.Proto != "HTTP/1.0" || !q.resp.Close || q.resp.TransferEncoding != nil || q.resp.ContentLength != -1 {
		t.Errorf("got %+v", q.resp)
	}
	connected(t, a)
	a.Emit("", "hello")
	q.until("data: hello")
	in.reload("", "respond gone")
	q.closed()
}

// A connection that cannot be taken over is good for the next request.
func TestConnectionServesTheNextRequest(t *testing.T) {
	a := plain(t)
	in := serve(t, "servers {\ntimeouts {\nwrite_idle -1s\n}\n}", "sse_fanin /events "+a.URL()+" {\nmax_age 100ms\n}")
	q := in.send("GET /events HTTP/1.1", "\r\n")
	for i := range 3 {
		if q.resp.Close {
			t.Fatalf("stream %d closes its connection", i)
		}
		if _, err := io.Copy(io.Discard, q.resp.Body); err != nil {
			t.Fatalf("stream %d: the end is not clean: %v", i, err)
		}
		fmt.Fprintf(q.conn, "GET /events HTTP/1.1\r\nHost: %s\r\n\r\n", in.addr)
		resp, err := http.ReadResponse(q.r, nil)
		must(t, err)
		q.resp = resp
	}
}

// countedConn counts what the server writes at once.
type countedConn struct {
	net.Conn
	mu     sync.Mutex // protects writes
	writes []string
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.writes = append(c.writes, string(p))
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *countedConn) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.writes
	c.writes = nil
	return taken
}

// countedListener is a listener for one connection.
type countedListener struct {
	net.Listener
	conn chan *countedConn
}

func (l *countedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	counted := &countedConn{Conn: conn}
	l.conn <- counted
	return counted, nil
}

// The frame of a chunk costs no write of its own, up to the size of net/http's
// buffer.
func TestEachDeliveryIsOneWrite(t *testing.T) {
	h := clockHub()
	settings := ClientSettings{Heartbeat: new(caddy.Duration(0))}.resolve()
	handler := &Handler{service: service{def: &definition{hub: h}, settings: &settings, logger: zap.NewNop()}}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l := &countedListener{tcp, make(chan *countedConn, 1)}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = handler.ServeHTTP(w, r, nil)
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	client, err := net.Dial("tcp", tcp.Addr().String())
	must(t, err)
	defer client.Close()
	must(t, client.SetDeadline(time.Now().Add(20*time.Second)))
	fmt.Fprint(client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	conn := <-l.conn
	r := bufio.NewReader(client)
	resp, err := http.ReadResponse(r, nil)
	must(t, err)
	body := bufio.NewReader(resp.Body)
	read := func(prefix string) {
		for {
			line, err := body.ReadString('\n')
			must(t, err)
			if strings.HasPrefix(line, prefix) {
				return
			}
		}
	}
	read(": sse_fanin")
	if got := conn.take(); len(got) != 1 {
		t.Errorf("the header and first lines took %d writes: %q", len(got), got)
	}
	for _, size := range []int{1, 250, 2000, 2100, 4000} {
		publish(h, strings.Repeat("x", size))
		read("data: ")
		got := conn.take()
		if len(got) != 1 {
			t.Errorf("an event of %d bytes took %d writes", size, len(got))
			continue
		}
		event, err := ssetest.ReadChunk(bufio.NewReader(strings.NewReader(got[0])))
		if err != nil || !strings.HasPrefix(event, "id: ") || !strings.HasSuffix(event, "x\n\n") {
			t.Errorf("an event of %d bytes was framed as %.50q", size, got[0])
		}
	}
	client.Close()
	eventually(t, 10*time.Second, "the client is gone", func() bool {
		return h.audience.snapshot().connected == 0
	})
	nobodyServed(t)
}

// block is what stands between two blank lines of a stream, and whether a client
// is told by it of an event.
type block struct {
	text string
	data bool
}

// blocks reads the blocks of a stream up to one that contains a line, the lines
// that follow the last blank line not included.
func (q *rawRequest) blocks(last string) []block {
	q.t.Helper()
	var all []block
	for b := (block{}); ; {
		line, err := q.lines().ReadString('\n')
		if err != nil {
			q.t.Fatalf("%v before %q, after %+v", err, last, all)
		}
		b.text += line
		b.data = b.data || strings.HasPrefix(line, "data")
		if line != "\n" {
			continue
		}
		all = append(all, b)
		if strings.Contains(b.text, last+"\n") {
			return all
		}
		b = block{}
	}
}

// Several clients take any blank line for the end of a message. Nobody gets one
// that ends no event, but who is known to be none of them or is configured to.
func TestNoBlockIsWithoutData(t *testing.T) {
	const browser = "Accept: text/event-stream\r\nCache-Control: no-cache\r\nSec-Fetch-Mode: cors\r\n"
	for name, test := range map[string]struct {
		fields, prime string
		primed        bool
	}{
		"curl":                      {"Accept: */*\r\n", "", false},
		"nothing":                   {"", "auto", false},
		"EventSource of a browser":  {browser, "", true},
		"EventSource, auto":         {browser, "auto", true},
		"EventSource, off":          {browser, "off", false},
		"any, on":                   {"Accept: */*\r\n", "on", true},
		"a library":                 {"Accept: text/event-stream\r\nCache-Control: no-cache\r\n", "", false},
		"fetch":                     {"Accept: text/event-stream\r\nSec-Fetch-Mode: cors\r\n", "", false},
		"fetch of anything":         {"Accept: */*\r\nCache-Control: no-cache\r\nSec-Fetch-Mode: cors\r\n", "", false},
		"fetch with another weight": {"Accept: text/event-stream, */*\r\nCache-Control: no-cache\r\nSec-Fetch-Mode: cors\r\n", "", false},
		"fetch of another cache":    {"Accept: text/event-stream\r\nCache-Control: max-age=0\r\nSec-Fetch-Mode: cors\r\n", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			a := plain(t)
			prime := test.prime
			if prime != "" {
				prime = "prime " + prime
			}
			in := serve(t, "", "sse_fanin /events {\nupstream a "+a.URL()+"\nfilters on\nheartbeat 20ms\nretry 3s\n"+prime+"\n}")
			all := in.openClient(ssetest.ClientConfig{})
			connected(t, a)
			a.Emit("other", "before")
			waitData(t, all, "before")
			q := in.send("GET /events?type=wanted HTTP/1.1", test.fields+"\r\n")
			waitSubscribers(t, 2)
			a.Emit("other", "skipped")
			waitData(t, all, "skipped")
			beats := all.Comments()
			must(t, all.WaitComments(within(t, 10*time.Second), beats+5))
			a.Emit("wanted", "first")
			got := q.blocks("data: first")
			if !strings.HasPrefix(got[0].text, "retry: 3000\n: sse_fanin\n") {
				t.Errorf("it begins with %q", got[0].text)
			}
			if !strings.Contains(got[len(got)-1].text, ":\n") && !test.primed {
				t.Errorf("no heartbeat before the event: %+v", got)
			}
			for i, b := range got {
				id := strings.Contains(b.text, "\nid: ") || strings.HasPrefix(b.text, "id: ")
				switch {
				case b.data || test.primed && id:
				default:
					t.Errorf("block %d is %q", i, b.text)
				}
			}
			if test.primed && (len(got) < 2 || got[0].data) {
				t.Errorf("not primed: %+v", got)
			}
		})
	}
}

// A client with a position needs no other.
func TestClientWithAPositionIsNotPrimed(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events "+a.URL()+" {\nprime on\nsource_events on\n}")
	c := in.openClient(ssetest.ClientConfig{})
	connected(t, a)
	emitSeen(t, a, c, "one")
	for _, position := range []string{c.LastEventID(), "nonsense"} {
		q := in.send("GET /events HTTP/1.1", "Last-Event-ID: "+position+"\r\n\r\n")
		for _, b := range q.blocks("event: fanin.source") {
			if !b.data {
				t.Errorf("with %q there is the block %q", position, b.text)
			}
		}
	}
}

// A client that gets nothing but an end is told of no message either.
func TestRefusalIsNoMessage(t *testing.T) {
	in := serve(t, "", "sse_fanin /events "+plain(t).URL()+" {\nmax_clients 1 retry\n}")
	in.openClient(ssetest.ClientConfig{})
	resp := in.do(http.MethodGet, "/events")
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(body), "retry: ") || strings.Count(string(body), "\n") != 1 {
		t.Errorf("got %s, %q, %v", resp.Status, body, err)
	}
}

// One value is told to every client.
func TestRetryOfOneValue(t *testing.T) {
	in := serve(t, "", "sse_fanin /events "+plain(t).URL()+" {\nretry 500ms\n}")
	for range 5 {
		c := in.openClient(ssetest.ClientConfig{Once: true})
		must(t, c.WaitComments(within(t, 5*time.Second), 1))
		if d, _ := c.Retry(); d != 500*time.Millisecond {
			t.Errorf("retry is %s, want 500ms", d)
		}
	}
}
