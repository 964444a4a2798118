package ssetest

import "sort"

// entry is one thing to send to every connection.
type entry struct {
	n    uint64 // of the event; of the event before it for raw bytes
	id   string // as on the wire, "" without one
	raw  bool   // raw bytes: live only, never replayed
	cut  bool   // connections that see it live end in the middle of it
	wire []byte
}

// history is the bounded sequence of what an Origin sent. An entry's position
// never changes; positions start at 0. Not safe for concurrent use.
type history struct {
	max      int
	ring     []entry
	head     uint64 // position of the next entry
	last     uint64 // n of the newest event
	numbered uint64 // numbered events so far
}

// oldest is the position of the oldest entry.
func (h *history) oldest() uint64 { return h.head - uint64(len(h.ring)) }

func (h *history) at(pos uint64) *entry { return &h.ring[pos%uint64(h.max)] }

func (h *history) append(e entry) {
	if len(h.ring) < h.max {
		h.ring = append(h.ring, e)
	} else {
		h.ring[h.head%uint64(h.max)] = e
	}
	h.head++
}

// after is the position behind the first event with this id. Where ids repeat
// the first one is taken, so that a resume repeats events and never skips any.
// Without such an event it is false.
func (h *history) after(id string) (uint64, bool) {
	for pos := h.oldest(); pos < h.head; pos++ {
		if e := h.at(pos); !e.raw && e.id == id {
			return pos + 1, true
		}
	}
	return 0, false
}

// afterNumber is after for the default ids, which are the numbers. A number
// older than the history gives the oldest entry.
func (h *history) afterNumber(n uint64) (uint64, bool) {
	if n > h.last {
		return 0, false
	}
	start := h.oldest()
	i := sort.Search(len(h.ring), func(i int) bool { return h.at(start+uint64(i)).n > n })
	return start + uint64(i), true
}
