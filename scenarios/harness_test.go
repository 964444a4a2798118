package scenarios

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// patience is the least that a wait gets: how long what comes at once may take
// on a machine that has other things to do. Only a test that fails waits for it.
const patience = 30 * time.Second

// within returns the context of a wait.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), max(d, patience))
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition.
func eventually(t *testing.T, atMost time.Duration, what string, ok func() bool) {
	t.Helper()
	must(t, ssetest.Await(max(atMost, patience), what, ok))
}

// run lets a scenario go on for its length, or until step returns an error.
func run(t *testing.T, length, every time.Duration, step func() error) {
	t.Helper()
	must(t, ssetest.Repeat(length, every, step))
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := ssetest.FreeAddr()
	must(t, err)
	return addr
}

func port(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

func newOrigin(t *testing.T, cfg ssetest.OriginConfig) *ssetest.Origin {
	t.Helper()
	o, err := ssetest.NewOrigin(cfg)
	must(t, err)
	t.Cleanup(o.Close)
	return o
}

// settle lets the origins send no more and waits until every client has it all.
func settle(t *testing.T, v *ssetest.Verifier, origins ...*ssetest.Origin) {
	t.Helper()
	must(t, v.Settle(within(t, time.Minute), origins...))
}

func nobodyDisconnected(t *testing.T, fleet *ssetest.Fleet) {
	t.Helper()
	if err := fleet.ErrIfEnded(); err != nil {
		t.Error(err)
	}
}

// directive writes a handler with a block.
func directive(path, options string, urls ...string) string {
	return "sse_fanin " + path + " " + strings.Join(urls, " ") + " {\n" + options + "\n}\n"
}

// certificate is a self-signed certificate, as the arguments of the directive
// tls. (One that Caddy manages comes only after the configuration was loaded.)
var certificate = sync.OnceValues(func() (files string, err error) {
	certFile, keyFile, err := ssetest.WriteCertificate(ssetest.Dir())
	return certFile + " " + keyFile, err
})

// The protocols that clients speak.
var protocols = map[string]struct {
	tls    bool
	client func(t *testing.T) *http.Client
}{
	"h1":     {false, func(t *testing.T) *http.Client { return tcpClient(t, (*http.Protocols).SetHTTP1) }},
	"h2c":    {false, func(t *testing.T) *http.Client { return tcpClient(t, (*http.Protocols).SetUnencryptedHTTP2) }},
	"h1 TLS": {true, func(t *testing.T) *http.Client { return tcpClient(t, (*http.Protocols).SetHTTP1) }},
	"h2":     {true, func(t *testing.T) *http.Client { return tcpClient(t, (*http.Protocols).SetHTTP2) }},
	"h3":     {true, quicClient},
}

func tcpClient(t *testing.T, set func(*http.Protocols, bool)) *http.Client {
	t.Helper()
	client := ssetest.HTTPClient(set)
	t.Cleanup(client.CloseIdleConnections)
	return client
}

func quicClient(t *testing.T) *http.Client {
	t.Helper()
	transport := &http3.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // a certificate of the test's own
	t.Cleanup(func() { _ = transport.Close() })
	return &http.Client{Transport: transport}
}
