// Command cluster starts three NATS servers, three Caddys that share a log in
// them, a Caddy that spreads clients over those, and two SSE origins; and serves a
// page on which each of them can be killed and started again:
//
//	go run ./examples/cluster
//
// It builds what it starts into a temporary directory, which has the processes'
// logs, too. Everything listens on the loopback interface only, and ends with it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sse-fanin/caddy-sse-fanin/internal/demo"
)

func main() {
	listen := flag.String("listen", demo.DefaultListen, "`address` of the page, on the loopback interface; port 0 picks a free one")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected argument %q\n", flag.Arg(0))
		flag.Usage()
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	if err := run(ctx, *listen, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "cluster: %v\n", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, and leaves nothing behind.
func run(ctx context.Context, listen string, out io.Writer) (err error) {
	listen, err = loopbackAddress(listen)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sse-fanin-cluster-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	fmt.Fprintln(out, "building nats-server and Caddy, which takes some minutes the first time")
	programs, err := build(ctx, dir)
	if err != nil {
		return unlessEnded(ctx, err)
	}
	// The building takes a while, and Caddy would share the address with another
	// Caddy that has begun to listen there meanwhile.
	if listen, err = loopbackAddress(listen); err != nil {
		return err
	}
	fmt.Fprintln(out, "starting three NATS servers and four Caddys")
	c, err := start(ctx, listen, dir, programs)
	if err != nil {
		return unlessEnded(ctx, err)
	}
	fmt.Fprintf(out, "\n  the page     %s\n  the stream   curl -N %sevents\n  the logs     %s\n\n  Ctrl-C ends it.\n\n", c.url(), c.url(), dir)
	select {
	case <-ctx.Done():
	case <-c.balancer.ended():
		err = c.balancer.failure()
	}
	return errors.Join(err, c.close())
}

// unlessEnded returns err, or nil if it came because somebody ended the program.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
