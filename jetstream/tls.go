package jetstream

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
)

// TLS is how to encrypt the connection to NATS.
type TLS struct {
	// Whose certificates the servers may have, a module of Caddy's for pools of
	// certificates. Default: those that the system trusts.
	TrustPoolRaw json.RawMessage `json:"trust_pool,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`

	// The certificate to show to the servers. Default: none.
	ClientAuth *ClientAuth `json:"client_auth,omitempty"`

	// The name that the servers' certificates must have. Default: the host in the
	// URL of each.
	ServerName string `json:"server_name,omitempty"`

	trustPool    json.RawMessage // TrustPoolRaw, which loading clears
	certificates [][]byte        // in the pool, in DER, if it says which
}

// ClientAuth is a certificate in PEM files. They are read at every connection.
type ClientAuth struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
}

// MarshalJSON encodes what was configured.
func (t *TLS) MarshalJSON() ([]byte, error) {
	type plain TLS
	p := plain(*t)
	if p.TrustPoolRaw == nil {
		p.TrustPoolRaw = p.trustPool
	}
	return json.Marshal(p)
}

// provision evaluates placeholders and makes what connections are encrypted with.
func (t *TLS) provision(ctx caddy.Context) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if cfg.RootCAs, err = t.roots(ctx); err != nil {
		return nil, fmt.Errorf("tls: trust_pool: %w", err)
	}
	if t.ServerName, err = evaluate("tls: server_name", t.ServerName); err != nil {
		return nil, err
	}
	cfg.ServerName = t.ServerName
	if t.ClientAuth == nil {
		return cfg, nil
	}
	files, err := t.ClientAuth.evaluate()
	if err != nil {
		return nil, err
	}
	t.ClientAuth = files
	if _, err := files.load(); err != nil {
		return nil, err
	}
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return files.load() }
	return cfg, nil
}

// roots loads the pool of certificates; nil if none is configured.
func (t *TLS) roots(ctx caddy.Context) (*x509.CertPool, error) {
	if len(t.TrustPoolRaw) == 0 || string(t.TrustPoolRaw) == "null" {
		return nil, nil
	}
	t.trustPool = t.TrustPoolRaw
	mod, err := ctx.LoadModule(t, "TrustPoolRaw")
	if err != nil {
		return nil, err
	}
	ca, ok := mod.(caddytls.CA)
	if !ok {
		return nil, fmt.Errorf("module %T has no certificates", mod)
	}
	if provider, ok := mod.(caddytls.CertificateProvider); ok {
		for _, cert := range provider.Certificates() {
			t.certificates = append(t.certificates, cert.Raw)
		}
	}
	pool := ca.CertPool()
	if pool.Equal(x509.NewCertPool()) {
		return nil, errors.New("it has no certificates")
	}
	return pool, nil
}

// evaluate returns the paths with their placeholders filled in.
func (c *ClientAuth) evaluate() (*ClientAuth, error) {
	if c.Certificate == "" || c.Key == "" {
		return nil, errors.New("tls: client_auth: it needs the files of a certificate and of its key")
	}
	certificate, err := evaluate("tls: client_auth", c.Certificate)
	if err != nil {
		return nil, err
	}
	key, err := evaluate("tls: client_auth", c.Key)
	return &ClientAuth{Certificate: certificate, Key: key}, err
}

func (c *ClientAuth) load() (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, fmt.Errorf("tls: client_auth: %w", err)
	}
	return &cert, nil
}
