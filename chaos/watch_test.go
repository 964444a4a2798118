package chaos

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// filter is what a client asks for with ?source= and ?type=.
type filter struct {
	source, typ string // "" is everything
}

func (f filter) any() bool { return f.source == "" && f.typ == "" }

// wants reports whether an event of a source, of its final type, passes.
func (f filter) wants(source, typ string) bool {
	return (f.source == "" || f.source == source) && (f.typ == "" || f.typ == typ)
}

// watch judges what one client sees, over all its connections.
type watch struct {
	judge  *judge
	name   string
	stream *stream
	filter filter
	begun  time.Time

	mu      sync.Mutex        // protects what follows
	last    cursor            // what it has got so far; no epoch: nothing
	numbers map[string]*order // by feed, of the connection
	history []string
	runs    []run
	values  valuesWatch
	seen    map[string]uint64 // the newest number, by feed and type
}

// run is a part of a log that a filtered client was sent.
type run struct {
	from, to cursor // from is what it had before
	got      map[uint64]bool
}

// maxHistory is how much of what a client saw is kept for the report.
const maxHistory = 60

func (w *watch) noteLocked(format string, args ...any) {
	if len(w.history) >= 2*maxHistory {
		w.history = slices.Delete(w.history, 0, maxHistory)
	}
	at := time.Since(w.begun).Truncate(time.Millisecond)
	w.history = append(w.history, fmt.Sprintf("%8s ", at)+fmt.Sprintf(format, args...))
}

func (w *watch) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteLocked(format, args...)
}

func (w *watch) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	tail := w.history[max(len(w.history)-maxHistory, 0):]
	return fmt.Sprintf("%s, filter %+v:\n  %s", w.name, w.filter, strings.Join(tail, "\n  "))
}

func (w *watch) violateLocked(format string, args ...any) {
	w.noteLocked("^ "+format, args...)
	w.judge.violate([]*watch{w}, w.name+": "+format, args...)
}

// connecting notes that the client asks for what comes after a cursor.
func (w *watch) connecting(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteLocked("connects with %q", id)
	switch w.stream.ids {
	case "stream":
		c, ok := parseCursor(id)
		may := w.values.connectingLocked(c)
		switch {
		case id == "":
			w.last = cursor{}
		case !ok:
			w.violateLocked("the id is no cursor: %q", id)
		default:
			if c.epoch == w.last.epoch && c.offset < w.last.offset && !may {
				w.violateLocked("the cursor goes back, from %s", w.last)
			}
			w.last = c
		}
		w.beginLocked()
	case "none":
		w.numbers = nil
	}
}

// beginLocked begins a run of what is sent after the last cursor.
func (w *watch) beginLocked() {
	if !w.filter.any() && w.last.epoch != "" {
		w.runs = append(w.runs, run{w.last, w.last, make(map[uint64]bool)})
	}
}

// event judges the next event.
func (w *watch) event(e ssetest.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Type == "fanin.gap" {
		w.gapLocked(e)
		return
	}
	if strings.HasPrefix(e.Type, "fanin.") {
		w.noteLocked("%s %s", e.Type, e.Data)
		return
	}
	source, n, ok := ssetest.FindNumbered([]byte(e.Data))
	feed := string(source)
	u, f := w.stream.upstreamOf(feed)
	if !ok || u == nil {
		w.violateLocked("an event that no origin of the stream sent: %s %.200q", e.Type, e.Data)
		return
	}
	w.noteLocked("%s:%d at %s", feed, n, e.ID)
	typ := u.finalType(typeOf(n))
	if e.Type != typ || !u.lets(typeOf(n)) {
		w.violateLocked("%s:%d is of type %q, want %q", feed, n, e.Type, typ)
	}
	if !w.filter.wants(u.name, typ) {
		w.violateLocked("the filter does not let %s:%d through", feed, n)
	}
	if w.seen == nil {
		w.seen = make(map[string]uint64)
	}
	w.seen[feed+" "+typ] = max(w.seen[feed+" "+typ], n)
	if w.stream.ids == "stream" {
		w.placeLocked(e, feed, n, typ)
		return
	}
	w.numberLocked(u, f, n)
}

// placeLocked judges an event's offset.
func (w *watch) placeLocked(e ssetest.Event, feed string, n uint64, typ string) {
	c, ok := parseCursor(e.ID)
	if !ok {
		w.violateLocked("%s:%d has no cursor but %q", feed, n, e.ID)
		return
	}
	if w.valueLocked(c, feed, n, typ) {
		w.judge.record(w, c, feed, n, e)
		return
	}
	starting := w.startingLocked(feed, n, typ)
	switch {
	case w.last.epoch == "": // its first event
	case c.epoch != w.last.epoch:
		w.violateLocked("another log than that of %s, without a gap", w.last)
	case c.offset <= w.last.offset:
		w.violateLocked("offset %d comes after %d", c.offset, w.last.offset)
	case c.offset != w.last.offset+1 && w.filter.any() && !starting:
		w.violateLocked("offset %d comes after %d, without a gap", c.offset, w.last.offset)
	}
	w.last = c
	if starting {
		w.beginLocked() // anew with each that may be a value
	}
	if len(w.runs) > 0 {
		r := &w.runs[len(w.runs)-1]
		r.to, r.got[c.offset] = c, true
	}
	w.judge.record(w, c, feed, n, e)
}

