package ssefanin

import (
	"context"
	"net"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// idleGrace is how long a connection to a server that shuts down may be without
// requests: the second that the HTTP/2 server gives a connection which it has
// asked to end, and some more.
var idleGrace = time.Second + closeGrace // shorter in tests

// acceptedConnections are the open connections of one server, over TCP or a unix
// socket.
//
// A server that shuts down waits for its connections. It asks those of HTTP/2
// which it knows to end, but it does not know one that has been accepted and has
// not said anything, and nothing asks that later. An exit would wait until the
// client leaves, and requests would be answered by a configuration that has been
// replaced. So the clients are asked with our answers, and a connection that has
// no requests any more is closed. Where requests of others keep coming, it is
// closed between two of them: one that was asked to end would get no more.
//
// Its methods are safe for concurrent use.
type acceptedConnections struct {
	open       sync.Map     // net.Conn -> *clientConnection
	shutdownAt atomic.Int64 // when the server began to shut down, monotonic ns; 0: it has not. Stored before open is looked through
}

// observe is called before the server starts.
func (s *acceptedConnections) observe(server *caddyhttp.Server) {
	server.RegisterConnContext(s.opened)
	server.RegisterConnState(s.changed)
	server.RegisterOnShutdown(s.shutdown)
}

func (s *acceptedConnections) opened(ctx context.Context, conn net.Conn) context.Context {
	c := &clientConnection{conn: conn, server: s}
	if isComparable(conn) {
		s.open.Store(conn, c)
	}
	return context.WithValue(ctx, connectionKey{}, c)
}

// isComparable reports whether a connection can be a key: it may be of any type
// of a listener wrapper's.
func isComparable(conn net.Conn) bool { return reflect.ValueOf(conn).Comparable() }

// changed is called by the server whenever a connection has become active or
// idle, or has ended.
func (s *acceptedConnections) changed(conn net.Conn, state http.ConnState) {
	if !isComparable(conn) {
		return
	}
	value, ok := s.open.Load(conn)
	if !ok {
		return
	}
	if state == http.StateClosed || state == http.StateHijacked {
		s.open.Delete(conn)
	}
	value.(*clientConnection).setIdle(state == http.StateIdle)
}

// shutdown is called when the server begins to shut down.
func (s *acceptedConnections) shutdown() {
	s.shutdownAt.Store(monotonic(time.Now()))
	s.open.Range(func(_, value any) bool {
		value.(*clientConnection).watch()
		return true
	})
}

// shuttingDown reports whether the server shuts down, and overdue whether it has
// for so long that a connection which was asked to end gets no more requests.
func (s *acceptedConnections) shuttingDown() bool { return s.shutdownAt.Load() != 0 }

func (s *acceptedConnections) overdue() bool {
	at := s.shutdownAt.Load()
	return at != 0 && monotonic(time.Now())-at >= int64(idleGrace)
}

// leaveServer asks the client to use another connection for its next requests
// if the server shuts down: over HTTP/2 the header becomes a GOAWAY.
func leaveServer(w http.ResponseWriter, r *http.Request) {
	if c := connectionOf(r); c != nil && c.server.shuttingDown() {
		w.Header().Set("Connection", "close")
	}
}
