package ssefanin

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// busyHub returns a hub whose log retains 10 events: of 1000, of which those at
// some offsets are rare ones.
func busyHub(rare ...uint64) *hub {
	h := clockHub()
	h.log.Load().memory.SetOptions(eventlog.Options{MaxEvents: 10, MaxBytes: 1 << 20, IDs: true})
	for o := range uint64(1000) {
		typ := fmt.Sprint("common-", o%7)
		if slices.Contains(rare, o+1) {
			typ = "rare"
		}
		appendTyped(h, "s", typ)
	}
	return h
}

// comesBack returns what a client gets that has everything up to an offset, with
// the next rare event. only restricts what it may see.
func comesBack(h *hub, at uint64, query string, only *Only) []string {
	cursor := h.log.Load().memory.CursorBefore(at+1, time.Now()).String()
	r := newResponse()
	settings := ClientSettings{Filters: "on", Only: only, Slow: slowDisconnect, Heartbeat: new(caddy.Duration(0))}
	clients := serveTarget(h, settings, "/?lastEventId="+cursor+query, r)
	appendTyped(h, "s", "rare")
	synctest.Wait()
	defer leave(clients)
	var all []string
	for _, write := range r.events() {
		all = append(all, write...)
	}
	return all
}

// A client that was away for long has missed something only if something for it
// is gone.
func TestFilteredClientComesBackWithoutAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		expired := `{"reason":"expired","missed":`
		for _, test := range []struct {
			name string
			at   uint64
			rare []uint64
			want []string // prefixes
		}{
			{"nothing for it", 1, nil, []string{"rare"}},
			{"the last was its own", 500, []uint64{3, 500}, []string{"rare"}},
			{"one is gone", 499, []uint64{3, 500}, []string{expired, "rare"}},
			{"one is gone, one is there", 1, []uint64{3, 995}, []string{expired, "rare", "rare"}},
			{"one is there", 5, []uint64{3, 995}, []string{"rare", "rare"}},
			{"the oldest retained", 5, []uint64{991}, []string{"rare", "rare"}},
			{"the newest evicted", 5, []uint64{990}, []string{expired, "rare"}},
		} {
			for _, by := range []struct {
				query  string
				only   *Only
				missed bool
			}{{"&type=rare", nil, true}, {"", &Only{Type: []string{"r*"}}, false}, {"&type=*e", &Only{Type: []string{"ra*"}, Source: []string{"s"}}, false}} {
				got := comesBack(busyHub(test.rare...), test.at, by.query, by.only)
				same := slices.EqualFunc(got, test.want, strings.HasPrefix)
				if !same {
					t.Errorf("%s, %q: got %q, want %q", test.name, by.query, got, test.want)
				}
				if same && test.want[0] == expired && strings.Contains(got[0], `"missed":null`) == by.missed {
					t.Errorf("%s, %q: the gap is %s", test.name, by.query, got[0])
				}
			}
			if got := comesBack(busyHub(test.rare...), test.at, "", nil); !strings.HasPrefix(got[0], expired) {
				t.Errorf("%s: without a filter, the first is %q, want a gap", test.name, got[0])
			}
		}
	})
}

// A client that is blocked while the events of others are evicted has missed
// nothing, and is not disconnected.
func TestFilteredClientIsNotOvertakenByOthers(t *testing.T) {
	for _, rare := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := busyHub()
			r := newResponse()
			clients := serveTarget(h, ClientSettings{Slow: slowDisconnect, Heartbeat: new(caddy.Duration(0)), Filters: "on"}, "/?type=rare", r)
			stuck := make(chan struct{})
			r.mu.Lock()
			r.stuck = stuck
			r.mu.Unlock()
			appendTyped(h, "s", "rare")
			synctest.Wait()
			for i := range 1000 {
				if rare && i == 500 {
					appendTyped(h, "s", "rare")
				}
				appendTyped(h, "s", "common")
			}
			synctest.Wait()
			r.mu.Lock()
			r.stuck = nil
			r.mu.Unlock()
			close(stuck)
			synctest.Wait()
			appendTyped(h, "s", "rare")
			synctest.Wait()
			select {
			case <-clients[0].ended:
				if !rare {
					t.Error("the client was disconnected")
				}
			default:
				if rare {
					t.Error("the client goes on, though one of its events is gone")
				}
				wantWrites(t, "the client", r, [][]string{{"rare"}, {"rare"}})
			}
			leave(clients)
		})
	}
}

// Types that share a number for want of others: rather a gap than a hole.
func TestGapOfTypesWithoutANumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := strings.Repeat("x", 2*tagTypeLength)
		h := busyHub()
		at := h.log.Load().memory.Head()
		appendTyped(h, "s", long)
		for range 20 {
			appendTyped(h, "s", "common")
		}
		for query, gap := range map[string]bool{"&type=" + long + ",rare": true, "&type=x*,rare": true, "&type=rare": false, "&type=*&source=t": false} {
			got := comesBack(h, at, query, nil)
			if has := len(got) > 0 && strings.HasPrefix(got[0], "{"); has != gap {
				t.Errorf("%.30s: got %q", query, got)
			}
		}
	})
}

// Of a log in files, what memory no longer holds is there; what is gone from the
// files, too, is a gap if it was for the client.
func TestFilteredClientOfALogInFiles(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	site := kept(t.TempDir(), "memory 64KiB", "retain {\nevents 0\nsize 64MiB\n}\nonly type {http.request.header.X-User}\ndrain 20ms\nupstream u "+o.URL())
	in := serve(t, "", site)
	awaitWriting(t)
	up(t, o)
	c := in.connect("/events", asUser("alice"))
	in.waitOpen(c)
	o.Emit("alice", "1")
	gets(t, c, "1")
	at := c.LastEventID()
	c.Close()
	const n = 3000
	for i := range n {
		if i == 10 {
			o.Emit("alice", "2")
		}
		o.Emit("bob", strings.Repeat("x", 100))
	}
	log := durableOf(t).log()
	eventually(t, 20*time.Second, "all of it is in the log", func() bool { return log.memory.Head() == n+2 })
	o.Emit("alice", "3")
	again := in.connect("/events", asUser("alice"), resumeFrom(at))
	gets(t, again, "2", "3")
	bob := in.connect("/events", asUser("carol"), resumeFrom(at))
	in.waitOpen(bob)
	in.stop()
	in.reload("", site)
	awaitWriting(t)
	late := in.connect("/events", asUser("alice"), resumeFrom(at))
	gets(t, late, "2", "3")
	for _, client := range []*ssetest.Client{again, bob, late} {
		if gaps := control(client, "gap"); gaps != nil {
			t.Errorf("gaps: %q", gaps)
		}
	}
	if status := in.request(http.MethodHead, "/events", http.Header{"X-User": {"alice"}}).StatusCode; status != http.StatusOK {
		t.Errorf("status %d", status)
	}
}
