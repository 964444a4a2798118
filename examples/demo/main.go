// Command demo starts two SSE origins, Caddy with sse_fanin in front of them
// and a page that shows the merged stream, and says where to look:
//
//	go run ./examples/demo
//
// It needs no network, no root and no files, and leaves none behind. A Caddy
// that was built with the module does the same as `caddy sse-fanin --demo`.
package main

import (
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
	listen := flag.String("listen", demo.DefaultListen, "`address` of the page; port 0 picks a free one")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected argument %q\n", flag.Arg(0))
		flag.Usage()
		os.Exit(2)
	}
	caddy.TrapSignals()
	if err := demo.Run(*listen, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
	select {}
}
