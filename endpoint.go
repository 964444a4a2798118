package ssefanin

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
)

// unixPrefix begins the URL of an upstream behind a unix socket:
// unix//path/to.sock|/path/of/the/request.
const unixPrefix = "unix/"

// endpoint is where an upstream is dialled: its URL, evaluated.
type endpoint struct {
	url    *url.URL
	socket string // path of the unix socket; empty for TCP

	// configured is the URL as logs show it where it has placeholders: their
	// values may be secret. Empty where it has none.
	configured string
}

// isURLArgument reports whether an argument of a directive is a URL, not a
// name: it has a scheme, or begins with a placeholder.
func isURLArgument(arg string) bool {
	return strings.Contains(arg, "://") || strings.HasPrefix(arg, "{") || strings.HasPrefix(arg, unixPrefix)
}

var (
	validName   = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	notNameChar = regexp.MustCompile(`[^A-Za-z0-9_.-]`)
)

// checkName validates the name of a stream or an upstream.
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

// checkNameArgument validates a word that stands where a name or a URL may
// stand, and is no URL. A name may have a dot, as a host's name has; a word
// that is no name, but looks like a URL, is taken for a URL without its scheme.
func checkNameArgument(what, arg string) error {
	if strings.ContainsAny(arg, "/:@?") {
		return fmt.Errorf("'%s' is neither a name nor a URL: missing http:// or https://", urltext.Redact(arg))
	}
	return checkName(what, arg)
}

// orURL is the addition to an error about a name that may have been meant for a
// URL.
func orURL(name string) string {
	if !strings.Contains(name, ".") {
		return ""
	}
	return fmt.Sprintf("; if '%s' is the host of an upstream, begin its URL with http:// or https://", name)
}

// checkURL validates the text of a URL as far as that is possible before its
// placeholders are evaluated.
func checkURL(text string) error {
	if err := checkPlaceholders(text); err != nil {
		return &urlError{text, err}
	}
	tried, ok := tryText(text)
	if !ok {
		return nil
	}
	if _, err := parseEndpoint(tried); err != nil {
		return &urlError{text, err}
	}
	return nil
}

// tryText is the text of a URL with a letter for each placeholder of the
// request, and whether that is without placeholders.
func tryText(text string) (string, bool) {
	text = requestPlaceholders.ReplaceAllStringFunc(text, func(p string) string {
		if findRequestPlaceholder(p) == "" {
			return p
		}
		return "x"
	})
	return text, !hasPlaceholder(text)
}

// urlError is an error about the URL of an upstream.
type urlError struct {
	text string // of the URL, as configured
	err  error
}

func (e *urlError) Error() string {
	return fmt.Sprintf("upstream URL '%s': %v", urltext.Redact(e.text), e.err)
}

func (e *urlError) Unwrap() error { return e.err }

func hasPlaceholder(text string) bool {
	_, rest, ok := strings.Cut(text, "{")
	return ok && strings.Contains(rest, "}")
}

// checkPlaceholders validates the places of the request's placeholders. A value
// must not decide which server is asked, so they stand in the path and the
// query. And as it is escaped there, to be one segment of the path or one value
// of the query, none may be meant for more.
func checkPlaceholders(text string) error {
	if findRequestPlaceholder(text) == "" {
		return nil
	}
	if err := checkPlaceholdersInQuery(text); err != nil {
		return err
	}
	if i := urltext.IndexOutside(text, "#"); i >= 0 {
		if p := findRequestPlaceholder(text[i:]); p != "" {
			return fmt.Errorf("the placeholder %s stands in the fragment, which is not sent to an upstream", p)
		}
	}
	fixed := text
	if rest, ok := strings.CutPrefix(text, unixPrefix); ok {
		fixed, _, _ = strings.Cut(rest, "|")
		if p := findRequestPlaceholder(fixed); p != "" {
			return fmt.Errorf("the placeholder %s belongs to a client's request, so it may stand in the path and the query of the request, not in the path of the socket", p)
		}
		return checkPlaceholdersInPath(rest[len(fixed):])
	}
	if end := strings.IndexByte(text, '}'); text[0] == '{' && findRequestPlaceholder(text[:end+1]) == "" && !strings.HasPrefix(text[end+1:], "://") {
		return nil // the value of {env.FEED_URL} is validated when it is filled in
	}
	var path string
	if scheme, rest, ok := urltext.CutScheme(text); ok {
		if i := urltext.IndexOutside(rest, "/?#"); i >= 0 {
			rest, path = rest[:i], rest[i:]
		}
		fixed = scheme + rest
	}
	if p := findRequestPlaceholder(fixed); p != "" {
		return fmt.Errorf("the placeholder %s belongs to a client's request, so it may stand in the path and the query, not in scheme, host or port", p)
	}
	return checkPlaceholdersInPath(path)
}

