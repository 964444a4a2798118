package natslog

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// startServer starts a NATS server in this process, with JetStream in a folder of
// the test.
func startServer(t testing.TB, change ...func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(),
		NoLog: true, NoSigs: true,
	}
	for _, f := range change {
		f(o)
	}
	return runServer(t, o)
}

func runServer(t testing.TB, o *server.Options) *server.Server {
	t.Helper()
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatalf("starting a NATS server: %v", err)
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
	t.Cleanup(func() { stopServer(s) })
	return s
}

func stopServer(s *server.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// startCluster starts three servers that are a cluster.
func startCluster(t testing.TB) []*server.Server {
	t.Helper()
	ports := make([]int, 3)
	routes := ""
	for i := range ports {
		ports[i] = freePort(t)
		routes += fmt.Sprintf("nats-route://127.0.0.1:%d,", ports[i])
	}
	servers := make([]*server.Server, 3)
	for i := range servers {
		servers[i] = startServer(t, func(o *server.Options) {
			o.ServerName = fmt.Sprint("server-", i)
			o.Cluster = server.ClusterOpts{Name: "cluster", Host: "127.0.0.1", Port: ports[i]}
			o.Routes = server.RoutesFromStr(routes[:len(routes)-1])
		})
	}
	await(t, "the cluster has a leader", func() bool {
		for _, s := range servers {
			if s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == len(servers) {
				return true
			}
		}
		return false
	})
	return servers
}

func freePort(t testing.TB) int {
	t.Helper()
	addr, err := ssetest.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return portOf(t, addr)
}

// portOf returns the port of an address.
func portOf(t testing.TB, address string) int {
	t.Helper()
	port, err := strconv.Atoi(address[strings.LastIndexByte(address, ':')+1:])
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// await waits until a condition holds.
func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("it does not happen that %s", what)
		}
	}
}

// testOptions are of a log that nobody else has.
func testOptions(t testing.TB, servers ...string) Options {
	return Options{
		Stream: t.Name(), Servers: servers, Lease: time.Second,
		Logger: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)),
	}
}

func mustOpen(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Interface guards
var _ logstore.Shared = (*Store)(nil)

// copyTree copies a folder.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}
