package ssefanin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// wantRefused fails the test unless a stream has refused so many, by reason,
// wherever that is told.
func wantRefused(t *testing.T, in *instance, stream string, want map[refusal]uint64) {
	t.Helper()
	got := streamNamed(t, stream).Clients.Refused
	for _, why := range allRefusals {
		n, ok := got[why]
		if !ok || n != want[why] {
			t.Errorf("%s: %d refused in the status, want %d", why, n, want[why])
		}
		series := fmt.Sprintf("caddy_sse_fanin_refused_total{reason=%q,stream=%q}", why, stream)
		if v := in.value(series); v != float64(want[why]) {
			t.Errorf("%s is %v, want %d", series, v, want[why])
		}
	}
	if len(got) != len(allRefusals) {
		t.Errorf("refused: got %v", got)
	}
}

func TestRefusalsAreCounted(t *testing.T) {
	for _, whenFull := range []string{"reject", "retry"} {
		t.Run(whenFull, func(t *testing.T) {
			a := plain(t)
			in := serve(t, "", directive("/e", "stream s\nmax_clients 1 "+whenFull+"\nupstream u "+a.URL()))
			wantRefused(t, in, "s", nil)
			in.waitOpen(in.connect("/e"))
			for range 3 {
				in.status(http.MethodGet, "/e")
			}
			wantRefused(t, in, "s", map[refusal]uint64{refusedFull: 3})
			if n := streamNamed(t, "s").Clients.Max; n != 1 {
				t.Errorf("max is %d", n)
			}
			if v := in.value(`caddy_sse_fanin_max_clients{stream="s"}`); v != 1 {
				t.Errorf("max_clients is %v", v)
			}
			// they are the stream's, not the configuration's
			in.reload("", directive("/e", "stream s\nmax_clients 2 "+whenFull+"\nupstream u "+a.URL()))
			wantRefused(t, in, "s", map[refusal]uint64{refusedFull: 3})
			if n := streamNamed(t, "s").Clients.Max; n != 2 {
				t.Errorf("after a reload, max is %d", n)
			}
		})
	}
}

func TestRefusalsOfKeyedStreamsAreCounted(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/{query.user}", "stream s\nmax_streams 1\nmax_clients 2"))
	in.waitOpen(in.connect("/events?user=ann"))
	in.waitOpen(in.connect("/events?user=ann"))
	in.status(http.MethodGet, "/events?user=ann") // full
	in.status(http.MethodGet, "/events?user=bob")
	in.status(http.MethodGet, "/events?user=eve")
	for range 3 {
		in.status(http.MethodGet, "/events?user=..")
	}
	wantRefused(t, in, "s", map[refusal]uint64{refusedFull: 1, refusedStreams: 2, refusedKey: 3})
	st := streamNamed(t, "s")
	if st.Keys != 1 || st.MaxKeys != 1 || st.Clients.Max != 2 {
		t.Errorf("%d keys of %d, %d clients at most", st.Keys, st.MaxKeys, st.Clients.Max)
	}
	wantMetrics(t, in, map[string]float64{
		`caddy_sse_fanin_keys{stream="s"}`:        1,
		`caddy_sse_fanin_max_streams{stream="s"}`: 1,
		`caddy_sse_fanin_max_clients{stream="s"}`: 2,
	})
}

func TestRefusalsAtTheExitAreCounted(t *testing.T) {
	a := plain(t)
	in := serve(t, "", directive("/e", "stream s\nupstream u "+a.URL()))
	endingAll.Store(true)
	defer endingAll.Store(false)
	if status, _ := in.status(http.MethodGet, "/e"); status != http.StatusOK {
		t.Errorf("got status %d", status)
	}
	wantRefused(t, in, "s", map[refusal]uint64{refusedExit: 1})
}

// Handlers of one stream may have limits of their own.
func TestMaxClientsIsTheLowestLimit(t *testing.T) {
	a := plain(t)
	for name, tc := range map[string]struct {
		stream, site string
		want         int
	}{
		"none":           {"", "sse_fanin /a s\nsse_fanin /b s", 0},
		"of the stream":  {"max_clients 7", "sse_fanin /a s", 7},
		"no handler":     {"max_clients 7", "", 7},
		"of one handler": {"", "sse_fanin /a s\nsse_fanin /b s {\nmax_clients 5\n}", 5},
		"of either":      {"max_clients 7", "sse_fanin /a s\nsse_fanin /b s {\nmax_clients 5\n}", 5},
		"lifted":         {"max_clients 7", "sse_fanin /a s {\nmax_clients 0\n}", 0},
	} {
		t.Run(name, func(t *testing.T) {
			in := serve(t, "sse_fanin {\nstream s {\nupstream u "+a.URL()+"\n"+tc.stream+"\n}\n}", tc.site)
			if n := streamNamed(t, "s").Clients.Max; n != tc.want {
				t.Errorf("got %d, want %d", n, tc.want)
			}
			if v := in.value(`caddy_sse_fanin_max_clients{stream="s"}`); v != float64(tc.want) {
				t.Errorf("the metric is %v, want %d", v, tc.want)
			}
		})
	}
}

func TestRefusalsAreLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r refusals
		var mu sync.Mutex // protects lines
		var lines []string
		add := func(why refusal, n int) {
			for range n {
				r.add(why, func(count uint64) {
					mu.Lock()
					defer mu.Unlock()
					lines = append(lines, fmt.Sprint(why, " ", count))
				})
			}
		}
		want := func(what string, all ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(lines, all) {
				t.Errorf("%s: got %q, want %q", what, lines, all)
			}
			lines = nil
		}
		add(refusedFull, 10)
		want("the first at once", "full 1")
		add(refusedKey, 1)
		want("another reason", "key 1")
		<-time.After(refusalLogInterval - time.Second)
		add(refusedFull, 5)
		want("within the minute")
		<-time.After(time.Second)
		want("all that followed", "full 14")
		add(refusedFull, 2)
		want("within the next minute")
		<-time.After(refusalLogInterval)
		want("at its end", "full 2")
		<-time.After(refusalLogInterval)
		want("none came")
		add(refusedFull, 1)
		want("after a pause", "full 1")
		if got := r.load(); got[refusedFull] != 18 || got[refusedKey] != 1 {
			t.Errorf("got counts %v", got)
		}
		<-time.After(refusalLogInterval)
	})
}

// A full stream does not fill the log.
func TestRefusalsLeaveOneLine(t *testing.T) {
	a := plain(t)
	log := newLogFile(t)
	in := serve(t, log.option(), directive("/e", "stream s\nmax_clients 1\nupstream u "+a.URL()))
	in.waitOpen(in.connect("/e"))
	for range 20 {
		if status, header := in.status(http.MethodGet, "/e"); status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
			t.Fatalf("got status %d, Retry-After %q", status, header.Get("Retry-After"))
		}
	}
	var refused []map[string]any
	for line := range strings.Lines(string(log.bytes())) {
		var fields map[string]any
		must(t, json.Unmarshal([]byte(line), &fields))
		if fields["level"] == "error" {
			t.Errorf("an error is logged: %s", line)
		}
		if fields["msg"] == "clients refused" {
			refused = append(refused, fields)
		}
	}
	if len(refused) != 1 {
		t.Fatalf("got %d lines: %v", len(refused), refused)
	}
	if f := refused[0]; f["level"] != "warn" || f["logger"] != "http.handlers.sse_fanin" || f["stream"] != "s" ||
		f["reason"] != "full" || f["count"] != 1.0 || f["error"] != errFull.Error() {
		t.Errorf("got %v", f)
	}
}

// Pages for errors are shown to who is refused, wherever they are configured.
func TestRefusalsGetTheErrorPage(t *testing.T) {
	a := plain(t)
	stream := directive("/e", "stream s\nmax_clients 1\nupstream u "+a.URL())
	page := func(in *instance) string {
		t.Helper()
		in.waitOpen(in.connect("/e"))
		resp, body := in.get("/e", "text/event-stream")
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Errorf("got status %s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
		}
		return body
	}
	t.Run("of the server", func(t *testing.T) {
		log := newLogFile(t)
		in := serve(t, log.option(), stream+"\nhandle_errors 503 {\nrespond \"sorry: {err.message}\" 503\n}")
		if body := page(in); body != "sorry: "+errFull.Error() {
			t.Errorf("got %q", body)
		}
		if strings.Contains(string(log.bytes()), `"level":"error"`) {
			t.Errorf("an error is logged:\n%s", log.bytes())
		}
	})
	t.Run("of a subroute", func(t *testing.T) {
		in := serve(t, "", stream)
		raw, err := adapt(in.caddyfile("", stream))
		must(t, err)
		var cfg any
		must(t, json.Unmarshal(raw, &cfg))
		if n := addErrorPage(cfg); n == 0 {
			t.Fatal("there is no subroute")
		}
		raw, err = json.Marshal(cfg)
		must(t, err)
		must(t, caddy.Load(raw, true))
		in.awaitTakeover()
		if body := page(in); body != "sorry" {
			t.Errorf("got %q", body)
		}
	})
}

// addErrorPage gives every subroute of a configuration a page for errors, and
// returns how many there are.
func addErrorPage(node any) (n int) {
	switch node := node.(type) {
	case map[string]any:
		for _, child := range node {
			n += addErrorPage(child)
		}
		if node["handler"] == "subroute" {
			node["errors"] = map[string]any{"routes": []any{map[string]any{"handle": []any{
				map[string]any{"handler": "static_response", "status_code": 503, "body": "sorry"},
			}}}}
			n++
		}
	case []any:
		for _, child := range node {
			n += addErrorPage(child)
		}
	}
	return n
}

func TestRefusalOf(t *testing.T) {
	for want, err := range map[refusal]error{
		refusedFull: errFull, refusedStreams: errTooManyStreams, refusedExit: errGone,
		refusedKey:  fmt.Errorf("wrapped: %w", &keyError{"http.request.uri.query.user", errors.New("is empty")}),
		refusedOnly: &onlyError{"http.auth.user.id", errors.New("is empty")},
	} {
		if got := refusalOf(err); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
	}
}
