package ssefanin

import (
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// runSize is about how many bytes of events are read from a store at once, and
	// what a client that reads there keeps of memory: as much as a segment.
	runSize = 64 << 10

	// runsKept is how many bytes of runs are kept for other clients: those that
	// come back together read the same.
	runsKept = 8 << 20

	// One client at a time goes on with older events, and after it has, nobody
	// does for idleShare times as long as that took, or less where few wait: the
	// clients at the head need the same writers and processors. catchUpTurn is the most that is waited for
	// it; a slow one goes on writing.
	idleShare   = 3
	catchUpTurn = 2 * time.Millisecond
)

// olderEvents serves the clients of one stream with events that memory no longer
// holds: it reads them from the store, for all clients that need the same. The
// durable log owns it.
//
// Safe for concurrent use.
type olderEvents struct {
	durable *durable

	mu       sync.Mutex // protects the fields below; taken last
	asked    []olderQuestion
	returned chan struct{}   // capacity 1: a client has gone on, and asks for more
	signal   chan struct{}   // capacity 1: there is a question
	runs     []*eventlog.Run // used last at the end
	memory   int64           // of runs
	failing  bool            // an error has been logged
	closed   bool            // no question is answered any more
}

// olderQuestion is what a client waits for: the events at an offset, or, with
// since, the offset of what arrived at a time.
type olderQuestion struct {
	client *client
	number uint64 // of the client's questions
	offset uint64
	since  int64 // Unix ms; 0: offset is meant
}

// olderAnswer is the answer. It is immutable.
type olderAnswer struct {
	olderQuestion
	run  *eventlog.Run // with the event at offset; nil: it is gone, or the store cannot be read
	next uint64        // with since: the offset
	all  bool          // with since: nothing that arrived from then on is gone
	err  error
}

func (o *olderEvents) init(d *durable) {
	o.durable, o.signal, o.returned = d, make(chan struct{}, 1), make(chan struct{}, 1)
}

// ask has a client woken when an answer is there; see client.older. False: there
// will be none, since the log has ended.
func (o *olderEvents) ask(q olderQuestion) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.asked = append(o.asked, q)
	nudge(o.signal)
	nudge(o.returned)
	return true
}

// forget takes back the question of a client that needs no answer any more.
func (o *olderEvents) forget(c *client) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = slices.DeleteFunc(o.asked, func(q olderQuestion) bool { return q.client == c })
}

// waiting returns how many questions there are.
func (o *olderEvents) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.asked)
}

// close wakes the clients that wait for an answer. There will be none.
func (o *olderEvents) close() {
	o.mu.Lock()
	asked := o.asked
	o.asked, o.closed = nil, true
	o.mu.Unlock()
	for _, q := range asked {
		q.client.answer(&olderAnswer{olderQuestion: q, err: logstore.ErrClosed})
	}
}

// over reports whether the log has ended.
func (o *olderEvents) over() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closed
}

// serve answers the questions. The durable log's run owns it; it ends with the
// log.
func (o *olderEvents) serve() {
	defer o.close()
	for {
		select {
		case <-o.signal:
		case <-o.durable.ctx.Done():
			return
		}
		for {
			q, ok := o.next()
			if !ok {
				break
			}
			began := time.Now()
			if o.durable.ctx.Err() != nil {
				o.put(q)
				return
			}
			a := o.answer(q)
			if a.err != nil && !errors.Is(a.err, logstore.ErrEvicted) {
				o.durable.pause(reopenAfter) // the client will ask again
			}
			o.forgetReturn()
			q.client.answer(&a)
			if a.run == nil {
				continue // next to no work for it
			}
			o.awaitReturn(&q.client.sub)
			if n := min(o.waiting(), idleShare); n > 0 {
				o.durable.pause(time.Duration(n) * min(time.Since(began), catchUpTurn/4)) // it may have been slow
			}
		}
	}
}

// put gives a question back, to be answered by close.
func (o *olderEvents) put(q olderQuestion) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = append(o.asked, q)
}

// forgetReturn is called before a client is woken.
func (o *olderEvents) forgetReturn() {
	select {
	case <-o.returned:
	default:
	}
}

