package ssefanin

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/pattern"
)

// asking returns a view of what a client asks for, as ?source= and ?type= have it.
func asking(h *hub, sources, types string) *view {
	return newView(&scope{asked: choice{setOf(sources), setOf(types)}}, h.tags)
}

// seeing returns a view of what a client may see.
func seeing(h *hub, sources, types string) *view {
	return newView(&scope{only: choice{setOf(sources), setOf(types)}}, h.tags)
}

func setOf(patterns string) *pattern.Set { return pattern.ParseSet(strings.Fields(patterns)) }

// appendTyped appends an event of a source and a type, whose data is the type.
func appendTyped(h *hub, source, typ string) uint64 {
	tag := h.tags.tag(h.tags.source(source, ""), []byte(typ))
	offset, _ := h.log.Load().memory.Append(time.Now(), tag, fmt.Appendf(nil, "event: %s\ndata: %s\n\n", typ, typ))
	return offset
}

// judgeAll judges what was appended, and returns the views that are touched.
func judgeAll(h *hub) (touched []*view, all bool) {
	vs := &h.audience.views
	for more := true; more; {
		var some bool
		some, more = vs.judge()
		all = all || some
		vs.takeTouched(func(v *view) {
			if !slices.Contains(touched, v) {
				touched = append(touched, v)
			}
		})
	}
	return touched, all
}

func TestEqualScopesShareAView(t *testing.T) {
	h := clockHub()
	vs := &h.audience.views
	one, same := vs.join(asking(h, "", "a b")), vs.join(asking(h, "", "b a"))
	other := vs.join(seeing(h, "", "a b"))
	if one != same || one == other {
		t.Fatal("views are shared by other than equal scopes")
	}
	vs.leave(one)
	if vs.byKey[same.key()] != same || len(vs.byKey) != 2 {
		t.Error("a view went with the first of its clients")
	}
	vs.leave(same)
	vs.leave(other)
	if len(vs.byKey) != 0 || len(vs.index.byName) != 0 || len(vs.index.byPrefix) != 0 || vs.at.Load() != nil {
		t.Errorf("something is left of views without clients: %v", vs)
	}
}

// The index finds just the views that would say yes if each were asked.
func TestIndexFindsEveryViewOfAnEvent(t *testing.T) {
	h := clockHub()
	vs := &h.audience.views
	words := []string{"", "a", "b", "a*", "*", "*b", "ab*", "a b", "a* ab* b", "*a*b*", "message", "m*"}
	var all []*view
	for _, only := range words {
		for _, asked := range words {
			for _, sources := range []string{"", "s1", "s* t"} {
				v := newView(&scope{only: choice{setOf(sources), setOf(only)}, asked: choice{nil, setOf(asked)}}, h.tags)
				if vs.join(v) == v {
					all = append(all, v)
				}
			}
		}
	}
	long := strings.Repeat("ab", tagTypeLength) // has no number
	for range 2 {
		for _, typ := range []string{"", "a", "b", "ab", "abc", "ba", "message", "x", long} {
			for _, source := range []string{"s1", "s2", "t", "u"} {
				tag := h.tags.tag(h.tags.source(source, ""), []byte(typ))
				stored := []byte("id: 1\nevent: " + typ + "\ndata: \n\n")
				found := vs.index.find(tag, stored)
				for _, v := range all {
					if want := v.takesType(typ) && v.takesSource(source, ""); slices.Contains(found, v) != want || v.wants(tag, stored) != want {
						t.Fatalf("%.20s of %s: found %t, wanted %t, want %t by %q", typ, source, !want, v.wants(tag, stored), want, v.key())
					}
				}
			}
		}
		for range len(all) / 2 { // and with half of them
			i := rand.IntN(len(all))
			vs.leave(all[i])
			all = slices.Delete(all, i, i+1)
		}
	}
}

func TestIndexIsBounded(t *testing.T) {
	h := clockHub()
	for i := range 100 {
		h.audience.views.join(asking(h, "", fmt.Sprint("* ", i)))
	}
	n := h.tags.source("s", "")
	x := &h.audience.views.index
	for i := range 10_000 {
		if found := x.find(h.tags.tag(n, fmt.Append(nil, i)), []byte("data: \n\n")); len(found) != 100 {
			t.Fatalf("%d views are found", len(found))
		}
		if x.knownViews > maxKnownViews {
			t.Fatalf("%d entries are remembered", x.knownViews)
		}
	}
}

