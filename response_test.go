package ssefanin

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func status(code int, field, value string) ssetest.Fault {
	return ssetest.Fault{Kind: ssetest.Respond, Status: code, Header: http.Header{field: {value}}, Body: []byte("data: no\n\n")}
}

// faulty starts an origin that has a fault from the beginning.
func faulty(t *testing.T, f ssetest.Fault) *ssetest.Origin {
	t.Helper()
	o := newOrigin(t, ssetest.OriginConfig{})
	o.Inject(f)
	return o
}

// answers says that an origin answers with a stream of this header.
func answers(t *testing.T, field, value string) *ssetest.Origin {
	t.Helper()
	return newOrigin(t, ssetest.OriginConfig{Header: http.Header{field: {value}}})
}

// upstreams writes an upstream of a name for each origin.
func upstreams(origins map[string]*ssetest.Origin) string {
	var b strings.Builder
	for name, o := range origins {
		fmt.Fprintf(&b, "upstream %s %s\n", name, o.URL())
	}
	return b.String()
}

func TestEndOfStreamIsResumed(t *testing.T) {
	for name, end := range map[string]func(*ssetest.Origin){
		"end": (*ssetest.Origin).EndConnections,
		"cut": (*ssetest.Origin).CutConnections,
	} {
		for _, framing := range []ssetest.Framing{ssetest.Chunked, ssetest.UntilClose} {
			t.Run(fmt.Sprint(name, framing), func(t *testing.T) {
				o := newOrigin(t, ssetest.OriginConfig{Framing: framing})
				in := serve(t, "", directive("/e", quick, o.URL()))
				c := follow(t, in, "/e")
				connected(t, o)
				o.Emit("", "one")
				receives(t, c, "one")
				end(o)
				o.Emit("", "two")
				receives(t, c, "one", "two")
				if id, _ := request(t, o, 2).LastEventID(); id != "1" {
					t.Errorf("asked for %q, want 1", id)
				}
			})
		}
	}
}

func TestNoContentIsFinalUntilAReload(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	log := newLogFile(t)
	site := directive("/e", quick+"\nupstream u "+o.URL())
	in := serve(t, log.option(), site)
	c := follow(t, in, "/e")
	connected(t, o)
	o.Emit("", "one")
	receives(t, c, "one")
	o.RespondWith(http.StatusNoContent, nil, "")
	reconnect(t, o)
	log.waitLine("u", "the end", func(l logLine) bool { return l.Reason == "finished" && l.Level == "info" })
	stays(t, 300*time.Millisecond, "it is not dialled", func() bool { return o.TotalConnections() == 2 })

	in.reload(log.option(), site) // finished still, and asked once
	request(t, o, 3)
	stays(t, 100*time.Millisecond, "it is not dialled", func() bool { return o.TotalConnections() == 3 })

	o.Clear()
	in.reload(log.option(), site+"respond /other ok")
	if id, _ := request(t, o, 4).LastEventID(); id != "1" {
		t.Errorf("asked for %q, want 1", id)
	}
	connected(t, o)
	o.Emit("", "two")
	receives(t, c, "one", "two")
}

// What most likely is a mistake in the configuration is tried again slowly,
// and loudly.
func TestRefusalsAreRetriedSlowly(t *testing.T) {
	typed := func(value string) *ssetest.Origin { return answers(t, "Content-Type", value) }
	origins := map[string]*ssetest.Origin{
		"401":     faulty(t, status(401, "Content-Type", "text/event-stream")),
		"403":     faulty(t, status(403, "Content-Type", "text/event-stream")),
		"404":     faulty(t, status(404, "Retry-After", "0")),
		"410":     faulty(t, status(410, "Content-Type", "text/event-stream")),
		"html":    typed("text/html; charset=utf-8"),
		"plain":   typed("text/plain"),
		"json":    typed("application/json"),
		"similar": typed("text/event-streams"),
		"none":    typed(""),
		"br":      answers(t, "Content-Encoding", "br"),
		"both":    answers(t, "Content-Encoding", "gzip, br"),
	}
	log := newLogFile(t)
	in := serve(t, log.option(), directive("/e", quick+"\nheartbeat 50ms\n"+upstreams(origins)))
	c := follow(t, in, "/e")
	for _, o := range origins {
		request(t, o, 1)
		o.Emit("", "not to be taken over")
	}
	stays(t, 600*time.Millisecond, "each is asked once", func() bool {
		for _, o := range origins {
			if o.TotalConnections() > 1 {
				return false
			}
		}
		return true
	})
	for name := range origins {
		line := log.waitLine(name, "the refusal", func(l logLine) bool { return l.Level == "error" })
		if line.RetryIn < 30 {
			t.Errorf("%s: %s %d is tried again in %gs", name, line.Reason, line.Status, line.RetryIn)
		}
		if line.Status != 0 && fmt.Sprint(line.Status) != name {
			t.Errorf("%s: logged status %d", name, line.Status)
		}
		if n := len(log.lines(name)); n != 1 {
			t.Errorf("%s: %d log lines", name, n)
		}
	}
	must(t, c.WaitComments(within(t, 5*time.Second), 3))
	if c.Count() != 0 || c.Ends(ssetest.EndClean)+c.Ends(ssetest.EndError) != 0 {
		t.Errorf("the client got %d events, and was ended %+v", c.Count(), c.Connection())
	}
}

