package ssefanin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

var redirects = []int{301, 302, 303, 307, 308}

// secretive is everything that must not go along to another origin.
const secretive = quick + "\nheader_up X-Secret s\nheader_up Host example.com\nheader_up -Accept\n"

// paths returns the paths and queries of an origin's requests.
func paths(o *ssetest.Origin) []string {
	var paths []string
	for _, r := range o.Requests() {
		path := r.Path
		if r.Query != "" {
			path += "?" + r.Query
		}
		paths = append(paths, path)
	}
	return paths
}

// times answers the next n requests with a redirect.
func times(n, status int, location string) ssetest.Fault {
	return ssetest.Fault{Kind: ssetest.Respond, Times: n, Status: status, Header: http.Header{"Location": {location}}}
}

func TestRedirectIsFollowedEachTimeAnew(t *testing.T) {
	for _, status := range redirects {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			first, second := newOrigin(t, ssetest.OriginConfig{}), newOrigin(t, ssetest.OriginConfig{})
			first.Redirect(status, second.URL())
			in := serve(t, "", directive("/e", quick, first.URL()))
			c := follow(t, in, "/e")
			connected(t, second)
			second.Emit("", "one")
			receives(t, c, "one")
			reconnect(t, second)
			connected(t, second)
			if n := first.TotalConnections(); n != 2 {
				t.Errorf("the first origin got %d requests, want 2", n)
			}
			first.Clear() // it is the stream itself now
			second.CutConnections()
			connected(t, first)
			first.Emit("", "two")
			receives(t, c, "one", "two")
		})
	}
}

func TestRedirectWithinTheOrigin(t *testing.T) {
	for name, tc := range map[string]struct{ location, path string }{
		"path":          {"/other?x=1", "/other?x=1"},
		"relative":      {"other", "/some/other"},
		"query":         {"?x=1", "/some/events?x=1"},
		"parent":        {"../other/./e", "/other/e"},
		"fragment":      {"/other#there", "/other"},
		"whole":         {"http://ADDR/other", "/other"},
		"no scheme":     {"//ADDR/other", "/other"},
		"its user info": {"http://evil:evil@ADDR/other", "/other"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{})
			in := serve(t, "", directive("/e", quick+"\nheader_up X-Secret s", "http://me:pass@"+o.Addr()+"/some/events"))
			c := follow(t, in, "/e")
			connected(t, o)
			o.Emit("", "one")
			receives(t, c, "one")
			o.Inject(times(1, 302, strings.ReplaceAll(tc.location, "ADDR", o.Addr())))
			o.CutConnections()
			got := request(t, o, 3)
			if all := paths(o); all[2] != tc.path {
				t.Errorf("asked for %q, want %s", all, tc.path)
			}
			want := with("X-Secret", "s")
			want.Set("Authorization", basicAuth("me:pass"))
			want.Set("Last-Event-ID", "1")
			checkHeader(t, got, want)
			connected(t, o)
			o.Emit("", "two")
			receives(t, c, "one", "two")
		})
	}
}

// Beyond a redirect to another origin nothing goes along that was meant for
// the upstream, not even when the way leads back.
func TestNothingGoesAlongToAnotherOrigin(t *testing.T) {
	for _, status := range redirects {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			first, second := newOrigin(t, ssetest.OriginConfig{}), newOrigin(t, ssetest.OriginConfig{})
			in := serve(t, "", directive("/e", secretive, "http://me:pass@"+first.Addr()+"/events"))
			c := follow(t, in, "/e")
			connected(t, first)
			first.Emit("", "one")
			receives(t, c, "one")
			first.Inject(times(1, status, "http://evil:evil@"+second.Addr()+"/there"))
			second.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, map[string]string{"/there": "/further", "/further": "http://" + first.Addr() + "/back"}[r.URL.Path], status)
			}))
			first.CutConnections()
			back := request(t, first, 3)
			if got := paths(first); got[2] != "/back" {
				t.Fatalf("the first origin was asked for %q", got)
			}
			if h := first.Requests()[1]; h.Header.Get("X-Secret") != "s" || h.Host != "example.com" || h.Header.Get("Last-Event-ID") != "1" {
				t.Errorf("the first request is %+v", h)
			}
			if got := paths(second); !slices.Equal(got, []string{"/there", "/further"}) {
				t.Errorf("the second origin was asked for %q", got)
			}
			for _, r := range append(second.Requests(), back) {
				checkHeader(t, r, plainHeader)
				if r.Host != first.Addr() && r.Host != second.Addr() {
					t.Errorf("Host is %s", r.Host)
				}
			}
		})
	}
}

func TestNothingGoesAlongToAnotherPort(t *testing.T) {
	dir := t.TempDir()
	first, second := newOrigin(t, ssetest.OriginConfig{TLS: true}), newOrigin(t, ssetest.OriginConfig{TLS: true})
	must(t, os.WriteFile(filepath.Join(dir, "1.pem"), first.CAPEM(), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "2.pem"), second.CAPEM(), 0o600))
	first.Redirect(302, second.URL())
	in := serve(t, "", directive("/e", fmt.Sprintf("%s\ntransport http {\ntls_trust_pool file %[2]s/1.pem %[2]s/2.pem\n}", secretive, dir), first.URL()))
	c := follow(t, in, "/e")
	connected(t, second)
	checkHeader(t, request(t, second, 1), plainHeader)
	second.Emit("", "one")
	receives(t, c, "one")
}

