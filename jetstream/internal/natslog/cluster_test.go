package natslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// reader follows a store and has what it was handed.
type reader struct {
	store *Store

	mu      sync.Mutex // protects the fields below
	records []logstore.Record
}

func read(t testing.TB, s *Store) *reader {
	t.Helper()
	r := &reader{store: s}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Follow(ctx, 1, r.apply)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return r
}

func (r *reader) apply(batch []logstore.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := len(r.records); n > 0 && r.records[n-1].Offset >= batch[0].Offset; n-- {
		r.records = r.records[:n-1]
	}
	for _, record := range batch {
		record.Body = bytes.Clone(record.Body)
		r.records = append(r.records, record)
	}
}

// numbers returns the ids of the events.
func (r *reader) numbers() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []int
	for i := range r.records {
		if !r.records[i].Fence() {
			n, _ := strconv.Atoi(r.records[i].ID)
			all = append(all, n)
		}
	}
	return all
}

// await waits until the newest event is a number, and fails unless the events are
// first to that.
func (r *reader) await(t testing.TB, first, last int) {
	t.Helper()
	await(t, fmt.Sprintf("%s knows event %d", r.store.Node(), last), func() bool {
		all := r.numbers()
		return len(all) > 0 && all[len(all)-1] >= last
	})
	all := r.numbers()
	for i, n := range all {
		if n != first+i {
			t.Fatalf("%s was handed event %d after %d others, from %d on", r.store.Node(), n, i, first)
		}
	}
}

func campaign(t testing.TB, s *Store) logstore.Term {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	term, err := s.Campaign(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return term
}

// number appends events.
func number(t testing.TB, term logstore.Term, first, last int) {
	t.Helper()
	for n := first; n <= last; n++ {
		r := event(n)
		for errors.Is(term.Append(r), logstore.ErrNoRoom) {
			if err := term.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := term.Err(); err != nil {
			t.Fatalf("appending event %d: %v", n, err)
		}
	}
}

func event(n int) *logstore.Record {
	return &logstore.Record{
		Time: time.Now().UnixMilli(), Source: "upstream", ID: strconv.Itoa(n), Body: []byte("data: " + strconv.Itoa(n) + "\n\n"),
	}
}

// urls are those of servers.
func urls(servers []*server.Server) (all []string) {
	for _, s := range servers {
		all = append(all, s.ClientURL())
	}
	return all
}

// leaderOf returns the server that leads the log's stream.
func leaderOf(t testing.TB, servers []*server.Server, o *Options) *server.Server {
	t.Helper()
	var leader *server.Server
	name := namesOf(DefaultPrefix, o.Stream).stream
	await(t, "the stream has a leader", func() bool {
		for _, s := range servers {
			if s.Running() && s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, name) {
				leader = s
				return true
			}
		}
		return false
	})
	return leader
}

// The server that leads is shut down while two nodes follow and one writes.
func TestClusterLosesItsLeader(t *testing.T) {
	t.Parallel()
	servers := startCluster(t)
	o := testOptions(t, urls(servers)...)
	o.Replicas = 3
	a, b := mustOpen(t, o), mustOpen(t, o)
	ra, rb := read(t, a), read(t, b)
	term := campaign(t, a)
	number(t, term, 1, 1000)
	rb.await(t, 1, 1000)
	stopServer(leaderOf(t, servers, &o))
	number(t, term, 1001, 2000)
	ra.await(t, 1, 2000)
	rb.await(t, 1, 2000)
	if term.Err() != nil {
		t.Errorf("the term has ended: %v", term.Err())
	}
	epochs := b.Epochs()
	if len(epochs) != 1 {
		t.Errorf("epochs %v", epochs)
	}
}

// A writer whose connection stands still is replaced, and what it still sends
// changes nothing.
func TestWriterIsStopped(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := startProxy(t, s.Addr().String())
	o := testOptions(t, "nats://"+p.address())
	a := mustOpen(t, o)
	ra := read(t, a)
	o.Servers = []string{s.ClientURL()}
	b := mustOpen(t, o)
	rb := read(t, b)
	first := campaign(t, a)
	number(t, first, 1, 500)
	rb.await(t, 1, 500)
	p.stop()
	number(t, first, 501, 600) // may come late
	second := campaign(t, b)
	number(t, second, 501, 700)
	rb.await(t, 1, 700)
	p.goOn()
	select {
	case <-first.Done():
	case <-time.After(time.Minute):
		t.Fatal("the term of a node that was stopped goes on")
	}
	number(t, second, 701, 800)
	ra.await(t, 1, 800)
	rb.await(t, 1, 800)
	if second.Err() != nil {
		t.Errorf("the second term has ended: %v", second.Err())
	}
}

// Releasing hands over at once, long before the lease ends.
func TestHandsOverAtOnce(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	o := testOptions(t, s.ClientURL())
	o.Lease = time.Hour
	stores := []*Store{mustOpen(t, o), mustOpen(t, o)}
	term := campaign(t, stores[0])
	for i := range 6 {
		next := stores[(i+1)%2]
		won := make(chan logstore.Term, 1)
		go func() {
			if term, err := next.Campaign(t.Context()); err == nil {
				won <- term
			}
		}()
		await(t, "the other node campaigns", func() bool {
			next.mu.Lock()
			defer next.mu.Unlock()
			return next.campaigning
		})
		number(t, term, i, i)
		began := time.Now()
		if err := term.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case term = <-won:
			t.Logf("handed over in %s", time.Since(began))
		case <-time.After(30 * time.Second):
			t.Fatal("nobody takes over")
		}
	}
}

