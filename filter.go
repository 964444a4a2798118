package ssefanin

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/pattern"
)

// A client chooses its filter, so its size is bounded: 2 × 100 names and 8 KiB of
// text, as much memory as the rest of a client at most.
const (
	// maxFilterNames is how many different names ?source= and ?type= may have,
	// each. It also bounds what one event costs: patterns are tried one by one.
	maxFilterNames = 100

	// maxFilterBytes is how long all of them may be together.
	maxFilterBytes = 8 << 10
)

// scopeOf returns what the client of a request gets: all that only lets it
// see, or of that what it asks for. Nil is the whole stream. The error is about
// what it asks for: an unknown source, or more than a filter may have. To whoever
// may not see a source, it is unknown.
func (h *hub) scopeOf(r *http.Request, only choice, filters bool) (*scope, error) {
	s := &scope{only: only}
	if filters {
		if err := s.ask(r); err != nil {
			return nil, err
		}
		if err := h.checkSources(s); err != nil {
			return nil, err
		}
	}
	if s.only.takesAll() && s.asked.takesAll() {
		return nil, nil
	}
	return s, nil
}

// ask reads a client's wishes: ?source= and ?type=, comma-separated or repeated.
func (s *scope) ask(r *http.Request) error {
	query := r.URL.Query()
	room := maxFilterBytes
	sources, err := listed("source", query["source"], &room)
	if err != nil {
		return err
	}
	types, err := listed("type", query["type"], &room)
	if err != nil {
		return err
	}
	s.asked = choice{pattern.ParseSet(sources), pattern.ParseSet(types)}
	return nil
}

// listed returns the names and patterns that a parameter has, each once. room is
// the length that they may have yet, and is lowered by these.
func listed(parameter string, values []string, room *int) ([]string, error) {
	var list []string
	set := make(map[string]bool)
	for _, value := range values {
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item == "" || set[item] {
				continue
			}
			if len(list) == maxFilterNames {
				return nil, fmt.Errorf("'%s' has more than %d names", parameter, maxFilterNames)
			}
			if *room -= len(item); *room < 0 {
				return nil, fmt.Errorf("the names in 'source' and 'type' have more than %d bytes together", maxFilterBytes)
			}
			set[item] = true
			list = append(list, strings.Clone(item))
		}
	}
	return list, nil
}

// checkSources validates the sources that a client asks for by name. A pattern
// may match none.
func (h *hub) checkSources(s *scope) error {
	if s.asked.sources == nil {
		return nil
	}
	for _, name := range slices.Sorted(s.asked.sources.Names()) {
		if s.only.takesSource(name, "") && h.inputs.defines(name) || h.tags.knows(name, &s.only) {
			continue
		}
		there := slices.DeleteFunc(h.sourceNames(), func(name string) bool {
			return !s.only.takesSource(name, h.tags.upstreamOf(name))
		})
		if len(there) == 0 {
			return fmt.Errorf("unknown source '%s', there are none", name)
		}
		return fmt.Errorf("unknown source '%s', there are: %s", name, strings.Join(there, ", "))
	}
	return nil
}

// sourceNames are the names of the sources there are now.
func (h *hub) sourceNames() []string {
	return slices.Sorted(maps.Keys(h.inputs.states()))
}

// wantsSource reports whether the client wants to hear of a source.
func (c *client) wantsSource(name string) bool {
	return c.view == nil || c.view.takesSource(name, c.hub.tags.upstreamOf(name))
}

// appendStates appends a source event for each source whose state is not the
// one sent last.
func (c *client) appendStates(now time.Time) {
	c.stateVersion = c.hub.states.version.Load()
	if !c.hub.shaped.Load().sourceEvents {
		return
	}
	report := c.hub.stateReport()
	c.buf = report.appendChanges(c.buf, c.sentStates, c.wantsSource, now)
	c.sentStates = report
}
