package ssefanin

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func newFreezer(t *testing.T) *ssetest.Freezer {
	t.Helper()
	f := ssetest.NewFreezer()
	t.Cleanup(f.Thaw) // before the clients are closed
	return f
}

func frozenClient(t *testing.T, f *ssetest.Freezer, secure bool) *http.Client {
	t.Helper()
	client := f.Client(secure)
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// serverConnections is how many connections of HTTP/2 the server in this
// process serves: the tests' clients use another copy of that package.
func serverConnections() int {
	return strings.Count(stacks(), "x/net/http2.(*serverConn).serve(")
}

func stacks() string {
	buf := make([]byte, 4<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

func waitServerConnections(t *testing.T, n int) {
	t.Helper()
	eventually(t, 20*time.Second, "the server has closed the connections", func() bool { return serverConnections() == n })
}

var secured = map[string]bool{"h2c": false, "h2": true}

// serveHTTP2 is serve or serveTLS, with HTTP/2 in both.
func serveHTTP2(t *testing.T, secure bool, global, site string) *instance {
	t.Helper()
	if secure {
		return serveTLS(t, global, site)
	}
	return serve(t, global+"\nservers {\nprotocols h1 h2c\n}", site)
}

func http2Client(t *testing.T, secure bool) *http.Client {
	t.Helper()
	if secure {
		return tcpClient(t, (*http.Protocols).SetHTTP2)
	}
	return tcpClient(t, (*http.Protocols).SetUnencryptedHTTP2)
}

// A stream's deadline resets the stream, which cannot be told to a client that
// does not read its socket: the connection has to be closed.
func TestFrozenConnectionIsClosed(t *testing.T) {
	for name, secure := range secured {
		t.Run(name, func(t *testing.T) {
			a := newOrigin(t, ssetest.OriginConfig{Source: "a", Pad: 32 << 10})
			logged := filepath.Join(t.TempDir(), "log")
			in := serveHTTP2(t, secure, "log {\noutput file "+logged+"\nlevel DEBUG\n}",
				"sse_fanin /events "+a.URL()+" {\nwrite_timeout 1s\n}\nsse_fanin /quiet "+plain(t).URL()) // the reader may have to wait for a processor
			f := newFreezer(t)
			shared := frozenClient(t, f, secure)
			var all []*ssetest.Client
			for _, path := range []string{"/events", "/events", "/events", "/quiet"} {
				all = append(all, in.openClient(ssetest.ClientConfig{URL: path, HTTP: shared, Once: true}))
			}
			v := ssetest.NewVerifier()
			reader := in.openClient(ssetest.ClientConfig{HTTP: http2Client(t, secure), Track: v.Track("reader")})
			connected(t, a)
			waitSubscribers(t, 5)
			f.Freeze()
			flood(t, a, reader, 400) // 13 MB, more than a socket's buffers
			waitSubscribers(t, 1)
			waitServerConnections(t, 1)
			flood(t, a, reader, 20)
			must(t, v.Err())
			if conn := reader.Connections()[0]; conn.End != ssetest.EndNone {
				t.Errorf("the other connection was closed: %+v", conn)
			}
			eventually(t, 5*time.Second, "the reason is logged, also of those that were not written to", func() bool {
				text, _ := os.ReadFile(logged)
				return bytes.Count(text, []byte(`"reason":"timeout"`)) == 4
			})
			f.Thaw()
			for _, c := range all {
				must(t, c.WaitEnd(within(t, 5*time.Second), ssetest.EndError, 1))
			}
		})
	}
}

// What is left to be written when the stream has ended is bounded, too, where
// something else has filled the connection.
func TestEndOfAStreamOnAFrozenConnection(t *testing.T) {
	before := statusTimeout
	t.Cleanup(func() { statusTimeout = before })
	statusTimeout = time.Minute // a busy machine may take longer to fill all of them than a viewer has
	files := t.TempDir()
	big := filepath.Join(files, "big")
	must(t, os.WriteFile(big, nil, 0o600))
	must(t, os.Truncate(big, 256<<20))
	server := "file_server {\nroot " + files + "\n}\n"
	options := maps.Clone(idleWriter)
	options["with a minimum rate"] = "timeouts {\nwrite_idle 10s 1000000\n}" // a download is to go on until its connection is full
	s := serveEverywhere(t, server+"sse_fanin_status /status\nsse_fanin /events "+plain(t).URL()+" {\nwrite_timeout 400ms\nheartbeat off\ndrain 1ms\n}", options)
	f := newFreezer(t)
	shared := make(map[*http.Client]string) // what each downloads
	streams := make(map[string]*ssetest.Client)
	for _, v := range s.variants {
		for _, path := range []string{"/events", "/status"} {
			client := frozenClient(t, f, true)
			shared[client] = v.tls.url("/big")
			streams[path+" "+v.name] = v.tls.openClient(ssetest.ClientConfig{
				URL: path, Header: http.Header{"Accept": {"text/event-stream"}}, HTTP: client, Once: true,
			})
		}
	}
	f.Freeze()
	downloads := make(chan error, len(shared)) // of the goroutines
	for client, url := range shared {
		go func() { downloads <- fetch(client, url) }()
	}
	waitBlocked(t, len(shared))
	s.reload(server)
	waitServerConnections(t, 0)
	f.Thaw()
	for name, c := range streams {
		must(t, c.WaitDone(within(t, 5*time.Second)))
		if conn := c.Connection(); conn.End != ssetest.EndError {
			t.Errorf("%s: the connection was not closed: %+v", name, conn)
		}
		if err := <-downloads; err == nil {
			t.Error("a connection was not full")
		}
	}
}

// waitBlocked waits until n connections of HTTP/2 take no more: they write all
// the time.
func waitBlocked(t *testing.T, n int) {
	t.Helper()
	lasts(t, "the connections are blocked", func() bool { return strings.Count(stacks(), "x/net/http2.(*serverConn).writeFrameAsync(") >= n })
}

// fetch reads what is there.
func fetch(client *http.Client, url string) error {
	resp, err := client.Get(url) //nolint:gosec,noctx // our own address; the connection ends it
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}
