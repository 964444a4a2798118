package ssefanin

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// nameServer answers for the names it is told of.
type nameServer struct {
	addr string

	mu      sync.Mutex // protects what follows
	a       map[string][]string
	srv     map[string][]string // host:port
	failing bool
	asked   int
}

func newNameServer(t *testing.T) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	s := &nameServer{addr: conn.LocalAddr().String(), a: make(map[string][]string), srv: make(map[string][]string)}
	started := make(chan struct{})
	server := &dns.Server{PacketConn: conn, Handler: s, NotifyStartedFunc: func() { close(started) }}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ActivateAndServe()
	}()
	<-started
	t.Cleanup(func() {
		_ = server.Shutdown()
		<-done
	})
	return s
}

// ServeDNS answers a question.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	m := new(dns.Msg)
	m.SetReply(r)
	q := r.Question[0]
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET}
	_, hasA := s.a[q.Name]
	_, hasSRV := s.srv[q.Name]
	switch {
	case s.failing:
		m.Rcode = dns.RcodeServerFailure
	case !hasA && !hasSRV:
		m.Rcode = dns.RcodeNameError
	case q.Qtype == dns.TypeA:
		for _, ip := range s.a[q.Name] {
			m.Answer = append(m.Answer, &dns.A{Hdr: header, A: net.ParseIP(ip)})
		}
	case q.Qtype == dns.TypeSRV:
		for _, target := range s.srv[q.Name] {
			host, port, _ := net.SplitHostPort(target)
			var n uint16
			fmt.Sscan(port, &n)
			m.Answer = append(m.Answer, &dns.SRV{Hdr: header, Priority: 1, Weight: 1, Port: n, Target: host})
		}
	}
	_ = w.WriteMsg(m)
}

func (s *nameServer) set(name string, ips ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.a[name] = ips
}

func (s *nameServer) setSRV(name string, targets ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.srv[name] = targets
}

// fail lets every question fail.
func (s *nameServer) fail(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = on
}

// awaitAsked waits until n more questions were answered.
func (s *nameServer) awaitAsked(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.asked
	}
	begin := count()
	eventually(t, 10*time.Second, "names are asked for", func() bool { return count() >= begin+n })
}

// pool is a set of origins on 127.0.0.1, 127.0.0.2, … with one port, and the
// name they have. Lookups are cached by name in the process: each pool has one
// of its own.
type pool struct {
	*nameServer
	name    string
	port    string
	origins []*ssetest.Origin
	ips     []string
}

func newPool(t *testing.T, n int, change ...func(*ssetest.OriginConfig)) *pool {
	t.Helper()
	p := &pool{nameServer: newNameServer(t)}
	p.name = strings.ToLower(strings.NewReplacer("/", "-", "_", "-", " ", "-").Replace(t.Name())) + ".example.test."
	config := func(address string) ssetest.OriginConfig {
		cfg := ssetest.OriginConfig{Source: "a", Address: address}
		for _, f := range change {
			f(&cfg)
		}
		return cfg
	}
retry:
	for range 20 { // a port may be taken on another address
		first, err := ssetest.NewOrigin(config("127.0.0.1:0"))
		must(t, err)
		_, p.port, _ = net.SplitHostPort(first.Addr())
		p.origins, p.ips = []*ssetest.Origin{first}, []string{"127.0.0.1"}
		for i := 1; i < n; i++ {
			ip := fmt.Sprint("127.0.0.", i+1)
			o, err := ssetest.NewOrigin(config(net.JoinHostPort(ip, p.port)))
			if err != nil {
				for _, o := range p.origins {
					o.Close()
				}
				continue retry
			}
			p.origins, p.ips = append(p.origins, o), append(p.ips, ip)
		}
		for _, o := range p.origins {
			t.Cleanup(o.Close)
		}
		return p
	}
	t.Skip("no port that is free on several loopback addresses")
	return nil
}

// publish lets the name have the addresses of some origins.
func (p *pool) publish(which ...int) {
	ips := []string{}
	for _, i := range which {
		ips = append(ips, p.ips[i])
	}
	p.set(p.name, ips...)
}

// upstream is an upstream whose addresses are those of the name.
func (p *pool) upstream(options string) string {
	return `upstream pool http://events.example.test/the/path?x=1 {
		dynamic a {
			name      ` + p.name + `
			port      ` + p.port + `
			resolvers ` + p.addr + `
			refresh   50ms
			versions  ipv4
		}
		backoff 10ms 50ms
		` + options + `
	}`
}

func (p *pool) site(options string) string {
	return "sse_fanin /events {\n" + p.upstream(options) + "\nenvelope json\n}"
}

func (p *pool) member(i int) string { return "pool-" + p.ips[i] + "-" + p.port }

