package ssefanin

import (
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// logStates are the states that a store can have, for metrics.
var logStates = [...]logstore.State{
	logstore.Loading, logstore.Following, logstore.Writing, logstore.Stalled, logstore.Closed,
}

// logKindFile is the kind of FileLog.
const logKindFile = "file"

// storeStatus is the operators' view of where a log is kept besides memory.
type storeStatus struct {
	Kind string `json:"kind"`
	// The stream's folder, if it is kept in files.
	Dir   string         `json:"dir,omitempty"`
	State logstore.State `json:"state"`
	Since int64          `json:"since"`
	// Why it is stalled, or what went wrong last, and when something did.
	Error     string `json:"error"`
	LastError int64  `json:"last_error"`

	First  uint64 `json:"first"` // 0 until it is open
	Last   uint64 `json:"last"`
	Events uint64 `json:"events"`
	Bytes  int64  `json:"bytes"`
	// The oldest and the newest offset that memory holds, and how long ago the
	// store had what memory has not, in ms.
	MemoryFirst uint64 `json:"memory_first"`
	MemoryLast  uint64 `json:"memory_last"`
	Behind      int64  `json:"behind"`

	// This process writes the log, also where nothing can be committed at present.
	Writes    bool   `json:"writes"`
	Term      uint64 `json:"term"`
	Writer    string `json:"writer"`
	Takeovers uint64 `json:"takeovers"`
	// Since when no node has been known to write it, though one should.
	Unwritten int64 `json:"unwritten,omitempty"`

	// What was appended and is not committed yet.
	Buffered      int   `json:"buffered"`
	BufferedBytes int64 `json:"buffered_bytes"`

	Refused uint64        `json:"refused"`
	Resyncs uint64        `json:"resyncs"`
	Epochs  []epochStatus `json:"epochs"` // oldest first

	// The nodes that serve the stream, by name, where several share the log.
	Nodes []nodeStatus `json:"nodes,omitempty"`

	err            error
	oldest, newest int64 // arrivals
	advice         logstore.Advice
}

// epochStatus is the operators' view of an incarnation of a log.
type epochStatus struct {
	ID    string `json:"id"`
	First uint64 `json:"first"`
}

// view returns the status of the store.
func (d *durable) view() *storeStatus {
	// Epochs before the rest: a newer one begins after what is retained.
	epochs, st, def, seen := d.epochs(), d.status(), d.def.Load(), d.watched()
	memory := d.log().memory
	head := memory.Head()
	s := &storeStatus{
		Kind: def.kind, State: st.State, Since: unixMilli(st.Since),
		First: st.First, Last: st.Last, Bytes: st.Bytes,
		LastError:   unixMilli(seen.failed),
		MemoryFirst: memory.Tail(), MemoryLast: head, Behind: seen.behind(head, time.Now()).Milliseconds(),
		Writes: d.writing.Load(), Term: st.Term, Writer: st.Writer, Takeovers: st.Takeovers, Unwritten: unixMilli(seen.unwritten),
		Buffered: st.Buffered, BufferedBytes: st.BufferedBytes,
		Refused: st.Refused, Resyncs: st.Resyncs,
		Epochs: make([]epochStatus, 0, len(epochs)),
		Nodes:  d.cluster.nodes(),
		err:    st.Err, oldest: st.Oldest, newest: st.Newest,
	}
	if st.Err != nil {
		s.Error = st.Err.Error()
	}
	if def.kind == logKindFile {
		s.Dir = def.key
	}
	if adviser, ok := def.opener.(logstore.Adviser); ok {
		s.advice = adviser.Advise(d.hub.label)
	}
	if s.opened() {
		s.Events = st.Last + 1 - st.First
	}
	for _, e := range epochs {
		s.Epochs = append(s.Epochs, epochStatus(e))
	}
	return s
}

// opened reports whether it is known what the store has.
func (s *storeStatus) opened() bool { return s.First > 0 }

// shared reports whether several nodes may serve the log.
func (s *storeStatus) shared() bool { return len(s.Nodes) > 0 }

// follows reports whether this process only reads the log: the upstreams are
// another one's. False of a log that is kept in memory only.
func (s *storeStatus) follows() bool { return s != nil && s.State == logstore.Following }

// writerless is for how long no node may write a log that one should: by then
// another one has taken over, unless something keeps them all from it.
const writerless = 15 * time.Second

// unwritten is for how long no node has written the log, though one should: 0
// until that is more than what a takeover takes.
func (s *storeStatus) unwritten(now time.Time) time.Duration {
	if s == nil || s.Unwritten == 0 || s.State != logstore.Following {
		return 0
	}
	lasts := now.Sub(time.UnixMilli(s.Unwritten))
	if lasts < writerless {
		return 0
	}
	return lasts
}

// unready is why clients get nothing new, or not all there is; empty if they do,
// as from every log that is kept in memory only.
func (s *storeStatus) unready(now time.Time) string {
	switch {
	case s == nil || s.State == logstore.Writing:
		return ""
	case s.State == logstore.Following:
		if lasts := s.unwritten(now); lasts > 0 {
			return "no node has written the log for " + spanText(lasts)
		}
		return ""
	}
	text := "the log is " + string(s.State)
	if s.Error != "" {
		text += ": " + s.Error
	}
	return text
}

// describe has the status say what clients can get from the store, and what its
// bounds are, instead of what memory holds.
func (l *logStatus) describe(st *storeStatus, def *logDef) {
	l.Store = st
	if st.opened() {
		l.Head, l.Tail, l.Events, l.Bytes = st.Last, st.First, st.Events, st.Bytes
		l.Oldest, l.Newest = st.oldest, st.newest
	}
	l.MaxEvents, l.MaxBytes = int(def.bounds.Events), def.bounds.Bytes //nolint:gosec // it was an int
	l.MaxAge, l.MaxMemory = def.bounds.Age.Milliseconds(), def.cache.MaxBytes
	if n := len(st.Epochs); n > 0 {
		l.Epoch = st.Epochs[n-1].ID
	} else {
		l.Epoch = "" // that of the log in memory is nobody's
	}
}
