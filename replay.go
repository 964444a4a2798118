package ssefanin

import (
	"encoding/binary"
	"hash/maphash"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
)

const (
	// recentEvents is how many events of an upstream are remembered, as 8-byte
	// hashes, to recognise what it sends again: at most 128 KiB an upstream.
	// Origins that keep a history for resumption keep 1,000 to 10,000 events.
	recentEvents = 16 << 10

	// replayBurst is how long after a reconnect an event without an id of its
	// own may count as sent again. A replay comes at once; a "tick" that comes
	// later is a new one, however equal.
	replayBurst = time.Second
)

// replay recognises the events that an upstream sends again after a
// reconnect: the leading run of events equal in id, type and data to recent
// ones, each as often as it was recent. The first that differs ends the run.
// Not safe for concurrent use.
type replay struct {
	recent []uint64 // ring of hashes, grown on demand
	next   int      // where the next hash goes once the ring is full

	// of the current connection
	opened time.Time
	run    map[uint64]int // recent events by hash, less those dropped; nil outside a run
	lastID []byte         // id of the previous event
}

func newReplay() *replay {
	return new(replay)
}

// open begins a connection.
func (r *replay) open(now time.Time) {
	r.opened = now
	r.run = nil
	r.lastID = r.lastID[:0]
	if len(r.recent) == 0 {
		return
	}
	r.run = make(map[uint64]int, len(r.recent))
	for _, h := range r.recent {
		r.run[h]++
	}
}

// seen says whether the event is one that was sent before the reconnect; if
// not it is remembered.
func (r *replay) seen(ev *sse.Event, now time.Time) bool {
	h := eventHash(ev)
	if r.run != nil {
		// An id that repeats tells nothing: some servers use one for everything.
		ownID := len(ev.ID) > 0 && string(ev.ID) != string(r.lastID)
		r.lastID = append(r.lastID[:0], ev.ID...)
		if n := r.run[h]; n > 0 && (ownID || now.Sub(r.opened) < replayBurst) {
			r.run[h] = n - 1
			return true
		}
		r.run = nil
	}
	if len(r.recent) < recentEvents {
		r.recent = append(r.recent, h)
		return false
	}
	r.recent[r.next] = h
	r.next = (r.next + 1) % recentEvents
	return false
}

var eventSeed = maphash.MakeSeed()

// eventHash covers id, type and data, each with its length so that none can be
// taken for a part of another.
func eventHash(ev *sse.Event) uint64 {
	var h maphash.Hash
	h.SetSeed(eventSeed)
	var lengths [16]byte
	binary.LittleEndian.PutUint64(lengths[:8], uint64(len(ev.ID)))
	binary.LittleEndian.PutUint64(lengths[8:], uint64(len(ev.Type)))
	h.Write(lengths[:])
	h.Write(ev.ID)
	h.Write(ev.Type)
	h.Write(ev.Data)
	return h.Sum64()
}
