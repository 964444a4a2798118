package scenarios

import (
	"net"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// host is where processes run.
type host interface {
	// start runs a program there, as ssetest.StartProcess does.
	start(t *testing.T, home, binary string, args ...string) *ssetest.Process

	// address returns where a server may listen there: on a port, or on any.
	address(t *testing.T, port string) string

	// siteAddress returns where a Caddy can listen whose files are in a directory,
	// so that the test reaches it.
	siteAddress(t *testing.T, dir string) (network, addr string)

	// Dial connects to a server there. It makes a host a nats.CustomDialer.
	Dial(network, addr string) (net.Conn, error)
}

// here is the host that the test runs on.
type here struct{}

func (here) start(t *testing.T, home, binary string, args ...string) *ssetest.Process {
	t.Helper()
	p, err := ssetest.StartProcess(home, nil, binary, args...)
	must(t, err)
	return p
}

func (here) address(t *testing.T, _ string) string {
	t.Helper()
	addr, err := ssetest.FreeAddr()
	must(t, err)
	return addr
}

func (h here) siteAddress(t *testing.T, _ string) (network, addr string) {
	t.Helper()
	return "tcp", h.address(t, "")
}

func (here) Dial(network, addr string) (net.Conn, error) { return net.Dial(network, addr) }
