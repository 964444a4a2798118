package ssefanin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// Most failures to connect are accidents, which pass. The ones known here most
// likely are mistakes in the configuration of one side or the other: they last
// until they are mended, so they are logged with a hint.

const (
	// probeTimeout bounds the look whether a port speaks TLS.
	probeTimeout = 5 * time.Second

	// probeEvery is the least time between two such looks at one replica: each
	// is one connection more.
	probeEvery = time.Minute

	// alertFromPeer begins the text of an error that is the peer's TLS alert,
	// whose type crypto/tls does not export.
	alertFromPeer = "remote error: tls: "

	// noSuchHost is package net's text for a name that does not exist, on all
	// systems. The transport's error has no Unwrap to find the *net.DNSError
	// by.
	noSuchHost = "no such host"
)

// diagnosis is the likely cause of a failed attempt.
type diagnosis struct {
	reason  reason
	err     error
	hint    string // where to look for the cause
	mistake bool   // in the configuration, here or there
	slow    bool   // it will not change soon
}

// diagnose looks at how a request was answered, by a response or an error. Nil:
// there is nothing to add to the response or error. It may make a connection of
// its own; the request's context bounds it.
func (e *environment) diagnose(req *http.Request, rep *replica, resp *http.Response, err error) *diagnosis {
	if err == nil {
		// Servers of HTTPS that see HTTP say so in their own words.
		if resp.StatusCode == http.StatusBadRequest && e.wantsTLS(req, rep) {
			return needsTLS(fmt.Errorf("status %d", resp.StatusCode))
		}
		return nil
	}
	if d := diagnoseTLS(err); d != nil {
		return d
	}
	switch text := err.Error(); {
	case strings.Contains(text, noSuchHost):
		return &diagnosis{
			reason: reasonUnknownHost, err: bounded(err), mistake: true,
			hint: "there is no host of that name: check its spelling and the resolver; it is tried again, in case the name comes later",
		}
	case strings.Contains(text, `malformed HTTP response "\x15\x03`): // a TLS alert
		return needsTLS(err)
	case isDialError(err) || req.Context().Err() != nil || req.URL.Scheme != "http":
		return nil
	case e.wantsTLS(req, rep):
		return needsTLS(err)
	case isClosed(err):
		return &diagnosis{
			reason: reasonError, err: bounded(err),
			hint: "the server took the connection and closed it without an answer: is this the right port, and is it http?",
		}
	}
	return nil
}

func needsTLS(err error) *diagnosis {
	return &diagnosis{
		reason: reasonTLS, err: bounded(err), mistake: true, slow: true,
		hint: "the port speaks TLS: use https:// in the URL",
	}
}

// diagnoseTLS diagnoses the errors of a TLS handshake.
func diagnoseTLS(err error) *diagnosis {
	d := &diagnosis{reason: reasonCertificate, err: bounded(err), mistake: true, slow: true}
	var (
		unverified *tls.CertificateVerificationError
		authority  x509.UnknownAuthorityError
		name       x509.HostnameError
		invalid    x509.CertificateInvalidError
		record     tls.RecordHeaderError
	)
	_, alert, alerted := strings.Cut(err.Error(), alertFromPeer)
	switch {
	case errors.As(err, &authority):
		d.hint = "the server's certificate is signed by an authority that is not trusted here: name the authority with tls_trust_pool in transport"
	case errors.As(err, &name):
		d.hint = "the server's certificate is for other names: use one of them in the URL, or tls_server_name in transport"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		d.hint = "the server's certificate has expired or is not valid yet: renew it there, or set the clock here"
	case errors.As(err, &unverified):
		d.hint = "the server's certificate cannot be verified"
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record):
		d.reason, d.hint = reasonTLS, "the port does not speak TLS: use http:// in the URL"
	case !alerted, alert == "internal error", alert == "user canceled":
		return nil // servers say "internal error" as long as they have no certificate yet
	case strings.Contains(alert, "certificate"):
		d.hint = "the server does not accept the client certificate, or that there is none: see tls_client_auth in transport"
	default:
		d.reason, d.hint = reasonTLS, "the server refuses the TLS that it is offered: check the host of the URL, and the TLS options in transport"
	}
	return d
}

// isDialError reports whether no connection was made at all.
func isDialError(err error) bool {
	var dial reverseproxy.DialError
	return errors.As(err, &dial)
}

// isClosed reports whether the server closed the connection instead of answering.
func isClosed(err error) bool {
	for _, closed := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, closed) {
			return true
		}
	}
	// net/http's text, of an error that it does not export, for a connection
	// that was closed before the request was written
	return strings.Contains(err.Error(), "server closed idle connection")
}

// wantsTLS reports whether the port that a request was made to without TLS
// answers a TLS handshake, by a look that is a minute old at most. Servers that
// get HTTP where they expect TLS often just close the connection.
func (e *environment) wantsTLS(req *http.Request, rep *replica) bool {
	if req.URL.Scheme != "http" {
		return false
	}
	now := time.Now()
	if rep.probed.IsZero() || now.Sub(rep.probed) >= probeEvery {
		rep.probed, rep.speaksTLS = now, e.probeTLS(req)
	}
	return rep.speaksTLS
}

func (e *environment) probeTLS(req *http.Request) bool {
	transport := e.transport.Transport
	if proxy, err := transport.Proxy(req); proxy != nil || err != nil {
		return false // the proxy's target is not ours to try
	}
	port := req.URL.Port()
	if port == "" {
		port = "80"
	}
	ctx, cancel := context.WithTimeout(req.Context(), probeTimeout)
	defer cancel()
	conn, err := transport.DialContext(ctx, "tcp", net.JoinHostPort(req.URL.Hostname(), port))
	if err != nil {
		return false
	}
	defer conn.Close()
	name, _, err := net.SplitHostPort(req.Host)
	if err != nil {
		name = req.Host
	}
	err = tls.Client(conn, &tls.Config{
		ServerName:         name,
		InsecureSkipVerify: true, //nolint:gosec // nothing is sent or read
	}).HandshakeContext(ctx)
	return err == nil || strings.Contains(err.Error(), alertFromPeer)
}