// A refused redirect is most likely a mistake in the configuration.
func TestRefusedRedirects(t *testing.T) {
	secure, target := newOrigin(t, ssetest.OriginConfig{TLS: true}), newOrigin(t, ssetest.OriginConfig{})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, secure.CAPEM(), 0o600))
	secure.Redirect(307, target.URL())
	origins := map[string]*ssetest.Origin{
		"no-location": faulty(t, ssetest.Fault{Kind: ssetest.Respond, Status: 302}),
		"ftp":         faulty(t, times(0, 301, "ftp://"+target.Addr()+"/")),
		"file":        faulty(t, times(0, 302, "file:///etc/passwd")),
		"no-host":     faulty(t, times(0, 302, "http:///x")),
		"invalid":     faulty(t, times(0, 308, "http://%zz/")),
		"unix":        faulty(t, times(0, 308, "unix//run/x.sock")),
		"loop":        newOrigin(t, ssetest.OriginConfig{}),
	}
	origins["loop"].Redirect(302, "/again")
	log := newLogFile(t)
	serve(t, log.option(), directive("/e", quick+"\nupstream secure "+secure.URL()+" {\ntransport http {\ntls_trust_pool file "+ca+"\n}\n}\n"+upstreams(origins)))
	origins["secure"] = secure
	want := map[string]int{"loop": 11, "unix": 11} // "unix//…" is a relative path
	for name, o := range origins {
		line := log.waitLine(name, "the refusal", func(l logLine) bool { return l.Reason == "redirect" })
		if line.Level != "error" || line.RetryIn < 30 || line.Error == "" {
			t.Errorf("%s: logged %+v", name, line)
		}
		if want[name] == 0 {
			want[name] = 1
		}
		request(t, o, want[name])
	}
	stays(t, 200*time.Millisecond, "nothing is asked again", func() bool {
		for name, o := range origins {
			if o.TotalConnections() != want[name] {
				return false
			}
		}
		return target.Accepts() == 0
	})
}

func TestTenRedirectsAreFollowed(t *testing.T) {
	for hops, ok := range map[int]bool{10: true, 11: false} {
		t.Run(strconv.Itoa(hops), func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{})
			o.Inject(times(hops, 302, "/next"))
			in := serve(t, "", directive("/e", quick, o.URL()))
			c := follow(t, in, "/e")
			request(t, o, 11)
			if !ok {
				stays(t, 150*time.Millisecond, "the chain ends", func() bool { return o.TotalConnections() == 11 })
				return
			}
			connected(t, o)
			o.Emit("", "one")
			receives(t, c, "one")
		})
	}
}

func TestRedirectFromAUnixSocket(t *testing.T) {
	other := newOrigin(t, ssetest.OriginConfig{})
	for name, tc := range map[string]struct {
		location string
		abroad   bool
	}{
		"relative":  {"/other?x=1", false},
		"localhost": {"http://localhost/other?x=1", false},
		"away":      {"http://" + other.Addr() + "/other?x=1", true},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, ssetest.OriginConfig{Socket: filepath.Join(t.TempDir(), "s")})
			o.Inject(times(1, 302, tc.location))
			serve(t, "", directive("/e", quick+"\nheader_up X-Secret s", o.URL()))
			if tc.abroad {
				checkHeader(t, request(t, other, 1), plainHeader)
				return
			}
			checkHeader(t, request(t, o, 2), with("X-Secret", "s"))
			if got := paths(o); !slices.Equal(got, []string{"/events", "/other?x=1"}) {
				t.Errorf("asked for %q", got)
			}
		})
	}
}

// A redirect could lend a client certificate to another origin.
func TestClientCertificateForbidsOtherOrigins(t *testing.T) {
	dir := t.TempDir()
	first, second := newOrigin(t, ssetest.OriginConfig{TLS: true}), newOrigin(t, ssetest.OriginConfig{TLS: true})
	must(t, os.WriteFile(filepath.Join(dir, "1.pem"), first.CAPEM(), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "2.pem"), second.CAPEM(), 0o600))
	writeKeyPair(t, filepath.Join(dir, "client.pem"), filepath.Join(dir, "client.key"))
	log := newLogFile(t)
	first.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, map[string]string{"/events": "/other", "/other": second.URL()}[r.URL.Path], http.StatusFound)
	}))
	serve(t, log.option(), directive("/e", fmt.Sprintf(`%[2]s
		upstream u %[3]s
		transport http {
			tls_trust_pool file %[1]s/1.pem %[1]s/2.pem
			tls_client_auth %[1]s/client.pem %[1]s/client.key
		}`, dir, quick, first.URL())))
	line := log.waitLine("u", "the refusal", func(l logLine) bool { return l.Reason == "redirect" })
	if !strings.Contains(line.Error, "client certificate") {
		t.Errorf("logged %+v", line)
	}
	if got := paths(first); !slices.Equal(got, []string{"/events", "/other"}) {
		t.Errorf("asked for %q", got)
	}
	if n := second.Accepts(); n != 0 {
		t.Errorf("the other origin got %d connections", n)
	}
}

// writeKeyPair writes a self-signed certificate and its key.
func writeKeyPair(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
}
