package natslog

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// What is wrong is said.
func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	plain := startServer(t)
	secret := startServer(t, func(o *server.Options) { o.Username, o.Password = "caddy", "right" })
	without := startServer(t, func(o *server.Options) { o.JetStream = false })
	narrow := startServer(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "caddy", Password: "right", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"nothing"}},
			Subscribe: &server.SubjectPermission{Allow: []string{"sse_fanin.>"}},
		}}}
	})
	seed := filepath.Join(t.TempDir(), "seed")
	if err := os.WriteFile(seed, []byte("no seed"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*Options)
		want   []string
	}{
		"no servers":       {func(o *Options) { o.Servers = nil }, []string{"no servers are given"}},
		"bad prefix":       {func(o *Options) { o.Prefix = "a.b" }, []string{"prefix 'a.b'", "letters"}},
		"nobody there":     {func(o *Options) { o.Servers = []string{"nats://127.0.0.1:1"} }, []string{"connecting to NATS at nats://127.0.0.1:1"}},
		"wrong password":   {func(o *Options) { o.Servers, o.User, o.Password = []string{secret.ClientURL()}, "caddy", "wrong" }, []string{"logging in to NATS", "check credentials"}},
		"no password":      {func(o *Options) { o.Servers = []string{secret.ClientURL()} }, []string{"logging in to NATS"}},
		"no JetStream":     {func(o *Options) { o.Servers = []string{without.ClientURL()} }, []string{"JetStream is not enabled"}},
		"not permitted":    {func(o *Options) { o.Servers, o.User, o.Password = []string{narrow.ClientURL()}, "caddy", "right" }, []string{"does not permit", "$JS.API.STREAM.INFO.KV_sse_fanin"}},
		"many replicas":    {func(o *Options) { o.Replicas = 3 }, []string{"3 replicas are asked for"}},
		"bad seed":         {func(o *Options) { o.NKey = seed }, []string{"nkey", seed}},
		"no credentials":   {func(o *Options) { o.Credentials = seed + ".creds" }, []string{seed + ".creds"}},
		"secrets in a URL": {func(o *Options) { o.Servers = []string{"nats://caddy:hidden@127.0.0.1:1"} }, []string{"nats://127.0.0.1:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := testOptions(t, plain.ClientURL())
			test.change(&o)
			began := time.Now()
			_, err := Open(t.Context(), o)
			if err == nil {
				t.Fatal("it is opened")
			}
			for _, want := range append(test.want, "opening the log of stream '"+t.Name()+"'") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "hidden") {
				t.Errorf("%v has a password", err)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %s to say so", took)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	for version, want := range map[string]bool{
		"2.14.0": true, "2.14.0-RC.1": true, "2.15.2": true, "3.0.0": true, "v2.14.1": true, "2.100.1": true, "2.13.9": false, "2.9.0": false,
		"1.99.0": false, "": true, "dev": true,
	} {
		if newEnough(version) != want {
			t.Errorf("version '%s' is new enough: %v", version, !want)
		}
	}
	s := mustOpen(t, testOptions(t, startServer(t).ClientURL()))
	if s.Version() != server.VERSION {
		t.Errorf("found version '%s', want '%s'", s.Version(), server.VERSION)
	}
}

// Different names never become the same.
func TestTokens(t *testing.T) {
	seen := make(map[string]string)
	longer := strings.Repeat("x", maxToken)
	for _, name := range []string{
		"", "_", "__", "_2E", ".", "..", "a.b", "a_2Eb", "a b", "a*b", "a>b", "ä", "a", "A", "-", "live", "$JS", "a/b", "\x00", "\xff",
		longer, longer + "x", longer + "y", longer[1:] + ".", longer[3:] + ".",
	} {
		got := token(name)
		if strings.ContainsAny(got, ".*> \t/\\$") || got == "" || len(got) > maxToken {
			t.Errorf("'%s' becomes '%s'", name, got)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("'%s' and '%s' become '%s'", name, other, got)
		}
		seen[got] = name
	}
}

// A JetStream stream of somebody else is not touched.
func TestForeignStreamIsRefused(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	o := testOptions(t, s.ClientURL())
	o.Prefix, o.Stream = "a", "b_c" // a_b_5Fc
	mustOpen(t, o)
	o.Prefix, o.Stream = "a_b", "5Fc"
	if _, err := Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "give the log another prefix") {
		t.Errorf("opening the JetStream stream of another log: %v", err)
	}
}

