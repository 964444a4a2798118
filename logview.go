package ssefanin

import "github.com/sse-fanin/caddy-sse-fanin/logstore"

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
	// Why it is stalled, or what went wrong last.
	Error string `json:"error"`

	First  uint64 `json:"first"` // 0 until it is open
	Last   uint64 `json:"last"`
	Events uint64 `json:"events"`
	Bytes  int64  `json:"bytes"`
	// The oldest offset that is held in memory.
	MemoryFirst uint64 `json:"memory_first"`

	Term      uint64 `json:"term"`
	Writer    string `json:"writer"`
	Takeovers uint64 `json:"takeovers"`

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
}

// epochStatus is the operators' view of an incarnation of a log.
type epochStatus struct {
	ID    string `json:"id"`
	First uint64 `json:"first"`
}

// view returns the status of the store.
func (d *durable) view() *storeStatus {
	// Epochs before the rest: a newer one begins after what is retained.
	epochs, st, def := d.epochs(), d.status(), d.def.Load()
	s := &storeStatus{
		Kind: def.kind, State: st.State, Since: unixMilli(st.Since),
		First: st.First, Last: st.Last, Bytes: st.Bytes,
		MemoryFirst: d.log().memory.Tail(),
		Term:        st.Term, Writer: st.Writer, Takeovers: st.Takeovers,
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

// follows reports whether this process only reads the log: the upstreams are
// another one's. False of a log that is kept in memory only.
func (s *storeStatus) follows() bool { return s != nil && s.State == logstore.Following }

// unready is why clients get nothing new, or not all there is; empty if they do,
// as from every log that is kept in memory only.
func (s *storeStatus) unready() string {
	if s == nil || s.State == logstore.Writing || s.State == logstore.Following {
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
func (l *logStatus) describe(d *durable) {
	st, def := d.view(), d.def.Load()
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
