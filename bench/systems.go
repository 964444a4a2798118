package main

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"
)

// system is one of the ways to serve a stream that are compared.
type system struct {
	name  string
	about string // one line for the report

	tls    bool // over TLS
	http2  bool // over TLS as well, with streamsPerConn clients to a connection
	direct bool // each client has a connection to the origin for each source
	idle   bool // sends nothing and reads no origin

	build string // file of another build of this program, which it runs in; empty for this one

	start func(context.Context, *bed) (*running, error)
}

// overTLS reports whether clients come over TLS.
func (s *system) overTLS() bool { return s.tls || s.http2 }

// streamsPerConn is how many clients share a connection with HTTP/2.
const streamsPerConn = 100

// bed is what a system is started with.
type bed struct {
	dir               string   // for its files
	build             string   // as in system
	origins           []string // URLs of the sources; none for a system that is idle
	origin            string   // address of the origin, as URL
	retain            string   // what a fanin retains; "": its default
	certFile, keyFile string   // of a server with TLS
}

// running is a system that serves.
type running struct {
	addr   string
	main   *process
	pids   []int    // of the server
	feeder *process // nil if the server reads the origin itself

	admin  string // socket of a Caddy's admin endpoint; empty for other servers
	config string // file of its configuration

	followers []*follower // more servers with the same stream
	store     []*process  // where the stream's log is, if that is not the server
	storePids []int
}

// follower is a server that has a stream from the log to which another one writes.
type follower struct {
	addr string
	main *process
	pid  int
}

func (r *running) close() {
	for _, f := range r.followers {
		f.main.close()
	}
	if r.feeder != nil {
		r.feeder.close()
	}
	r.main.close()
	for _, p := range r.store {
		p.close()
	}
}

// errUnavailable wraps the reason why a system cannot be measured here at all.
var errUnavailable = errors.New("not available")

// systems are all there are, in the order of the tables.
func systems() []*system {
	return slices.Concat(caddySystems(), clusterSystems(), goSystems(), []*system{nchanSystem()})
}

// findSystem returns a system by its name.
func findSystem(all []*system, name string) *system {
	for _, s := range all {
		if s.name == name {
			return s
		}
	}
	return nil
}

// startTimeout is how long a server may take until it serves.
const startTimeout = 20 * time.Second

// waitForServer waits until a process serves at an address.
func waitForServer(ctx context.Context, p *process, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		if p.hasEnded() {
			return p.failed("starting", errors.New("it has ended"))
		}
		select {
		case <-ctx.Done():
			return p.failed("starting", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
