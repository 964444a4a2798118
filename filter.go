package ssefanin

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// filter is what one client wants of a stream. Used by the client's goroutine
// only.
type filter struct {
	tags    *tags
	sources map[string]bool // empty: all
	types   map[string]bool // final types, "" for unnamed; empty: all
	known   map[uint32]bool // what was found for tags so far; at most maxKnownTags
}

// maxKnownTags bounds a filter's memory of tags.
const maxKnownTags = 1024

// filterOf reads a client's wishes: ?source= and ?type=, comma-separated or
// repeated. Nil if there are none. An unknown source is an error.
func (h *hub) filterOf(r *http.Request) (*filter, error) {
	query := r.URL.Query()
	f := &filter{
		tags:    h.tags,
		sources: listed(query["source"]),
		types:   listed(query["type"]),
		known:   make(map[uint32]bool),
	}
	for _, name := range slices.Sorted(maps.Keys(f.sources)) {
		if !h.tags.knows(name) && !h.defines(name) {
			return nil, fmt.Errorf("unknown source '%s', there are: %s", name, strings.Join(h.sourceNames(), ", "))
		}
	}
	if f.types[unnamedType] {
		f.types[""] = true
	}
	if len(f.sources) == 0 && len(f.types) == 0 {
		return nil, nil
	}
	return f, nil
}

func listed(values []string) map[string]bool {
	set := make(map[string]bool)
	for _, value := range values {
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item != "" {
				set[item] = true
			}
		}
	}
	return set
}

// wants says whether the client wants events with a tag.
func (f *filter) wants(tag uint32) bool {
	wanted, ok := f.known[tag]
	if !ok {
		wanted = f.tags.matches(tag, f.sources, f.types)
		if len(f.known) < maxKnownTags {
			f.known[tag] = wanted
		}
	}
	return wanted
}

// wantsSource says whether the client wants to hear of a source. Nil wants all.
func (f *filter) wantsSource(name string) bool {
	return f == nil || len(f.sources) == 0 || f.sources[name] || f.sources[f.tags.upstreamOf(name)]
}

// defines says whether an upstream has that name. It may be one of whose
// addresses none is known yet.
func (h *hub) defines(name string) bool {
	h.lifeMu.Lock()
	defer h.lifeMu.Unlock()
	return slices.ContainsFunc(h.uses, func(def *definition) bool {
		return slices.ContainsFunc(def.upstreams, func(u *upstreamDef) bool { return u.name == name })
	})
}

// sourceNames are the names of the sources there are now.
func (h *hub) sourceNames() []string {
	return slices.Sorted(maps.Keys(h.sourceStates()))
}

// appendStates appends a source event for each source whose state is not what
// the client was told last.
func (c *client) appendStates(now time.Time) {
	c.stateVersion = c.hub.stateVersion.Load()
	if !c.hub.shaped.Load().sourceEvents {
		return
	}
	report := c.hub.stateReport()
	c.buf = report.appendChanges(c.buf, c.told, c.filter.wantsSource, now)
	c.told = report
}
