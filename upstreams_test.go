package ssefanin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// quick is a backoff that keeps no test waiting, hasty one for tests that do
// not count attempts.
const (
	quick = "backoff 10ms 50ms"
	hasty = "backoff 1ms 4ms"
)

// directive writes a handler with a block.
func directive(path, options string, urls ...string) string {
	return "sse_fanin " + path + " " + strings.Join(urls, " ") + " {\n" + options + "\n}\n"
}

// nextSite ends a site block and begins another one, on its own address.
func nextSite(addr string) string { return "}\nhttp://" + addr + " {\n" }

// follow connects a client and waits for its answer: it gets every event from
// now on.
func follow(t *testing.T, in *instance, path string) *ssetest.Client {
	t.Helper()
	c := ssetest.StartClient(ssetest.ClientConfig{URL: in.url(path)})
	t.Cleanup(c.Close)
	must(t, c.WaitOpen(within(t, 5*time.Second), 1))
	return c
}

// followNumbered is follow for numbered events, which a verifier judges.
func followNumbered(t *testing.T, in *instance, path string) (*ssetest.Client, *ssetest.Verifier) {
	t.Helper()
	v := ssetest.NewVerifier()
	c := ssetest.StartClient(ssetest.ClientConfig{URL: in.url(path), Track: v.Track("client")})
	t.Cleanup(c.Close)
	must(t, c.WaitOpen(within(t, 5*time.Second), 1))
	return c, v
}

// receives waits for the data of all the events so far, and of no others.
func receives(t *testing.T, c *ssetest.Client, want ...string) {
	t.Helper()
	err := c.WaitCount(within(t, 5*time.Second), uint64(len(want)))
	var got []string
	for _, e := range c.Events() {
		got = append(got, e.Data)
	}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("the client got %q, want %q (%v)", got, want, err)
	}
}

// reconnect cuts the connection and waits for the next request, which it
// returns.
func reconnect(t *testing.T, o *ssetest.Origin) ssetest.Request {
	t.Helper()
	n := o.TotalConnections()
	o.CutConnections()
	return request(t, o, n+1)
}

// request waits for the n-th request, from 1.
func request(t *testing.T, o *ssetest.Origin, n int) ssetest.Request {
	t.Helper()
	must(t, o.WaitRequests(within(t, 5*time.Second), n))
	return o.Requests()[n-1]
}

// stays is the opposite of eventually: the condition holds all the time.
func stays(t *testing.T, length time.Duration, what string, ok func() bool) {
	t.Helper()
	run(t, length, 5*time.Millisecond, func() error {
		if !ok() {
			return fmt.Errorf("it does not stay so that %s", what)
		}
		return nil
	})
}

// script answers each request with the next piece of a stream and then ends
// it; the last one stays open. The pieces are raw bytes.
func script(o *ssetest.Origin, pieces ...string) {
	next := make(chan string, len(pieces))
	for _, piece := range pieces {
		next <- piece
	}
	close(next)
	o.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte(<-next))
		_ = http.NewResponseController(w).Flush()
		if len(next) == 0 {
			<-r.Context().Done()
		}
	}))
}

// logLine is what the module wrote to the log.
type logLine struct {
	Level    string   `json:"level"`
	Logger   string   `json:"logger"`
	Msg      string   `json:"msg"`
	Upstream string   `json:"upstream"`
	Streams  []string `json:"streams"`
	Reason   string   `json:"reason"`
	Status   int      `json:"status"`
	RetryIn  float64  `json:"retry_in"` // seconds
	Error    string   `json:"error"`
	URL      string   `json:"url"`
	Hint     string   `json:"hint"`
	Away     float64  `json:"away"` // seconds
	Attempts int      `json:"attempts"`
}

// logFile is a log that a test reads.
type logFile struct {
	t    *testing.T
	path string
}

func newLogFile(t *testing.T) *logFile {
	return &logFile{t: t, path: filepath.Join(t.TempDir(), "log.json")}
}

// option is the global option that writes everything to the log.
func (l *logFile) option() string {
	return "log {\noutput file " + l.path + "\nformat json\nlevel DEBUG\n}\n"
}

func (l *logFile) bytes() []byte {
	raw, err := os.ReadFile(l.path)
	if err != nil && !os.IsNotExist(err) {
		l.t.Fatal(err)
	}
	return raw
}

