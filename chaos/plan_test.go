package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// plan is what a round has to do with: drawn once, and the same for each of
// its configurations.
type plan struct {
	feeds   []*feed
	streams []*stream
	names   *nameServer
	control *control
}

// Where a stream is defined.
const (
	placeGlobal = iota // in the global options; both sites name it
	placeHandler
	placeInline // without a name: what it reads is what it is
	places
)

// stream is a stream of the plan: what no reload changes.
type stream struct {
	index     int
	place     int
	upstreams []*upstream
	keyed     bool
	onDemand  string   // linger, "" for eager
	source    []string // subdirectives of the source side
	retain    int      // events; 0: the default
	ids       string
	values    lastValues
	filters   bool
	only      bool // which lets all through, but goes the way of what protects
	mayRefuse bool // max_clients or max_streams
	stays     bool // no configuration is without it
}

func (s *stream) path() string { return fmt.Sprintf("/s%d", s.index) }
func (s *stream) name() string { return fmt.Sprintf("stream-%d", s.index) }

// loose reports whether the source of one log may be another one later on.
func (s *stream) loose() bool { return s.keyed || s.onDemand != "" }

// replaysMoreThanItRetains reports whether a new log of the stream may begin with
// more events than it retains, all at once. The first client is overtaken by them
// if it is not written to meanwhile, as with `coalesce`, and `slow disconnect` ends
// it. A stream that goes with its last client begins anew then, again and again.
func (s *stream) replaysMoreThanItRetains() bool {
	if !s.loose() {
		return false
	}
	events, bytes := uint64(s.retain), uint64(64<<20)
	if s.keyed {
		bytes = 1 << 20
	}
	switch {
	case events > 0:
	case s.keyed:
		events = 1000
	default:
		events = 10_000
	}
	var n, size uint64
	for _, u := range s.upstreams {
		for _, f := range u.feeds {
			if f.class == replaysAll || f.class == idlessAll {
				n += f.last()
				size += f.last() * uint64(len(f.pad)+200) // with all that is around it
			}
		}
	}
	return n > events || size > bytes
}

// upstream is an upstream of a stream.
type upstream struct {
	name    string
	feeds   []*feed // one, or several where they are sources of their own
	policy  string
	dynamic string // name of the SRV record
	keyed   bool
	options []string
	events  []string // types let through, "" for unnamed; empty: all
	prefix  string
}

// lets reports whether the upstream's options let an event of the type pass.
func (u *upstream) lets(typ string) bool { return len(u.events) == 0 || slices.Contains(u.events, typ) }

// nameIf is the upstream's name if it is renamed, or not.
func (u *upstream) nameIf(renamed bool) string {
	if renamed {
		return u.name + "-renamed"
	}
	return u.name
}

// finalType is the type that clients see.
func (u *upstream) finalType(typ string) string {
	if typ == "" {
		typ = "message"
	}
	return u.prefix + typ
}

func draw(rnd *rand.Rand) (*plan, error) {
	p := new(plan)
	var err error
	if p.control, err = newControl(); err != nil {
		return p, err
	}
	if p.names, err = newNameServer(); err != nil {
		return p, err
	}
	for i := range 4 + rnd.IntN(4) {
		replicas := 1
		if i%3 == 0 {
			replicas = 2 + rnd.IntN(2)
		}
		f, err := newFeed(rnd, fmt.Sprintf("f%d", i), replicas)
		if err != nil {
			return p, err
		}
		p.feeds = append(p.feeds, f)
	}
	for i := range 2 + rnd.IntN(4) {
		p.streams = append(p.streams, p.drawStream(rnd, i))
	}
	return p, nil
}

func (p *plan) close() {
	for _, f := range p.feeds {
		f.close()
	}
	if p.control != nil {
		p.control.close()
	}
	if p.names != nil {
		p.names.close()
	}
}

func chance(rnd *rand.Rand, oneIn int) bool { return rnd.IntN(oneIn) == 0 }

func pick[T any](rnd *rand.Rand, of ...T) T { return of[rnd.IntN(len(of))] }