// Logs with the same login share a connection, and the last one closes it.
func TestConnectionsAreShared(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	o := testOptions(t, server.ClientURL())
	stores := make([]*Store, 3)
	for i, stream := range []string{"one", "two", "two"} {
		o.Stream = stream
		stores[i] = mustOpen(t, o)
	}
	if n := server.NumClients(); n != 1 {
		t.Errorf("%d connections", n)
	}
	campaign(t, stores[0])
	campaign(t, stores[1])
	for _, s := range stores {
		_ = s.Close()
	}
	await(t, "the connection is closed", func() bool { return server.NumClients() == 0 })
	mustOpen(t, o)
}

// Options that a reload changes are applied to the stream that there is.
func TestBoundsAreChanged(t *testing.T) {
	t.Parallel()
	o := testOptions(t, startServer(t).ClientURL())
	o.Bounds = logstore.Bounds{Events: 1000}
	s := mustOpen(t, o)
	r := read(t, s)
	term := campaign(t, s)
	number(t, term, 1, 500)
	r.await(t, 1, 500)
	s.SetBounds(logstore.Bounds{Events: 10})
	await(t, "the oldest are evicted", func() bool {
		st := s.Status()
		return st.First > 300 && st.First < st.Last
	})
	s.SetBounds(logstore.Bounds{Age: time.Millisecond}) // less than JetStream can
	await(t, "all are evicted", func() bool {
		st := s.Status()
		return st.First == st.Last+1 && st.Oldest == 0
	})
	number(t, term, 501, 510) // after what nothing is retained of
	await(t, "they are handed over", func() bool {
		all := r.numbers()
		return all[len(all)-1] == 510
	})
	if latest, err := s.Latest(t.Context()); err != nil || latest["upstream"].ID != "510" {
		t.Errorf("the latest is %+v, %v", latest, err)
	}
	if err := term.Append(&logstore.Record{Body: make([]byte, 2<<20)}); err != logstore.ErrTooLarge {
		t.Errorf("appending more than a message of NATS takes: %v", err)
	}
}

// A server that is not there for a while is a store that is stalled, no error.
func TestServerIsGone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, func(o *server.Options) { o.StoreDir = dir })
	port := s.Addr().String()
	o := testOptions(t, s.ClientURL())
	store := mustOpen(t, o)
	r := read(t, store)
	term := campaign(t, store)
	number(t, term, 1, 100)
	r.await(t, 1, 100)
	stopServer(s)
	await(t, "the store is stalled", func() bool { return store.Status().State == logstore.Stalled })
	if err := store.Status().Err; err == nil || !strings.Contains(err.Error(), "no connection to NATS") {
		t.Errorf("the reason is %v", err)
	}
	number(t, term, 101, 200)
	if st := store.Status(); st.Buffered < 100 || st.BufferedBytes == 0 {
		t.Errorf("status %+v", st)
	}
	startServer(t, func(o *server.Options) { o.StoreDir, o.Port = dir, portOf(t, port) })
	r.await(t, 1, 200)
	await(t, "it writes again", func() bool {
		st := store.Status()
		return st.State == logstore.Writing && st.Buffered == 0 && st.Err == nil
	})
	if st := store.Status(); st.Resyncs == 0 {
		t.Errorf("status %+v", st)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = term.Release(ctx)
}

// A server that accepts connections and says nothing does not keep a stream that
// goes, or a process that exits.
func TestOpenIsGivenUp(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	silent, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		if conn, err := silent.Accept(); err == nil {
			t.Cleanup(func() { _ = conn.Close() })
		}
	}()
	if _, err := Open(ctx, testOptions(t, "nats://"+silent.Addr().String())); !errors.Is(err, context.Canceled) {
		t.Errorf("Open returns %v", err)
	}
}
