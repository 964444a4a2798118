package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// caddySystems are those that are a Caddy.
func caddySystems() []*system {
	fanin := caddySite{handler: faninHandler("")}
	return []*system{
		{name: "fanin", about: "this module, as it comes", start: fanin.start},
		{
			name: "fanin-detach", about: "this module with `detach on`",
			start: caddySite{handler: faninHandler("detach on"), optional: "detach"}.start,
		},
		{
			name: "fanin-coalesce", about: "this module with `coalesce 10ms`",
			start: caddySite{handler: faninHandler("coalesce 10ms"), optional: "coalesce"}.start,
		},
		{name: "fanin-encode", about: "this module behind `encode`, which leaves streams alone", start: caddySite{handler: faninHandler(""), before: "encode"}.start},
		{name: "fanin-log", about: "this module with an access log", start: caddySite{handler: faninHandler(""), log: true}.start},
		{name: "fanin-metrics", about: "this module with Caddy's metrics of HTTP", start: caddySite{handler: faninHandler(""), global: "metrics"}.start},
		{name: "fanin-file", about: "this module with `log file`", start: caddySite{handler: faninHandler(fileLog("1s")), optional: "log"}.start},
		{name: "fanin-file-off", about: "the same with `sync off`", start: caddySite{handler: faninHandler(fileLog("off")), optional: "log"}.start},
		{name: "fanin-file-always", about: "the same with `sync always`", start: caddySite{handler: faninHandler(fileLog("always")), optional: "log"}.start},
		{name: "fanin-h2", about: "this module over HTTP/2", http2: true, start: caddySite{handler: faninHandler(""), tls: true}.start},
		{name: "fanin-tls", about: "this module over HTTP/1.1 and TLS", tls: true, start: caddySite{handler: faninHandler(""), tls: true}.start},
		{name: "fanin-detach-tls", about: "the same over HTTP/1.1 and TLS", tls: true, start: caddySite{handler: faninHandler("detach on"), optional: "detach", tls: true}.start},
		{name: "proxy", about: "Caddy's reverse_proxy with `flush_interval -1`", direct: true, start: caddySite{handler: proxyHandler}.start},
		{name: "proxy-h2", about: "the same over HTTP/2", direct: true, http2: true, start: caddySite{handler: proxyHandler, tls: true}.start},
		{name: "idle", about: "Caddy with a handler that sends the head and waits", idle: true, start: caddySite{handler: idleSite("")}.start},
		{name: "idle-h2", about: "the same over HTTP/2", idle: true, http2: true, start: caddySite{handler: idleSite(""), tls: true}.start},
		{name: "idle-line", about: "Caddy with a handler that sends the head and one line and waits", idle: true, start: caddySite{handler: idleSite("line")}.start},
		{name: "idle-line-h2", about: "the same over HTTP/2", idle: true, http2: true, start: caddySite{handler: idleSite("line"), tls: true}.start},
	}
}

// caddySite is a Caddy with one site.
type caddySite struct {
	handler  func(*bed) string // the site's directive
	before   string            // another one, ordered before it
	global   string            // more of the global options
	optional string            // a word that this Caddy may not know
	log      bool              // an access log
	tls      bool              // over TLS, with HTTP/2 for clients that want it
}

// fileLog are the options of a stream whose log is kept in files, of which 4 MiB
// are in memory. Its directory is that of Caddy's data.
func fileLog(sync string) string {
	return "stream bench\n\t\tlog file {\n\t\t\tsync " + sync + "\n\t\t\tmemory 4MiB\n\t\t}"
}

// faninHandler returns a sse_fanin with an upstream for each source.
func faninHandler(options string) func(*bed) string {
	return func(b *bed) string {
		var text strings.Builder
		text.WriteString("\tsse_fanin /events {\n")
		for i, url := range b.origins {
			fmt.Fprintf(&text, "\t\tupstream source%d %s\n", i, url)
		}
		if b.retain != "" {
			fmt.Fprintf(&text, "\t\tretain {\n\t\t\t%s\n\t\t}\n", strings.ReplaceAll(b.retain, "\n", "\n\t\t\t"))
		}
		if options != "" {
			fmt.Fprintf(&text, "\t\t%s\n", options)
		}
		text.WriteString("\t}\n")
		if strings.Contains(options, "stream bench") {
			text.WriteString("\tsse_fanin " + oldestPath + " bench {\n\t\tstart oldest\n\t}\n")
		}
		return text.String()
	}
}

// oldestPath is where the stream of a named system is served from its oldest
// event on.
const oldestPath = "/oldest"

func proxyHandler(b *bed) string {
	return "\treverse_proxy " + b.origin + " {\n\t\tflush_interval -1\n\t}\n"
}

// idleSite returns the handler that is idle, with an argument.
func idleSite(line string) func(*bed) string {
	return func(*bed) string { return "\tbench_idle " + line + "\n" }
}

func (s caddySite) caddyfile(b *bed, addr string) string {
	var text strings.Builder
	scheme := "http"
	if s.tls {
		scheme = "https"
	}
	fmt.Fprintf(&text, "{\n\tadmin unix/%s\n\tpersist_config off\n\tauto_https off\n", adminSocket(b.dir))
	fmt.Fprintf(&text, "\tlog {\n\t\tlevel ERROR\n\t}\n\tservers {\n\t\tprotocols h1 h2\n\t}\n")
	if s.global != "" {
		fmt.Fprintf(&text, "\t%s\n", s.global)
	}
	fmt.Fprintf(&text, "}\n\n%s://%s {\n", scheme, addr)
	if s.tls {
		fmt.Fprintf(&text, "\ttls %s %s\n", b.certFile, b.keyFile)
	}
	if s.log {
		fmt.Fprintf(&text, "\tlog {\n\t\toutput file %s\n\t\tlevel INFO\n\t}\n", filepath.Join(b.dir, "access.log"))
	}
	if s.before != "" {
		fmt.Fprintf(&text, "\t%s\n", s.before)
	}
	text.WriteString(s.handler(b))
	text.WriteString("}\n")
	return text.String()
}

// adminSocket is where the Caddy with a folder has its admin endpoint.
func adminSocket(dir string) string { return filepath.Join(dir, "admin.sock") }

func (s caddySite) start(ctx context.Context, b *bed) (*running, error) {
	addr, err := ssetest.FreeAddr()
	if err != nil {
		return nil, err
	}
	p, err := startBuild(b.build, "caddy")
	if err != nil {
		return nil, err
	}
	err = p.call(ctx, "start", caddyConfig{Dir: b.dir, Caddyfile: s.caddyfile(b, addr)}, nil)
	if err == nil {
		err = waitForServer(ctx, p, addr)
	}
	if err != nil {
		p.close()
		if s.optional != "" && strings.Contains(err.Error(), "unrecognized subdirective '"+s.optional+"'") {
			return nil, fmt.Errorf("%w: this version has no %s", errUnavailable, s.optional)
		}
		return nil, err
	}
	return &running{addr: addr, main: p, pids: []int{p.pid()}, admin: adminSocket(b.dir), config: caddyfilePath(b.dir)}, nil
}
