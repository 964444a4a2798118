package ssefanin

import (
	"errors"
	"sync/atomic"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
)

// maxJudged is how many events are judged in one go, at 0.1 to 2 µs each: clients
// that come and leave wait for the same lock.
const maxJudged = 2 << 10

// views are the views of a stream's clients. Clients with equal filters share one.
// Each event that is appended is judged once for all views, before clients are
// woken: those of a view that does not have it take no turn, and need not look for
// what is theirs among the events of others. The audience owns it, and its mu
// protects all but at.
type views struct {
	hub   *hub
	byKey map[string]*view
	index viewIndex

	reader  eventlog.Reader // of the events to be judged
	touched []*view         // by the events judged last
	begun   uint64          // how many judgings there were

	// at is how far events have been judged; nil as long as there is no view.
	at atomic.Pointer[judging]
}

// judging is how far the events of a log have been judged, from some offset on and
// without a hole. Once it has one, another takes its place.
type judging struct {
	number uint64 // rises from one to the next
	log    *streamLog
	from   uint64
	next   atomic.Uint64 // the first offset that has not been judged
}

func (vs *views) init(h *hub) {
	vs.hub, vs.byKey = h, make(map[string]*view)
	vs.index.init(h.tags)
}

// join returns the view for one more client, with a scope that equals that of the
// given one.
func (vs *views) join(like *view) *view {
	key := like.key()
	v := vs.byKey[key]
	if v == nil {
		v = like
		vs.byKey[key] = v
		vs.index.add(v)
		at := vs.at.Load()
		if at == nil {
			at = vs.begin(vs.hub.log.Load())
		}
		v.begin(at)
	}
	v.clients++
	return v
}

// leave is called for each client that join was called for.
func (vs *views) leave(v *view) {
	if v.clients--; v.clients > 0 {
		return
	}
	delete(vs.byKey, v.key())
	vs.index.remove(v)
	if len(vs.byKey) == 0 {
		vs.at.Store(nil)
		vs.touched, vs.reader = nil, eventlog.Reader{}
	}
}

// begin has the events judged that are appended to a log from now on.
func (vs *views) begin(log *streamLog) *judging {
	vs.reader.Begin(log.memory, log.memory.Head()+1)
	return vs.beginAtReader(log)
}

func (vs *views) beginAtReader(log *streamLog) *judging {
	vs.begun++
	at := &judging{number: vs.begun, log: log, from: vs.reader.Position()}
	at.next.Store(at.from)
	vs.at.Store(at)
	return at
}

// judge judges what was appended to the stream's log. all: any view may have
// something new, since there are events that could not be judged; otherwise it is
// those that vs.touched has. more: there is more to judge.
func (vs *views) judge() (all, more bool) {
	at := vs.at.Load()
	if at == nil {
		return false, false
	}
	if log := vs.hub.log.Load(); at.log != log {
		vs.begin(log)
		return true, false
	}
	for left := maxJudged; left > 0; {
		n, err := vs.reader.Scan(left, func(offset uint64, tag uint32, stored []byte) {
			for _, v := range vs.index.find(tag, stored) {
				if v.note(at, offset) {
					vs.touched = append(vs.touched, v)
				}
			}
		})
		at.next.Store(vs.reader.Position())
		switch {
		case errors.Is(err, eventlog.ErrOvertaken):
			vs.reader.Skip()
			vs.beginAtReader(at.log)
			return true, true
		case n == 0:
			return false, false
		}
		left -= n
	}
	return false, true
}

// takeTouched calls each with the views that the events judged last are of, once.
func (vs *views) takeTouched(each func(*view)) {
	for i, v := range vs.touched {
		v.touched = false
		each(v)
		vs.touched[i] = nil
	}
	vs.touched = vs.touched[:0]
}
