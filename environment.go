package ssefanin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

const (
	// maxRedirects is how many redirects one attempt follows.
	maxRedirects = 10

	// maxResponseHeader bounds the header of an upstream's response, in bytes,
	// where the transport has no bound of its own.
	maxResponseHeader = 64 << 10

	userAgent = "caddy-sse-fanin"
)

// environment has one configuration's means to dial a source. It is used only
// while the configuration is: from its Start to its Stop.
type environment struct {
	endpoints []endpoint // of the URLs, evaluated; unusable where a template has placeholders
	templates []string   // of the URLs, evaluated but for placeholders of the request
	transport *reverseproxy.HTTPTransport
	headerOps []*headers.HeaderOps
	addresses reverseproxy.UpstreamSource // of `dynamic`, or nil
	values    map[string]string           // of a keyed stream's placeholders in headers
	logger    *zap.Logger
}

// newEnvironment evaluates a spec for one configuration. Nothing is dialled.
func newEnvironment(ctx caddy.Context, spec *sourceSpec) (*environment, error) {
	env := &environment{logger: ctx.Logger()}
	for _, text := range spec.URLs {
		template, ep, err := evaluateURL(text)
		if err != nil {
			return nil, err
		}
		env.templates = append(env.templates, template)
		env.endpoints = append(env.endpoints, ep)
	}
	var err error
	if env.transport, err = loadTransport(ctx, spec, env.endpoints); err != nil {
		return nil, err
	}
	if spec.dynamicRaw != nil {
		if err := env.loadAddresses(ctx, spec); err != nil {
			return nil, err
		}
	}
	for _, ops := range spec.headerOps {
		if err := ops.Provision(ctx); err != nil {
			return nil, fmt.Errorf("header_up: %w", err)
		}
		env.headerOps = append(env.headerOps, ops)
	}
	return env, nil
}

// loadTransport loads the transport module and rejects one that cannot stream
// outside a client's request.
func loadTransport(ctx caddy.Context, spec *sourceSpec, eps []endpoint) (*reverseproxy.HTTPTransport, error) {
	// Loaded as a module, the default one, too: Caddy closes the idle connections
	// of modules only. Loading clears the raw text, which another upstream may
	// share.
	raw := slices.Clone(spec.transportRaw)
	if raw == nil {
		raw = json.RawMessage(`{"protocol":"http"}`)
	}
	mod, err := ctx.LoadModule(&struct {
		TransportRaw json.RawMessage `caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`
	}{raw}, "TransportRaw")
	if err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	transport, err := usableTransport(mod)
	if err != nil {
		return nil, err
	}
	for _, ep := range eps {
		if err := checkTransport(transport, ep); err != nil {
			return nil, err
		}
	}
	transport.Transport.DisableCompression = true // it would hold small events back
	if transport.MaxResponseHeaderSize == 0 {
		transport.Transport.MaxResponseHeaderBytes = maxResponseHeader
	}
	return transport, nil
}

// usableTransport rejects transports that cannot stream outside a request.
func usableTransport(mod any) (*reverseproxy.HTTPTransport, error) {
	transport, ok := mod.(*reverseproxy.HTTPTransport)
	if !ok {
		name := fmt.Sprintf("%T", mod)
		if m, ok := mod.(caddy.Module); ok {
			name = m.CaddyModule().ID.Name()
		}
		return nil, fmt.Errorf("transport: '%s' works only within a client's request, while an upstream is connected without one; use 'http'", name)
	}
	if transport.ProxyProtocol != "" {
		return nil, errors.New("transport: proxy_protocol tells the upstream a client's address, but the connection is shared by all clients")
	}
	return transport, nil
}

