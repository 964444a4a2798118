// Command origins runs the two servers whose events the static site shows:
//
//	go run ./examples/static-site/origins
//
// Type 1 or 2, and Enter, to stop one of them or start it again: the page shows
// what becomes of it.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/sse-fanin/caddy-sse-fanin/internal/demo"
)

func main() {
	// the ones in the Caddyfile
	prices := flag.String("prices", "127.0.0.1:9001", "`address` of the server of prices")
	builds := flag.String("builds", "127.0.0.1:9002", "`address` of the server of builds")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "unexpected argument %q\n", flag.Arg(0))
		flag.Usage()
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, *prices, *builds, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "origins: %v\n", err)
		os.Exit(1)
	}
}

// server is one of the two.
type server struct {
	*demo.Origin
	name, address string
}

// run serves until ctx ends.
func run(ctx context.Context, prices, builds string, in io.Reader, out io.Writer) error {
	servers := []server{{demo.NewTicker(), "prices", prices}, {demo.NewBuilds(), "builds", builds}}
	var producers sync.WaitGroup
	defer producers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, s := range servers {
		if err := s.StartAt(s.address); err != nil {
			return err
		}
		defer s.Stop() //nolint:errcheck // the process ends
		producers.Go(func() { s.Produce(ctx) })
	}
	fmt.Fprintln(out)
	for i, s := range servers {
		fmt.Fprintf(out, "  %d  %s   curl -N http://%s/events\n", i+1, s.name, s.Address())
	}
	fmt.Fprint(out, "\n  Type a number and Enter to stop that server, and again to start it.\n  Ctrl-C ends both.\n\n")

	lines := make(chan string)
	go read(ctx, in, lines)
	for {
		select {
		case <-ctx.Done():
			return nil
		case line := <-lines:
			toggle(servers, strings.TrimSpace(line), out)
		}
	}
}

// read hands on what is typed. It ends with the input, or with the first line
// after ctx has ended.
func read(ctx context.Context, in io.Reader, lines chan<- string) {
	for scanner := bufio.NewScanner(in); scanner.Scan(); {
		select {
		case lines <- scanner.Text():
		case <-ctx.Done():
			return
		}
	}
}

// toggle stops or starts the server of a number.
func toggle(servers []server, number string, out io.Writer) {
	for i, s := range servers {
		if number != fmt.Sprint(i+1) {
			continue
		}
		do, done := s.Stop, "is down"
		if !s.State().Running {
			do, done = s.Start, "is up"
		}
		if err := do(); err != nil {
			fmt.Fprintf(out, "  %s: %v\n", s.name, err)
			return
		}
		fmt.Fprintf(out, "  %s %s\n", s.name, done)
		return
	}
	fmt.Fprintf(out, "  there are servers 1 to %d\n", len(servers))
}