// A node that is cut off without a word is replaced after the lease, not before.
func TestLeaseEnds(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	p := startProxy(t, s.Addr().String())
	o := testOptions(t, "nats://"+p.address())
	o.Lease = 3 * time.Second // a machine that is busy may not run the writer for a second
	a := mustOpen(t, o)
	o.Servers = []string{s.ClientURL()}
	b := mustOpen(t, o)
	campaign(t, a)
	ctx, cancel := context.WithTimeout(t.Context(), 2*o.Lease)
	defer cancel()
	if _, err := b.Campaign(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a node took over from one that goes on: %v", err)
	}
	p.stop()
	began := time.Now()
	campaign(t, b)
	if took := time.Since(began); took < o.Lease/2 {
		t.Errorf("a node took over after %s, the lease is %s", took, o.Lease)
	}
}

// The JetStream stream is deleted under nodes that have it open.
func TestStreamIsDeleted(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	o := testOptions(t, s.ClientURL())
	a, b := mustOpen(t, o), mustOpen(t, o)
	ra, rb := read(t, a), read(t, b)
	number(t, campaign(t, a), 1, 500)
	rb.await(t, 1, 500)
	before := b.Epochs()
	if err := a.eng.(*jetStream).api(t.Context(), "STREAM.DELETE."+namesOf(DefaultPrefix, o.Stream).stream, nil, nil); err != nil {
		t.Fatal(err)
	}
	await(t, "an epoch has begun", func() bool { return a.Epochs()[0] != before[0] && b.Epochs()[0] != before[0] })
	term := campaign(t, b)
	if latest, err := b.Latest(t.Context()); err != nil || latest["upstream"].ID != "500" {
		t.Errorf("the upstream is to be resumed from %+v, %v", latest, err)
	}
	number(t, term, 501, 600)
	ra.await(t, 1, 600)
	rb.await(t, 1, 600)
	epochs := a.Epochs()
	if len(epochs) != 1 || epochs[0].First <= 500 || fmt.Sprint(epochs) != fmt.Sprint(b.Epochs()) {
		t.Errorf("epochs %v and %v, before %v", epochs, b.Epochs(), before)
	}
	if logstore.Good(epochs, before[0].ID, 500) {
		t.Error("a position in what is gone is good")
	}
	if got, err := b.Read(t.Context(), 1, 1); !errors.Is(err, logstore.ErrEvicted) {
		t.Errorf("reading what is gone: %v, %v", got, err)
	}
}

