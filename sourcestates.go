package ssefanin

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

// stateReport is what source events tell of a stream's sources, made once for
// all clients: at each change of a source, every client asks for it. Immutable.
type stateReport struct {
	change  uint64          // of hub.stateChanges
	sources []reportedState // by name
}

// reportedState is a source's state, and the event that tells it.
type reportedState struct {
	name  string
	state toldState
	event []byte
}

// toldState is what source events tell of a state.
type toldState struct {
	up     bool
	reason reason
	since  int64 // Unix ms
}

func (st sourceState) told() toldState {
	told := toldState{up: st.phase == phaseUp, reason: st.reason, since: st.since.UnixMilli()}
	switch {
	case told.up:
		told.reason = ""
	case told.reason == "":
		told.reason = reason(st.phase)
	}
	return told
}

// stateReport returns the states of the sources as they are now.
func (h *hub) stateReport() *stateReport {
	if r := h.reported.Load(); r != nil && r.change == h.stateChanges.Load() {
		return r
	}
	h.reportMu.Lock()
	defer h.reportMu.Unlock()
	last := h.reported.Load()
	change := h.stateChanges.Load() // before the states: one that changes meanwhile is for the next report
	if last != nil && last.change == change {
		return last
	}
	next := &stateReport{change: change}
	states := h.sourceStates()
	for _, name := range slices.Sorted(maps.Keys(states)) {
		s := reportedState{name: name, state: states[name].told()}
		if before, ok := last.find(name); ok && before.state == s.state {
			s = before
		} else {
			s.event = appendSourceEvent(nil, name, s.state)
		}
		next.sources = append(next.sources, s)
	}
	h.reported.Store(next)
	return next
}

// find returns what is reported of a source. A nil report has none.
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
// what was told last; told is nil if nothing was.
func (r *stateReport) appendChanges(dst []byte, told *stateReport, wants func(name string) bool, now time.Time) []byte {
	var before []reportedState
	if told != nil {
		before = told.sources
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
	return appendSourceEvent(dst, name, toldState{reason: reasonRemoved, since: now.UnixMilli()})
}

// appendSourceEvent appends a fanin.source event. Names and reasons have no
// characters that JSON escapes. It carries no id, and never enters the log.
func appendSourceEvent(dst []byte, name string, st toldState) []byte {
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
