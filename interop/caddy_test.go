package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// A server is a Caddy that serves one stream, s, over HTTP/1.1 and, with TLS, over
// HTTP/2. There a client has to begin with that; when it comes back it may do
// otherwise, as Java's does after an attempt to connect has failed. The stream's log
// is in files, so that clients can resume after Caddy was killed.
type server struct {
	t        *testing.T
	dir      string
	running  *ssetest.Process
	plain    string // address
	secure   string // address
	certFile string
	admin    *http.Client
}

// startServer runs Caddy, with options of the directive, until the test ends.
func startServer(t *testing.T, origin *ssetest.Origin, options string) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir()}
	s.admin = ssetest.UnixClient(filepath.Join(s.dir, "admin.sock"), patience)
	for _, addr := range []*string{&s.plain, &s.secure} {
		var err error
		*addr, err = ssetest.FreeAddr()
		must(t, err)
	}
	certFile, keyFile, err := ssetest.WriteCertificate(s.dir)
	must(t, err)
	s.certFile = certFile
	must(t, os.WriteFile(s.file(), fmt.Appendf(nil, `{
	admin unix/%s
	auto_https off
	persist_config off
	sse_fanin {
		stream s {
			upstream %s
			log file {
				dir %s
			}
		}
	}
}
(stream) {
	sse_fanin /events s {
		%s
	}
}
http://%s {
	import stream
}
https://%s {
	tls %s %s
	@older {
		not protocol http/2+
		not header Last-Event-ID *
	}
	respond @older 505
	import stream
}
`, filepath.Join(s.dir, "admin.sock"), origin.URL(), filepath.Join(s.dir, "log"), options, s.plain, s.secure, certFile, keyFile), 0o600))
	s.start()
	return s
}

func (s *server) file() string { return filepath.Join(s.dir, "Caddyfile") }

// start runs Caddy and waits until it listens.
func (s *server) start() {
	s.t.Helper()
	binary, err := ssetest.Build("./cmd/caddy", false)
	must(s.t, err)
	p, err := ssetest.StartProcess(s.dir, nil, binary, "run", "--config", s.file(), "--adapter", "caddyfile")
	must(s.t, err)
	s.t.Cleanup(func() {
		p.Kill()
		if s.t.Failed() {
			s.t.Logf("caddy wrote:\n%s", p.Log.Tail(2000))
		}
	})
	s.running = p
	for _, addr := range []string{s.plain, s.secure} {
		must(s.t, ssetest.AwaitListening(patience, addr))
	}
}

// restart kills Caddy, and runs it again.
func (s *server) restart() {
	s.t.Helper()
	s.running.Kill()
	s.start()
}

// url is the stream's, at one of the server's addresses or that of a cutter.
func url(l library, addr string) string {
	if l.http2 {
		return "https://" + addr + "/events"
	}
	return "http://" + addr + "/events"
}

// endStreams reloads, at which every client's stream ends, and waits until all n of
// them have come back.
func (s *server) endStreams(n int) {
	s.t.Helper()
	text, err := os.ReadFile(s.file())
	must(s.t, err)
	_, before := s.clients()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, "http://caddy/load", bytes.NewReader(text))
	must(s.t, err)
	req.Header.Set("Content-Type", "text/caddyfile")
	req.Header.Set("Cache-Control", "must-revalidate") // or nothing happens: it is the same
	resp, err := s.admin.Do(req)
	must(s.t, err)
	defer resp.Body.Close()
	if answer, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		s.t.Fatalf("reloading: %s: %s", resp.Status, answer)
	}
	eventually(s.t, fmt.Sprintf("%d clients come back", n), func() bool {
		connected, total := s.clients()
		return connected == n && total >= before+n
	})
}

// waitClients waits until the stream has n clients.
func (s *server) waitClients(n int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("the stream has %d clients", n), func() bool {
		connected, _ := s.clients()
		return connected == n
	})
}

// clients is how many clients the stream has, and has had since Caddy was started.
func (s *server) clients() (connected, total int) {
	s.t.Helper()
	resp, err := s.admin.Get("http://caddy/sse_fanin/streams/s")
	must(s.t, err)
	defer resp.Body.Close()
	var status struct {
		Clients struct {
			Connected int `json:"connected"`
			Total     int `json:"total"`
		} `json:"clients"`
	}
	must(s.t, json.NewDecoder(resp.Body).Decode(&status))
	return status.Clients.Connected, status.Clients.Total
}
