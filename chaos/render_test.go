package chaos

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
)

// config is one configuration of a round's plan.
type config struct {
	version int
	states  []streamState // by stream
	both    bool          // there is the second site
}

// streamState is what reloads change of a stream.
type streamState struct {
	absent   bool
	without  int // upstream that is left out, by index; -1: none
	revision []int
	renamed  bool // of the last upstream
	settings []string
	filters  bool
	full     bool // max_clients is set
}

func (s *streamState) clone() streamState {
	c := *s
	c.revision, c.settings = slices.Clone(s.revision), slices.Clone(s.settings)
	return c
}

// disconnectsSlow reports whether a client that is overtaken is ended.
func (s *streamState) disconnectsSlow() bool { return slices.Contains(s.settings, "slow disconnect") }

// first draws the first configuration: everything is there.
func (p *plan) first(rnd *rand.Rand) *config {
	c := &config{both: true}
	for _, s := range p.streams {
		st := streamState{without: -1, revision: make([]int, len(s.upstreams))}
		st.drawSettings(rnd, s)
		c.states = append(c.states, st)
	}
	return c
}

// next draws a configuration that differs from c in a few places, and returns
// what differs.
func (p *plan) next(rnd *rand.Rand, c *config) (*config, string) {
	n := &config{version: c.version + 1, both: c.both}
	for i := range c.states {
		n.states = append(n.states, c.states[i].clone())
	}
	var what []string
	for range rnd.IntN(3) {
		i := rnd.IntN(len(p.streams))
		s, st := p.streams[i], &n.states[i]
		named := s.place != placeInline
		switch k := rnd.IntN(8); {
		case k == 0 && !s.stays:
			st.absent = !st.absent
			what = append(what, fmt.Sprintf("%s absent: %v", s.name(), st.absent))
		case k == 1 && named && len(s.upstreams) > 1 && s.ids != "upstream":
			if st.without = -1; chance(rnd, 2) {
				st.without = rnd.IntN(len(s.upstreams))
			}
			what = append(what, fmt.Sprintf("%s without upstream %d", s.name(), st.without))
		case k == 2 && named:
			u := rnd.IntN(len(s.upstreams))
			st.revision[u]++
			what = append(what, fmt.Sprintf("%s upstream %d changed", s.name(), u))
		case k == 3 && named:
			st.renamed = !st.renamed
			what = append(what, s.name()+" upstream renamed")
		case k == 4:
			n.both = !n.both
			what = append(what, fmt.Sprintf("second site: %v", n.both))
		default:
			st.drawSettings(rnd, s)
			what = append(what, s.name()+" settings "+strings.Join(st.settings, "; "))
		}
	}
	if len(what) == 0 {
		return n, "nothing but its version"
	}
	return n, strings.Join(what, ", ")
}

// drawSettings draws the settings of the client side.
func (st *streamState) drawSettings(rnd *rand.Rand, s *stream) {
	st.settings, st.full, st.filters = nil, false, s.filters
	add := func(format string, args ...any) { st.settings = append(st.settings, fmt.Sprintf(format, args...)) }
	maybe := func(oneIn int, word string, values ...string) {
		if chance(rnd, oneIn) {
			add("%s %s", word, pick(rnd, values...))
		}
	}
	starts := []string{"oldest", "live", "10", "500", "2s"}
	if len(s.values.types) > 0 {
		starts = append(starts, "last_value", "last_value", "last_value")
	}
	maybe(2, "start", starts...)
	maybe(2, "heartbeat", "100ms", "1s", "0")
	maybe(2, "retry", "10ms", "20ms 100ms")
	maybe(2, "prime", "on", "off", "auto")
	maybe(3, "slow", "skip", "disconnect")
	maybe(2, "write_timeout", "300ms", "1s", "5s")
	maybe(4, "max_age", "1s", "3s")
	maybe(3, "coalesce", "5ms", "50ms", "300ms")
	maybe(2, "drain", "1ms", "500ms", "5s", "1m")
	maybe(5, "on_reload", "drain", "keep")
	maybe(2, "detach", "on", "off")
	if s.filters {
		add("filters on")
	}
	if s.only {
		add("only type *")
	}
	if chance(rnd, 8) {
		st.full = true
		add("max_clients %d %s", 1+rnd.IntN(3), pick(rnd, "reject", "retry"))
	}
}