// manySegments matches placeholders that stand for a whole path, a whole query
// or both.
var manySegments = regexp.MustCompile(`^\{http\.request\.(orig_)?uri(_escaped|\.path(_escaped|\.dir)?|\.query(_escaped)?|\.prefixed_query)?\}$`)

// checkPlaceholdersInPath validates the part behind the host or the socket.
func checkPlaceholdersInPath(path string) error {
	if i := urltext.IndexOutside(path, "?#"); i >= 0 {
		path = path[:i]
	}
	for _, name := range placeholdersIn(path) {
		if p := "{" + name + "}"; manySegments.MatchString(p) {
			return fmt.Errorf("the placeholder %s stands in the path, where a value is one segment, and is more than that; give its parts, as in /{path.0}/{path.1}?room={query.room}", p)
		}
	}
	return nil
}

// checkPlaceholdersInQuery validates the query of a URL, if it is known by now
// where that begins.
func checkPlaceholdersInQuery(text string) error {
	query := ""
	if i := urltext.IndexOutside(text, "?"); i >= 0 {
		query = text[i+1:]
	}
	if i := urltext.IndexOutside(query, "#"); i >= 0 {
		query = query[:i]
	}
	for query != "" {
		field := query
		if i := urltext.IndexOutside(query, "&"); i >= 0 {
			field, query = query[:i], query[i+1:]
		} else {
			query = ""
		}
		if i := urltext.IndexOutside(field, "="); i >= 0 {
			field = field[:i]
		}
		if p := findRequestPlaceholder(field); p != "" {
			return fmt.Errorf("the placeholder %s stands in the query, but not as the value of a parameter; name each parameter that is passed on, as in ?room={query.room}", p)
		}
	}
	return nil
}

// evaluateURL fills the placeholders of a URL, once, but for the request's, and
// parses it. An error names the configured text: the evaluated one may hold
// secrets.
func evaluateURL(text string) (template string, ep endpoint, err error) {
	// the request's placeholders are set aside; a letter stands for each
	var kept []string
	outer := requestPlaceholders.ReplaceAllStringFunc(text, func(p string) string {
		if findRequestPlaceholder(p) == "" {
			return p // an upstream's; it has no meaning in its own URL
		}
		kept = append(kept, p)
		return fmt.Sprintf("{sse_fanin.kept.%d}", len(kept)-1)
	})
	repl, trial := caddy.NewReplacer(), caddy.NewReplacer()
	for i, p := range kept {
		repl.Set(fmt.Sprintf("sse_fanin.kept.%d", i), p)
		trial.Set(fmt.Sprintf("sse_fanin.kept.%d", i), "x")
	}
	if template, err = repl.ReplaceOrErr(outer, true, true); err != nil {
		return "", endpoint{}, &urlError{text, inLongForm(text, err)}
	}
	filled, err := trial.ReplaceOrErr(outer, true, true)
	if err != nil {
		return "", endpoint{}, &urlError{text, err}
	}
	ep, err = parseEndpoint(filled)
	if err == nil {
		err = checkPlaceholders(template)
	}
	if err == nil && !slices.Equal(placeholdersIn(template), placeholdersIn(text)) {
		err = errors.New("a value has a placeholder of a client's request, which may only stand in the configuration itself")
	}
	if err != nil && filled != text {
		if _, unparsed := url.Parse(filled); unparsed != nil {
			err = errors.New("it cannot be parsed") // the reason may quote a secret
		}
		err = fmt.Errorf("with its placeholders filled in: %w", err)
	}
	if err != nil {
		return "", endpoint{}, &urlError{text, err}
	}
	if filled != text {
		ep.configured = urltext.Redact(text)
	}
	return template, ep, nil
}

// inLongForm adds to an error about placeholders the long names of a
// Caddyfile's short forms: elsewhere only the long ones are known.
func inLongForm(text string, err error) error {
	for _, p := range anyPlaceholder.FindAllString(text, -1) {
		if long := expandShorthand(p); long != p {
			err = fmt.Errorf("%w; outside of a Caddyfile, %s is written %s", err, p, long)
		}
	}
	return err
}

