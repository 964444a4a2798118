package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// TestMain ends the connections that the origins' goroutines serve, too.
func TestMain(m *testing.M) {
	ssetest.Main(m, ssetest.Suite{End: func() error {
		http.DefaultClient.CloseIdleConnections()
		return nil
	}})
}

// reader reads an origin's stream as a client does, but not with our encoder's
// counterpart: line by line.
type reader struct {
	t    *testing.T
	body io.ReadCloser
	buf  *bufio.Reader
}

func open(t *testing.T, o *Origin, lastEventID string) *reader {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+o.Address()+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	if lastEventID != "" {
		req.Header.Set("Last-Event-ID", lastEventID)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if ct := res.Header.Get("Content-Type"); ct != "text/event-stream" {
		t.Fatalf("Content-Type is %q", ct)
	}
	r := &reader{t, res.Body, bufio.NewReader(res.Body)}
	r.block() // the comment; the position is settled when it is written
	return r
}

// block reads up to the next empty line.
func (r *reader) block() map[string]string {
	r.t.Helper()
	fields := map[string]string{}
	for {
		line, err := r.buf.ReadString('\n')
		if err != nil {
			r.t.Fatal(err)
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			return fields
		}
		name, value, _ := strings.Cut(line, ": ")
		fields[name] = value
	}
}

// seq reads the next event and returns its number, which must be its id's.
func (r *reader) seq() uint64 {
	r.t.Helper()
	b := r.block()
	var s stamp
	if err := json.Unmarshal([]byte(b["data"]), &s); err != nil {
		r.t.Fatalf("data %q: %v", b["data"], err)
	}
	if want := fmt.Sprintf("%s-%d", s.Run, s.Seq); b["id"] != want {
		r.t.Fatalf("id is %q, want %q", b["id"], want)
	}
	return s.Seq
}

func startOrigin(t *testing.T, o *Origin) {
	t.Helper()
	if err := o.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Stop(); err != nil {
			t.Error(err)
		}
	})
}

func publish(o *Origin, n int) {
	for range n {
		o.publish(time.Now())
	}
}

func TestOriginHonoursLastEventID(t *testing.T) {
	o := NewTicker()
	startOrigin(t, o)
	publish(o, originRetain+100)
	at := func(seq uint64) string { return fmt.Sprintf("%s-%d", o.run, seq) }

	for _, tc := range []struct {
		name        string
		lastEventID func(head uint64) string
		behind      uint64 // how many events come at once
	}{
		{"none", func(uint64) string { return "" }, 0},
		{"behind", func(head uint64) string { return at(head - 3) }, 3},
		{"more than a batch behind", func(head uint64) string { return at(head - originBatch - 5) }, originBatch + 5},
		{"overwritten", func(uint64) string { return at(7) }, originRetain},
		{"newest", func(head uint64) string { return at(head) }, 0},
		{"in the future", func(head uint64) string { return at(head + 50) }, 0},
		{"of another run", func(head uint64) string { return "x" + at(head-3) }, 0},
		{"not a number", func(uint64) string { return o.run + "-x" }, 0},
		{"absurd", func(uint64) string { return strings.Repeat("9", 300) }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			head := o.State().Seq
			r := open(t, o, tc.lastEventID(head))
			for want := head - tc.behind + 1; want <= head; want++ {
				if got := r.seq(); got != want {
					t.Fatalf("got event %d, want %d", got, want)
				}
			}
			publish(o, 1)
			if got := r.seq(); got != head+1 {
				t.Fatalf("got event %d after the retained ones, want %d", got, head+1)
			}
		})
	}
}

func TestOriginStopsAndStartsAtTheSamePort(t *testing.T) {
	o := NewBuilds()
	startOrigin(t, o)
	address := o.Address()
	r := open(t, o, "")
	publish(o, 1)
	r.seq()
	if s := o.State(); !s.Running || s.Connections != 1 || s.Opened != 1 {
		t.Errorf("with one reader the state is %+v", s)
	}

	if err := o.Stop(); err != nil {
		t.Fatal(err)
	}
	if rest, _ := io.ReadAll(r.buf); len(rest) > 0 {
		t.Errorf("the reader still got %q", rest)
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Error("a stopped origin still accepts connections")
	}
	if s := o.State(); s.Running || s.Connections != 0 || s.Opened != 1 || s.Address != address {
		t.Errorf("after Stop the state is %+v", s)
	}
	publish(o, 3)

	startOrigin(t, o)
	if o.Address() != address {
		t.Errorf("started again at %s, before at %s", o.Address(), address)
	}
	r = open(t, o, o.run+"-1")
	for want := uint64(2); want <= 4; want++ {
		if got := r.seq(); got != want {
			t.Errorf("after the restart got event %d, want %d", got, want)
		}
	}
}

func TestStopAndStartTwice(t *testing.T) {
	o := NewTicker()
	for range 2 {
		startOrigin(t, o)
	}
	for range 2 {
		if err := o.Stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestProduce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, o := range []*Origin{NewTicker(), NewBuilds()} {
			ctx, cancel := context.WithCancel(t.Context())
			go o.Produce(ctx)
			<-time.After(time.Minute)
			cancel()
			synctest.Wait()
			if n := o.State().Seq; n < 50 || n > 1200 {
				t.Errorf("%s made %d events in a minute", o.Name(), n)
			}
		}
	})
}

func TestEventsAreNumberedLines(t *testing.T) {
	for _, o := range []*Origin{NewTicker(), NewBuilds()} {
		for want := uint64(1); want <= 1000; want++ {
			if pause := o.publish(time.Now()); pause <= 0 {
				t.Fatalf("%s waits %s", o.Name(), pause)
			}
			frame, next, _ := o.after(want - 1)
			lines := strings.Split(string(frame), "\n")
			if next != want || len(lines) != 5 || lines[0] != "event: "+o.event || lines[3] != "" || lines[4] != "" {
				t.Fatalf("event %d of %s is %q", want, o.Name(), frame)
			}
			var s stamp
			if err := json.Unmarshal([]byte(strings.TrimPrefix(lines[2], "data: ")), &s); err != nil {
				t.Fatal(err)
			}
			if s.Seq != want || s.Source != o.Name() || s.Run != o.run || s.At == 0 {
				t.Fatalf("event %d of %s is stamped %+v", want, o.Name(), s)
			}
		}
	}
}

// TestBuildsEnd checks that builds end both ways, each once, and in order.
func TestBuildsEnd(t *testing.T) {
	generate := newBuildLog()
	ended := map[string]int{}
	var last buildLine
	for range 5000 {
		data, _ := generate(stamp{})
		line := data.(buildLine)
		if strings.ContainsAny(line.Line, "%\n") {
			t.Fatalf("line is %q", line.Line)
		}
		over := last.Status != "running"
		if last.Build != 0 && over != (line.Build == last.Build+1) {
			t.Fatalf("%+v follows %+v", line, last)
		}
		if line.Status != "running" {
			ended[line.Status]++
		}
		last = line
	}
	if ended["passed"] == 0 || ended["failed"] == 0 || len(ended) != 2 {
		t.Errorf("builds ended %v", ended)
	}
}

func TestOriginRefusesOtherMethods(t *testing.T) {
	o := NewTicker()
	startOrigin(t, o)
	res, err := http.Post("http://"+o.Address()+"/events", "text/plain", bytes.NewReader(nil))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST got %d", res.StatusCode)
	}
}
