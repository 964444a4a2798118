package ssefanin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sse-fanin/caddy-sse-fanin/internal/demo"
	"github.com/sse-fanin/caddy-sse-fanin/internal/urltext"
)

const (
	commandListen = ":8080"
	commandPath   = "/events"
	commandStream = "events" // the stream's name
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "sse-fanin",
		Usage: "[--listen <addr>] [--path <path>] [--root <dir>] [--status <path>] [--access-log] [--debug] [<name>=]<url>... | --demo [--listen <addr>]",
		Short: "Merges Server-Sent Events streams into one",
		Long: `
Connects to each of the given Server-Sent Events streams, once, and serves the
events of all of them as one stream, which any number of clients share and can
resume. No configuration is needed, and none is read or written.

  caddy sse-fanin prices=https://a.example.com/events https://b.example.com/events

A URL is http://, https:// or unix//path/to.sock|/path. The name before it is
how the upstream is called in logs and on the status page; by default, it is
made of the URL. Placeholders of the request may be written as in a Caddyfile:
https://a.example.com/users/{query.user}.

With an IP address, localhost or only a port in --listen, Caddy serves HTTP
there. With any other host name it serves that host, over automatic HTTPS unless
http:// or port 80 says otherwise.

--status serves a page that shows operators what the streams do. It has no
password here: choose a path, and an address to listen on, accordingly.

Of Caddy's log, only what concerns the streams is written, certificates, and
what went wrong; --debug writes all of it.

--demo needs no URL: it starts two sources of events of its own, and a page on
which to see them, stop them and start them again.

Everything else that can be set is set in a Caddyfile.

"caddy sse-fanin log" shows what the streams of a Caddyfile have in their log
files.
`,
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Example = "  caddy sse-fanin --listen :8080 --root site --status /status a=https://a.example.com/events b=https://b.example.com/events"
			cmd.Flags().StringP("listen", "l", "", "The address to listen on (default "+commandListen+"; of the demo "+demo.DefaultListen+"); port 0 picks a free one")
			cmd.Flags().StringP("path", "p", commandPath, "The path of the merged stream")
			cmd.Flags().StringP("root", "r", "", "A directory whose files are served beside the stream")
			cmd.Flags().StringP("status", "s", "", "The path of the status page")
			cmd.Flags().BoolP("access-log", "a", false, "Enable the access log")
			cmd.Flags().BoolP("debug", "v", false, "Write all of Caddy's log, debug lines included")
			cmd.Flags().Bool("demo", false, "Serve a demonstration with built-in sources of events")
			cmd.RunE = caddycmd.WrapCommandFuncForCobra(runCommand)
			cmd.AddCommand(logCommand())
		},
	})
}

// runCommand is `caddy sse-fanin`.
func runCommand(flags caddycmd.Flags) (int, error) {
	caddy.TrapSignals()

	if flags.Bool("demo") {
		if err := commandDemo(flags); err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		select {}
	}

	c, err := parseCommand(flags)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if err := c.site.reserve(); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if err := caddy.Run(c.config()); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	c.announce(os.Stdout)

	select {}
}

func commandDemo(flags caddycmd.Flags) error {
	for _, name := range []string{"path", "root", "status", "access-log", "debug"} {
		if flags.Changed(name) {
			return fmt.Errorf("--%s does not go with --demo, only --listen does", name)
		}
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected '%s': --demo has upstreams of its own", urltext.Redact(flags.Arg(0)))
	}
	listen := flags.String("listen")
	if listen == "" {
		listen = demo.DefaultListen
	}
	return demo.Run(listen, os.Stdout)
}

// command is the parsed flags and arguments of `caddy sse-fanin`.
type command struct {
	site      commandSite
	path      string
	root      string // empty: no files
	status    string // empty: no status page
	accessLog bool
	debug     bool
	upstreams []*Upstream
}

func parseCommand(flags caddycmd.Flags) (*command, error) {
	c := &command{
		path:      flags.String("path"),
		root:      flags.String("root"),
		status:    flags.String("status"),
		accessLog: flags.Bool("access-log"),
		debug:     flags.Bool("debug"),
	}
	if flags.NArg() == 0 {
		return nil, errors.New("missing the URL of an upstream, expected [<name>=]<url>... such as https://example.com/events; or try --demo")
	}
	named := make(map[string]bool)
	for _, arg := range flags.Args() {
		up, err := parseUpstreamArgument(arg)
		if err != nil {
			return nil, err
		}
		if up.Name != "" && named[up.Name] {
			return nil, fmt.Errorf("two upstreams are named '%s'", up.Name)
		}
		named[up.Name] = true
		c.upstreams = append(c.upstreams, up)
	}
	var err error
	listen := flags.String("listen")
	if listen == "" {
		listen = commandListen
	}
	if c.site, err = parseListen(listen); err != nil {
		return nil, fmt.Errorf("--listen: '%s': %w", listen, err)
	}
	if err := checkPath("path", c.path); err != nil {
		return nil, err
	}
	if flags.Changed("status") {
		if err := checkPath("status", c.status); err != nil {
			return nil, err
		}
		if strings.EqualFold(c.status, c.path) { // as Caddy matches paths
			return nil, fmt.Errorf("--status: %s is the path of the stream; upper and lower case make no difference", c.status)
		}
	}
	if flags.Changed("root") {
		switch info, err := os.Stat(c.root); {
		case err != nil:
			return nil, fmt.Errorf("--root: %w", err)
		case !info.IsDir():
			return nil, fmt.Errorf("--root: %s is not a directory", c.root)
		}
	}
	return c, nil
}

