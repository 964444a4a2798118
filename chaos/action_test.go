package chaos

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// action is something that may happen. It returns what it did.
type action struct {
	weight int
	do     func(*round) string
}

var actions = []action{
	{20, (*round).originFault},
	{10, (*round).burst},
	{15, (*round).reload},
	{3, (*round).reloadBroken},
	{15, (*round).newClient},
	{5, (*round).closeClient},
	{25, (*round).disconnect},
	{8, (*round).block},
	{4, (*round).unblock},
	{8, (*round).comeAndGo},
	{3, (*round).drain},
	{3, (*round).reconnect},
	{4, (*round).probe},
	{6, (*round).moveAddresses},
	{3, (*round).step},
}

// act does something at random.
func (r *round) act() {
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	n := r.rnd.IntN(total)
	for _, a := range actions {
		if n -= a.weight; n < 0 {
			if what := a.do(r); what != "" {
				r.log("%s", what)
			}
			return
		}
	}
}

func (r *round) anyStream() *stream { return pick(r.rnd, r.plan.streams...) }

func (r *round) originFault() string { return pick(r.rnd, r.plan.feeds...).misbehave(r.rnd) }

func (r *round) burst() string {
	f, n := pick(r.rnd, r.plan.feeds...), pick(r.rnd, 10, 50, 300, 1000)
	if len(f.pad) > 100 && f.last() > 4000 {
		n = 10 // enough memory was spent on it
	}
	f.burst(n)
	return fmt.Sprintf("burst of %d events of %s", n, f.name)
}

func (r *round) reload() string {
	next, what := r.plan.next(r.rnd, r.config)
	r.use(next)
	return fmt.Sprintf("loaded configuration %d: %s", next.version, what)
}

// use loads a configuration that is valid.
func (r *round) use(c *config) {
	r.judge.changed(r.config, c)
	loaded := r.judge.renaming(c)
	text := r.plan.render(r.process, c, "")
	r.file = text
	r.config = c
	status, answer, err := r.process.load(text)
	if err != nil || status != http.StatusOK {
		r.fail("loading configuration %d: status %d, %v: %s", c.version, status, err, answer)
	}
	loaded()
}

func (r *round) reloadBroken() string {
	next, _ := r.plan.next(r.rnd, r.config)
	status, answer, err := r.process.load(r.plan.render(r.process, next, pick(r.rnd, breaks...)))
	if err != nil || status == http.StatusOK {
		r.fail("loading a broken configuration: status %d, %v: %s", status, err, answer)
	}
	return "loaded a configuration that fails"
}

func (r *round) newClient() string {
	if len(r.clients) > 40 {
		return ""
	}
	return "new " + r.drawClient(r.anyStream(), chance(r.rnd, 4)).watch.name
}

func (r *round) anyClient() *client {
	if len(r.clients) == 0 {
		return nil
	}
	return pick(r.rnd, r.clients...)
}

func (r *round) closeClient() string {
	c := r.anyClient()
	if c == nil {
		return ""
	}
	c.close()
	return "closed " + c.watch.name
}

func (r *round) disconnect() string {
	c := r.anyClient()
	if c == nil || !c.Disconnect() {
		return ""
	}
	return "disconnected " + c.watch.name
}

func (r *round) block() string {
	if len(r.blocked) > 20 {
		return ""
	}
	what, closer := r.open(r.rnd, r.anyStream())
	if closer != nil {
		r.blocked = append(r.blocked, closer)
	}
	return what
}

func (r *round) unblock() string {
	if len(r.blocked) == 0 {
		return ""
	}
	i := r.rnd.IntN(len(r.blocked))
	r.blocked[i]()
	r.blocked = append(r.blocked[:i], r.blocked[i+1:]...)
	return "closed a blocked client"
}

func (r *round) comeAndGo() string { return r.hurry(r.rnd, r.anyStream(), 5+r.rnd.IntN(40)) }

func (r *round) drain() string {
	s := r.anyStream()
	if s.place == placeInline {
		return ""
	}
	answer, err := r.process.call(http.MethodPost, "/sse_fanin/streams/"+s.name()+"/drain")
	if err != nil {
		r.fail("draining %s: %v", s.name(), err)
	}
	return "drained " + s.name() + " " + strings.TrimSpace(answer)
}

func (r *round) reconnect() string {
	s := r.anyStream()
	if s.place == placeInline {
		return ""
	}
	u := pick(r.rnd, s.upstreams...)
	for _, f := range u.feeds {
		f.troubled.Store(true)
	}
	answer, err := r.process.call(http.MethodPost, "/sse_fanin/streams/"+s.name()+"/upstreams/"+u.name+"/reconnect")
	if err != nil {
		r.fail("reconnecting %s of %s: %v", u.name, s.name(), err)
	}
	return "reconnected " + u.name + " of " + s.name() + " " + strings.TrimSpace(answer)
}

// probe asks for things that are no streams.
func (r *round) probe() string {
	proto := pick(r.rnd, http11, h2c, http2TLS, http3TLS)
	method := pick(r.rnd, http.MethodHead, http.MethodOptions, http.MethodPost, http.MethodGet)
	path := r.anyStream().path()
	if method == http.MethodGet {
		path = pick(r.rnd, "/status", "/status?ready", "/nothing", path+"?source=nobody", path+"?user=..")
	}
	transport, closeTransport := proto.connect()
	defer closeTransport()
	client := &http.Client{Transport: transport, Timeout: headTimeout}
	req, err := http.NewRequest(method, r.process.url(proto, path), nil)
	if err != nil {
		return ""
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Sprintf("%s %s (%s): %v", method, path, proto, err)
	}
	_ = resp.Body.Close()
	return fmt.Sprintf("%s %s (%s): %s", method, path, proto, resp.Status)
}

// moveAddresses changes the addresses of a dynamic upstream: some of them, all
// of them, or a look-up that fails.
func (r *round) moveAddresses() string {
	for range 10 {
		s := r.anyStream()
		u := pick(r.rnd, s.upstreams...)
		if u.dynamic == "" {
			continue
		}
		all := addresses(u)
		some := all[r.rnd.IntN(len(all)):]
		if chance(r.rnd, 5) {
			some = nil
		}
		r.judge.moved(s, u)
		r.plan.names.set(u.dynamic, some...)
		return fmt.Sprintf("%s of %s is at %v", u.name, s.name(), some)
	}
	return ""
}

// step sets the wall clock: an hour back, two seconds ahead, right again.
func (r *round) step() string {
	ahead := pick(r.rnd, 0, -time.Hour, time.Hour, -2*time.Second, 2*time.Second, 48*time.Hour)
	if r.process.clock == nil {
		return ""
	}
	if err := r.process.clock.Set(ahead); err != nil {
		r.fail("setting the clock: %v", err)
	}
	return fmt.Sprintf("the clock is %s ahead", ahead)
}
