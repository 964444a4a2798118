package scenarios

import (
	"bufio"
	"compress/gzip"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// takenModes are the values of detach under which a connection is taken over.
var takenModes = []string{"off", "on"}

// takenSite is a site that a server of its own serves, with a stream for each mode.
type takenSite struct {
	options string // of the server
	route   string // before the stream
	stream  string // options
	unix    bool   // over a unix socket
	tls     bool
	before  string // what a connection begins with

	version string // of the requests, HTTP/1.1 if empty
	rest    string // of the requests, fields and body

	left   bool        // the connection is left to net/http
	closes bool        // which closes it
	ends   bool        // streams end by themselves
	header http.Header // that the response has to have

	addr, socket string
}

// takenScene is a process with some sites.
type takenScene struct {
	t      *testing.T
	p      *process
	origin *ssetest.Origin
	site   string // what the process serves at its first address
	sites  map[string]*takenSite
	cases  []*takenCase
}

// takenCase is a stream of a site.
type takenCase struct {
	*takenSite
	scene *takenScene
	name  string // of the stream, and its path
	mode  string
}

// newTakenScene returns a scene that has not been started.
func newTakenScene(t *testing.T, cfg ssetest.OriginConfig, sites map[string]*takenSite) *takenScene {
	t.Helper()
	s := &takenScene{t: t, p: prepareProcess(t), origin: newOrigin(t, cfg), site: "respond ready", sites: sites}
	for _, name := range slices.Sorted(maps.Keys(sites)) {
		site := sites[name]
		site.addr, site.socket = freeAddr(t), filepath.Join(s.p.dir, name)
		for _, mode := range takenModes {
			s.cases = append(s.cases, &takenCase{site, s, name + "-" + mode, mode})
		}
	}
	return s
}

// start runs the process.
func (s *takenScene) start() {
	s.t.Helper()
	s.p.run(s.global(), s.text(s.streams))
	for _, site := range s.sites {
		if !site.unix {
			must(s.t, ssetest.AwaitListening(patience, site.addr))
		}
	}
	must(s.t, s.origin.WaitConnections(within(s.t, 10*time.Second), 1))
}

func (s *takenScene) global() string {
	text := "default_sni 127.0.0.1"
	for _, site := range s.sites {
		if site.options != "" {
			text += "\nservers " + site.addr + " {\n" + site.options + "\n}"
		}
	}
	return text
}

// text is that of all sites.
func (s *takenScene) text(of func(name string) string) string {
	files, err := certificate()
	must(s.t, err)
	text := s.site
	for name, site := range s.sites {
		scheme, bind, more := "http://", "127.0.0.1", ""
		if site.unix {
			bind = "unix/" + site.socket
		}
		if site.tls {
			scheme, more = "https://", "tls "+files
		}
		text += "\n}\n" + scheme + site.addr + " {\nbind " + bind + "\n" + more + "\n" + of(name)
	}
	return text
}

// streams is the text of a site with its streams.
func (s *takenScene) streams(name string) string {
	text := "route {\n" + s.sites[name].route + "\n"
	for _, c := range s.cases {
		if c.takenSite == s.sites[name] {
			text += directive("/"+c.name, "stream "+c.name+"\nheartbeat off\ndrain 1ms\ndetach "+c.mode+"\n"+c.stream, s.origin.URL())
		}
	}
	return text + "respond next\n}"
}

// reload takes all streams away, so that they end.
func (s *takenScene) reload() {
	s.t.Helper()
	s.p.reload(s.global(), s.text(func(string) string { return "respond next" }))
}

// each runs a part of the test for each stream.
func (s *takenScene) each(part string, do func(t *testing.T, c *takenCase)) {
	s.t.Helper()
	for _, c := range s.cases {
		if !s.t.Run(part+" "+c.name, func(t *testing.T) { do(t, c) }) {
			s.t.FailNow()
		}
	}
}

// dial connects to the site.
func (s *takenSite) dial() (net.Conn, error) {
	network, addr := "tcp", s.addr
	if s.unix {
		network, addr = "unix", s.socket
	}
	conn, err := net.Dial(network, addr)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprint(conn, s.before); err != nil {
		return nil, err
	}
	if s.tls {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a certificate of the test's own
	}
	return conn, nil
}

// open begins a stream, until its first lines have come, and checks its header. What
// is to follow the request is sent with it.
func (c *takenCase) open(t *testing.T, following string) *strictClient {
	t.Helper()
	q := &strictClient{dial: c.dial}
	c.scene.t.Cleanup(q.close)
	version := c.version
	if version == "" {
		version = "HTTP/1.1"
	}
	rest := c.rest
	if !strings.Contains(rest, "\r\n\r\n") {
		rest += "\r\n"
	}
	must(t, q.ask("GET /"+c.name+" "+version, c.addr, rest+following))
	if q.head.StatusCode != http.StatusOK || q.head.ContentLength >= 0 {
		t.Fatalf("got %+v", q.head)
	}
	if chunked := q.head.TransferEncoding != nil; chunked != (c.version == "") {
		t.Errorf("the body is in chunks: %t", chunked)
	}
	if closes := !c.left || c.closes; q.head.Close != closes {
		t.Errorf("the header says that the connection closes: %t, want %t", q.head.Close, closes)
	}
	for name := range c.header {
		if got, want := q.head.Header.Get(name), c.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if q.head.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(q.body)
		must(t, err)
		q.body = bufio.NewReader(unzipped)
	}
	must(t, q.until(": sse_fanin"))
	return q
}

// emit sends an event, which the clients of the stream have to get.
func (c *takenCase) emit(t *testing.T, what string, clients ...*strictClient) {
	t.Helper()
	data := what + " for " + c.name
	c.scene.origin.Emit("", data)
	for _, q := range clients {
		must(t, q.until("data: "+data))
	}
}

// waitClients waits until the stream has n clients.
func (c *takenCase) waitClients(t *testing.T, n int) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprintf("%s has %d clients", c.name, n), func() bool {
		connected, _ := c.scene.p.clients(c.name)
		return connected == n
	})
}

