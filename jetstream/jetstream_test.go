package jetstream

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

const password = "s3cret"

// documented returns the options of nats.conf, whose user has the least
// permissions that are enough.
func documented(t *testing.T) *server.Options {
	t.Helper()
	t.Setenv("CADDY_NATS_PASSWORD", password)
	opts, err := server.ProcessConfigFile("nats.conf")
	must(t, err)
	return opts
}

// settle has the origin send no more, and waits until every client has it all.
func settle(t *testing.T, v *ssetest.Verifier, origins ...*ssetest.Origin) {
	t.Helper()
	must(t, v.Settle(within(t, patience), origins...))
}

// Two Caddys, with the permissions of the documentation: positions of one are
// exact on the other, which takes over when the first is killed.
func TestTwoCaddysShareALog(t *testing.T) {
	nats := startNATS(t, documented(t))
	options := "servers " + nats.url("nats") + "\nuser caddy " + password + "\nlease 5s" // a machine that is busy may not run the writer for a second
	o, v := newOrigin(t), ssetest.NewVerifier()
	first := startNode(t, o, options)
	first.awaitReady()
	second := startNode(t, o, options)
	second.awaitReady()

	moves := v.Track("one that moves")
	c := first.connect("", moves)
	stays := second.connect("", v.Track("one that stays"))
	must(t, c.WaitOpen(within(t, patience), 1))
	must(t, stays.WaitOpen(within(t, patience), 1))
	o.SetRate(200)
	must(t, c.WaitCount(within(t, patience), 100))
	c.Close()
	_, err := stays.WaitEvent(within(t, patience), func(e ssetest.Event) bool { return e.ID == c.LastEventID() })
	must(t, err)
	c = second.connect(c.LastEventID(), moves)
	must(t, c.WaitCount(within(t, patience), 100))
	second.eventually("one Caddy alone is connected to the upstream", func() bool { return o.Connections() == 1 })
	first.Kill()
	before := c.Count()
	must(t, c.WaitCount(within(t, patience), before+200))
	settle(t, v, o)
	if denied := nats.denied(); len(denied) > 0 {
		t.Errorf("the permissions are not enough: %s", strings.Join(denied, "\n"))
	}
}

// After a restart, what the upstream sent meanwhile comes, and nothing twice.
func TestRestartIsExact(t *testing.T) {
	nats := startNATS(t, documented(t))
	options := "servers " + nats.url("nats") + "\nuser caddy " + password
	o, v := newOrigin(t), ssetest.NewVerifier()
	n := startNode(t, o, options)
	n.awaitReady()
	c := n.connect("", v.Track("client"))
	must(t, c.WaitOpen(within(t, patience), 1))
	must(t, o.WaitConnections(within(t, patience), 1))
	o.EmitNumbered(100)
	must(t, c.WaitCount(within(t, patience), 100))
	n.end()
	o.EmitNumbered(100)
	n.start(o, options)
	must(t, c.WaitCount(within(t, patience), 200))
	settle(t, v, o)
	for _, event := range c.Events() {
		if event.Type == "fanin.gap" {
			t.Errorf("a gap: %s", event.Data)
		}
	}
}

// A reload with another way to NATS goes on with the same log, without a gap for
// those who are connected.
func TestReloadWithAnotherLogin(t *testing.T) {
	opts := documented(t)
	another := *opts.Users[0]
	another.Username = "other"
	opts.Users = append(opts.Users, &another)
	nats := startNATS(t, opts)
	o, v := newOrigin(t), ssetest.NewVerifier()
	n := startNode(t, o, "servers "+nats.url("nats")+"\nuser caddy "+password)
	n.awaitReady()
	c := n.connect("", v.Track("client"))
	must(t, c.WaitOpen(within(t, patience), 1))
	o.SetRate(200)
	must(t, c.WaitCount(within(t, patience), 100))
	n.reload(o, "servers "+nats.url("nats")+"\nuser other "+password)
	before := c.Count()
	must(t, c.WaitCount(within(t, patience), before+200))
	settle(t, v, o)
	if n := len(c.Connections()); n != 1 {
		t.Errorf("the client has connected %d times", n)
	}
}