// checkTransport validates a transport against the URL; the scheme decides TLS.
func checkTransport(t *reverseproxy.HTTPTransport, ep endpoint) error {
	tls := ep.url.Scheme == "https"
	only := func(version string) bool { return len(t.Versions) == 1 && t.Versions[0] == version }
	switch {
	case t.TLS != nil && !tls:
		return fmt.Errorf("transport: TLS is configured, but the URL '%s' begins with http://; use https://", ep)
	case only("3") && !tls:
		return fmt.Errorf("transport: HTTP/3 needs TLS, but the URL '%s' begins with http://; use https://", ep)
	case only("h2c") && tls:
		return fmt.Errorf("transport: h2c is HTTP/2 without TLS, but the URL '%s' begins with https://; use http:// or version 2", ep)
	}
	return nil
}

// hasClientCertificate reports whether requests are authenticated by TLS.
func (e *environment) hasClientCertificate() bool {
	tls := e.transport.TLS
	return tls != nil && (tls.ClientCertificateFile != "" || tls.ClientCertificateAutomate != "")
}

// target is one endpoint to ask, and how to dial it.
type target struct {
	endpoint
	address string // discovered; empty: the URL's
	number  int    // of the URL among the upstream's
}

// fetch asks for the stream, following redirects. It returns a response that
// is no redirect, whose body is to be closed, or nil and why there is none.
func (e *environment) fetch(ctx context.Context, rep *replica, lastEventID string) (*http.Response, ending) {
	t := target{endpoint: e.endpoints[rep.url], address: rep.address, number: rep.url}
	at := t.url
	abroad := false // a redirect has left the upstream's origin
	for hop := 0; ; hop++ {
		end := ending{url: redactURL(at)}
		if !abroad {
			end.url = t.shown(at)
		}
		req, err := e.request(ctx, t, at, abroad, lastEventID)
		if err != nil {
			end.reason, end.err = reasonRequest, err
			return nil, end
		}
		resp, err := e.transport.RoundTrip(req)
		if d := e.diagnose(req, rep, resp, err); d != nil {
			if resp != nil {
				_ = resp.Body.Close()
			}
			end.reason, end.err, end.hint, end.mistake, end.slow = d.reason, d.err, d.hint, d.mistake, d.slow
			return nil, end
		}
		if err != nil {
			end.reason, end.err = reasonError, bounded(err)
			return nil, end
		}
		switch resp.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
			http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			return resp, end
		}
		_ = resp.Body.Close() // nothing of it is wanted
		next, err := e.redirect(t, at, resp, hop)
		if err != nil {
			end.reason, end.status, end.err, end.slow = reasonRedirect, resp.StatusCode, err, true
			return nil, end
		}
		abroad = abroad || origin(next) != origin(t.url)
		at = next
	}
}

// maxErrorText bounds the text of an error, in bytes: net/http quotes answers
// that are no HTTP, and they can be anything.
const maxErrorText = 200

func bounded(err error) error {
	if text := err.Error(); len(text) > maxErrorText {
		return fmt.Errorf("%.*s…", maxErrorText, text)
	}
	return err
}

// shown is a URL of the upstream as logs show it.
func (t target) shown(at *url.URL) string {
	shown := redactURL(at)
	switch {
	case t.configured != "" && at == t.url:
		shown = t.configured
	case t.configured != "": // redirected; a path may repeat values filled in
		shown = origin(at) + "/…"
	case t.socket != "":
		shown = unixPrefix + t.socket + "|" + at.EscapedPath()
	}
	if t.address != "" {
		shown += " at " + t.address
	}
	return shown
}

