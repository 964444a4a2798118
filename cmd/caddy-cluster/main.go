// Command caddy-cluster is Caddy with its standard modules, sse_fanin, and logs
// in NATS JetStream, built the way Caddy documents for plugins: imports only.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	// plug in Caddy modules here
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/sse-fanin/caddy-sse-fanin"
	_ "github.com/sse-fanin/caddy-sse-fanin/jetstream"
)

func main() {
	caddycmd.Main()
}