// sourceNames are the names of the sources of the one stream.
func sourceNames() []string {
	var names []string
	hubs.Range(func(_, val any) bool { names = val.(*hub).sourceNames(); return true })
	return names
}

func TestDynamicAddressesJoinAndLeave(t *testing.T) {
	p := newPool(t, 3)
	p.publish(0)
	in := serve(t, "", p.site(""))
	c := in.connect("/events")
	up(t, p.origins[0])
	p.publish(0, 1, 2)
	up(t, p.origins[1])
	up(t, p.origins[2])
	want := []string{p.member(0), p.member(1), p.member(2)}
	slices.Sort(want)
	if got := sourceNames(); !slices.Equal(got, want) {
		t.Errorf("the sources are %q, want %q", got, want)
	}
	for i, o := range p.origins {
		o.Emit("", "x")
		must(t, c.WaitCount(within(t, 10*time.Second), uint64(i+1)))
		if got := c.Events()[i].Data; !strings.Contains(got, `"source":"`+p.member(i)+`"`) {
			t.Errorf("an event of %s came as %s", p.member(i), got)
		}
	}
	p.publish(1, 2)
	must(t, p.origins[0].WaitConnections(within(t, 10*time.Second), 0))
	eventually(t, 5*time.Second, "the source is gone", func() bool { return len(sourceNames()) == 2 })
	for i, o := range p.origins {
		if n := o.TotalConnections(); n != 1 {
			t.Errorf("%s was connected %d times", p.member(i), n)
		}
	}
	if c.Ends(ssetest.EndClean)+c.Ends(ssetest.EndError) > 0 {
		t.Error("a client was disconnected")
	}
}

func TestDynamicRequestsAreThoseOfTheURL(t *testing.T) {
	p := newPool(t, 1)
	p.publish(0)
	serve(t, "", p.site("header_up X-At {upstream_hostport}"))
	up(t, p.origins[0])
	r := p.origins[0].Requests()[0]
	if r.Host != "events.example.test" || r.Path != "/the/path" || r.Query != "x=1" {
		t.Errorf("asked for %s of %s with %s", r.Path, r.Host, r.Query)
	}
	if at := r.Header.Get("X-At"); at != p.ips[0]+":"+p.port {
		t.Errorf("{upstream_hostport} is %s", at)
	}
}

func TestDynamicLookupFailureKeepsWhatThereIs(t *testing.T) {
	for _, policy := range []string{policyMerge, policyFailover, policyMirror} {
		t.Run(policy, func(t *testing.T) {
			p := newPool(t, 2)
			p.publish(0)
			log := newTestLog(t)
			in := serve(t, log.global(), p.site("policy "+policy))
			c := in.connect("/events")
			up(t, p.origins[0])
			p.fail(true)
			p.awaitAsked(t, 12) // a look-up is tried several times
			p.origins[0].Emit("", "x")
			must(t, c.WaitCount(within(t, 10*time.Second), 1))
			if n := p.origins[0].TotalConnections(); n != 1 {
				t.Errorf("connected %d times", n)
			}
			if lines := log.lines(`"looking up addresses failed`); len(lines) != 1 {
				t.Errorf("%d lines about it, want 1: %s", len(lines), lines)
			}
			p.publish(1)
			p.fail(false)
			up(t, p.origins[1])
			must(t, p.origins[0].WaitConnections(within(t, 10*time.Second), 0))
		})
	}
}

func TestDynamicNameThatDoesNotExistYet(t *testing.T) {
	p := newPool(t, 1)
	in := serve(t, "", p.site(""))
	c := in.connect("/events")
	p.awaitAsked(t, 2)
	p.publish(0)
	up(t, p.origins[0])
	p.origins[0].Emit("", "x")
	must(t, c.WaitCount(within(t, 10*time.Second), 1))
}

func TestDynamicFailover(t *testing.T) {
	p := newPool(t, 3)
	p.publish(0, 1)
	in := serve(t, "", p.site("policy failover"))
	c := in.connect("/events")
	connected := func() int {
		return slices.IndexFunc(p.origins, func(o *ssetest.Origin) bool { return o.Connections() == 1 })
	}
	eventually(t, 10*time.Second, "one is connected", func() bool { return connected() >= 0 })
	first := connected()
	ssetest.EmitAlike(p.origins, 0, 1)
	must(t, c.WaitCount(within(t, 10*time.Second), 1))
	p.origins[first].Stop()
	must(t, p.origins[1-first].WaitConnections(within(t, 10*time.Second), 1))
	if ids := p.origins[1-first].LastEventIDs(); ids[0] != "1" {
		t.Errorf("the other one was asked from %q, want 1", ids)
	}
	// the one in use is withdrawn: another is used at once
	p.publish(2)
	must(t, p.origins[2].WaitConnections(within(t, 10*time.Second), 1))
	must(t, p.origins[1-first].WaitConnections(within(t, 10*time.Second), 0))
	ssetest.EmitAlike(p.origins, 1, 2)
	must(t, c.WaitCount(within(t, 10*time.Second), 2))
	if n := len(sourceNames()); n != 1 {
		t.Errorf("%d sources, want 1", n)
	}
}