// nameBeforeURL matches `name=url`: an equals sign within a URL comes after
// one of its other characters.
var nameBeforeURL = regexp.MustCompile(`^([^=/:?#{]*)=(.*)$`)

// parseUpstreamArgument parses [<name>=]<url>. Placeholders may be written as in
// a Caddyfile.
func parseUpstreamArgument(arg string) (*Upstream, error) {
	arg = expandShorthand(arg)
	up := &Upstream{URLs: []string{arg}}
	if m := nameBeforeURL.FindStringSubmatch(arg); m != nil {
		if err := checkName("upstream", m[1]); err != nil {
			return nil, err
		}
		up.Name, up.URLs[0] = m[1], m[2]
	}
	return up, checkURL(up.URLs[0])
}

// checkPath validates the path of a flag. It becomes a matcher, in which
// asterisks, placeholders and percent signs would have a meaning, and which
// looks at paths of requests in their shortest form.
func checkPath(flag, text string) error {
	shortest := path.Clean(text)
	if !strings.HasPrefix(text, "/") || strings.ContainsAny(text, `*{}?#%\ `) || text != shortest && text != shortest+"/" {
		return fmt.Errorf("--%s: '%s' is not a path such as /%s", flag, text, flag)
	}
	return nil
}

// commandSite is the address of the site.
type commandSite struct {
	scheme string
	listen string // the address to listen on
	host   string // the only one served; empty: any
}

// parseListen gives an address the meaning that it has for
// `caddy reverse-proxy --from`, but that an IP address and localhost are
// served over HTTP, as they are by `caddy file-server --listen`.
func parseListen(text string) (commandSite, error) {
	addr, err := httpcaddyfile.ParseAddress(text)
	if err != nil {
		return commandSite{}, err
	}
	if addr.Path != "" {
		return commandSite{}, errors.New("an address to listen on has no path, see --path")
	}
	if strings.ContainsAny(addr.Host, " \t*@?#{}|[]") || (strings.Contains(addr.Host, ":") && net.ParseIP(addr.Host) == nil) {
		return commandSite{}, errors.New("it is not an address such as :8080 or example.com")
	}
	if _, err := strconv.Atoi(addr.Host); err == nil {
		return commandSite{}, fmt.Errorf("a port comes after a colon, as in :%s", addr.Host)
	}
	httpPort, httpsPort := strconv.Itoa(caddyhttp.DefaultHTTPPort), strconv.Itoa(caddyhttp.DefaultHTTPSPort)
	local := addr.Host == "" || strings.EqualFold(addr.Host, "localhost") || net.ParseIP(addr.Host) != nil
	switch {
	case addr.Scheme == "" && (local || addr.Port == httpPort):
		addr.Scheme = "http"
	case addr.Scheme == "":
		addr.Scheme = "https"
	case addr.Scheme != "http" && addr.Scheme != "https":
		return commandSite{}, fmt.Errorf("the scheme '%s' is not supported, use http or https", addr.Scheme)
	}
	if addr.Scheme == "https" && addr.Host == "" {
		return commandSite{}, errors.New("HTTPS needs the name of a host")
	}
	if addr.Port == "" {
		addr.Port = httpPort
		if addr.Scheme == "https" {
			addr.Port = httpsPort
		}
	}
	s := commandSite{scheme: addr.Scheme, listen: net.JoinHostPort("", addr.Port)}
	if local {
		s.listen = net.JoinHostPort(addr.Host, addr.Port)
	}
	if !local || s.scheme == "https" {
		s.host = addr.Host
	}
	return s, nil
}

// reserve fills in the port, and finds out whether it is taken.
func (s *commandSite) reserve() error {
	free, err := demo.FreeAddress(s.listen)
	if err != nil {
		return fmt.Errorf("%w (choose another address with --listen, such as --listen 127.0.0.1:0)", err)
	}
	s.listen = free
	return nil
}

// url is the address of the site, without a path.
func (s commandSite) url() string {
	host, port, err := net.SplitHostPort(s.listen)
	if err != nil {
		return s.scheme + "://" + s.listen
	}
	switch ip := net.ParseIP(host); {
	case s.host != "":
		host = s.host
	case host == "", ip != nil && ip.IsUnspecified():
		host = "localhost"
	}
	if port == defaultPort(s.scheme) {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return s.scheme + "://" + host
	}
	return s.scheme + "://" + net.JoinHostPort(host, port)
}