// serves reports whether a configuration serves a stream at a site.
func (c *config) serves(stream, site int) bool {
	return !c.states[stream].absent && (site == 0 || c.both)
}

// render writes the configuration as a Caddyfile; broken is added to
// it, for one that fails.
func (p *plan) render(proc *process, c *config, broken string) string {
	var global, first, second strings.Builder
	fmt.Fprintf(&global, "sse_fanin {\nstream control http://%s/ {\nbackoff 10ms 20ms\nstart oldest\n}\n", p.control.addr)
	for i, s := range p.streams {
		st := &c.states[i]
		if st.absent {
			continue
		}
		var source, settings strings.Builder
		p.renderSource(&source, s, st)
		for _, line := range st.settings {
			fmt.Fprintln(&settings, line)
		}
		switch s.place {
		case placeGlobal:
			fmt.Fprintf(&global, "stream %s {\n%s}\n", s.name(), source.String())
			fmt.Fprintf(&first, "sse_fanin %s %s {\n%s}\n", s.path(), s.name(), settings.String())
			fmt.Fprintf(&second, "sse_fanin %s %s {\n%s}\n", s.path(), s.name(), settings.String())
		case placeHandler:
			fmt.Fprintf(&first, "sse_fanin %s {\nstream %s\n%s%s}\n", s.path(), s.name(), source.String(), settings.String())
			fmt.Fprintf(&second, "sse_fanin %s %s {\n%s}\n", s.path(), s.name(), settings.String())
		default:
			fmt.Fprintf(&first, "sse_fanin %s {\n%s%s}\n", s.path(), source.String(), settings.String())
			fmt.Fprintf(&second, "sse_fanin %s {\n%s%s}\n", s.path(), source.String(), settings.String())
		}
	}
	global.WriteString("}\n")
	first.WriteString("sse_fanin /control control\nsse_fanin_status /status\n")
	second.WriteString("sse_fanin_status /status\n")
	fmt.Fprintf(&first, "respond /version %d\n", c.version)
	if !c.both {
		second.Reset()
		second.WriteString("respond /nothing 204\n")
	}
	return proc.caddyfile(global.String(), first.String(), second.String()) + broken
}

// What makes a configuration fail: while it is provisioned, and while its apps
// start (an address of nobody's, RFC 5737).
var breaks = []string{
	"https://127.0.0.1:1 {\ntls /missing.pem /missing.pem\n}\n",
	"http://192.0.2.1:1 {\nbind 192.0.2.1\n}\n",
}

func (p *plan) renderSource(b *strings.Builder, s *stream, st *streamState) {
	for i, u := range s.upstreams {
		if i == st.without {
			continue
		}
		name := u.nameIf(st.renamed && i == len(s.upstreams)-1)
		path := "/" + u.name
		if u.keyed {
			path = "/users/{query.user}/" + u.name
		}
		fmt.Fprintf(b, "upstream %s", name)
		switch {
		case u.dynamic != "":
			fmt.Fprintf(b, " http://chaos.test%s", path)
		default:
			for _, address := range addresses(u) {
				fmt.Fprintf(b, " http://%s%s", address, path)
			}
		}
		fmt.Fprintln(b, " {")
		if u.policy != "" {
			fmt.Fprintln(b, "policy", u.policy)
		}
		if u.dynamic != "" {
			fmt.Fprintf(b, "dynamic srv %s {\nresolvers %s\nrefresh 50ms\n}\n", u.dynamic, p.names.addr)
		}
		for _, line := range u.options {
			fmt.Fprintln(b, line)
		}
		if st.revision[i] > 0 {
			fmt.Fprintf(b, "header_up X-Revision %d\n", st.revision[i])
		}
		fmt.Fprintln(b, "}")
	}
	for _, line := range s.source {
		if strings.HasPrefix(line, "max_streams ") && st.without >= 0 && s.upstreams[st.without].keyed {
			continue // there is no key any more, and the bound would be refused
		}
		fmt.Fprintln(b, line)
	}
}

// caddyfile writes a whole file around the global option and two sites.
func (p *process) caddyfile(global, first, second string) string {
	return fmt.Sprintf(`{
admin unix/%s
auto_https off
persist_config off
servers %s {
protocols h1 h2c
}
%s}
http://%s {
%s}
https://%s {
tls %s %s
%s}
`, p.socket, p.plain, global, p.plain, first, p.secure, filepath.Join(p.dir, "cert.pem"), filepath.Join(p.dir, "key.pem"), second)
}