func TestDynamicFailoverKeepsItsConnectionWhenOthersComeAndGo(t *testing.T) {
	p := newPool(t, 3)
	p.publish(0)
	serve(t, "", p.site("policy failover"))
	up(t, p.origins[0])
	for _, others := range [][]int{{1, 0}, {2, 1, 0}, {0, 2}, {0}} {
		p.publish(others...)
		p.awaitAsked(t, 3)
	}
	for i, want := range []int{1, 0, 0} {
		if n := p.origins[i].TotalConnections(); n != want {
			t.Errorf("replica %d was connected %d times, want %d", i, n, want)
		}
	}
}

func TestDynamicMirror(t *testing.T) {
	p := newPool(t, 3)
	p.publish(0, 1)
	in := serve(t, "", p.site("policy mirror"))
	c := in.connect("/events")
	up(t, p.origins[0])
	up(t, p.origins[1])
	ssetest.EmitAlike(p.origins, 0, 2)
	must(t, c.WaitCount(within(t, 10*time.Second), 2))
	p.publish(1, 2)
	up(t, p.origins[2])
	must(t, p.origins[0].WaitConnections(within(t, 10*time.Second), 0))
	ssetest.EmitAlike(p.origins, 2, 4)
	must(t, c.WaitCount(within(t, 10*time.Second), 4))
	p.publish(2)
	must(t, p.origins[1].WaitConnections(within(t, 10*time.Second), 0))
	ssetest.EmitAlike(p.origins, 4, 6)
	must(t, c.WaitCount(within(t, 10*time.Second), 6))
	if got := received(c); len(got) != 6 {
		t.Errorf("got %d events, want 6: %q", len(got), got)
	}
}

// The state of a mirror is that of the replicas it has, not of one it had.
func TestDynamicMirrorIsDownWhenTheOneThatIsUpIsWithdrawn(t *testing.T) {
	p := newPool(t, 2)
	p.origins[1].RespondWith(http.StatusNoContent, nil, "")
	p.publish(0, 1)
	in := serve(t, "", `sse_fanin /events {
		`+p.upstream("policy mirror")+`
		source_events on
	}`)
	c := in.connect("/events")
	up(t, p.origins[0])
	must(t, p.origins[1].WaitRequests(within(t, 10*time.Second), 1))
	waitFor(t, c, "the upstream is up", func() bool {
		states := control(c, "source")
		return len(states) > 0 && strings.Contains(states[len(states)-1], `"state":"up"`)
	})
	p.publish(1)
	must(t, p.origins[0].WaitConnections(within(t, 10*time.Second), 0))
	waitFor(t, c, "the upstream is down", func() bool {
		states := control(c, "source")
		return strings.Contains(states[len(states)-1], `"state":"down"`)
	})
}

func TestDynamicTLSVerifiesTheNameOfTheURL(t *testing.T) {
	// the certificate is for localhost and 127.0.0.1; 127.0.0.2 is dialled
	p := newPool(t, 2, func(cfg *ssetest.OriginConfig) { cfg.TLS = true })
	p.publish(1)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, p.origins[1].CAPEM(), 0o600))
	site := func(host string) string {
		return strings.ReplaceAll(p.site(`transport http {
			tls_trust_pool file `+ca+`
		}`), "http://events.example.test", "https://"+host)
	}
	in := serve(t, "", site("other.example.test"))
	eventually(t, 10*time.Second, "a certificate for another name is refused", func() bool {
		var st sourceState
		sources.Range(func(_, val any) bool { st = val.(*source).status(); return true })
		return strings.Contains(st.text, "certificate is valid for localhost, not other.example.test")
	})
	if n := p.origins[1].TotalConnections(); n != 0 {
		t.Errorf("%d requests were sent all the same", n)
	}
	in.reload("", site("localhost"))
	up(t, p.origins[1])
	if host := p.origins[1].Requests()[0].Host; host != "localhost" {
		t.Errorf("the Host is %s", host)
	}
}

