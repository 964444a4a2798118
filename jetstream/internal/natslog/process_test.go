package natslog

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// serverEnv has a process of the test be a NATS server: its options in JSON.
const serverEnv = "NATSLOG_SERVER"

// processOptions are those of a server in a process of its own.
type processOptions struct {
	Name, Dir         string
	Port, ClusterPort int
	Routes            string
}

func TestMain(m *testing.M) {
	if text := os.Getenv(serverEnv); text != "" {
		beServer(text)
	}
	os.Exit(m.Run())
}

// beServer is a NATS server until somebody kills it, or its standard input ends.
func beServer(text string) {
	var p processOptions
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		panic(err)
	}
	s, err := server.NewServer(&server.Options{
		ServerName: p.Name, Host: "127.0.0.1", Port: p.Port, JetStream: true, StoreDir: p.Dir, NoLog: true, NoSigs: true,
		Cluster: server.ClusterOpts{Name: "cluster", Host: "127.0.0.1", Port: p.ClusterPort}, Routes: server.RoutesFromStr(p.Routes),
	})
	if err != nil {
		panic(err)
	}
	s.Start()
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}

// startProcess starts a server in a process of its own, which ends with the test.
func startProcess(t testing.TB, p processOptions) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), serverEnv+"="+string(text))
	if _, err := cmd.StdinPipe(); err != nil { // ends if this process is killed
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// The leader of three servers is killed, and comes back. Nothing is lost or twice.
func TestLeaderIsKilled(t *testing.T) {
	t.Parallel()
	var all [3]processOptions
	var addresses []string
	routes := ""
	for i := range all {
		all[i] = processOptions{Name: fmt.Sprint("server-", i), Dir: t.TempDir(), Port: freePort(t), ClusterPort: freePort(t)}
		routes += fmt.Sprintf("nats-route://127.0.0.1:%d,", all[i].ClusterPort)
		addresses = append(addresses, fmt.Sprintf("nats://127.0.0.1:%d", all[i].Port))
	}
	processes := make(map[string]*exec.Cmd)
	for i := range all {
		all[i].Routes = routes[:len(routes)-1]
		processes[all[i].Name] = startProcess(t, all[i])
	}
	o := testOptions(t, addresses...)
	o.Replicas = len(all)
	var a *Store
	await(t, "the cluster takes the log", func() bool {
		s, err := Open(t.Context(), o)
		a = s
		return err == nil
	})
	t.Cleanup(func() { _ = a.Close() })
	b := mustOpen(t, o)
	ra, rb := read(t, a), read(t, b)
	term := campaign(t, a)
	number(t, term, 1, 500)
	rb.await(t, 1, 500)
	leader := func() (name string) {
		await(t, "the stream has a leader", func() bool {
			var in jetstream.StreamInfo
			err := b.eng.(*jetStream).api(t.Context(), "STREAM.INFO."+namesOf(DefaultPrefix, o.Stream).stream, nil, &in)
			if err == nil && in.Cluster != nil {
				name = in.Cluster.Leader
			}
			return name != ""
		})
		return name
	}
	killed := leader()
	if err := processes[killed].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	number(t, term, 501, 1000)
	rb.await(t, 1, 1000)
	ra.await(t, 1, 1000)
	t.Logf("the leader is replaced after %s", time.Since(began))
	for _, p := range all {
		if p.Name == killed {
			startProcess(t, p)
		}
	}
	number(t, term, 1001, 1500)
	rb.await(t, 1, 1500)
	ra.await(t, 1, 1500)
	if st := a.Status(); term.Err() != nil || st.State != logstore.Writing {
		t.Errorf("the term has ended: %v, %+v", term.Err(), st)
	}
}
