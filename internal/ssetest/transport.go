package ssetest

import (
	"crypto/tls"
	"net/http"
)

// HTTPClient returns a client that speaks one protocol over TCP, which set
// chooses, and trusts every certificate. Its idle connections are the caller's
// to close.
func HTTPClient(set func(*http.Protocols, bool)) *http.Client {
	transport := newTransport()
	set(transport.Protocols, true)
	return &http.Client{Transport: transport}
}

// newTransport returns a transport that speaks no protocol yet.
func newTransport() *http.Transport {
	return &http.Transport{
		Protocols:       new(http.Protocols),
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // certificates of the tests' own
	}
}
