package ssefanin

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// stateReport has the states of a stream's sources for source events, made once
// for all clients: at each change of a source, every client asks for it.
// Immutable.
type stateReport struct {
	change  uint64          // of stateReports.changes
	sources []reportedState // by name
}

// reportedState is a source's state, and the event that reports it.
type reportedState struct {
	name  string
	state clientState
	event []byte
}

// clientState is a state as source events report it.
type clientState struct {
	up     bool
	reason reason
	since  int64 // Unix ms
}

func (st sourceState) forClients() clientState {
	public := clientState{up: st.phase == phaseUp, reason: st.reason, since: st.since.UnixMilli()}
	switch {
	case public.up:
		public.reason = ""
	case public.reason == "":
		public.reason = reason(st.phase)
	}
	return public
}

// stateReports makes the reports of one stream, one for each change. Safe for
// concurrent use.
type stateReports struct {
	// version counts the changes of sources' states that clients are notified
	// of; changes, which is raised first, counts changes of a reason only, too.
	version atomic.Uint64
	changes atomic.Uint64

	mu     sync.Mutex // held while a report is made; taken before that of inputs
	newest atomic.Pointer[stateReport]
}

// changed notes a change that clients are notified of, reasonChanged one that
// only later clients get.
func (r *stateReports) changed() {
	r.changes.Add(1)
	r.version.Add(1)
}

func (r *stateReports) reasonChanged() { r.changes.Add(1) }

// now returns the report of the states as they are now; states asks for them.
func (r *stateReports) now(states func() map[string]sourceState) *stateReport {
	if made := r.newest.Load(); made != nil && made.change == r.changes.Load() {
		return made
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.newest.Load()
	change := r.changes.Load() // before the states: one that changes meanwhile is for the next report
	if last != nil && last.change == change {
		return last
	}
	next := &stateReport{change: change}
	all := states()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := reportedState{name: name, state: all[name].forClients()}
		if before, ok := last.find(name); ok && before.state == s.state {
			s = before
		} else {
			s.event = appendSourceEvent(nil, name, s.state)
		}
		next.sources = append(next.sources, s)
	}
	r.newest.Store(next)
	return next
}

// stateReport returns the states of the sources as they are now.
func (h *hub) stateReport() *stateReport { return h.states.now(h.inputs.states) }

// find returns the reported state of a source. A nil report has none.
func (r *stateReport) find(name string) (reportedState, bool) {
	if r == nil {
		return reportedState{}, false
	}
	i, ok := slices.BinarySearchFunc(r.sources, name, func(s reportedState, name string) int {
		return cmp.Compare(s.name, name)
	})
	if !ok {
		return reportedState{}, false
	}
	return r.sources[i], true
}

// appendChanges appends a source event for each wanted source whose state is not
// that of last, the report sent before; nil if there was none.
func (r *stateReport) appendChanges(dst []byte, last *stateReport, wants func(name string) bool, now time.Time) []byte {
	var before []reportedState
	if last != nil {
		before = last.sources
	}
	for i := range r.sources {
		s := &r.sources[i]
		for len(before) > 0 && before[0].name != s.name && before[0].name < s.name {
			dst = appendRemoved(dst, before[0].name, wants, now)
			before = before[1:]
		}
		if len(before) > 0 && before[0].name == s.name {
			same := bytes.Equal(before[0].event, s.event) // at once, where it was not written again
			before = before[1:]
			if same {
				continue
			}
		}
		if wants(s.name) {
			dst = append(dst, s.event...)
		}
	}
	for _, s := range before {
		dst = appendRemoved(dst, s.name, wants, now)
	}
	return dst
}

func appendRemoved(dst []byte, name string, wants func(name string) bool, now time.Time) []byte {
	if !wants(name) {
		return dst
	}
	return appendSourceEvent(dst, name, clientState{reason: reasonRemoved, since: now.UnixMilli()})
}

// appendSourceEvent appends a fanin.source event. Names and reasons have no
// characters that JSON escapes. It carries no id, and never enters the log.
func appendSourceEvent(dst []byte, name string, st clientState) []byte {
	state := "down"
	if st.up {
		state = "up"
	}
	var data []byte
	data = append(append(data, `{"source":"`...), name...)
	data = append(append(data, `","state":"`...), state...)
	data = append(append(data, `","reason":"`...), st.reason...)
	data = strconv.AppendInt(append(data, `","since":`...), st.since, 10)
	data = append(data, '}')
	return sse.AppendEvent(dst, &sse.Event{Type: []byte(controlPrefix + "source"), Data: data})
}