// numberLocked judges an event without an offset, by its number. A mirrored
// one may come in any order.
func (w *watch) numberLocked(u *upstream, f *feed, n uint64) {
	if w.numbers == nil {
		w.numbers = make(map[string]*order)
	}
	if w.numbers[f.name] == nil {
		w.numbers[f.name] = new(order)
	}
	if o := w.numbers[f.name]; !o.next(f, n) && u.policy != "mirror" {
		w.judge.mu.Lock()
		may := w.judge.mayRepeatLocked(w.stream, u, f)
		w.judge.mu.Unlock()
		if !may {
			w.violateLocked("%s:%d after %s:%d", f.name, n, f.name, o.highest)
		}
	}
}

func (w *watch) gapLocked(e ssetest.Event) {
	w.noteLocked("gap %s with id %q", e.Data, e.ID)
	var gap struct {
		Reason  string
		Missed  *uint64
		Resumed string
		State   *int
	}
	if err := json.Unmarshal([]byte(e.Data), &gap); err != nil {
		w.violateLocked("a gap that is no JSON: %q", e.Data)
		return
	}
	if w.stream.ids != "stream" {
		w.numbers = nil
		return
	}
	c, ok := parseCursor(gap.Resumed)
	if !ok || gap.Resumed != e.ID {
		w.violateLocked("the gap has id %q and resumes at %q", e.ID, gap.Resumed)
		return
	}
	same := c.epoch == w.last.epoch
	switch {
	case w.last.epoch == "": // it was overtaken before its first event
	case gap.Reason == "unknown" && same && c.offset >= w.last.offset:
		w.violateLocked("a gap says unknown of the log's own cursor %s", w.last)
	case gap.Reason == "expired" && !same:
		w.violateLocked("a gap says expired of another log than that of %s", w.last)
	case w.stream.only:
		if gap.Missed != nil {
			w.violateLocked("a gap says %d missed to a client that may not see everything", *gap.Missed)
		}
	case gap.Reason == "expired" && gap.Missed == nil, gap.Reason == "expired" && *gap.Missed == 0 && (w.last.epoch == "" || w.values.lost != w.last):
		w.violateLocked("a gap says expired and nothing missed")
	case w.values.starting != nil: // where the log went on after the values is not known
	case gap.Reason == "expired" && w.filter.any() && *gap.Missed != c.offset-w.last.offset:
		w.violateLocked("a gap says %d missed, from %s to %s", *gap.Missed, w.last, c)
	}
	w.last = c
	w.beginLocked()
	w.beginValuesLocked(c, gap.State)
}

// complete judges whether a filtered client got everything that its filter
// lets through, of what is known of the logs.
func (w *watch) complete() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.completeValuesLocked()
	for _, r := range w.runs {
		w.judge.mu.Lock()
		ep := w.judge.epochs[r.to.epoch]
		var missing, unwanted []string
		for offset := r.from.offset + 1; ep != nil && r.from.epoch == r.to.epoch && offset <= r.to.offset; offset++ {
			rec, ok := ep.at[offset]
			if !ok {
				continue
			}
			u, _ := w.stream.upstreamOf(rec.feed)
			source, ok := w.judge.sourceLocked(w.stream, u, cursor{r.to.epoch, offset}, rec.feed, rec.n)
			if !ok && w.filter.source != "" {
				continue
			}
			what := fmt.Sprintf("%s:%d at %d", rec.feed, rec.n, offset)
			switch wants := w.filter.wants(source, u.finalType(typeOf(rec.n))); {
			case wants && r.got[offset]:
				w.judge.filtered++
			case wants:
				missing = append(missing, what)
			case r.got[offset]:
				unwanted = append(unwanted, what)
			}
		}
		w.judge.mu.Unlock()
		if len(missing) > 0 {
			w.violateLocked("the filter's events between %s and %s lack %v", r.from, r.to, missing[:min(len(missing), 5)])
		}
		if len(unwanted) > 0 {
			w.violateLocked("the filter does not let through what came between %s and %s: %v", r.from, r.to, unwanted[:min(len(unwanted), 5)])
		}
	}
}

// behind names what the client has not seen since the feeds were at these
// numbers, of what it must see.
func (w *watch) behind(since map[string]uint64, st *streamState) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, u := range w.stream.upstreams {
		if i == st.without {
			continue
		}
		for _, f := range u.feeds {
			for _, t := range eventTypes {
				typ := u.finalType(t)
				if u.lets(t) && w.filter.wants(u.name, typ) && w.seen[f.name+" "+typ] <= since[f.name] {
					return fmt.Sprintf("%s, type %s: %d, want more than %d", f.name, typ, w.seen[f.name+" "+typ], since[f.name])
				}
			}
		}
	}
	return ""
}