// The bucket is deleted under nodes that have the log open: whoever writes goes on,
// and another node can take over.
func TestBucketIsDeleted(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	o := testOptions(t, s.ClientURL())
	a, b := mustOpen(t, o), mustOpen(t, o)
	ra, rb := read(t, a), read(t, b)
	number(t, campaign(t, a), 1, 100)
	rb.await(t, 1, 100)
	if err := a.eng.(*jetStream).api(t.Context(), "STREAM.DELETE."+namesOf(DefaultPrefix, o.Stream).kv, nil, nil); err != nil {
		t.Fatal(err)
	}
	await(t, "the lease is there again", func() bool {
		lease, err := b.readLease(t.Context())
		return err == nil && lease.Node == a.Node()
	})
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	number(t, campaign(t, b), 101, 200)
	ra.await(t, 1, 100)
	rb.await(t, 1, 200)
}

// A candidate finds the bucket gone.
func TestBucketIsGone(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	o := testOptions(t, s.ClientURL())
	a := mustOpen(t, o)
	ra := read(t, a)
	if err := a.eng.(*jetStream).api(t.Context(), "STREAM.DELETE."+namesOf(DefaultPrefix, o.Stream).kv, nil, nil); err != nil {
		t.Fatal(err)
	}
	number(t, campaign(t, a), 1, 100)
	ra.await(t, 1, 100)
}

// The server is restarted from a backup, under nodes that know more.
func TestServerLosesTheTail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, func(o *server.Options) { o.StoreDir = dir })
	port := portOf(t, s.Addr().String())
	o := testOptions(t, s.ClientURL())
	a, b := mustOpen(t, o), mustOpen(t, o)
	ra, rb := read(t, a), read(t, b)
	term := campaign(t, a)
	number(t, term, 1, 500)
	rb.await(t, 1, 500)
	stopServer(s)
	backup := t.TempDir()
	copyTree(t, dir, backup)
	restart := func(dir string) *server.Server {
		return startServer(t, func(o *server.Options) {
			o.StoreDir, o.Port = dir, port
		})
	}
	s = restart(dir)
	number(t, term, 501, 900)
	ra.await(t, 1, 900)
	rb.await(t, 1, 900)
	if term.Err() != nil {
		t.Fatalf("a restart ends the term: %v", term.Err())
	}
	stopServer(s)
	restart(backup)
	select {
	case <-term.Done():
	case <-time.After(time.Minute):
		t.Fatal("the term goes on")
	}
	term = campaign(t, b)
	if latest, err := b.Latest(t.Context()); err != nil || latest["upstream"].ID != "500" {
		t.Errorf("the upstream is to be resumed from %+v, %v", latest, err)
	}
	number(t, term, 501, 600)
	for _, r := range []*reader{ra, rb} {
		await(t, r.store.Node()+" goes on with what came instead", func() bool {
			all := r.numbers()
			return len(all) == 600 && all[599] == 600
		})
		r.await(t, 1, 600)
	}
	epochs := a.Epochs()
	if len(epochs) != 2 || fmt.Sprint(epochs) != fmt.Sprint(b.Epochs()) || logstore.Good(epochs, epochs[0].ID, 900+fenceLength) {
		t.Errorf("epochs %v and %v", epochs, b.Epochs())
	}
}

// Every node knows who writes, those included that come later.
func TestNodesKnowTheWriter(t *testing.T) {
	t.Parallel()
	o := testOptions(t, startServer(t).ClientURL())
	o.Lease = time.Hour // the writer is to stay it, however busy the machine
	a, b := mustOpen(t, o), mustOpen(t, o)
	term := campaign(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _, _ = b.Campaign(ctx) }()
	await(t, "the other node knows", func() bool { return b.Status().Writer == a.Node() })
	late := mustOpen(t, o)
	go func() { _, _ = late.Campaign(ctx) }()
	await(t, "a node knows that came later", func() bool { return late.Status().Writer == a.Node() })
	cancel()
	if err := term.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "nobody writes", func() bool {
		return late.Status().Writer != a.Node() && b.Status().Writer != a.Node() && a.Status().Writer != a.Node()
	})
}
