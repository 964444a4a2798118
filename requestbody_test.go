package ssefanin

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// missingBodies are the ways in which a request may promise a body that does not
// come, as header fields and what follows the header.
var missingBodies = map[string]string{
	"length":        "Content-Length: 5\r\n\r\n",
	"a part":        "Content-Length: 5\r\n\r\nab",
	"large":         "Content-Length: 1000000000000\r\n\r\nab",
	"chunked":       "Transfer-Encoding: chunked\r\n\r\n",
	"a chunk":       "Transfer-Encoding: chunked\r\n\r\n5\r\nab",
	"upon request":  "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n",
	"chunks upon":   "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
	"to close then": "Content-Length: 5\r\nConnection: close\r\n\r\n",
}

// rawRequest is a request whose bytes the test writes itself.
type rawRequest struct {
	t    *testing.T
	name string // for errors
	conn net.Conn
	r    *bufio.Reader
	resp *http.Response
	body *bufio.Reader // of the response; nil until something was read
}

// lines returns the reader of the response's body.
func (q *rawRequest) lines() *bufio.Reader {
	if q.body == nil {
		q.body = bufio.NewReader(q.resp.Body)
	}
	return q.body
}

// send sends a request line and what follows the field Host, and reads the
// response's header.
func (in *instance) send(line, rest string) *rawRequest {
	in.t.Helper()
	method, _, _ := strings.Cut(line, " ")
	q := &rawRequest{t: in.t}
	in.t.Cleanup(func() { q.conn.Close() })
	eventually(in.t, 10*time.Second, "there is an answer", func() bool { // a reload may refuse a few
		var err error
		if q.conn, err = net.Dial("tcp", in.addr); err != nil {
			return false
		}
		if in.scheme == "https" {
			q.conn = tls.Client(q.conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a certificate of the test's own
		}
		must(in.t, q.conn.SetDeadline(time.Now().Add(2*patience)))
		fmt.Fprintf(q.conn, "%s\r\nHost: %s\r\n%s", line, in.addr, rest)
		q.r = bufio.NewReader(q.conn)
		q.resp, err = http.ReadResponse(q.r, &http.Request{Method: method})
		return err == nil
	})
	return q
}

// until reads the body up to a line.
func (q *rawRequest) until(line string) {
	q.t.Helper()
	for {
		got, err := q.lines().ReadString('\n')
		if err != nil {
			q.t.Fatalf("%s: %v before %q", q.name, err, line)
		}
		if got == line+"\n" {
			return
		}
	}
}

// closed waits until the server has closed the connection.
func (q *rawRequest) closed() {
	q.t.Helper()
	if _, err := io.Copy(io.Discard, q.r); err != nil {
		q.t.Errorf("%s: the connection does not end: %v", q.name, err)
	}
}

// inBoth runs a test over each of HTTP/1.0 and 1.1, with and without TLS. The
// site has an origin of its own where it says ORIGIN.
func inBoth(t *testing.T, site string, test func(t *testing.T, in *instance, a *ssetest.Origin, version string)) {
	t.Helper()
	for name, start := range map[string]func(*testing.T, string, string) *instance{"tcp": serve, "tls": serveTLS} {
		t.Run(name, func(t *testing.T) {
			a := plain(t)
			in := start(t, "", strings.ReplaceAll(site, "ORIGIN", a.URL()))
			for _, version := range []string{"HTTP/1.0", "HTTP/1.1"} {
				t.Run(version, func(t *testing.T) {
					in.t = t
					test(t, in, a, version)
				})
			}
			in.t = t
		})
	}
}

// overHTTP1 calls a function for each of HTTP/1.0 and 1.1, with and without TLS,
// and each of missingBodies.
func (s *sites) overHTTP1(test func(in *instance, version, name, rest string)) {
	for _, in := range []*instance{s.variants[0].tcp, s.variants[0].tls} {
		for _, version := range []string{"HTTP/1.0", "HTTP/1.1"} {
			for name, rest := range missingBodies {
				test(in, version, in.scheme+" "+version+", "+name, rest)
			}
		}
	}
}

// A stream goes on and ends as if the request had no body.
func TestStreamOfARequestWhoseBodyDoesNotCome(t *testing.T) {
	a := plain(t)
	s := serveEverywhere(t, "sse_fanin /events "+a.URL()+" {\nmax_age 500ms\nstart oldest\n}\nsse_fanin /all "+a.URL(), nil)
	connected(t, a)
	witness := s.variants[0].tcp.openClient(ssetest.ClientConfig{URL: "/all"})
	emitSeen(t, a, witness, "hello")
	witness.Close()
	var all []*rawRequest // their ages run out together
	s.overHTTP1(func(in *instance, version, name, rest string) {
		q := in.send("GET /events "+version, rest)
		q.name = name
		if q.resp.StatusCode != http.StatusOK || q.resp.Header.Get("Content-Type") != typeEvents {
			t.Fatalf("%s: got %+v", name, q.resp)
		}
		all = append(all, q)
	})
	for _, q := range all {
		q.until("data: hello")
		q.closed()
	}
	waitSubscribers(t, 0)
}

// What is no stream is answered at once, and leaves nothing waiting for long.
func TestAnswersToARequestWhoseBodyDoesNotCome(t *testing.T) {
	url := plain(t).URL()
	s := newSites(t, nil)
	s.reloadBeside("sse_fanin {\nstream full "+url+"\n}", `sse_fanin /events `+url+` {
		filters on
	}
	sse_fanin /full full {
		max_clients 1 reject
	}
	sse_fanin /full-retry full {
		max_clients 1 retry
	}
	sse_fanin_status /status`, "")
	s.variants[0].tcp.send("GET /full HTTP/1.1", "\r\n").until(": sse_fanin")
	eventually(t, 10*time.Second, "all streams are ready", func() bool {
		return s.variants[0].tcp.do(http.MethodGet, "/status?ready").StatusCode == http.StatusOK
	})
	var all []*rawRequest // the server's patience with them runs out together
	for line, want := range map[string]int{
		"HEAD /events":              http.StatusOK,
		"OPTIONS /events":           http.StatusNoContent,
		"POST /events":              http.StatusMethodNotAllowed,
		"GET /events?source=nobody": http.StatusBadRequest,
		"GET /full":                 http.StatusServiceUnavailable,
		"GET /full-retry":           http.StatusOK,
		"GET /status":               http.StatusOK,
		"HEAD /status":              http.StatusOK,
		"OPTIONS /status":           http.StatusNoContent,
		"POST /status":              http.StatusMethodNotAllowed,
		"GET /status?ready":         http.StatusOK,
	} {
		s.overHTTP1(func(in *instance, version, name, rest string) {
			q := in.send(line+" "+version, rest)
			q.name = line + ", " + name
			if q.resp.StatusCode != want {
				t.Errorf("%s: got %s, want %d", q.name, q.resp.Status, want)
			}
			all = append(all, q)
		})
	}
	for _, q := range all {
		q.closed()
	}
}

// A viewer of the status is served, and noticed when it leaves, though its body
// has not come.
func TestStatusStreamOfARequestWhoseBodyDoesNotCome(t *testing.T) {
	inBoth(t, "sse_fanin_status /status", func(t *testing.T, in *instance, a *ssetest.Origin, version string) {
		for name, rest := range missingBodies {
			t.Run(name, func(t *testing.T) {
				in.t = t
				q := in.send("GET /status "+version, "Accept: text/event-stream\r\n"+rest)
				q.until("retry: 1000")
			})
		}
	})
}

// That a client left is noticed though there is nothing to write to it, whether
// or not its body comes.
func TestClientWithABodyThatLeavesIsNoticed(t *testing.T) {
	bodies := map[string]string{
		"comes at once": "Content-Length: 5\r\n\r\nhello",
		"chunks":        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
	}
	maps.Copy(bodies, missingBodies)
	inBoth(t, "sse_fanin /events ORIGIN {\nheartbeat off\n}", func(t *testing.T, in *instance, a *ssetest.Origin, version string) {
		for name, rest := range bodies {
			t.Run(name, func(t *testing.T) {
				in.t = t
				q := in.send("GET /events "+version, rest)
				q.until(": sse_fanin")
				waitSubscribers(t, 1)
				q.conn.Close()
				waitSubscribers(t, 0)
			})
		}
	})
}

// The body may come late, or be none.
func TestBodyThatComesLateIsReadAway(t *testing.T) {
	inBoth(t, "sse_fanin /events ORIGIN {\nheartbeat off\n}", func(t *testing.T, in *instance, a *ssetest.Origin, version string) {
		for name, late := range map[string]string{"whole": "hello", "wrong": "zz\r\nzz"} {
			t.Run(name, func(t *testing.T) {
				in.t = t
				fields := "Content-Length: 5\r\n\r\n"
				if name == "wrong" {
					fields = "Transfer-Encoding: chunked\r\n\r\n"
				}
				q := in.send("GET /events "+version, fields)
				q.until(": sse_fanin")
				fmt.Fprint(q.conn, late)
				connected(t, a)
				a.Emit("", "after "+name)
				q.until("data: after " + name)
				q.conn.Close()
				a.Emit("", "gone") // a broken body hides that the client leaves until something is written
				eventually(t, 10*time.Second, "the client is gone", func() bool {
					a.Emit("", "gone")
					return subscribers() == 0
				})
			})
		}
	})
}

// All of them are gone when the configuration ends.
func TestServerEndsWhileBodiesDoNotCome(t *testing.T) {
	const site = "sse_fanin /events ORIGIN {\nheartbeat off\ndrain 1ms\n}\nsse_fanin_status /status"
	inBoth(t, site, func(t *testing.T, in *instance, a *ssetest.Origin, version string) {
		waitSubscribers(t, 0)
		for _, rest := range missingBodies {
			in.send("GET /events "+version, rest).until(": sse_fanin")
			in.send("GET /status "+version, "Accept: text/event-stream\r\n"+rest).until("retry: 1000")
		}
		waitSubscribers(t, len(missingBodies))
		begun := time.Now()
		must(t, caddy.Stop())
		if took := time.Since(begun); took > 10*time.Second { // a body that is waited for takes a minute
			t.Errorf("stopping took %s", took)
		}
		waitSubscribers(t, 0)
		in.reload("", strings.ReplaceAll(site, "ORIGIN", a.URL()))
	})
}

// Over every protocol a body that goes on does not keep the stream waiting.
func TestStreamBesideABodyThatGoesOn(t *testing.T) {
	a := plain(t)
	s := serveEverywhere(t, "sse_fanin /events "+a.URL()+" {\nmax_age 500ms\nstart oldest\n}", nil)
	connected(t, a)
	a.Emit("", "hello")
	open := make(map[string]*http.Response) // their ages run out together
	s.each(func(name string, p protocol, in *instance) {
		body, more := io.Pipe()
		t.Cleanup(func() { more.Close() })
		req, err := http.NewRequestWithContext(within(t, 10*time.Second), http.MethodGet, in.url("/events"), body)
		must(t, err)
		resp, err := p.client(t).Do(req)
		must(t, err)
		t.Cleanup(func() { resp.Body.Close() })
		_, err = more.Write([]byte("some"))
		must(t, err)
		q := &rawRequest{t: t, name: name, resp: resp}
		q.until("data: hello")
		open[name] = resp
	})
	for name, resp := range open {
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Errorf("%s: the end is not clean: %v", name, err)
		}
	}
}