func TestRetryAfterIsObeyed(t *testing.T) {
	soon := time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)
	origins := map[string]*ssetest.Origin{
		"seconds": faulty(t, status(429, "Retry-After", "1")),
		"date":    faulty(t, status(503, "Retry-After", soon)),
		"day":     faulty(t, status(503, "Retry-After", "86400")),
		"absurd":  faulty(t, status(429, "Retry-After", strings.Repeat("9", 40))),
		"future":  faulty(t, status(503, "Retry-After", "Fri, 31 Dec 2199 23:59:59 GMT")),
		"past":    faulty(t, status(503, "Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT")),
		"zero":    faulty(t, status(503, "Retry-After", "0")),
		"none":    faulty(t, status(429, "X-None", "")),
		"rubbish": faulty(t, status(503, "Retry-After", "-1")),
	}
	log := newLogFile(t)
	serve(t, log.option(), directive("/e", quick+"\n"+upstreams(origins)))
	wait := func(name string) time.Duration {
		line := log.waitLine(name, "the answer", func(l logLine) bool { return l.Status != 0 && l.Level == "warn" })
		return time.Duration(line.RetryIn * float64(time.Second))
	}
	for name, want := range map[string][2]time.Duration{
		"seconds": {time.Second, time.Second},
		"date":    {10 * time.Second, time.Minute},
		"day":     {10 * time.Minute, 10 * time.Minute},
		"absurd":  {10 * time.Minute, 10 * time.Minute},
		"future":  {10 * time.Minute, 10 * time.Minute},
		"past":    {10 * time.Millisecond, 50 * time.Millisecond},
		"zero":    {10 * time.Millisecond, 50 * time.Millisecond},
		"none":    {10 * time.Millisecond, 50 * time.Millisecond},
		"rubbish": {10 * time.Millisecond, 50 * time.Millisecond},
	} {
		if got := wait(name); got < want[0] || got > want[1] {
			t.Errorf("%s: the wait is %s, want %s to %s", name, got, want[0], want[1])
		}
	}
	request(t, origins["seconds"], 2)
	requests := origins["seconds"].Requests()
	if waited := requests[1].Time.Sub(requests[0].Time); waited < time.Second {
		t.Errorf("waited %s, want 1s", waited)
	}
	for name, o := range origins {
		switch name {
		case "seconds": // as often as there are seconds
		case "date", "day", "absurd", "future":
			if n := o.TotalConnections(); n != 1 {
				t.Errorf("%s: %d requests, want 1", name, n)
			}
		default:
			request(t, o, 5)
		}
	}
}