// clients is how many clients a stream has, and has had.
func (p *process) clients(stream string) (connected, total int) {
	p.t.Helper()
	var status struct {
		Clients struct{ Connected, Total int }
	}
	must(p.t, json.Unmarshal([]byte(p.get("/sse_fanin/streams/"+stream)), &status))
	return status.Clients.Connected, status.Clients.Total
}

var goroutinesOfAStack = regexp.MustCompile(`(?m)^(\d+) @ `)

// goroutinesIn is how many goroutines are in a function.
func (p *process) goroutinesIn(function string) (n int) {
	p.t.Helper()
	for stack := range strings.SplitSeq(p.get("/debug/pprof/goroutine?debug=1"), "\n\n") {
		if m := goroutinesOfAStack.FindStringSubmatch(stack); m != nil && strings.Contains(stack, function) {
			k, _ := strconv.Atoi(m[1])
			n += k
		}
	}
	return n
}

// waitRequests waits until only those requests last whose clients are not detached.
// There are so many clients of each stream.
func (s *takenScene) waitRequests(clients int) {
	s.t.Helper()
	n := 0
	for _, c := range s.cases {
		if c.left || c.mode == "off" {
			n += clients
		}
	}
	eventually(s.t, 10*time.Second, fmt.Sprintf("%d requests last", n), func() bool { return s.p.goroutinesIn("caddy-sse-fanin.serveStream") == n })
}