var anyPlaceholder = regexp.MustCompile(`\{[^{}]*\}`)

// expandShorthand writes out the placeholders of a text that are a Caddyfile's
// short forms.
func expandShorthand(text string) string {
	segment := caddyfile.Segment{{Text: text}}
	httpcaddyfile.NewShorthandReplacer().ApplyToSegment(&segment)
	return segment[0].Text
}

// parseEndpoint parses a URL without placeholders. Its errors do not repeat
// the URL.
func parseEndpoint(text string) (endpoint, error) {
	if text == "" {
		return endpoint{}, errors.New("the URL is empty")
	}
	if rest, ok := strings.CutPrefix(text, unixPrefix); ok {
		return parseUnixEndpoint(rest)
	}
	if !strings.Contains(text, "://") {
		return endpoint{}, errors.New("missing http:// or https://")
	}
	u, err := url.Parse(text)
	if err != nil {
		if strings.Contains(text, "@") { // the reason may quote a password
			return endpoint{}, errors.New("it cannot be parsed; in a user name or a password, characters such as / ? # % @ must be percent-encoded")
		}
		if parseErr, ok := errors.AsType[*url.Error](err); ok {
			err = parseErr.Err // without the URL
		}
		return endpoint{}, err
	}
	switch u.Scheme {
	case "http", "https":
	default:
		return endpoint{}, fmt.Errorf("the scheme '%s' is not supported, use http, https or unix//path/to.sock", u.Scheme)
	}
	if u.Hostname() == "" {
		return endpoint{}, errors.New("the host is empty")
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return endpoint{}, fmt.Errorf("'%s' is not a port from 1 to 65535", port)
		}
	}
	u.Fragment, u.RawFragment = "", ""
	if u.Path == "" {
		u.Path = "/"
	}
	return endpoint{url: u}, nil
}

// parseUnixEndpoint parses the part after unix/.
func parseUnixEndpoint(rest string) (endpoint, error) {
	socket, path, _ := strings.Cut(rest, "|")
	if socket == "" || socket == "/" {
		return endpoint{}, errors.New("the path of the unix socket is empty, expected unix//path/to.sock")
	}
	if path == "" {
		path = "/"
	}
	if !strings.HasPrefix(path, "/") {
		return endpoint{}, errors.New("the path of the request must begin with '/', expected unix//path/to.sock|/path")
	}
	u, err := url.Parse("http://localhost" + path)
	if err != nil {
		return endpoint{}, errors.New("the path of the request is invalid")
	}
	u.Fragment, u.RawFragment = "", ""
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

// redactURL keeps the parts that identify a server and drops any that may be
// secret.
func redactURL(u *url.URL) string {
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	return shown.String()
}

func defaultPort(scheme string) string {
	if scheme == "https" {
		return "443"
	}
	return "80"
}

// origin is an origin in a browser's sense; requests that leave it take no
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
	if err != nil {
		return text
	}
	if ep.socket != "" {
		return unixPrefix + ep.socket + "|" + ep.url.RequestURI()
	}
	u := *ep.url
	u.Host = strings.ToLower(u.Host)
	if u.Port() == defaultPort(u.Scheme) {
		u.Host = strings.TrimSuffix(u.Host, ":"+u.Port())
	}
	return u.String()
}

// defaultName derives an upstream's name from its first URL: host and path,
// every other character a dash. Placeholders of the host are filled in,
// placeholders of the path are not: paths hold tokens. text is the URL in
// canonical form, ep the same evaluated.
func defaultName(text string, ep endpoint) string {
	host, path := ep.url.Host, ep.url.EscapedPath()
	if rest, ok := strings.CutPrefix(text, unixPrefix); ok {
		host, path, _ = strings.Cut(rest, "|")
		host = strings.TrimPrefix(host, "/")
	} else if _, rest, ok := urltext.CutScheme(text); ok {
		path = configuredPath(rest)
	}
	path, _, _ = strings.Cut(path, "?")
	if path == "/" {
		path = ""
	}
	return nameFrom(host + path)
}

// configuredPath finds the path in a URL without its scheme. A '/' within a
// placeholder, as in {file./path}, begins none.
func configuredPath(rest string) string {
	if i := urltext.IndexOutside(rest, "/?#"); i >= 0 && rest[i] == '/' {
		return rest[i:]
	}
	return ""
}

func nameFrom(s string) string {
	s = notNameChar.ReplaceAllString(s, "-")
	if len(s) > 120 { // room for a number that makes it unique
		s = s[:120]
	}
	return s
}