func TestNextEventOfAView(t *testing.T) {
	h := clockHub()
	vs := &h.audience.views
	appendTyped(h, "s", "a") // before there were views
	a, none := vs.join(asking(h, "", "a")), vs.join(asking(h, "", "z"))
	log := h.log.Load()
	check := func(v *view, position, offset uint64, events int, known bool) {
		t.Helper()
		gotOffset, gotEvents, gotKnown := v.next(vs.at.Load(), log, position)
		if gotKnown != known || known && (gotOffset != offset || gotEvents != events) {
			t.Errorf("from %d: offset %d, %d events, known %t, want %d, %d, %t", position, gotOffset, gotEvents, gotKnown, offset, events, known)
		}
	}
	check(a, 1, 0, 0, false)
	check(a, 2, 2, 0, true)
	for _, typ := range []string{"b", "a", "b", "a", "b"} {
		appendTyped(h, "s", typ)
	}
	check(a, 2, 2, 0, true) // not judged yet
	if touched, all := judgeAll(h); all || !slices.Equal(touched, []*view{a}) {
		t.Errorf("touched are %v, all %t", touched, all)
	}
	check(a, 2, 3, 2, true)
	check(a, 4, 5, 1, true)
	check(a, 6, 7, 0, true)
	check(a, 9, 9, 0, true)
	check(none, 2, 7, 0, true)
	check(none, 1, 0, 0, false)

	later := vs.join(asking(h, "", "b"))
	check(later, 6, 0, 0, false)
	check(later, 7, 7, 0, true)

	// of many, the latest are noted
	for range 2 * maxNoted {
		appendTyped(h, "s", "a")
	}
	judgeAll(h)
	check(a, 3, 0, 0, false)
	head := log.memory.Head()
	check(a, head, head, 1, true)
	check(none, 2, head+1, 0, true)
}

// What was evicted before it could be judged may have been anything.
func TestWhatCouldNotBeJudgedIsNotKnown(t *testing.T) {
	h := clockHub()
	vs := &h.audience.views
	v := vs.join(asking(h, "", "a"))
	log := h.log.Load()
	before := vs.at.Load()
	appendTyped(h, "s", "a")
	judgeAll(h)
	log.memory.SetOptions(eventlog.Options{MaxEvents: 2, MaxBytes: 1 << 20, IDs: true})
	for range 5 {
		appendTyped(h, "s", "b")
	}
	if _, all := judgeAll(h); !all {
		t.Error("not all views are notified")
	}
	if offset, _, known := v.next(vs.at.Load(), log, 3); known {
		t.Errorf("after %d there is said to be nothing for the view", offset)
	}
	if _, _, known := v.next(vs.at.Load(), log, log.memory.Tail()); !known {
		t.Error("nothing is known of what is retained")
	}
	appendTyped(h, "s", "a")
	judgeAll(h)
	if _, _, known := v.next(before, log, 1); known {
		t.Error("who looked before finds what is forgotten")
	}
}

// Another log has other offsets.
func TestViewsOfAnotherLog(t *testing.T) {
	h := clockHub()
	vs := &h.audience.views
	v := vs.join(asking(h, "", "a"))
	old := h.log.Load()
	appendTyped(h, "s", "b")
	judgeAll(h)
	next := newStreamLog(eventlog.Options{MaxEvents: 100, MaxBytes: 1 << 20, IDs: true}, idsStream)
	old.next.Store(next)
	h.log.Store(next)
	if _, all := judgeAll(h); !all {
		t.Error("not all views are notified of another log")
	}
	if _, _, known := v.next(vs.at.Load(), old, 2); known {
		t.Error("something is known of the log before")
	}
	appendTyped(h, "s", "a")
	if touched, _ := judgeAll(h); !slices.Equal(touched, []*view{v}) {
		t.Errorf("touched are %v", touched)
	}
	if offset, events, known := v.next(vs.at.Load(), next, 1); !known || offset != 1 || events != 1 {
		t.Errorf("the next event is %d of %d, known %t", offset, events, known)
	}
}

// Events of others wake no client, are no lag, and put it behind nothing: it goes
// on at its next event though much was evicted before that.
func TestQuietClientIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := clockHub()
		h.log.Load().memory.SetOptions(eventlog.Options{MaxEvents: 10, MaxBytes: 1 << 20, IDs: true})
		r := newResponse()
		clients := serveTarget(h, ClientSettings{Heartbeat: new(caddy.Duration(0)), Filters: "on"}, "/?type=mine", r)
		other := newResponse()
		clients = append(clients, serveTarget(h, ClientSettings{Heartbeat: new(caddy.Duration(0)), Filters: "on", Coalesce: new(caddy.Duration(5 * time.Millisecond))}, "/?type=mine&type=*2", other)...)
		for i := range 1000 {
			appendTyped(h, "s", fmt.Sprint("theirs-", i%2))
			synctest.Wait()
			if i%100 == 0 {
				if lag := h.audience.snapshot().maxLag; lag != 0 {
					t.Fatalf("the lag is %d after %d events", lag, i)
				}
			}
		}
		appendTyped(h, "s", "mine")
		synctest.Wait()
		wantWrites(t, "the client", r, [][]string{{"mine"}})
		pass(10 * time.Millisecond)
		wantWrites(t, "the one that waits for more", other, [][]string{{"mine"}})
		appendTyped(h, "s", "x2")
		appendTyped(h, "s", "x3")
		synctest.Wait()
		pass(10 * time.Millisecond)
		wantWrites(t, "the client", r, [][]string{{"mine"}})
		wantWrites(t, "the one that waits for more", other, [][]string{{"mine"}, {"x2"}})
		leave(clients)
	})
}
