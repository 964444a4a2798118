package scenarios

import (
	"net"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

type network struct{}

func (n *network) machine(name string) *machine { return nil }

type machine struct{ ip string }

func (m *machine) start(t *testing.T, home, binary string, args ...string) *ssetest.Process {
	p, err := ssetest.StartProcess(home, nil, binary, args...)
	must(t, err)
	return p
}

func (m *machine) Dial(network, address string) (net.Conn, error) {
	return net.Dial(network, address)
}
