package ssefanin

import (
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// watchEvery is how often the state of a store is looked at, to announce that it
// has changed.
var watchEvery = time.Second // shorter in tests

// watched is what looking at a store again and again has shown. The durable's
// mutex protects it.
type watched struct {
	stalled   bool      // that has been announced
	failure   string    // what went wrong last
	failed    time.Time // when that was seen last
	goal      uint64    // what the store had at goalAt
	goalAt    time.Time
	unwritten time.Time // since when no node is known to write; zero if one is, or none is to
}

// watch announces that the store cannot be written, and that it can again, and
// keeps in touch with other nodes. run owns it; it ends with the log.
func (d *durable) watch() {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	loaded := 0 // looks since then
	for {
		select {
		case <-d.cluster.news:
			d.cluster.talk()
		case <-ticker.C:
			d.look()
			d.cluster.talk()
			if d.loaded.Load() {
				if loaded++; loaded%keepPrints == 0 {
					d.forgetPrints()
				}
			}
		case <-d.ctx.Done():
			return
		}
	}
}

// look compares the store's state with what was seen of it before.
func (d *durable) look() {
	st := d.status()
	d.hold(st)
	d.noteState(st, d.log().memory.Head(), time.Now())
	stalled := st.State == logstore.Stalled
	d.mu.Lock()
	changed := stalled != d.seen.stalled
	d.seen.stalled = stalled
	d.mu.Unlock()
	if changed {
		announceLog(d.hub.label, stalled, st.Err)
	}
}

// noteState notes how the store is, and what memory has of it.
func (d *durable) noteState(st logstore.Status, head uint64, now time.Time) {
	written := !d.shared() || st.State != logstore.Following || d.writing.Load() || d.cluster.writer() != ""
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &d.seen
	if st.Err == nil {
		s.failure = ""
	} else if text := st.Err.Error(); st.State == logstore.Stalled || text != s.failure {
		s.failure, s.failed = text, now
	}
	if head >= s.goal || !d.loaded.Load() {
		s.goal, s.goalAt = st.Last, now
	}
	switch {
	case written || !d.wanted:
		s.unwritten = time.Time{}
	case s.unwritten.IsZero():
		s.unwritten = now
	}
}

// watched returns what looking at the store has shown.
func (d *durable) watched() watched {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.seen
}

// behind is for how long the store has had what memory, up to an offset, has not.
func (s *watched) behind(head uint64, now time.Time) time.Duration {
	if head >= s.goal {
		return 0
	}
	return now.Sub(s.goalAt)
}

// hold hangs the upstreams up where nothing can be committed for long, or nothing is
// and no more can be taken, and other nodes may write the log: it may be another that
// goes on. They are resumed when something can. A store that is only slower than they
// are has them wait.
func (d *durable) hold(st logstore.Status) {
	sharer := d.sharer()
	if sharer == nil || !d.writing.Load() {
		return
	}
	held := st.State == logstore.Stalled && (d.full.Load() || time.Since(st.Since) >= sharer.Hold())
	if d.held.Swap(held) != held {
		d.hub.inputs.followWriter()
	}
}
