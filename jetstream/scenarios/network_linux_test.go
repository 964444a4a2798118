package scenarios

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// network is an Ethernet of machines, each a network namespace. Who is set aside
// reaches only those that are set aside, too, and nobody is told: what is sent to
// the others is lost.
type network struct {
	t        *testing.T
	name     string // what the names of its namespaces begin with
	hub      string // the namespace of the two bridges
	machines int
}

// networks is how many were made.
var networks atomic.Int32

// The bridges.
const (
	together = "together"
	aside    = "aside"
)

// newNetwork makes a network, until the test ends. Where that is impossible, the
// test is skipped.
func newNetwork(t *testing.T) *network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("network namespaces need the command ip")
	}
	n := &network{t: t, name: fmt.Sprintf("sse%d-%d", os.Getpid(), networks.Add(1))}
	n.hub = n.name + "-hub"
	if out, err := exec.Command("ip", "netns", "add", n.hub).CombinedOutput(); err != nil {
		t.Skipf("no network namespaces here: %v: %s", err, out)
	}
	t.Cleanup(func() { n.ip("netns", "del", n.hub) })
	for _, bridge := range []string{together, aside} {
		if out, err := exec.Command("ip", "-n", n.hub, "link", "add", bridge, "type", "bridge").CombinedOutput(); err != nil {
			t.Skipf("no bridges here: %v: %s", err, out)
		}
		n.ip("-n", n.hub, "link", "set", bridge, "up")
	}
	return n
}

// ip runs the command of that name.
func (n *network) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// machine is a host on a network.
type machine struct {
	network   *network
	namespace string
	port      string // the other end of its cable, at the hub
	ip        string
}

// add makes a machine, until the test ends.
func (n *network) add() *machine {
	n.t.Helper()
	n.machines++
	m := &machine{
		network:   n,
		namespace: fmt.Sprintf("%s-%d", n.name, n.machines),
		port:      fmt.Sprintf("port%d", n.machines),
		ip:        fmt.Sprintf("10.99.0.%d", n.machines),
	}
	n.ip("netns", "add", m.namespace)
	n.t.Cleanup(func() { n.ip("netns", "del", m.namespace) })
	n.ip("-n", m.namespace, "link", "add", "eth0", "type", "veth", "peer", "name", m.port, "netns", n.hub)
	n.ip("-n", m.namespace, "address", "add", m.ip+"/24", "dev", "eth0")
	for _, device := range []string{"lo", "eth0"} {
		n.ip("-n", m.namespace, "link", "set", device, "up")
	}
	n.ip("-n", n.hub, "link", "set", m.port, "master", together, "up")
	return m
}

// setAside cuts machines off from all others, but not from each other.
func (n *network) setAside(machines ...*machine) { n.plug(aside, machines) }

// heal ends that.
func (n *network) heal(machines ...*machine) { n.plug(together, machines) }

func (n *network) plug(bridge string, machines []*machine) {
	n.t.Helper()
	for _, m := range machines {
		n.ip("-n", n.hub, "link", "set", m.port, "master", bridge)
	}
}

func (m *machine) start(t *testing.T, home, binary string, args ...string) *ssetest.Process {
	t.Helper()
	// ip becomes the program
	p, err := ssetest.StartProcess(home, nil, "ip", append([]string{"netns", "exec", m.namespace, binary}, args...)...)
	must(t, err)
	return p
}

func (m *machine) address(_ *testing.T, port string) string { return net.JoinHostPort(m.ip, port) }

// siteAddress returns a socket of the file system, which all machines and the test
// share.
func (m *machine) siteAddress(_ *testing.T, dir string) (network, addr string) {
	return "unix", filepath.Join(dir, "site.sock")
}

// Dial connects to an address from the machine. A socket stays in the namespace
// that it was made in.
func (m *machine) Dial(network, addr string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with this function
		conn, err = m.dialOnThread(network, addr)
	}()
	<-done
	return conn, err
}

func (m *machine) dialOnThread(network, addr string) (net.Conn, error) {
	namespace, err := os.Open(filepath.Join("/run/netns", m.namespace))
	if err != nil {
		return nil, err
	}
	defer namespace.Close()
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("going to the network namespace %s: %w", m.namespace, err)
	}
	return net.DialTimeout(network, addr, 2*time.Second)
}
