package ssefanin

import (
	"math/bits"
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

	// maxMirrors is how many replicas can be told apart: a bit each.
	maxMirrors = 64
)

// mirror decides which events of replicas that carry the same content are
// delivered: each once, from whichever has it first. Events are the same when
// id, type and data are, and it is the same occurrence: the second "tick" of
// one replica is the second of another.
//
// Not safe for concurrent use.
type mirror struct {
	window  []occurrence           // ring, by sequence number
	byHash  map[uint64][]uint64    // sequence numbers in the window, oldest first
	seq     uint64                 // of the next delivered event
	slots   [maxMirrors]mirrorSlot // by replica
	newest  []byte                 // id of the event delivered last
	lastIDs [maxMirrors][]byte     // id of each replica's last event
	opening uint64                 // bit mask of the replicas that settle has not judged yet
}

// occurrence is one delivered event.
type occurrence struct {
	hash uint64
	seen uint64 // bit mask of the replicas that have sent it
}

// mirrorSlot is what is known of a replica.
type mirrorSlot struct {
	used   bool
	opened time.Time // of its connection
	first  uint64    // events delivered before it connected are below
	last   uint64    // the newest event it has sent

	// repeats are the events that were taken for ones from before it connected,
	// counted by hash. Nil once settle has judged them.
	repeats map[uint64]int
}

func newMirror() *mirror {
	return &mirror{byHash: make(map[uint64][]uint64)}
}

// add gives a replica a slot; false when all are taken.
func (m *mirror) add() (slot int, ok bool) {
	for i := range m.slots {
		if !m.slots[i].used {
			m.slots[i] = mirrorSlot{used: true, first: m.seq}
			m.lastIDs[i] = nil
			return i, true
		}
	}
	return 0, false
}

// remove frees a replica's slot.
func (m *mirror) remove(slot int) {
	m.slots[slot] = mirrorSlot{}
	m.opening &^= 1 << slot
	for i := range m.window {
		m.window[i].seen &^= 1 << slot
	}
}

// resumeElsewhere returns the id to resume a replica from if its own last
// event is no longer in the window: asked from there, it would send again
// what could not be recognised.
func (m *mirror) resumeElsewhere(slot int) (id string, ok bool) {
	stale := len(m.window) == mirrorWindow && m.slots[slot].last+mirrorWindow < m.seq
	return string(m.newest), stale && len(m.newest) > 0
}

// open begins a connection of a replica.
func (m *mirror) open(slot int, now time.Time) {
	s := &m.slots[slot]
	s.opened, s.first, s.repeats = now, m.seq, make(map[uint64]int)
	m.opening |= 1 << slot
	m.lastIDs[slot] = m.lastIDs[slot][:0]
}

// first says whether an event is to be delivered.
func (m *mirror) first(slot int, ev *sse.Event, now time.Time) bool {
	m.settle(now)
	s := &m.slots[slot]
	ownID := len(ev.ID) > 0 && string(ev.ID) != string(m.lastIDs[slot])
	m.lastIDs[slot] = append(m.lastIDs[slot][:0], ev.ID...)
	h := eventHash(ev)
	before, since := m.occurrences(h, s.first)
	// Without an id, an event that comes a while after the connection was made
	// is not one from before it: replays come at once.
	if (ownID || s.repeats != nil) && m.take(slot, before) {
		if s.repeats != nil {
			s.repeats[h]++
		}
		return false
	}
	if m.take(slot, since) {
		return false
	}
	m.push(occurrence{hash: h, seen: 1 << slot})
	s.last = m.seq - 1
	if len(ev.ID) > 0 {
		m.newest = append(m.newest[:0], ev.ID...)
	}
	return true
}

// repeated notes an event that was taken for one that the replica itself has
// sent before.
func (m *mirror) repeated(slot int, ev *sse.Event, now time.Time) {
	m.settle(now)
	if s := &m.slots[slot]; s.repeats != nil {
		s.repeats[eventHash(ev)]++
	}
}

// settle judges the events that were taken for ones from before a connection,
// when the time for replays is over. By then the replica is in step: of what
// was delivered since it connected, it has sent what it can have. Otherwise a
// replica that joined a stream of equal events, and replayed nothing, would
// seem behind for good, and what it sends would be dropped when the others die.
func (m *mirror) settle(now time.Time) {
	for left := m.opening; left != 0; left &= left - 1 {
		slot := bits.TrailingZeros64(left)
		s := &m.slots[slot]
		if now.Sub(s.opened) < replayBurst {
			continue
		}
		for h, n := range s.repeats {
			for _, since := m.occurrences(h, s.first); n > 0 && m.take(slot, since); n-- {
			}
		}
		s.repeats = nil
		m.opening &^= 1 << slot
	}
}

// occurrences returns the sequence numbers of an event's occurrences, those
// below first and the others.
func (m *mirror) occurrences(hash, first uint64) (before, since []uint64) {
	same := m.byHash[hash]
	n := sort.Search(len(same), func(i int) bool { return same[i] >= first })
	return same[:n], same[n:]
}

// take notes that a replica has sent the first of some occurrences that it has
// not sent yet; false if there is none. A replica sends them in order, so that
// those it has sent come first.
func (m *mirror) take(slot int, same []uint64) bool {
	bit := uint64(1) << slot
	n := sort.Search(len(same), func(i int) bool { return m.window[same[i]%mirrorWindow].seen&bit == 0 })
	if n == len(same) {
		return false
	}
	m.window[same[n]%mirrorWindow].seen |= bit
	m.slots[slot].last = max(m.slots[slot].last, same[n])
	return true
}

func (m *mirror) push(o occurrence) {
	if len(m.window) < mirrorWindow {
		m.window = append(m.window, o)
	} else {
		i := m.seq % mirrorWindow
		old := m.window[i].hash
		if seqs := m.byHash[old][1:]; len(seqs) > 0 {
			m.byHash[old] = seqs
		} else {
			delete(m.byHash, old)
		}
		m.window[i] = o
	}
	m.byHash[o.hash] = append(m.byHash[o.hash], m.seq)
	m.seq++
}
