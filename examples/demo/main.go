// Command demo starts two SSE origins, Caddy with sse_fanin in front of them
// and a page that shows the merged stream, and says where to look:
//
//	go run ./examples/demo
//
// It needs no network, no root and no files, and leaves none behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/caddyserver/caddy/v2"
	// The few of Caddy's standard modules that the demo's configuration names:
	// all of them would take a first `go run` minutes longer.
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	_ "github.com/caddyserver/caddy/v2/modules/logging"

	_ "github.com/sse-fanin/caddy-sse-fanin"
	"github.com/sse-fanin/caddy-sse-fanin/internal/demo"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`address` of the page; port 0 picks a free one")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected argument %q\n", flag.Arg(0))
		flag.Usage()
		os.Exit(2)
	}
	d, err := start(*listen)
	if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
	// Ctrl-C ends Caddy here as it does everywhere: first the streams, then
	// the process.
	caddy.OnExit(func(context.Context) { _ = d.Close() })
	caddy.TrapSignals()
	fmt.Printf("\n  the page     %s\n  the stream   curl -N %sevents\n\n  Ctrl-C ends it.\n\n", d.URL(), d.URL())
	select {}
}

// start starts the origins and Caddy.
func start(listen string) (*demo.Demo, error) {
	d, err := demo.New(listen)
	if err != nil {
		return nil, fmt.Errorf("%w (choose another address with -listen, such as -listen 127.0.0.1:0)", err)
	}
	config, err := d.Config()
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if err := caddy.Load(config, true); err != nil {
		return nil, errors.Join(fmt.Errorf("starting Caddy: %w", err), d.Close())
	}
	return d, nil
}
