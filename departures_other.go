//go:build !linux

package ssefanin

// departures notices clients of connections that were taken over which leave: a
// goroutine reads each connection.
//
// Safe for concurrent use.
type departures struct{}

// follow follows a connection until forget, or its end.
func (*departures) follow(o *takenConn) { go o.read() }

func (*departures) followOn(*takenConn) {}

func (*departures) forget(*takenConn) {}