// redirect returns the target of a response's redirect, or why it is refused.
func (e *environment) redirect(t target, from *url.URL, resp *http.Response, hop int) (*url.URL, error) {
	if hop == maxRedirects {
		return nil, fmt.Errorf("more than %d redirects", maxRedirects)
	}
	location := resp.Header.Get("Location")
	if location == "" {
		return nil, errors.New("a redirect without a Location")
	}
	next, err := from.Parse(location)
	if err != nil {
		return nil, errors.New("a redirect to an invalid Location")
	}
	shown := redactURL(next)
	if (next.Scheme != "http" && next.Scheme != "https") || next.Hostname() == "" {
		return nil, fmt.Errorf("a redirect to %s, which is not http(s)", shown)
	}
	if from.Scheme == "https" && next.Scheme == "http" {
		return nil, fmt.Errorf("a redirect from https to %s", shown)
	}
	next.Fragment, next.RawFragment = "", ""
	if origin(next) != origin(t.url) {
		if e.hasClientCertificate() {
			return nil, fmt.Errorf("a redirect to another origin, %s, though a client certificate is configured", shown)
		}
		if t.address != "" && next.Scheme == "https" {
			return nil, fmt.Errorf("a redirect to another origin, %s, whose certificate would be checked against the upstream's name", shown)
		}
	}
	next.User = nil // never a Location's
	return next, nil
}

// request builds a prepared request. Abroad, beyond a redirect to another
// origin, it carries no secrets.
func (e *environment) request(ctx context.Context, t target, at *url.URL, abroad bool, lastEventID string) (*http.Request, error) {
	dialled := *at
	host, port, hostport := t.hostport()
	if !abroad {
		info, err := t.dialInfo()
		if err != nil {
			return nil, err
		}
		if info != nil {
			ctx = context.WithValue(ctx, caddy.CtxKey("reverse_proxy.dial_info"), *info)
			host, port = info.Host, info.Port
			hostport = info.Address
			if t.socket != "" {
				hostport = unixPrefix + t.socket
			}
			// net/http keeps idle connections by the URL's host, so that must
			// differ between the places of an upstream
			dialled.Host = info.Address
			if info.Port == "" {
				dialled.Host = "localhost:" + strconv.Itoa(t.number+1)
			}
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, dialled.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("building the request: %w", err)
	}
	req.Host = at.Host
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Cache-Control", "no-cache")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", userAgent)

	repl := caddy.NewReplacer()
	req = caddyhttp.PrepareRequest(req, repl, nil, nil)
	repl.Set("http.reverse_proxy.upstream.address", hostport)
	repl.Set("http.reverse_proxy.upstream.hostport", hostport)
	repl.Set("http.reverse_proxy.upstream.host", host)
	repl.Set("http.reverse_proxy.upstream.port", port)
	if abroad {
		return req, nil
	}
	// the values of a client's request, for keyed streams; missing ones are not
	// to be taken from our own request
	for name, value := range e.values {
		repl.Set(name, value)
	}
	if user := t.url.User; user != nil {
		password, _ := user.Password()
		req.SetBasicAuth(user.Username(), password)
	}
	if lastEventID != "" {
		req.Header.Set("Last-Event-ID", lastEventID)
	}
	for _, ops := range e.headerOps {
		ops.ApplyToRequest(req)
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header["User-Agent"] = []string{""} // deleted; net/http would send its own
	}
	return req, nil
}

// dialInfo returns where to dial, if that is not the URL's host.
func (t target) dialInfo() (*reverseproxy.DialInfo, error) {
	if t.socket != "" {
		return &reverseproxy.DialInfo{Network: "unix", Address: t.socket, Host: t.socket}, nil
	}
	if t.address == "" {
		return nil, nil
	}
	addr, err := caddy.ParseNetworkAddress(t.address)
	if err != nil {
		return nil, fmt.Errorf("the discovered address %q: %w", t.address, err)
	}
	if addr.IsUnixNetwork() {
		return &reverseproxy.DialInfo{Network: addr.Network, Address: addr.Host, Host: addr.Host}, nil
	}
	if addr.PortRangeSize() != 1 || addr.Host == "" {
		return nil, fmt.Errorf("the discovered address %q is not one host and port", t.address)
	}
	port := strconv.FormatUint(uint64(addr.StartPort), 10)
	return &reverseproxy.DialInfo{Network: addr.Network, Address: net.JoinHostPort(addr.Host, port), Host: addr.Host, Port: port}, nil
}