// config is Caddy's configuration.
func (c *command) config() *caddy.Config {
	handler := Handler{Name: commandStream, Stream: Stream{Upstreams: c.upstreams}}
	routes := caddyhttp.RouteList{c.route(c.path, caddyconfig.JSONModuleObject(handler, "handler", "sse_fanin", nil))}
	if c.status != "" {
		routes = append(routes, c.route(c.status, caddyconfig.JSONModuleObject(StatusPage{}, "handler", "sse_fanin_status", nil)))
	}
	if c.root != "" {
		// by its name: not every program that imports this package needs it
		files := map[string]string{"root": escapeBraces.Replace(c.root)}
		routes = append(routes, c.route("", caddyconfig.JSONModuleObject(files, "handler", "file_server", nil)))
	} else {
		nothing := caddyhttp.StaticResponse{StatusCode: "404", Body: "Here is only the event stream " + c.path + "\n"}
		routes = append(routes, c.route("", caddyconfig.JSONModuleObject(nothing, "handler", "static_response", nil)))
	}

	server := &caddyhttp.Server{Listen: []string{c.site.listen}, Routes: routes}
	if c.accessLog {
		server.Logs = new(caddyhttp.ServerLogConfig)
	}
	if c.site.scheme == "http" {
		server.Protocols = []string{"h1"} // the others need TLS, and would be warned of
		server.AutoHTTPS = &caddyhttp.AutoHTTPSConfig{Disabled: true}
	}
	app := caddyhttp.App{Servers: map[string]*caddyhttp.Server{"sse_fanin": server}}
	persist := false
	return &caddy.Config{
		Admin: &caddy.AdminConfig{
			Disabled: true,
			Config:   &caddy.ConfigSettings{Persist: &persist},
		},
		Logging: c.logging(),
		AppsRaw: caddy.ModuleMap{"http": caddyconfig.JSON(app, nil)},
	}
}

// escapeBraces has a text stand for itself where Caddy looks for placeholders.
var escapeBraces = strings.NewReplacer("{", `\{`, "}", `\}`)

// logging keeps Caddy's lines about its start and end from hiding the lines
// about the streams.
func (c *command) logging() *caddy.Logging {
	if c.debug {
		all := &caddy.CustomLog{BaseLog: caddy.BaseLog{Level: zap.DebugLevel.CapitalString()}}
		return &caddy.Logging{Logs: map[string]*caddy.CustomLog{caddy.DefaultLoggerName: all}}
	}
	ours := []string{"sse_fanin", "http.handlers.sse_fanin", "http.handlers.sse_fanin_status", "http.log.access", "tls.obtain", "tls.renew"}
	return &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		caddy.DefaultLoggerName: {
			BaseLog: caddy.BaseLog{Level: zap.WarnLevel.CapitalString()},
			Exclude: append([]string{"admin"}, ours...), // which warns of being disabled
		},
		"streams": {
			BaseLog: caddy.BaseLog{Level: zap.InfoLevel.CapitalString()},
			Include: ours,
		},
	}}
}

// route leads a path, or with an empty one everything else, to a handler.
func (c *command) route(on string, handler json.RawMessage) caddyhttp.Route {
	match := make(caddy.ModuleMap)
	if c.site.host != "" {
		match["host"] = caddyconfig.JSON(caddyhttp.MatchHost{c.site.host}, nil)
	}
	if on != "" {
		match["path"] = caddyconfig.JSON(caddyhttp.MatchPath{on}, nil)
	}
	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{handler}, Terminal: true}
	if len(match) > 0 {
		route.MatcherSetsRaw = caddyhttp.RawMatcherSets{match}
	}
	return route
}

// exampleQuery is the query that a request needs for the streams to be made of
// it, with "…" for each value; empty if it needs none.
func (c *command) exampleQuery() string {
	var fields []string
	for _, u := range c.upstreams {
		for _, name := range placeholdersIn(u.URLs...) {
			field, ok := strings.CutPrefix(name, "http.request.uri.query.")
			if ok && !slices.Contains(fields, field) {
				fields = append(fields, field)
			}
		}
	}
	for i, field := range fields {
		fields[i] = url.QueryEscape(field) + "=…"
	}
	if len(fields) == 0 {
		return ""
	}
	return "?" + strings.Join(fields, "&")
}

// announce says where to look, addresses for a browser first.
func (c *command) announce(w io.Writer) {
	at := c.site.url()
	fmt.Fprintln(w)
	if c.root != "" {
		fmt.Fprintf(w, "  the files    %s/\n", at)
	}
	if c.status != "" {
		fmt.Fprintf(w, "  the status   %s%s\n", at, c.status)
	}
	fmt.Fprintf(w, "  the stream   curl -N %s\n", shellWord(at+c.path+c.exampleQuery()))
	fmt.Fprint(w, "\n  Ctrl-C ends it.\n\n")
}
