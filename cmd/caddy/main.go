// Command caddy is Caddy with its standard modules and sse_fanin, built the
// way Caddy documents for plugins: imports only.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	// plug in Caddy modules here
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/sse-fanin/caddy-sse-fanin"
)

func main() {
	caddycmd.Main()
}