// awaitReturn waits until the client that was woken has written what it got, but
// not for long: it may be slow.
func (o *olderEvents) awaitReturn(woken *subscriber) {
	ticker := time.NewTicker(catchUpTurn / 20)
	defer ticker.Stop()
	for range 20 {
		select {
		case <-o.returned:
			return
		case <-ticker.C:
			if woken.idle() {
				return
			}
		case <-o.durable.ctx.Done():
			return
		}
	}
}

// next takes the oldest question.
func (o *olderEvents) next() (q olderQuestion, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.asked) == 0 {
		o.asked = nil
		return q, false
	}
	q = o.asked[0]
	o.asked[0] = olderQuestion{}
	o.asked = o.asked[1:]
	return q, true
}

func (o *olderEvents) answer(q olderQuestion) olderAnswer {
	a := olderAnswer{olderQuestion: q}
	d := o.durable
	store := d.opened()
	switch {
	case q.since != 0:
		a.next, a.all, a.err = sinceInStore(d.ctx, store, q.since)
	default:
		a.run, a.err = o.runAt(store, q.offset)
	}
	o.note(a.err)
	return a
}

// runAt returns a run with the event at an offset.
func (o *olderEvents) runAt(store logstore.Store, offset uint64) (*eventlog.Run, error) {
	if run := o.kept(offset); run != nil {
		return run, nil
	}
	d := o.durable
	from, before := offset, ""
	if d.log().ids == idsUpstream && offset > 1 {
		from-- // whether an id was in force
	}
	records, err := store.Read(d.ctx, from, runSize)
	if errors.Is(err, logstore.ErrEvicted) && from < offset {
		from = offset
		records, err = store.Read(d.ctx, from, runSize)
	}
	if err != nil || len(records) == 0 {
		return nil, err
	}
	if records[0].Offset < offset {
		before, records = records[0].ID, records[1:]
	}
	if len(records) == 0 {
		if records, err = store.Read(d.ctx, offset, runSize); err != nil || len(records) == 0 {
			return nil, err
		}
	}
	events := make([]eventlog.Stored, len(records))
	for i := range records {
		r := &records[i]
		events[i] = eventlog.Stored{Time: r.Time, Body: r.Body}
		if r.Fence() {
			continue
		}
		events[i].Tag = d.hub.tags.tag(d.hub.tags.stored(r.Source), []byte(r.Type))
		if d.log().ids == idsUpstream {
			events[i].ID = appendUpstreamID(nil, r.ID, before)
			before = r.ID
		}
	}
	run := d.log().memory.NewRun(records[0].Offset, events)
	o.keep(run)
	return run, nil
}

// kept returns a run that was read before; nil if none has the offset.
func (o *olderEvents) kept(offset uint64) *eventlog.Run {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, run := range slices.Backward(o.runs) {
		if run.Has(offset) {
			o.runs = append(append(o.runs[:i], o.runs[i+1:]...), run)
			return run
		}
	}
	return nil
}

// keep keeps a run for others, and forgets those that were not used for longest.
func (o *olderEvents) keep(run *eventlog.Run) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.runs = append(o.runs, run)
	o.memory += run.Memory()
	for o.memory > runsKept && len(o.runs) > 1 {
		o.memory -= o.runs[0].Memory()
		o.runs[0] = nil
		o.runs = o.runs[1:]
	}
}

// forgetRuns forgets what was read: the store has lost some of it.
func (o *olderEvents) forgetRuns() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.runs, o.memory = nil, 0
}

// note logs an error in reading, once until something can be read again.
func (o *olderEvents) note(err error) {
	if errors.Is(err, logstore.ErrEvicted) || errors.Is(err, logstore.ErrClosed) || o.durable.ctx.Err() != nil {
		return
	}
	o.mu.Lock()
	begins := err != nil && !o.failing
	o.failing = err != nil
	o.mu.Unlock()
	if begins {
		o.durable.logger().Error("older events of the log cannot be read; clients that need them wait", zap.Error(err))
	}
}
