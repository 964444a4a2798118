package demo

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/caddyserver/caddy/v2"
)

// DefaultListen is the address of the page where none is chosen.
const DefaultListen = "127.0.0.1:8080"

// Run starts the demo, which ends with the process, and writes its addresses to
// out. Signals are the caller's to trap.
func Run(listen string, out io.Writer) error {
	d, err := Start(listen)
	if err != nil {
		return err
	}
	// Ctrl-C ends Caddy here as it does everywhere: first the streams, then
	// the process.
	caddy.OnExit(func(context.Context) { _ = d.Close() })
	fmt.Fprintf(out, "\n  the page     %s\n  the stream   curl -N %sevents\n\n  Ctrl-C ends it.\n\n", d.URL(), d.URL())
	return nil
}

// Start starts the origins and Caddy.
func Start(listen string) (*Demo, error) {
	d, err := New(listen)
	if err != nil {
		return nil, fmt.Errorf("%w (choose another address with --listen, such as --listen 127.0.0.1:0)", err)
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
