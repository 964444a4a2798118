package scenarios

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// What the log of the stream live has in NATS.
const (
	jetStreamName = "sse_fanin_live"
	leaseBucket   = "KV_sse_fanin"
)

// natsServer is a nats-server, a process of a cluster of three.
type natsServer struct {
	*ssetest.Process // once started
	t                *testing.T
	name             string
	host             host
	addr             string // for clients
	route            string // address for the other servers
	dir              string
}

// startNATS runs servers on hosts until the test ends.
func startNATS(t *testing.T, hosts []host) []*natsServer {
	t.Helper()
	servers := make([]*natsServer, len(hosts))
	routes := make([]string, len(hosts))
	for i, h := range hosts {
		servers[i] = &natsServer{
			t: t, name: fmt.Sprintf("nats-%d", i+1), host: h,
			addr: h.address(t, "4222"), route: h.address(t, "6222"), dir: t.TempDir(),
		}
		routes[i] = "nats-route://" + servers[i].route
	}
	for _, s := range servers {
		s.configure(routes)
		s.start()
	}
	servers[0].ask("JetStream is there", func(_ *nats.Conn, js jetstream.JetStream) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := js.AccountInfo(ctx)
		return err
	})
	return servers
}

// configure writes the server's configuration: what README.md recommends.
func (s *natsServer) configure(routes []string) {
	text := fmt.Sprintf(`
server_name: %s
listen: "%s"
jetstream { store_dir: "%s", sync_interval: always }
cluster { name: cluster, listen: "%s", routes: ["%s"] }
`, s.name, s.addr, filepath.Join(s.dir, "store"), s.route, strings.Join(routes, `", "`))
	must(s.t, os.WriteFile(s.file(), []byte(text), 0o600))
}

func (s *natsServer) file() string { return filepath.Join(s.dir, "nats.conf") }

// start runs the server, again perhaps.
func (s *natsServer) start() {
	s.t.Helper()
	binary, err := ssetest.BuildRequired("./jetstream", "github.com/nats-io/nats-server/v2", "nats-server")
	must(s.t, err)
	s.Process = s.host.start(s.t, s.dir, binary, "-c", s.file())
	process := s.Process
	s.t.Cleanup(func() {
		process.Kill()
		if s.t.Failed() {
			s.t.Logf("log of %s:\n%s", s.name, process.Log.Tail(4000))
		}
	})
}

// urls are those of servers, for the option of that name.
func urls(servers ...*natsServer) string {
	all := make([]string, len(servers))
	for i, s := range servers {
		all[i] = "nats://" + s.addr
	}
	return strings.Join(all, " ")
}

// ask has a function ask the server something, until it returns no error.
func (s *natsServer) ask(what string, f func(nc *nats.Conn, js jetstream.JetStream) error) {
	s.t.Helper()
	var err error
	awaitErr := ssetest.Await(patience, what, func() bool {
		var nc *nats.Conn
		nc, err = nats.Connect("nats://"+s.addr, nats.SetCustomDialer(s.host), nats.NoReconnect(), nats.IgnoreDiscoveredServers(), nats.Timeout(2*time.Second))
		if err != nil {
			return false
		}
		defer nc.Close()
		var js jetstream.JetStream
		if js, err = jetstream.New(nc); err == nil {
			err = f(nc, js)
		}
		return err == nil
	})
	if awaitErr != nil {
		s.t.Fatalf("%v: %v", awaitErr, err)
	}
}
