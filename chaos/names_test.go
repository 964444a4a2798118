package chaos

import (
	"net"
	"strconv"
	"sync"

	"github.com/miekg/dns"
)

// nameServer answers for SRV records, whose hosts are all this one.
type nameServer struct {
	addr   string
	server *dns.Server
	done   chan struct{}

	mu      sync.Mutex          // protects records
	records map[string][]string // host:port
}

const hostName = "host.chaos.test."

func newNameServer() (*nameServer, error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &nameServer{addr: conn.LocalAddr().String(), records: make(map[string][]string), done: make(chan struct{})}
	started := make(chan struct{})
	s.server = &dns.Server{PacketConn: conn, Handler: s, NotifyStartedFunc: func() { close(started) }}
	go s.serve()
	<-started
	return s, nil
}

// serve answers until close, which waits for it.
func (s *nameServer) serve() {
	defer close(s.done)
	_ = s.server.ActivateAndServe()
}

func (s *nameServer) close() {
	_ = s.server.Shutdown()
	<-s.done
}

// set changes a record; without addresses the look-up fails.
func (s *nameServer) set(name string, addresses ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[name] = addresses
}

// ServeDNS answers a question.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(r)
	q := r.Question[0]
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET}
	switch {
	case q.Name == hostName && q.Qtype == dns.TypeA:
		m.Answer = append(m.Answer, &dns.A{Hdr: header, A: net.IPv4(127, 0, 0, 1)})
	case q.Name == hostName:
	case len(s.records[q.Name]) == 0:
		m.Rcode = dns.RcodeServerFailure
	case q.Qtype == dns.TypeSRV:
		for _, address := range s.records[q.Name] {
			_, port, _ := net.SplitHostPort(address)
			n, _ := strconv.ParseUint(port, 10, 16)
			m.Answer = append(m.Answer, &dns.SRV{Hdr: header, Priority: 1, Weight: 1, Port: uint16(n), Target: hostName})
		}
	}
	_ = w.WriteMsg(m)
}
