package ssetest

import (
	"sync"
	"sync/atomic"
)

// ref names a numbered event in one word: 12 bits of source index, from 1,
// and 52 bits of n. 0 is no event.
type ref uint64

const (
	refBits    = 52
	maxSources = 1<<12 - 1
)

func newRef(source int, n uint64) ref { return ref(uint64(source)<<refBits | n&(1<<refBits-1)) }
func (r ref) source() int             { return int(r >> refBits) }
func (r ref) n() uint64               { return uint64(r) & (1<<refBits - 1) }

// slot is what the clients agree on about one event. The first client to
// know writes a word, all others compare. If every client has the same
// neighbours for every event, all see one total order over the intervals they
// share, wherever they begin.
type slot struct {
	next, prev, content       atomic.Uint64
	nextBy, prevBy, contentBy atomic.Uint32 // index of the client that wrote it
}

// chunkSize is the number of slots allocated at once, 40 bytes each: an hour
// of 400 events/s takes 58 MiB.
const chunkSize = 1024

type chunk [chunkSize]slot

// ledger holds the slots of one source. Its lock is taken once per client and
// chunk, as tracks remember their chunk.
type ledger struct {
	index int
	name  string

	mu     sync.Mutex // protects chunks
	chunks map[uint64]*chunk
}

func (l *ledger) chunk(number uint64) *chunk {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.chunks[number]
	if c == nil {
		c = new(chunk)
		l.chunks[number] = c
	}
	return c
}

// agree sets the word or compares it. It returns the other value and the
// client that wrote it when they differ.
func agree(word *atomic.Uint64, by *atomic.Uint32, value uint64, client uint32) (other uint64, who uint32, ok bool) {
	for {
		switch old := word.Load(); old {
		case value:
			return 0, 0, true
		case 0:
			if word.CompareAndSwap(0, value) {
				by.Store(client)
				return 0, 0, true
			}
		default:
			return old, by.Load(), false
		}
	}
}
