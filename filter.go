package ssefanin

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// filter selects the events that one client wants of a stream. Used by the
// client's goroutine only.
type filter struct {
	tags    *tags
	sources map[string]bool // empty: all
	types   map[string]bool // final types, "" for unnamed; empty: all
	known   map[uint32]bool // the results for tags so far; at most maxKnownTags
}

// A client chooses its filter, so its size is bounded. As much memory as the
// rest of a client at most: 2 × 100 names at some 48 bytes of a set and 8 KiB of
// text are 18 KiB, 1024 tags are 18 KiB.
const (
	// maxFilterNames is how many different names ?source= and ?type= may have,
	// each. It also bounds what one event costs: names of types that have no
	// number are compared one by one.
	maxFilterNames = 100

	// maxFilterBytes is how long all of them may be together.
	maxFilterBytes = 8 << 10

	// maxKnownTags bounds a filter's memory of tags.
	maxKnownTags = 1024
)

// filterOf reads a client's wishes: ?source= and ?type=, comma-separated or
// repeated. Nil if there are none. An unknown source is an error, as is more than
// a filter may have.
func (h *hub) filterOf(r *http.Request) (*filter, error) {
	query := r.URL.Query()
	room := maxFilterBytes
	f := &filter{tags: h.tags, known: make(map[uint32]bool)}
	var err error
	if f.sources, err = listed("source", query["source"], &room); err != nil {
		return nil, err
	}
	if f.types, err = listed("type", query["type"], &room); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(f.sources)) {
		if !h.tags.knows(name) && !h.inputs.defines(name) {
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

// listed returns the names that a parameter has. room is the length that names
// may have yet, and is lowered by these.
func listed(parameter string, values []string, room *int) (map[string]bool, error) {
	set := make(map[string]bool)
	for _, value := range values {
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item == "" || set[item] {
				continue
			}
			if len(set) == maxFilterNames {
				return nil, fmt.Errorf("'%s' has more than %d names", parameter, maxFilterNames)
			}
			if *room -= len(item); *room < 0 {
				return nil, fmt.Errorf("the names in 'source' and 'type' have more than %d bytes together", maxFilterBytes)
			}
			set[item] = true
		}
	}
	return set, nil
}

// wants reports whether the client wants events with a tag.
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

// wantsSource reports whether the client wants to hear of a source. Nil wants
// all.
func (f *filter) wantsSource(name string) bool {
	return f == nil || len(f.sources) == 0 || f.sources[name] || f.sources[f.tags.upstreamOf(name)]
}

// sourceNames are the names of the sources there are now.
func (h *hub) sourceNames() []string {
	return slices.Sorted(maps.Keys(h.inputs.states()))
}

// appendStates appends a source event for each source whose state is not the
// one sent last.
func (c *client) appendStates(now time.Time) {
	c.stateVersion = c.hub.states.version.Load()
	if !c.hub.shaped.Load().sourceEvents {
		return
	}
	report := c.hub.stateReport()
	c.buf = report.appendChanges(c.buf, c.sentStates, c.filter.wantsSource, now)
	c.sentStates = report
}