func TestTLSWithClientCertificate(t *testing.T) {
	certificate, key, err := ssetest.WriteCertificate(t.TempDir())
	must(t, err)
	pair, err := tls.LoadX509KeyPair(certificate, key)
	must(t, err)
	pem, err := os.ReadFile(certificate)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	nats := startNATS(t, &server.Options{
		TLS: true, TLSTimeout: 5,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool},
	})
	o := newOrigin(t)
	servers := "servers " + nats.url("tls") + "\n"
	n := startNode(t, o, servers+"tls {\ntrust_pool file "+certificate+"\n}")
	n.eventually("what is wrong is shown", func() bool {
		status, body := n.readiness()
		return status == http.StatusServiceUnavailable && strings.Contains(body, "tls: ")
	})
	n.reload(o, servers+"tls {\ntrust_pool file "+certificate+"\nclient_auth "+certificate+" "+key+"\n}")
	n.awaitReady()
}

// Credentials with the permissions of the documentation, on a server that
// believes what an operator has signed.
func TestCredentials(t *testing.T) {
	operator, operatorID, _ := newKey(t, nkeys.CreateOperator)
	account, accountID, _ := newKey(t, nkeys.CreateAccount)
	_, systemID, _ := newKey(t, nkeys.CreateAccount)
	accounts := &server.MemAccResolver{}
	for id, storage := range map[string]int64{accountID: -1, systemID: 0} {
		claims := jwt.NewAccountClaims(id)
		claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: storage, Streams: -1, Consumer: -1}
		signed, err := claims.Encode(operator)
		must(t, err)
		must(t, accounts.Store(id, signed))
	}
	nats := startNATS(t, &server.Options{
		TrustedKeys: []string{operatorID}, AccountResolver: accounts, SystemAccount: systemID,
	})
	allowed := documented(t).Users[0].Permissions
	creds := userCredentials(t, account, func(claims *jwt.UserClaims) {
		claims.Pub.Allow, claims.Sub.Allow = allowed.Publish.Allow, allowed.Subscribe.Allow
	})
	n := startNode(t, newOrigin(t), "servers "+nats.url("nats")+"\ncredentials "+write(t, "nats.creds", creds))
	n.awaitReady()
	if denied := nats.denied(); len(denied) > 0 {
		t.Errorf("the permissions are not enough: %s", strings.Join(denied, "\n"))
	}
}

// What is wrong is in Caddy's log and in ?ready, without the password; clients
// get their header all the same.
func TestWrongPassword(t *testing.T) {
	nats := startNATS(t, documented(t))
	servers := "servers " + nats.url("nats") + "\n"
	o := newOrigin(t)
	n := startNode(t, o, servers+"user caddy wr0ng")
	n.eventually("what is wrong is shown", func() bool {
		status, body := n.readiness()
		return status == http.StatusServiceUnavailable && strings.Contains(body, "the log is stalled: ") && strings.Contains(body, "check credentials, nkey, user and password, or token")
	})
	c := n.connect("", nil)
	must(t, c.WaitOpen(within(t, patience), 1))
	if log := n.Log.String(); !strings.Contains(log, "the log cannot be opened") || strings.Contains(log, "wr0ng") {
		t.Errorf("Caddy's log says\n%s", log)
	}
	n.reload(o, servers+"user caddy "+password)
	n.awaitReady()
	must(t, o.WaitConnections(within(t, patience), 1))
	o.EmitNumbered(1)
	must(t, c.WaitCount(within(t, patience), 1))
}

// NATS may come later than Caddy.
func TestNATSThatIsNotThereYet(t *testing.T) {
	nats := startNATS(t, documented(t))
	options := "servers " + nats.url("nats") + "\nuser caddy " + password
	nats.stop()
	n := startNode(t, newOrigin(t), options)
	n.eventually("it is not ready", func() bool {
		status, body := n.readiness()
		return status == http.StatusServiceUnavailable && strings.Contains(body, "none of the servers can be reached")
	})
	nats.start()
	n.awaitReady()
}
