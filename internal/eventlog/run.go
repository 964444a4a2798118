package eventlog

// Run is a piece of a log that has been read from where it is kept besides
// memory: consecutive events that the log itself retains no longer, in the form
// that it would have them. It is made by one goroutine, and immutable once a
// reader has it.
type Run struct {
	log *Log
	seg *segment
}

// Stored is an event of a Run, as for Log.Append.
type Stored struct {
	Time int64 // arrival, Unix ms
	Tag  uint32
	ID   []byte // an id line that stands before the body; empty: there is none, or it is the log's
	Body []byte // empty: readers get nothing
}

// NewRun makes a run of events, of which the first has the offset base. It
// copies them.
func (l *Log) NewRun(base uint64, events []Stored) *Run {
	size := 0
	for _, e := range events {
		size += len(e.ID) + len(e.Body) + 4 + maxCursorLen + 1
	}
	seg := newSegment(base, size, len(events))
	seg.apart = true
	id := make([]byte, 0, 4+maxCursorLen+1)
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, e := range events {
		if id = append(id[:0], e.ID...); l.ids && len(e.Body) > 0 {
			id = l.appendIDLocked(id[:0], base+uint64(i), e.Time)
		}
		seg.append(id, e.Body, e.Tag, e.Time)
	}
	return &Run{l, seg}
}

// Has reports whether the event at an offset is in the run.
func (r *Run) Has(offset uint64) bool { return offset >= r.seg.base && offset < r.seg.next() }

// Memory is what the run takes, in bytes.
func (r *Run) Memory() int64 { return r.seg.cost() }

// ReadRun has the reader go on in a run; false if its position is not in there,
// or the run is of another log.
func (r *Reader) ReadRun(run *Run) bool {
	next := r.next.Load()
	if run.log != r.log || !run.Has(next) {
		return false
	}
	r.seg = run.seg
	r.pos = run.seg.end(int(next - run.seg.base))
	return true
}

// SkipTo is Skip to a given offset, and returns how many events it passed over; 0
// if the position is not before it. Where that is evicted, reading goes on with
// ErrOvertaken.
func (r *Reader) SkipTo(next uint64) (passed uint64) {
	at := r.next.Load()
	if next <= at {
		return 0
	}
	r.next.Store(next)
	if r.seg != nil && next <= r.seg.next() {
		r.pos = r.seg.end(int(next - r.seg.base))
	} else {
		r.seg = nil
	}
	return next - at
}