// lines returns the module's lines about an upstream; "" for all of them.
func (l *logFile) lines(upstream string) []logLine {
	var lines []logLine
	for raw := range bytes.Lines(l.bytes()) {
		var line logLine
		if json.Unmarshal(raw, &line) != nil || !strings.Contains(line.Logger, "sse_fanin") {
			continue
		}
		if line.Upstream != "" && (upstream == "" || line.Upstream == upstream) {
			lines = append(lines, line)
		}
	}
	return lines
}

// waitLine waits for the first line about an upstream that match accepts.
func (l *logFile) waitLine(upstream, what string, match func(logLine) bool) logLine {
	l.t.Helper()
	var found logLine
	eventually(l.t, 5*time.Second, what+" is logged about "+upstream, func() bool {
		lines := l.lines(upstream)
		i := slices.IndexFunc(lines, match)
		if i >= 0 {
			found = lines[i]
		}
		return i >= 0
	})
	return found
}

func TestIdleUpstreamIsReconnected(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	o.SetResume(ssetest.ReplayAll) // a connection may end before its events have come
	o.Emit("", "one")
	log := newLogFile(t)
	in := serve(t, log.option(), directive("/e", quick+"\nstart oldest\nupstream quiet "+o.URL()+"\nidle_timeout 80ms"))
	c := follow(t, in, "/e")
	receives(t, c, "one")
	request(t, o, o.TotalConnections()+1)
	if ids := o.LastEventIDs(); ids[len(ids)-1] != "1" {
		t.Errorf("reconnected with ids %q, want 1 in the end", ids)
	}
	log.waitLine("quiet", "the idle timeout", func(l logLine) bool { return l.Reason == "idle_timeout" })
	o.Emit("", "two")
	receives(t, c, "one", "two")
}

func TestCommentsAreLife(t *testing.T) {
	lines, bytes := newOrigin(t, ssetest.OriginConfig{}), newOrigin(t, ssetest.OriginConfig{})
	serve(t, "", directive("/e", quick+"\nidle_timeout 1s", lines.URL(), bytes.URL()))
	connected(t, lines, bytes)
	run(t, 2500*time.Millisecond, 20*time.Millisecond, func() error {
		lines.Raw([]byte(": still here\n"))
		bytes.Raw([]byte(":")) // one comment, byte by byte
		return nil
	})
	if n, m := lines.TotalConnections(), bytes.TotalConnections(); n != 1 || m != 1 {
		t.Errorf("%d and %d connections, want one each", n, m)
	}
	request(t, lines, 2) // now that it is silent
}

func TestTooLargeEventsAreSkipped(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	log := newLogFile(t)
	in := serve(t, log.option(), directive("/e", quick+"\nupstream big "+o.URL()+"\nmax_event_size 1KiB"))
	c := follow(t, in, "/e")
	connected(t, o)
	large := strings.Repeat("x", 1025)
	o.Emit("", "one")
	for range 20 {
		o.Emit("", large)
	}
	o.Emit("", "two")
	receives(t, c, "one", "two")
	o.Emit("", large)
	o.Raw([]byte("event: mark\ndata: mark\n\n"))
	receives(t, c, "one", "two", "mark")
	skipped := func() int {
		n := 0
		for _, l := range log.lines("big") {
			if strings.Contains(l.Msg, "max_event_size") {
				n++
			}
		}
		return n
	}
	eventually(t, 5*time.Second, "one log line for one connection", func() bool { return skipped() == 1 }) // written after the event
	// the id of a skipped event is one to resume from, lest it come for ever
	if id, _ := reconnect(t, o).LastEventID(); id != "23" {
		t.Errorf("reconnected with id %q, want 23", id)
	}
	connected(t, o)
	o.Emit("", large)
	o.Emit("", "three")
	receives(t, c, "one", "two", "mark", "three")
	eventually(t, 5*time.Second, "two log lines for two connections", func() bool { return skipped() == 2 })
}

// sentAt finds the sending time that an origin writes into numbered events.
func sentAt(data string) (time.Time, bool) {
	var body struct{ At int64 }
	if json.Unmarshal([]byte(data), &body) != nil || body.At == 0 {
		return time.Time{}, false
	}
	return time.Unix(0, body.At), true
}