func (p *plan) drawStream(rnd *rand.Rand, index int) *stream {
	s := &stream{index: index, place: rnd.IntN(places), keyed: chance(rnd, 3), ids: "stream", stays: chance(rnd, 2)}
	feeds := slices.Clone(p.feeds)
	rnd.Shuffle(len(feeds), func(i, j int) { feeds[i], feeds[j] = feeds[j], feeds[i] })
	for i := range 1 + rnd.IntN(3) {
		u := &upstream{name: fmt.Sprintf("u%d", i), keyed: s.keyed && i == 0}
		n := 1
		if chance(rnd, 4) || s.keyed && i == 1 {
			n = 2 // a keyed stream's second one is a dynamic one, mostly
		}
		n = min(n, len(feeds))
		u.feeds, feeds = feeds[:n], feeds[n:]
		if n == 0 {
			break
		}
		p.drawUpstream(rnd, s, u)
		s.upstreams = append(s.upstreams, u)
	}
	add := func(format string, args ...any) { s.source = append(s.source, fmt.Sprintf(format, args...)) }
	if chance(rnd, 2) {
		s.drawLastValues(rnd)
		add("%s", s.values.option())
	}
	if chance(rnd, 2) {
		s.retain = pick(rnd, 20, 100, 1000, 20000)
		if len(s.values.types) > 0 {
			s.retain = pick(rnd, 3, 10, 20, 1000) // they are for what is gone
		}
		add("retain {\nevents %d\n}", s.retain)
	}
	if chance(rnd, 3) {
		add("envelope json")
	}
	if chance(rnd, 3) {
		add("source_events on")
	}
	if s.keyed || chance(rnd, 4) {
		s.onDemand = pick(rnd, "1ms", "200ms", "2s", "1m")
		add("connect on_demand %s", s.onDemand)
	}
	if s.keyed && chance(rnd, 4) {
		add("max_streams 3")
		s.mayRefuse = true
	}
	one := len(s.upstreams) == 1 && len(s.upstreams[0].feeds) == 1 && s.upstreams[0].dynamic == ""
	switch {
	case one && s.upstreams[0].feeds[0].class == resumes && s.upstreams[0].policy != "merge" && chance(rnd, 2):
		s.ids = "upstream"
		add("ids upstream")
	case chance(rnd, 6):
		s.ids = "none"
		add("ids none")
	}
	s.filters = chance(rnd, 2)
	s.only = s.ids != "upstream" && chance(rnd, 4)
	return s
}

func (p *plan) drawUpstream(rnd *rand.Rand, s *stream, u *upstream) {
	if len(u.feeds) > 1 || chance(rnd, 6) && !u.keyed {
		if u.policy = "merge"; len(u.feeds) == 1 || s.keyed || chance(rnd, 2) {
			u.policy = ""
			u.dynamic = srvName(s, u)
			p.names.set(u.dynamic, addresses(u)...)
		}
	} else if len(u.feeds[0].replicas) > 1 {
		u.policy = pick(rnd, "failover", "mirror", "balance", "mirror")
		if chance(rnd, 4) && !u.keyed {
			u.dynamic = srvName(s, u)
			p.names.set(u.dynamic, addresses(u)...)
		}
	}
	add := func(format string, args ...any) { u.options = append(u.options, fmt.Sprintf(format, args...)) }
	add("backoff %s", pick(rnd, "10ms 50ms", "20ms 200ms", "50ms"))
	if chance(rnd, 3) {
		add("idle_timeout %s", pick(rnd, "500ms", "1s", "3s"))
	}
	if chance(rnd, 5) {
		u.events = pick(rnd, []string{"price"}, []string{"", "alert"})
		words := strings.ReplaceAll(strings.Join(u.events, " "), " alert", "message alert")
		add("events %s", strings.TrimSpace(words))
	}
	if chance(rnd, 5) {
		u.prefix = u.name + "-"
		add("prefix %s", u.prefix)
	}
	http2 := !slices.ContainsFunc(u.feeds, func(f *feed) bool { return !f.http2 })
	var transport []string
	if http2 {
		transport = append(transport, "versions h2c")
	}
	if u.dynamic != "" {
		transport = append(transport, "resolvers "+p.names.addr)
	}
	if len(transport) > 0 {
		add("transport http {\n%s\n}", strings.Join(transport, "\n"))
	}
}

func srvName(s *stream, u *upstream) string {
	return fmt.Sprintf("_sse._tcp.s%d%s.chaos.test.", s.index, u.name)
}

// addresses are those of the origins an upstream has: one of each feed where
// they are sources of their own, else all replicas.
func addresses(u *upstream) []string {
	var all []string
	for _, f := range u.feeds {
		for i, o := range f.replicas {
			if i > 0 && (u.policy == "" || u.policy == "merge") {
				break // a replica would bring everything once more
			}
			all = append(all, o.Addr())
		}
	}
	return all
}

// upstreamOf returns the upstream that brings a feed's events, nil if none.
func (s *stream) upstreamOf(feed string) (*upstream, *feed) {
	for _, u := range s.upstreams {
		for _, f := range u.feeds {
			if f.name == feed {
				return u, f
			}
		}
	}
	return nil, nil
}
