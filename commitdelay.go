package ssefanin

import (
	"sync"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// commitDelay measures how long a store takes to commit an event: of one at a
// time, so that it costs next to nothing. Safe for concurrent use.
type commitDelay struct {
	delays delays

	mu        sync.Mutex // protects the fields below; taken last
	term      uint64     // the term that is measured
	handed    uint64     // records that were handed over in it
	committed uint64     // of these
	awaited   uint64     // number of the record that is being measured; 0: none
	since     time.Time
}

// begin begins with another term.
func (c *commitDelay) begin(term uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.term, c.handed, c.committed, c.awaited = term, 0, 0, 0
}

// appended notes that a record was handed over.
func (c *commitDelay) appended() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handed++
	if c.awaited == 0 {
		c.awaited, c.since = c.handed, time.Now()
	}
}

// applied notes that records were committed.
func (c *commitDelay) applied(batch []logstore.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range batch {
		if batch[i].Term == c.term && !batch[i].Fence() {
			c.committed++
		}
	}
	if c.awaited != 0 && c.committed >= c.awaited {
		c.delays.observe(time.Since(c.since).Milliseconds())
		c.awaited = 0
	}
}
