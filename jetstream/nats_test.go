package jetstream

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// natsServer is a NATS server in this process.
type natsServer struct {
	*server.Server
	t    *testing.T
	opts *server.Options
	log  *natsLog
}

// startNATS runs a server with options until the test ends. It listens on a
// port of the loopback interface, and keeps its files in a folder of the test's.
func startNATS(t *testing.T, opts *server.Options) *natsServer {
	t.Helper()
	opts.Host, opts.JetStream, opts.StoreDir = "127.0.0.1", true, t.TempDir()
	opts.Port, opts.NoSigs = server.RANDOM_PORT, true
	n := &natsServer{t: t, opts: opts, log: new(natsLog)}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *natsServer) start() {
	n.t.Helper()
	s, err := server.NewServer(n.opts)
	must(n.t, err)
	s.SetLoggerV2(n.log, false, false, false)
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		n.t.Fatal("the NATS server is not ready")
	}
	n.Server = s
	n.opts.Port = s.Addr().(*net.TCPAddr).Port // for the next start
}

func (n *natsServer) stop() {
	n.Shutdown()
	n.WaitForShutdown()
}

// url is where clients connect.
func (n *natsServer) url(scheme string) string {
	u, err := url.Parse(n.ClientURL())
	must(n.t, err)
	return scheme + "://" + u.Host
}

// denied returns what the server has logged about permissions that were missing.
func (n *natsServer) denied() []string { return n.log.with(" Violation - ") }

// natsLog keeps what a server logs.
type natsLog struct {
	mu    sync.Mutex // protects lines
	lines []string
}

func (l *natsLog) add(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, v...))
}

// with returns the lines that have a text.
func (l *natsLog) with(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.lines), func(line string) bool { return !strings.Contains(line, text) })
}

func (l *natsLog) Noticef(format string, v ...any) { l.add(format, v...) }
func (l *natsLog) Warnf(format string, v ...any)   { l.add(format, v...) }
func (l *natsLog) Fatalf(format string, v ...any)  { l.add(format, v...) }
func (l *natsLog) Errorf(format string, v ...any)  { l.add(format, v...) }
func (l *natsLog) Debugf(string, ...any)           {}
func (l *natsLog) Tracef(string, ...any)           {}
