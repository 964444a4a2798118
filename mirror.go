package ssefanin

import (
	"sort"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

const (
	// mirrorWindow is how many delivered events are remembered to recognise
	// them when they come from the other replicas, about 100 bytes each: at
	// most 3 MiB an upstream, and as much as a replica sends that was away for
	// a minute at 500 events a second.
	mirrorWindow = 32 << 10

	// maxBehind is the most that counts as a replica's lag.
	maxBehind = time.Minute

	// lagDecay is how fast a replica's lag is forgotten: by a sixteenth of it
	// with each event.
	lagDecay = 16

	// maxMirrors is how many replicas can be distinguished: a bit each.
	maxMirrors = 64
)

// mirror decides which events of replicas that carry the same content are
// delivered: each once, from whichever has it first. Events are the same when
// their own id, type and data are, and it is the same occurrence: the second
// "tick" of one replica is the second of another.
//
// Events delivered before a replica connected are another matter: how many of
// them the replica will send, again or late, is unknown. lineup returns which
// ones to compare with.
//
// Not safe for concurrent use.
type mirror struct {
	begun  time.Time
	window []occurrence           // ring, by sequence number
	byHash map[print][]uint64     // sequence numbers in the window, oldest first
	ids    map[uint32]int         // how often an id occurs in the window
	seq    uint64                 // of the next delivered event
	slots  [maxMirrors]mirrorSlot // by replica
	newest []byte                 // id of the event delivered last
}

// occurrence is one delivered event.
type occurrence struct {
	print print
	seen  uint64        // bit mask of the replicas that have sent it
	at    time.Duration // its arrival, since the mirror began
}

// mirrorSlot is the state of a replica.
type mirrorSlot struct {
	used  bool
	up    bool   // it is connected
	first uint64 // events delivered before it connected are below
	next  uint64 // the event after the newest it has sent, 0: it has sent none
	base  uint64 // number of the first event in its lineup

	// behind is how far it was behind the first sender; it falls slowly.
	behind time.Duration
}

func newMirror() *mirror {
	return &mirror{begun: time.Now(), byHash: make(map[print][]uint64), ids: make(map[uint32]int)}
}

// soFar returns the newest event's id and the events in the window; nil if there is
// neither.
func (m *mirror) soFar() *startPoint {
	if m.seq == 0 && len(m.newest) == 0 {
		return nil
	}
	p := &startPoint{id: string(m.newest)}
	for seq := m.seq - uint64(len(m.window)); seq < m.seq; seq++ {
		o := &m.window[seq%mirrorWindow]
		p.prints = append(p.prints, o.print)
		p.times = append(p.times, m.begun.Add(o.at).UnixMilli())
	}
	return p
}

// remember takes over events that were delivered before, by another process or another
// mirror.
func (m *mirror) remember(p *startPoint) {
	for i, print := range p.prints {
		m.push(occurrence{print: print, at: time.UnixMilli(p.times[i]).Sub(m.begun)})
	}
	m.newest = append(m.newest[:0], p.id...)
}

// sentAll notes that a replica has sent everything so far.
func (m *mirror) sentAll(slot int) {
	for i := range m.window {
		m.window[i].seen |= 1 << slot
	}
	m.slots[slot].next = m.seq
}

// add gives a replica a slot; false when all are taken.
func (m *mirror) add() (slot int, ok bool) {
	for i := range m.slots {
		if !m.slots[i].used {
			m.slots[i] = mirrorSlot{used: true, first: m.seq}
			return i, true
		}
	}
	return 0, false
}

// remove frees a replica's slot.
func (m *mirror) remove(slot int) {
	m.slots[slot] = mirrorSlot{}
	for i := range m.window {
		m.window[i].seen &^= 1 << slot
	}
}

// resumeElsewhere returns the id to resume a replica from if its own last event
// is no longer in the window: asked from there, it would send repeats that
// could not be recognised.
func (m *mirror) resumeElsewhere(slot int) (id string, ok bool) {
	stale := len(m.window) == mirrorWindow && m.slots[slot].next+mirrorWindow <= m.seq
	return string(m.newest), stale && len(m.newest) > 0
}

// noteUp begins a connection of a replica. It returns how far the replica was
// behind the others before: that long after them, events from before the
// connection are to be expected of it.
func (m *mirror) noteUp(slot int) (behind time.Duration) {
	s := &m.slots[slot]
	s.up, s.first = true, m.seq
	return s.behind
}

// noteDown ends a connection of a replica.
func (m *mirror) noteDown(slot int) { m.slots[slot].up = false }

// othersUp reports whether another replica is connected.
func (m *mirror) othersUp(slot int) bool {
	for i := range m.slots {
		if i != slot && m.slots[i].up {
			return true
		}
	}
	return false
}

// lineup compares the leading events of a replica's connection with the events
// delivered before it. A replay ends with the newest event that the replica has
// sent itself; one that lags, or was away, goes on from there to the newest of
// all.
func (m *mirror) lineup(slot int) *lineup {
	s := &m.slots[slot]
	s.base = m.seq - uint64(len(m.window))
	var seen []print
	for seq := s.base; seq < s.first; seq++ {
		seen = append(seen, m.window[seq%mirrorWindow].print)
	}
	return newLineup(seen, int(max(s.next, s.base)-s.base), len(seen))
}

// repeated notes that a replica has sent an event from before its connection,
// by its number in the lineup, from 1.
func (m *mirror) repeated(slot, number int) {
	s := &m.slots[slot]
	seq := s.base + uint64(number) - 1
	s.next = max(s.next, seq+1)
	if seq+uint64(len(m.window)) >= m.seq { // it is in the window yet
		o := &m.window[seq%mirrorWindow]
		o.seen |= 1 << slot
	}
}

// alsoSince reports whether the held events and one more lie also among the
// ones delivered since the replica connected: then they are repeats of these.
func (m *mirror) alsoSince(slot int, h *held, last print) bool {
	n := uint64(len(h.events)) + 1
	for from := m.slots[slot].first; from+n <= m.seq; from++ {
		if m.window[(from+n-1)%mirrorWindow].print != last {
			continue
		}
		i := uint64(0)
		for i < n-1 && h.events[i].print == m.window[(from+i)%mirrorWindow].print {
			i++
		}
		if i == n-1 {
			return true
		}
	}
	return false
}

// lags reports whether a replica is so far behind that it is not taken for one
// that is in step.
func (m *mirror) lags(slot int) bool { return m.slots[slot].behind >= replayPatience }

// asLate reports whether what is held of a replica, as its run ends, came as
// late as its events do, and notes how late: it lies in one stretch, and each
// event is older than its copy by no more than the replica is behind, and a
// second. Connections may be shorter than the lag, so that no run ever comes to
// an end; and where others have missed an event, the run of one that brings it
// breaks off. A replica that is in step may be believed only while another is
// connected, which sends what is new, too.
func (m *mirror) asLate(slot int, l *leading, run stretch) bool {
	s := &m.slots[slot]
	if len(l.held.events) == 0 || run == (stretch{}) || (!m.lags(slot) && !m.othersUp(slot)) {
		return false
	}
	from, late := int(run.next)-len(l.held.events), time.Duration(0)
	for i := range l.held.events {
		e := &l.held.events[i]
		if from+i < 0 || l.line.seen[from+i] != e.print {
			return false
		}
		seq := s.base + uint64(from+i)
		if seq+uint64(len(m.window)) < m.seq {
			return false
		}
		if late = e.at.Sub(m.begun) - m.window[seq%mirrorWindow].at; late > s.behind+replayPatience {
			return false
		}
	}
	s.behind = min(max(s.behind, late), maxBehind)
	return true
}

// first reports whether an event is to be delivered.
func (m *mirror) first(slot int, p print, ev *sse.Event, now time.Time) bool {
	s := &m.slots[slot]
	same := m.byHash[p]
	before := sort.Search(len(same), func(i int) bool { return same[i] >= s.first })
	if id, ok := p.id(); ok && m.ids[id] == 1 {
		if _, ok := m.take(slot, same[:before]); ok {
			return false
		}
	}
	at := now.Sub(m.begun)
	s.behind -= s.behind / lagDecay
	if seq, ok := m.take(slot, same[before:]); ok {
		// not since the newest it has sent, which it may have brought itself
		s.behind = min(max(s.behind, at-m.window[seq%mirrorWindow].at), maxBehind)
		return false
	}
	m.push(occurrence{print: p, seen: 1 << slot, at: at})
	s.next = m.seq
	if hasOwnID(ev) {
		m.newest = append(m.newest[:0], ev.ID...)
	}
	return true
}

// take notes that a replica has sent the first of some occurrences that it has
// not sent yet, and returns its number; false if there is none. A replica sends
// them in order, so that those it has sent come first.
func (m *mirror) take(slot int, same []uint64) (seq uint64, ok bool) {
	bit := uint64(1) << slot
	n := sort.Search(len(same), func(i int) bool { return m.window[same[i]%mirrorWindow].seen&bit == 0 })
	if n == len(same) {
		return 0, false
	}
	seq = same[n]
	m.window[seq%mirrorWindow].seen |= bit
	m.slots[slot].next = max(m.slots[slot].next, seq+1)
	return seq, true
}

// push adds an event to the window. At its limit the oldest goes.
func (m *mirror) push(o occurrence) {
	if len(m.window) < mirrorWindow {
		m.window = append(m.window, o)
	} else {
		i := m.seq % mirrorWindow
		m.evict(m.window[i].print)
		m.window[i] = o
	}
	m.byHash[o.print] = append(m.byHash[o.print], m.seq)
	if id, ok := o.print.id(); ok {
		m.ids[id]++
	}
	m.seq++
}

// evict forgets the oldest event in the window.
func (m *mirror) evict(oldest print) {
	if seqs := m.byHash[oldest][1:]; len(seqs) > 0 {
		m.byHash[oldest] = seqs
	} else {
		delete(m.byHash, oldest)
	}
	if id, ok := oldest.id(); ok {
		if m.ids[id]--; m.ids[id] == 0 {
			delete(m.ids, id)
		}
	}
}
