package ssefanin

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// listen accepts connections on a loopback port until the test's end, and has
// each served; the address is returned.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serve(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
	return ln.Addr().String()
}

// selfSigned is a certificate for 127.0.0.1 and a name, valid until then. The
// file has it, too.
func selfSigned(t *testing.T, until time.Time) (cert tls.Certificate, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    until.Add(-48 * time.Hour),
		NotAfter:     until,
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	file = filepath.Join(t.TempDir(), "cert.pem")
	must(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

// handshake is a server that closes every connection after the handshake, and
// those that begin otherwise without a word.
func handshake(cfg *tls.Config) func(net.Conn) {
	return func(conn net.Conn) {
		_ = conn.SetDeadline(time.Now().Add(patience))
		buffered := bufio.NewReader(conn)
		if first, err := buffered.Peek(1); err != nil || first[0] != 0x16 {
			return
		}
		server := tls.Server(peeked{conn, buffered}, cfg)
		if server.Handshake() == nil {
			_, _ = server.Read(make([]byte, 1)) // so that an alert arrives
		}
	}
}

// peeked is a connection that was read from.
type peeked struct {
	net.Conn
	r io.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// says is a server that reads something, and answers with this.
func says(answer string) func(net.Conn) {
	return func(conn net.Conn) {
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = io.WriteString(conn, answer)
	}
}

// What most likely is a mistake in the configuration is said to be one, with
// what to mend, whether there ever was a connection or not, and is tried again
// slowly.
func TestMistakesAreSaid(t *testing.T) {
	good, goodFile := selfSigned(t, time.Now().Add(time.Hour))
	expired, expiredFile := selfSigned(t, time.Now().Add(-time.Hour))
	trusting := func(file, more string) string {
		return "transport http {\ntls_trust_pool file " + file + "\n" + more + "\n}"
	}
	plainHTTP, overTLS := plain(t), newOrigin(t, ssetest.OriginConfig{TLS: true})
	upstreams := map[string]struct{ url, options, reason, hint string }{
		"authority":   {"https://" + listen(t, handshake(&tls.Config{Certificates: []tls.Certificate{good}})), "", "certificate", "not trusted"},
		"names":       {"https://" + listen(t, handshake(&tls.Config{Certificates: []tls.Certificate{good}})), trusting(goodFile, "tls_server_name other.example"), "certificate", "other names"},
		"expired":     {"https://" + listen(t, handshake(&tls.Config{Certificates: []tls.Certificate{expired}})), trusting(expiredFile, ""), "certificate", "expired"},
		"client-cert": {"https://" + listen(t, handshake(&tls.Config{Certificates: []tls.Certificate{good}, ClientAuth: tls.RequireAnyClientCert})), trusting(goodFile, ""), "certificate", "client certificate"},
		"refused-tls": {"https://" + listen(t, handshake(&tls.Config{Certificates: []tls.Certificate{good}, CurvePreferences: []tls.CurveID{tls.CurveP521}})), trusting(goodFile, "tls_curves x25519"), "tls", "refuses the TLS"},

		"https-to-http":   {"https://" + plainHTTP.Addr(), "", "tls", "use http://"},
		"https-to-else":   {"https://" + listen(t, says("SSH-2.0-OpenSSH_9.0\r\n")), "", "tls", "use http://"},
		"http-to-go":      {"http://" + overTLS.Addr(), "", "tls", "use https://"},                                                           // says 400
		"http-to-silence": {"http://" + listen(t, handshake(&tls.Config{Certificates: []tls.Certificate{good}})), "", "tls", "use https://"}, // says nothing
		"http-to-alert":   {"http://" + listen(t, says("\x15\x03\x01\x00\x02\x02\x46")), "", "tls", "use https://"},
	}
	var site strings.Builder
	for name, u := range upstreams {
		fmt.Fprintf(&site, "upstream %s %s/ {\n%s\n}\n", name, u.url, u.options)
	}
	log := newLogFile(t)
	serve(t, log.option(), directive("/e", quick+"\n"+site.String()))
	for name, u := range upstreams {
		line := log.waitLine(name, "the mistake", func(l logLine) bool { return l.Reason != "" })
		if line.Level != "error" || line.Msg != "upstream cannot be connected" || line.Reason != u.reason || !strings.Contains(line.Hint, u.hint) || line.RetryIn < 30 {
			t.Errorf("%s: got %+v\nwant %s, %s", name, line, u.reason, u.hint)
		}
	}
	for name := range upstreams {
		if lines := log.lines(name); len(lines) != 1 {
			t.Errorf("%s: %d lines: %+v", name, len(lines), lines)
		}
	}
}

// A name that does not exist may come: containers' names do when they start.
func TestUnknownHostIsSaidAndTriedAgain(t *testing.T) {
	p := newPool(t, 1) // whose name server knows the name once it is published
	log := newLogFile(t)
	in := serve(t, log.option(), directive("/e", quick+`
		upstream u http://`+strings.TrimSuffix(p.name, ".")+`:`+p.port+` {
			transport http {
				resolvers `+p.addr+`
			}
		}`))
	c := follow(t, in, "/e")
	line := log.waitLine("u", "the mistake", func(l logLine) bool { return l.Reason != "" })
	if line.Level != "error" || line.Msg != "upstream cannot be connected" || line.Reason != "unknown_host" || line.Hint == "" || line.RetryIn > 1 {
		t.Errorf("got %+v", line)
	}
	p.awaitAsked(t, 6)
	p.publish(0)
	up(t, p.origins[0])
	p.origins[0].Emit("", "x")
	receives(t, c, "x")
	log.waitLine("u", "the connection", func(l logLine) bool { return l.Msg == "upstream connected" })
	if lines := log.lines("u"); len(lines) != 2 {
		t.Errorf("%d lines: %+v", len(lines), lines)
	}
}

// A certificate that expires later is the same mistake.
func TestMistakeAfterAConnection(t *testing.T) {
	good, goodFile := selfSigned(t, time.Now().Add(time.Hour))
	expired, expiredFile := selfSigned(t, time.Now().Add(-time.Hour))
	var cert atomic.Pointer[tls.Certificate]
	cert.Store(&good)
	cut := make(chan struct{})
	addr := listen(t, func(conn net.Conn) {
		_ = conn.SetDeadline(time.Now().Add(patience))
		server := tls.Server(conn, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert.Load(), nil }})
		// an answer that comes before its request is none
		if _, err := http.ReadRequest(bufio.NewReader(server)); err == nil {
			_, _ = io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
			<-cut
		}
	})
	log := newLogFile(t)
	serve(t, log.option(), directive("/e", quick+"\nupstream u https://"+addr+" {\ntransport http {\ntls_trust_pool file "+goodFile+" "+expiredFile+"\n}\n}"))
	defer close(cut)
	log.waitLine("u", "the connection", func(l logLine) bool { return l.Msg == "upstream connected" })
	cert.Store(&expired)
	cut <- struct{}{}
	line := log.waitLine("u", "the mistake", func(l logLine) bool { return l.Level == "error" })
	if line.Msg != "upstream cannot be connected" || line.Reason != "certificate" || !strings.Contains(line.Hint, "expired") || line.RetryIn < 30 {
		t.Errorf("got %+v", line)
	}
}

// Servers that take a connection and close it are looked at once for TLS, and
// tried again after the backoff.
func TestServerThatClosesWithoutAnAnswer(t *testing.T) {
	o := faulty(t, ssetest.Fault{Kind: ssetest.CloseOnAccept})
	log := newLogFile(t)
	serve(t, log.option(), directive("/e", quick+"\nupstream u "+o.URL()))
	line := log.waitLine("u", "the failure", func(l logLine) bool { return l.Reason != "" })
	if line.Level != "warn" || line.Msg != "upstream cannot be connected" || line.Reason != "error" || !strings.Contains(line.Hint, "right port") || line.RetryIn > 1 {
		t.Errorf("got %+v", line)
	}
	eventually(t, 10*time.Second, "it is tried again", func() bool { return o.Accepts() >= 8 })
	o.Clear()
	log.waitLine("u", "the connection", func(l logLine) bool { return l.Msg == "upstream connected" })
	if lines := log.lines("u"); len(lines) != 2 {
		t.Errorf("%d lines: %+v", len(lines), lines)
	}
}

// The line of a connection that came back says for how long it was away.
func TestConnectionThatCameBack(t *testing.T) {
	o := plain(t)
	log := newLogFile(t)
	serve(t, log.option(), directive("/e", quick+"\nupstream u "+o.URL()))
	up(t, o)
	first := log.waitLine("u", "the connection", func(l logLine) bool { return l.Msg == "upstream connected" })
	if first.Attempts != 0 || first.Away != 0 {
		t.Errorf("the first connection: %+v", first)
	}
	o.RespondWith(http.StatusInternalServerError, nil, "")
	lost := time.Now()
	o.CutConnections()
	must(t, o.WaitRequests(within(t, 10*time.Second), 4))
	o.Clear()
	up(t, o)
	again := log.waitLine("u", "the second connection", func(l logLine) bool { return l.Msg == "upstream connected" && l.Attempts > 0 })
	if away := time.Duration(again.Away * float64(time.Second)); again.Attempts < 4 || away <= 0 || away > time.Since(lost)+time.Second {
		t.Errorf("%d attempts, away for %s", again.Attempts, away)
	}
}