func TestDynamicSRV(t *testing.T) {
	p := newPool(t, 2)
	for i, ip := range p.ips {
		p.set(fmt.Sprintf("r%d.srv.test.", i), ip)
	}
	p.setSRV("_sse._tcp.srv.test.", "r0.srv.test.:"+p.port, "r1.srv.test.:"+p.port)
	site := `sse_fanin /events {
		upstream pool http://events.example.test/ {
			dynamic srv _sse._tcp.srv.test. {
				resolvers ` + p.addr + `
				refresh   50ms
			}
			transport http {
				resolvers ` + p.addr + `
			}
		}
		envelope json
	}`
	in := serve(t, "", site)
	c := in.connect("/events")
	for i, o := range p.origins {
		up(t, o)
		o.Emit("", "x")
		must(t, c.WaitCount(within(t, 10*time.Second), uint64(i+1)))
		if got, want := c.Events()[i].Data, fmt.Sprintf(`"source":"pool-r%d.srv.test`, i); !strings.Contains(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	p.setSRV("_sse._tcp.srv.test.", "r1.srv.test.:"+p.port)
	must(t, p.origins[0].WaitConnections(within(t, 10*time.Second), 0))
	if n := p.origins[1].TotalConnections(); n != 1 {
		t.Errorf("the one that stayed was connected %d times", n)
	}
}

func TestDynamicConnectedOnDemand(t *testing.T) {
	p := newPool(t, 1)
	p.publish(0)
	in := serve(t, "", strings.Replace(p.site(""), "envelope json", "connect on_demand 1ms", 1))
	for range 2 {
		c := in.connect("/events")
		up(t, p.origins[0])
		p.origins[0].Emit("", "x")
		must(t, c.WaitCount(within(t, 10*time.Second), 1))
		c.Close()
		must(t, p.origins[0].WaitConnections(within(t, 10*time.Second), 0))
	}
}

func TestDynamicAddressesOverReloads(t *testing.T) {
	p := newPool(t, 2)
	p.publish(0, 1)
	site := "sse_fanin /events {\nstream s\n" + p.upstream("") + "\n}"
	in := serve(t, "", site)
	c := in.connect("/events")
	up(t, p.origins[0])
	up(t, p.origins[1])
	for i := range 3 {
		in.reload("", site+fmt.Sprint("\nrespond /x ", i))
	}
	p.awaitAsked(t, 3)
	for i, o := range p.origins {
		if n := o.TotalConnections(); n != 1 {
			t.Errorf("%s was connected %d times over reloads", p.member(i), n)
		}
	}
	p.publish(1)
	must(t, p.origins[0].WaitConnections(within(t, 10*time.Second), 0))
	p.origins[1].Emit("", "x")
	gets(t, c, "x")
}

// An address whose connection is configured differently goes on where it was.
func TestDynamicUpstreamThatIsConfiguredDifferentlyGoesOn(t *testing.T) {
	for _, policy := range []string{policyMerge, policyFailover} {
		t.Run(policy, func(t *testing.T) {
			p := newPool(t, 2)
			p.publish(0, 1)
			site := func(token int) string {
				return "sse_fanin /events {\nstream s\n" + p.upstream(fmt.Sprintf("policy %s\nheader_up X-Token %d", policy, token)) + "\n}"
			}
			in := serve(t, "", site(1))
			c := in.connect("/events")
			eventually(t, 10*time.Second, "an address is connected", func() bool { return p.origins[0].Connections()+p.origins[1].Connections() > 0 })
			if policy == policyMerge {
				up(t, p.origins[0])
				up(t, p.origins[1])
			}
			ssetest.EmitAlike(p.origins, 0, 1)
			must(t, c.WaitCount(within(t, 10*time.Second), 1))
			// those that were connected ask for what comes after it
			eventually(t, 10*time.Second, "everybody has the event", func() bool {
				n := uint64(0)
				for _, us := range streamNamed(t, "s").Upstreams {
					n += us.Events
				}
				return n == uint64(p.origins[0].Connections()+p.origins[1].Connections())
			})
			in.reload("", site(2))
			for _, o := range p.origins {
				if o.TotalConnections() == 0 {
					continue
				}
				if id, _ := request(t, o, 2).LastEventID(); id != "1" {
					t.Errorf("%s was asked from %q, want 1", o.Addr(), id)
				}
			}
		})
	}
}

func TestDynamicAddressesThatComeAndGoLeaveNothing(t *testing.T) {
	p := newPool(t, 1)
	serve(t, "", p.site(""))
	// nobody listens there
	for i := range 20 {
		p.set(p.name, fmt.Sprint("127.0.1.", i+1), fmt.Sprint("127.0.2.", i+1))
		want := []string{memberName("pool", fmt.Sprintf("127.0.1.%d:%s", i+1, p.port)), memberName("pool", fmt.Sprintf("127.0.2.%d:%s", i+1, p.port))}
		eventually(t, 10*time.Second, "the addresses are those there are", func() bool { return slices.Equal(sourceNames(), want) })
	}
	n := 0
	sources.Range(func(_, _ any) bool { n++; return true })
	if n != 2 {
		t.Errorf("%d sources are left, want 2", n)
	}
}