func TestConnectionsOfAllKindsAreTakenOver(t *testing.T) {
	besideOthers(t)
	s := newTakenScene(t, ssetest.OriginConfig{}, map[string]*takenSite{
		"tcp":     {},
		"tls":     {tls: true},
		"unix":    {unix: true},
		"proxied": {options: "listener_wrappers {\nproxy_protocol\n}", before: "PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n"},
		"h1":      {options: "protocols h1"},
		"h1-tls":  {options: "protocols h1", tls: true},
	})
	s.start()
	type pair struct{ quiet, talks *strictClient }
	stay := make(map[*takenCase]pair)
	s.each("open", func(t *testing.T, c *takenCase) {
		const following = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
		halves, quiet, leaves := c.open(t, ""), c.open(t, ""), c.open(t, following)
		talks := c.open(t, following+strings.Repeat("x", 300<<10)) // more than is read during the stream
		c.waitClients(t, 4)
		c.emit(t, "one", leaves, halves, quiet, talks)
		leaves.close()
		c.waitClients(t, 3)
		must(t, halves.closeWrite())
		must(t, halves.finish())
		c.waitClients(t, 2)
		for range 2 { // what it goes on to send is of no interest
			_, err := fmt.Fprint(talks.conn, "more")
			must(t, err)
		}
		c.emit(t, "two", quiet, talks)
		stay[c] = pair{quiet, talks}
	})
	s.waitRequests(2)
	s.reload()
	s.each("end", func(t *testing.T, c *takenCase) {
		must(t, stay[c].quiet.finish())
		must(t, stay[c].talks.finish()) // no reset, which would take away what came before
	})
	eventually(t, 10*time.Second, "no request is left", func() bool { return s.p.goroutinesIn("caddy-sse-fanin.serveStream") == 0 })
}

// What is written past Caddy's writers is counted by them, and by the access log
// also where the request has ended long before.
func TestAccountsOfStreamsThatAreTakenOver(t *testing.T) {
	besideOthers(t)
	s := newTakenScene(t, ssetest.OriginConfig{}, nil)
	file := filepath.Join(s.p.dir, "access.log")
	site := "log {\noutput file " + file + "\nformat json\n}\n"
	for _, mode := range takenModes {
		site += directive("/"+mode, "stream "+mode+"\nmax_age 5s\ndetach "+mode, s.origin.URL())
	}
	s.p.run("metrics", site)
	must(t, s.origin.WaitConnections(within(t, 10*time.Second), 1))
	begun, whole := time.Now(), &takenSite{addr: s.p.addr}
	clients := make(map[string]*strictClient)
	for _, mode := range takenModes {
		c := &takenCase{whole, s, mode, mode}
		clients[mode] = c.open(t, "")
	}
	first := clients["on"].size
	eventually(t, 10*time.Second, "only the other's request is in flight", func() bool { return s.p.metric("caddy_http_requests_in_flight") == 1 })
	s.origin.Emit("", strings.Repeat("x", 100<<10))
	for _, c := range clients {
		must(t, c.finish())
	}

	eventually(t, 10*time.Second, "no request is in flight", func() bool { return s.p.metric("caddy_http_requests_in_flight") == 0 })
	if got, want := s.p.metric("caddy_http_response_size_bytes_sum"), clients["off"].size+first; got != float64(want) {
		t.Errorf("the metric has %v bytes, want %d, of which %d are the first lines of a detached client", got, want, first)
	}
	if took := s.p.metric("caddy_http_request_duration_seconds_sum"); took < 3.5 || took > time.Since(begun).Seconds() {
		t.Errorf("the metric has a duration of %v s", took)
	}
	for _, line := range awaitLines(t, file, len(clients)) {
		var entry struct {
			Request      struct{ URI string }
			Size, Status int
			Duration     float64
			End          string `json:"sse_end"`
		}
		must(t, json.Unmarshal([]byte(line), &entry))
		want := clients[strings.TrimPrefix(entry.Request.URI, "/")].size
		if entry.Size != want || entry.Status != http.StatusOK || entry.End != "max_age" || entry.Duration < 3.5 || entry.Duration > time.Since(begun).Seconds() {
			t.Errorf("%s: got %+v, want a size of %d", entry.Request.URI, entry, want)
		}
	}
}

// awaitLines waits until a file has n lines, and returns them.
func awaitLines(t *testing.T, file string, n int) (lines []string) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprintf("%s has %d lines", filepath.Base(file), n), func() bool {
		text, _ := os.ReadFile(file)
		lines = strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
		return len(lines) >= n
	})
	if len(lines) != n {
		t.Fatalf("%s has %d lines: %q", filepath.Base(file), len(lines), lines)
	}
	return lines
}

// metric is what the metrics of a name add up to.
func (p *process) metric(name string) (sum float64) {
	p.t.Helper()
	for line := range strings.Lines(p.get("/metrics")) {
		if rest, ok := strings.CutPrefix(line, name+"{"); ok {
			_, value, _ := strings.Cut(rest, "} ")
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			must(p.t, err)
			sum += n
		}
	}
	return sum
}
