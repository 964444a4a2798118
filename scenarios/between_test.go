package scenarios

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// What a hijack would go past does with a stream what it did when net/http wrote it,
// and the timeouts of the server are those of requests. After the end, clients go on
// as the header has said.
func TestWhatStandsBetweenIsNotPassedOver(t *testing.T) {
	besideOthers(t)
	var asked atomic.Int32
	auth := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(auth.Close)
	const zip = "Accept-Encoding: gzip\r\n"
	s := newTakenScene(t, ssetest.OriginConfig{}, map[string]*takenSite{
		"nothing":       {},
		"header-late":   {route: "header >X-Late yes", header: http.Header{"X-Late": {"yes"}}},
		"encode":        {route: "encode", rest: zip, header: http.Header{"Content-Encoding": nil}},
		"encode-forced": {route: "encode\nheader >Cache-Control no-cache", rest: zip, header: http.Header{"Content-Encoding": {"gzip"}}, left: true, stream: "max_age 5s", ends: true},
		"forward-auth":  {route: "forward_auth " + auth.Listener.Addr().String() + " {\nuri /\n}"},
		"http10":        {version: "HTTP/1.0", left: true, closes: true},
		"a-body":        {options: "timeouts {\nread_body_idle 200ms\n}", rest: "Content-Length: 4\r\n\r\nbody", left: true, closes: true},
		"no-write-idle": {options: "timeouts {\nwrite_idle -1s\n}", left: true, stream: "max_age 5s", ends: true},
		"timeouts":      {options: "timeouts {\nread_header 200ms\nread_body 200ms\nread_body_idle 200ms\nwrite_idle 200ms\nidle 200ms\n}"},
		"rate":          {options: "timeouts {\nwrite_idle 200ms 1000000\n}", stream: "write_timeout 200ms"},
		"write":         {options: "timeouts {\nwrite 5s\n}", ends: true}, // the last one to be opened
		"beside-h2c":    {options: "protocols h1 h2c"},
	})
	for _, mode := range takenModes {
		s.site += "\nroute /replaced-" + mode + " {\nintercept {\n@ok status 200\nhandle_response @ok {\nrespond replaced\n}\n}\n" +
			directive("/replaced-"+mode, "max_age 100ms\ndetach "+mode, s.origin.URL()) + "}"
	}
	s.start()

	open := make(map[*takenCase]*strictClient)
	s.each("open", func(t *testing.T, c *takenCase) {
		open[c] = c.open(t, "")
		c.waitClients(t, 1)
		c.emit(t, "one", open[c])
	})
	s.waitRequests(1)
	var others []*ssetest.Client
	for _, mode := range takenModes {
		others = append(others, ssetest.StartClient(ssetest.ClientConfig{
			URL: "http://" + s.sites["beside-h2c"].addr + "/beside-h2c-" + mode, HTTP: protocols["h2c"].client(t), Once: true,
		}))
		t.Cleanup(others[len(others)-1].Close)
		must(t, others[len(others)-1].WaitOpen(within(t, 10*time.Second), 1))
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("%d requests were asked about, want 2", n)
	}
	for _, mode := range takenModes {
		if status, _, body := s.p.fetch("/replaced-"+mode, ""); status != http.StatusOK || body != "replaced" {
			t.Errorf("with detach %s, what is intercepted is answered with %d, %q", mode, status, body)
		}
	}

	run(t, 500*time.Millisecond, 100*time.Millisecond, func() error { return nil }) // all timeouts are over
	end := func(t *testing.T, c *takenCase) {
		q := open[c]
		must(t, q.finish())
		q.again()
		must(t, q.ask("GET / HTTP/1.1", c.addr, "\r\n"))
		if body, err := io.ReadAll(q.body); err != nil || string(body) != "next" {
			t.Errorf("the next request is answered with %q, %v", body, err)
		}
	}
	s.each("later", func(t *testing.T, c *takenCase) {
		if !c.ends {
			c.emit(t, "two", open[c])
		}
	})
	s.each("end by itself", func(t *testing.T, c *takenCase) {
		if c.ends {
			end(t, c)
		}
	})
	s.reload()
	s.each("end", func(t *testing.T, c *takenCase) {
		if !c.ends {
			end(t, c)
		}
	})
	for _, c := range others {
		must(t, c.WaitDone(within(t, 10*time.Second)))
		if conn := c.Connection(); conn.End != ssetest.EndClean || conn.Events == 0 {
			t.Errorf("over h2c: %+v", conn)
		}
	}
}
