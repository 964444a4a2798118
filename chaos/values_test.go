package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// lastValues is which last values a stream keeps.
type lastValues struct {
	types []string // as clients see them; empty: it keeps none
	key   string
	max   int // 0: the default, which no round reaches
}

func (s *stream) drawLastValues(rnd *rand.Rand) {
	var types []string
	for _, u := range s.upstreams {
		for _, t := range eventTypes {
			types = append(types, u.finalType(t))
		}
	}
	slices.Sort(types)
	types = slices.Compact(types)
	rnd.Shuffle(len(types), func(i, j int) { types[i], types[j] = types[j], types[i] })
	s.values = lastValues{types: types[:1+rnd.IntN(len(types))], key: pick(rnd, "", "/source", "/n"), max: pick(rnd, 0, 0, 5, 50)}
	if s.values.key == "/n" { // which no two events share: they would be kept for ever
		s.values.max = 50
	}
}

// option is the subdirective.
func (v *lastValues) option() string {
	var b strings.Builder
	fmt.Fprintf(&b, "last_value %s {\n", strings.Join(v.types, " "))
	if v.key != "" {
		fmt.Fprintf(&b, "key %s\n", v.key)
	}
	if v.max > 0 {
		fmt.Fprintf(&b, "max %d\n", v.max)
	}
	b.WriteString("}")
	return b.String()
}

// keyOf is the same for events of which only the newest is kept; false: none is. A feed is
// a source of its own.
func (v *lastValues) keyOf(feed string, n uint64, typ string) (key string, ok bool) {
	key = feed + " " + typ
	if v.key == "/n" {
		key = fmt.Sprint(key, " ", n)
	}
	return key, slices.Contains(v.types, typ)
}

// valueRun is the last values that a client gets after a gap.
type valueRun struct {
	place cursor            // of the gap: they are from before it
	left  int               // how many are to come
	got   map[string]uint64 // offsets by key
	whole bool              // it is to get all that there are
}

// valuesWatch is what a watch knows of last values. The lock of the watch protects it.
type valuesWatch struct {
	run      *valueRun       // what it gets now; nil: none
	runs     []*valueRun     // that have ended
	back     cursor          // of the value it got last: there it would come back
	starting map[string]bool // keys so far, while they may be the values of the beginning; nil: it is past that
	lost     cursor          // of a gap whose values it has not got, if it has come back there
	had      bool            // it may have got values over this connection
}

// connectingLocked notes that the client comes back; id is empty or its cursor. It
// reports whether it may come back there though it was further.
func (v *valuesWatch) connectingLocked(id cursor) (may bool) {
	may = id == v.back
	if v.run != nil && len(v.run.got) == 0 {
		v.lost = v.run.place
	}
	if v.lost != id {
		v.lost = cursor{}
	}
	v.endLocked()
	v.starting, v.had, v.back = nil, id.epoch == "", cursor{}
	if v.had {
		v.starting = make(map[string]bool)
	}
	return may
}

// endLocked notes that the values have ended.
func (v *valuesWatch) endLocked() {
	if v.run != nil {
		v.run.whole = v.run.whole && v.run.left == 0
		v.runs = append(v.runs, v.run)
		v.run = nil
	}
}

// beginValuesLocked notes a gap with so many values to follow.
func (w *watch) beginValuesLocked(place cursor, state *int) {
	v := &w.values
	v.endLocked()
	whole := !v.had
	v.starting, v.back, v.lost, v.had = nil, cursor{}, cursor{}, true
	if (state != nil) != (len(w.stream.values.types) > 0) {
		w.violateLocked("a gap says how many last values there are: %v, and the stream keeps those of %q", state != nil, w.stream.values.types)
	}
	if state == nil {
		return
	}
	v.run = &valueRun{place: place, left: *state, got: make(map[string]uint64), whole: whole}
	if *state == 0 {
		v.endLocked()
	}
}

// valueLocked judges an event while values are to come after a gap. False: none are.
func (w *watch) valueLocked(c cursor, feed string, n uint64, typ string) bool {
	r := w.values.run
	if r == nil {
		return false
	}
	key, ok := w.stream.values.keyOf(feed, n, typ)
	switch {
	case !ok:
		w.violateLocked("%s:%d at %s is no last value, and %d are to come", feed, n, c, r.left)
	case c.epoch != r.place.epoch || c.offset > r.place.offset:
		w.violateLocked("the last value at %s is not from before the gap at %s", c, r.place)
	case w.values.back.epoch != "" && c.offset <= w.values.back.offset:
		w.violateLocked("the last value at %s comes after that at %s", c, w.values.back)
	case r.got[key] != 0:
		w.violateLocked("two last values of %s, at %d and %d", key, r.got[key], c.offset)
	}
	r.got[key], w.values.back = c.offset, c
	if r.left--; r.left == 0 {
		w.values.endLocked()
	}
	return true
}

// startingLocked notes an event, and reports whether it may be one of the values that a
// client begins with, or the first after them: before it, there may be a hole.
func (w *watch) startingLocked(feed string, n uint64, typ string) bool {
	v := &w.values
	v.back = cursor{}
	if v.starting == nil {
		return false
	}
	key, ok := w.stream.values.keyOf(feed, n, typ)
	if !ok || v.starting[key] {
		v.starting = nil
		return true
	}
	v.starting[key] = true
	return true
}

// completeValuesLocked judges the values after gaps by what is known of the logs: each
// is the newest of its key, and none that there must be is missing.
func (w *watch) completeValuesLocked() {
	w.values.endLocked()
	for _, r := range w.values.runs {
		w.judge.mu.Lock()
		problems := w.judge.valuesLocked(w, r)
		w.judge.mu.Unlock()
		if len(problems) > 0 {
			w.violateLocked("the last values after the gap at %s: %v", r.place, problems[:min(len(problems), 5)])
		}
	}
}

func (j *judge) valuesLocked(w *watch, r *valueRun) (problems []string) {
	ep := j.epochs[r.place.epoch]
	if ep == nil {
		return nil
	}
	j.values += len(r.got)
	before, after := make(map[string]uint64), make(map[string]bool)
	feeds := make(map[string]string) // by key
	for offset, rec := range ep.at {
		u, _ := ep.stream.upstreamOf(rec.feed)
		of, ok := ep.stream.values.keyOf(rec.feed, rec.n, u.finalType(typeOf(rec.n)))
		switch feeds[of] = rec.feed; {
		case !ok:
		case offset > r.place.offset:
			after[of] = true
		default:
			before[of] = max(before[of], offset)
		}
	}
	for of, offset := range r.got {
		if newest := before[of]; newest > offset {
			problems = append(problems, fmt.Sprintf("%s at %d, and there is one at %d", of, offset, newest))
		}
	}
	if !r.whole || !w.filter.any() || ep.stream.values.max > 0 {
		return problems
	}
	for of, newest := range before {
		// One that had changed by then came with its event.
		if r.got[of] == 0 && !after[of] && !j.excused[key(ep.stream, feeds[of])] {
			problems = append(problems, fmt.Sprintf("nothing of %s, which is at %d", of, newest))
		}
	}
	return problems
}
