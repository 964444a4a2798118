package ssefanin

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// unixPrefix begins the URL of an upstream behind a unix socket:
// unix//path/to.sock|/path/of/the/request.
const unixPrefix = "unix/"

// endpoint is where an upstream is dialled: its URL, evaluated.
type endpoint struct {
	url    *url.URL
	socket string // path of the unix socket; empty for TCP
}

// isURLArgument tells URLs from names among a directive's arguments.
func isURLArgument(arg string) bool {
	return strings.Contains(arg, "://") || strings.HasPrefix(arg, "{") || strings.HasPrefix(arg, unixPrefix)
}

var (
	validName   = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	notNameChar = regexp.MustCompile(`[^A-Za-z0-9_.-]`)
)

// checkName judges the name of a stream or an upstream.
func checkName(what, name string) error {
	if name == "" {
		return fmt.Errorf("%s: the name is empty", what)
	}
	if len(name) > 128 {
		return fmt.Errorf("%s: the name is longer than 128 characters", what)
	}
	if !validName.MatchString(name) {
		return fmt.Errorf("%s: the name '%s' may only contain letters, digits and '_.-'", what, name)
	}
	return nil
}

// checkNameArgument judges a word that stands where a name or a URL may stand.
func checkNameArgument(what, arg string) error {
	if strings.ContainsAny(arg, "/:.") {
		return fmt.Errorf("'%s' is neither a name nor a URL: missing http:// or https://", arg)
	}
	return checkName(what, arg)
}

// checkURL judges the text of a URL as far as that is possible before its
// placeholders are evaluated.
func checkURL(text string) error {
	if p := findRequestPlaceholder(text); p != "" {
		return fmt.Errorf("upstream URL '%s': the placeholder %s belongs to a client's request, but the connection to an upstream is shared by all clients", redactText(text), p)
	}
	if hasPlaceholder(text) {
		return nil
	}
	_, err := parseEndpoint(text)
	return err
}

func hasPlaceholder(text string) bool {
	_, rest, ok := strings.Cut(text, "{")
	return ok && strings.Contains(rest, "}")
}

// evaluateURL fills the placeholders of a URL, once, and parses it.
func evaluateURL(text string) (endpoint, error) {
	filled, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil {
		return endpoint{}, fmt.Errorf("upstream URL '%s': %w", redactText(text), err)
	}
	ep, err := parseEndpoint(filled)
	if err != nil && hasPlaceholder(text) {
		// the evaluated text may hold secrets; name the configured one
		return ep, fmt.Errorf("upstream URL '%s', after its placeholders were filled in: %w", redactText(text), err)
	}
	return ep, err
}

// parseEndpoint parses a URL without placeholders.
func parseEndpoint(text string) (endpoint, error) {
	if rest, ok := strings.CutPrefix(text, unixPrefix); ok {
		return parseUnixEndpoint(text, rest)
	}
	if !strings.Contains(text, "://") {
		return endpoint{}, fmt.Errorf("upstream URL '%s': missing http:// or https://", redactText(text))
	}
	u, err := url.Parse(text)
	if err != nil {
		var parseErr *url.Error
		if errors.As(err, &parseErr) {
			err = parseErr.Err // without the URL, which may hold credentials
		}
		return endpoint{}, fmt.Errorf("upstream URL '%s': %w", redactText(text), err)
	}
	switch u.Scheme {
	case "http", "https":
	default:
		return endpoint{}, fmt.Errorf("upstream URL '%s': the scheme '%s' is not supported, use http, https or unix//path/to.sock", redactText(text), u.Scheme)
	}
	if u.Hostname() == "" {
		return endpoint{}, fmt.Errorf("upstream URL '%s': the host is empty", redactText(text))
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return endpoint{}, fmt.Errorf("upstream URL '%s': '%s' is not a port from 1 to 65535", redactText(text), port)
		}
	}
	u.Fragment, u.RawFragment = "", ""
	if u.Path == "" {
		u.Path = "/"
	}
	return endpoint{url: u}, nil
}

func parseUnixEndpoint(text, rest string) (endpoint, error) {
	socket, path, _ := strings.Cut(rest, "|")
	if socket == "" || socket == "/" {
		return endpoint{}, fmt.Errorf("upstream URL '%s': the path of the unix socket is empty, expected unix//path/to.sock", text)
	}
	if path == "" {
		path = "/"
	}
	if !strings.HasPrefix(path, "/") {
		return endpoint{}, fmt.Errorf("upstream URL '%s': the path of the request must begin with '/', expected unix//path/to.sock|/path", text)
	}
	u, err := url.Parse("http://localhost" + path)
	if err != nil {
		return endpoint{}, fmt.Errorf("upstream URL '%s': invalid path of the request", text)
	}
	return endpoint{url: u, socket: socket}, nil
}

// hostport is the address to dial, as the placeholders of reverse_proxy give it.
func (e endpoint) hostport() (host, port, hostport string) {
	if e.socket != "" {
		return e.socket, "", unixPrefix + e.socket
	}
	host, port = e.url.Hostname(), e.url.Port()
	if port == "" {
		port = defaultPort(e.url.Scheme)
	}
	return host, port, net.JoinHostPort(host, port)
}

// String is the endpoint as logs show it: without credentials and query.
func (e endpoint) String() string {
	if e.socket != "" {
		return unixPrefix + e.socket + "|" + e.url.EscapedPath()
	}
	return redactURL(e.url)
}

// redactURL leaves what identifies a server and drops what may be secret.
func redactURL(u *url.URL) string {
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	return shown.String()
}

// redactText does the same for the text of a URL that could not be parsed.
func redactText(text string) string {
	text, _, _ = strings.Cut(text, "?")
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return text
	}
	authority, path, _ := strings.Cut(rest, "/")
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		authority = authority[at+1:]
	}
	if path != "" || strings.HasSuffix(rest, "/") {
		path = "/" + path
	}
	return scheme + "://" + authority + path
}

func defaultPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

// origin is what a browser calls by that name; requests that leave it take no
// secrets along.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = defaultPort(u.Scheme)
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + ":" + port
}

// canonicalURL gives URLs that mean the same the same text. Placeholders stay
// as they are.
func canonicalURL(text string) string {
	if hasPlaceholder(text) {
		return text
	}
	ep, err := parseEndpoint(text)
	if err != nil || ep.socket != "" {
		return text
	}
	u := *ep.url
	u.Host = strings.ToLower(u.Host)
	if u.Port() == defaultPort(u.Scheme) {
		u.Host = strings.TrimSuffix(u.Host, ":"+u.Port())
	}
	return u.String()
}

// defaultName derives an upstream's name from its first URL: host and path,
// every other character a dash. Placeholders of the host are filled in, those
// of the path are not: paths hold tokens.
func defaultName(text string, ep endpoint) string {
	if rest, ok := strings.CutPrefix(text, unixPrefix); ok {
		socket, path, _ := strings.Cut(rest, "|")
		path, _, _ = strings.Cut(path, "?")
		return nameFrom(strings.TrimPrefix(socket, "/") + path)
	}
	path := ep.url.EscapedPath()
	if _, rest, ok := strings.Cut(text, "://"); ok {
		rest, _, _ = strings.Cut(rest, "?")
		rest, _, _ = strings.Cut(rest, "#")
		path = ""
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			path = rest[i:]
		}
	}
	return nameFrom(ep.url.Host + path)
}

func nameFrom(s string) string {
	s = notNameChar.ReplaceAllString(s, "-")
	if len(s) > 120 { // room for a number that makes it unique
		s = s[:120]
	}
	return s
}