// Everything else is tried again after the backoff, and goes on where it was
// once it works.
func TestOtherFailuresBackOff(t *testing.T) {
	for name, fault := range map[string]ssetest.Fault{
		"500":            status(500, "Content-Type", "text/event-stream"),
		"502":            status(502, "Content-Type", "text/html"),
		"300":            status(300, "Location", "/elsewhere"),
		"304":            {Kind: ssetest.Respond, Status: 304},
		"201":            status(201, "Content-Type", "text/event-stream"),
		"206":            status(206, "Content-Type", "text/event-stream"),
		"418":            status(418, "Content-Type", "text/event-stream"),
		"refused":        {Kind: ssetest.CloseOnAccept},
		"dropped":        {Kind: ssetest.Drop},
		"not HTTP":       {Kind: ssetest.Wire, Body: []byte("SSH-2.0-OpenSSH_9.0\r\n")},
		"half a head":    {Kind: ssetest.Wire, Body: []byte("HTTP/1.1 200 OK\r\nContent-Type: text/ev")},
		"bad chunk":      {Kind: ssetest.Wire, Body: []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")},
		"short body":     {Kind: ssetest.Wire, Body: []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 99\r\n\r\ndata: no\n")},
		"huge head":      {Kind: ssetest.Wire, Body: []byte("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n")},
		"nothing":        {Kind: ssetest.Wire},
		"bad gzip":       {Kind: ssetest.Wire, Body: []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\ndata: no\n\n")},
		"many 100s":      {Kind: ssetest.Wire, Body: []byte(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 10_000))},
		"ended at once":  {Kind: ssetest.EndAtOnce},
		"event cut":      {Kind: ssetest.Wire, Body: []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nid: 99\ndata: no\n")},
		"switched":       {Kind: ssetest.Wire, Body: []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\ndata: no\n\n")},
		"length of zero": {Kind: ssetest.Wire, Body: []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 0\r\n\r\n")},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{})
			in := serve(t, "", directive("/e", hasty, o.URL()))
			c := follow(t, in, "/e")
			connected(t, o)
			o.Emit("", "one")
			receives(t, c, "one")
			accepts, requests := o.Accepts(), o.TotalConnections()
			o.Inject(fault)
			o.CutConnections()
			eventually(t, 5*time.Second, "it is tried again", func() bool {
				// a connection that is kept alive is not accepted again
				return o.Accepts() >= accepts+3 || o.TotalConnections() >= requests+3
			})
			o.Clear()
			o.Emit("", "two")
			receives(t, c, "one", "two")
			ids := o.LastEventIDs()[1:]
			if end := len(ids) - 1; ids[end] == "2" {
				ids = ids[:end] // a connection that was to end brought the second event, and has ended
			}
			if id := ids[len(ids)-1]; id != "1" {
				t.Errorf("asked for %q, want 1", id)
			}
		})
	}
}

func TestContentTypeOfAStream(t *testing.T) {
	for _, value := range []string{
		"text/event-stream",
		"text/event-stream;charset=utf-8",
		"text/event-stream; charset=iso-8859-1",
		"TEXT/Event-Stream ; foo=bar",
		"text/event-stream;",
		"text/event-stream; charset",
		`text/event-stream; charset="`,
		"text/event-stream; =;;x",
	} {
		t.Run(value, func(t *testing.T) {
			o := answers(t, "Content-Type", value)
			in := serve(t, "", directive("/e", quick, o.URL()))
			c := follow(t, in, "/e")
			connected(t, o)
			o.Emit("", "one")
			receives(t, c, "one")
		})
	}
}

// An encoding that was not asked for is decoded, and what is complete comes at
// once.
func TestGzipThoughNotAskedFor(t *testing.T) {
	for _, encoding := range []string{"gzip", "GZIP", "x-gzip"} {
		t.Run(encoding, func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{})
			events := make(chan string)
			o.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				w.Header().Set("Content-Encoding", encoding)
				rc := http.NewResponseController(w)
				_ = rc.Flush()
				zw := gzip.NewWriter(w)
				for {
					select {
					case ev, ok := <-events:
						if !ok {
							_ = zw.Close()
							return
						}
						_, _ = io.WriteString(zw, ev)
						_ = zw.Flush()
						_ = rc.Flush()
					case <-r.Context().Done():
						return
					}
				}
			}))
			in := serve(t, "", directive("/e", quick, o.URL()))
			c := follow(t, in, "/e")
			events <- "data: one\n\n"
			receives(t, c, "one")
			events <- "id: 7\ndata: two\n\n"
			receives(t, c, "one", "two")
			o.CutConnections()
			if id, _ := request(t, o, 2).LastEventID(); id != "7" {
				t.Errorf("asked for %q, want 7", id)
			}
			close(events)
			request(t, o, 3)
		})
	}
}

func TestIdentityIsNoEncoding(t *testing.T) {
	o := answers(t, "Content-Encoding", "Identity")
	in := serve(t, "", directive("/e", quick, o.URL()))
	c := follow(t, in, "/e")
	connected(t, o)
	o.Emit("", "one")
	receives(t, c, "one")
}
