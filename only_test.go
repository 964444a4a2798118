package ssefanin

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// asUser has a client be a user.
func asUser(name string) func(*ssetest.ClientConfig) {
	return func(cfg *ssetest.ClientConfig) { cfg.Header = http.Header{"X-User": {name}} }
}

// tap keeps every byte that a request is answered with.
type tap struct {
	mu  sync.Mutex // protects got
	got bytes.Buffer
}

// Write implements io.Writer.
func (p *tap) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got.Write(b)
}

func (p *tap) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got.String()
}

// heartbeats returns how many there were.
func (p *tap) heartbeats() int { return strings.Count("\n"+p.text(), "\n:\n") }

// listen sends a request and keeps what comes, until the test ends.
func (in *instance) listen(path string, header http.Header) (*tap, *http.Response) {
	in.t.Helper()
	resp, p := in.request(http.MethodGet, path, header), new(tap)
	var done sync.WaitGroup
	done.Go(func() { _, _ = io.Copy(p, resp.Body) })
	in.t.Cleanup(func() {
		_ = resp.Body.Close()
		done.Wait()
	})
	return p, resp
}

// complete waits until everything has come that was sent to clients before.
func complete(t *testing.T, taps ...*tap) {
	t.Helper()
	before := make([]int, len(taps))
	for i, p := range taps {
		before[i] = p.heartbeats()
	}
	for i, p := range taps {
		eventually(t, patience, "more heartbeats", func() bool { return p.heartbeats() >= before[i]+2 })
	}
}

// firehose serves a stream with the events of all users, of which each sees his
// own and the public ones of the sources that are not secret.
func firehose(t *testing.T) (in *instance, open, secret *ssetest.Origin) {
	t.Helper()
	origins := plainOrigins(t, 2)
	in = serve(t, "", `sse_fanin /events {
		upstream open `+origins[0].URL()+`
		upstream secret `+origins[1].URL()+`
		only type user.{http.request.header.X-User}.* public.*
		only source op*
		filters on
		prime on
		source_events on
		heartbeat 20ms
		stream firehose
	}
	sse_fanin /all firehose`)
	up(t, origins[0])
	up(t, origins[1])
	return in, origins[0], origins[1]
}

// positionText is what the positions of streams look like.
var positionText = regexp.MustCompile(`[0-9a-z]+-\d+-[0-9a-z]{8}`)

// What others get leaves no trace, whatever a client asks for.
func TestOnlyLeavesNoTraceOfTheRest(t *testing.T) {
	in, open, secret := firehose(t)
	user := func(values ...string) http.Header { return http.Header{"X-User": values} }
	with := func(h http.Header, field, value string) http.Header { h.Set(field, value); return h }
	attacks := map[string]http.Header{
		"/events":                             user("mallory"),
		"/events?":                            user("*"),
		"/events?a":                           user("**"),
		"/events?b":                           user("alice,mallory"),
		"/events?c":                           user("mallory", "alice"),
		"/events?d":                           user("mallory.*"),
		"/events?e":                           user("{http.request.header.Victim}"),
		"/events?f":                           with(user("{header.Victim}"), "Victim", "alice"),
		"/events?g":                           user("ali"),
		"/events?h":                           user("alice%00"),
		"/events?i":                           user("alice."),
		"/events?j":                           user(" alice *"),
		"/events?k":                           user("Alice"),
		"/events?l":                           user("alice\tmallory"),
		"/events?m":                           user("%61lice"),
		"/events?n":                           user("public.*"),
		"/events?type=*":                      user("mallory"),
		"/events?type=user.alice.mail":        user("mallory"),
		"/events?type=user.*&type=public.*":   user("mallory"),
		"/events?type=*alice*":                user("*"),
		"/events?source=*":                    user("mallory"),
		"/events?source=s*,open":              user("mallory"),
		"/events?source=%2A&type=%2A":         user("mallory"),
		"/events?type=user.alice.mail,p*":     user("mallory"),
		"/events?X-User=alice":                user("mallory"),
		"/events?lastEventId=0":               user("mallory"),
		"/events?last_event_id=zzzz-1-zzzz":   user("mallory"),
		"/events?o":                           with(user("mallory"), "Last-Event-ID", "aaaaaaaaaaaa-1-1"),
		"/events?p":                           with(user("mallory"), "Last-Event-ID", strings.Repeat("9", 2000)),
		"/events?type=upstream.fanin.*,fanin": user("mallory"),
	}
	taps := make(map[string]*tap)
	for path, header := range attacks {
		p, resp := in.listen(path, header)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d", path, resp.StatusCode)
		}
		taps[path] = p
	}
	alice, all := in.connect("/events", asUser("alice")), in.connect("/all")
	for i := range 5 {
		emitSeen(t, open, all, fmt.Sprint("unnamed-", i))
		for _, typ := range []string{"user.alice.mail", "user.alice.*", "private", "xpublic.news", "user.bob.public.x"} {
			open.Emit(typ, "for-alice-"+typ)
			secret.Emit(typ, "of-secret-"+typ)
		}
		secret.Emit("public.news", "of-secret-public")
		open.Emit("public.news", fmt.Sprint("news-", i))
	}
	secret.CutConnections()
	waitData(t, all, "news-4")
	waitData(t, alice, "news-4")
	complete(t, slices.Collect(maps.Values(taps))...)
	for path, p := range taps {
		got := positionText.ReplaceAllString(p.text(), "position") // whose time may have any three letters
		for _, hidden := range []string{"alice", "bob", "secret", "unnamed", "private", "xpublic"} {
			if strings.Contains(got, hidden) {
				t.Errorf("%s %v: %q is in %q", path, attacks[path], hidden, got)
			}
		}
		if gaps := strings.Count(got, "fanin.gap"); gaps > 1 || gaps == 1 && !strings.Contains(got, `"missed":null`) {
			t.Errorf("%s: the gaps are %q", path, got)
		}
	}
	if got := received(alice); !slices.Contains(got, "for-alice-user.alice.mail") || slices.ContainsFunc(got, func(data string) bool { return strings.HasPrefix(data, "of-secret") || strings.Contains(data, "bob") }) {
		t.Errorf("alice got %q", got)
	}
	if got := taps["/events"].text(); !strings.Contains(got, "news-4") || !strings.Contains(got, `{"source":"open","state":"up"`) {
		t.Errorf("what everybody may see is not in %q", got)
	}
}

// A source that exists and one that does not are the same to whoever may see
// neither.
func TestOnlyHidesSourcesInErrors(t *testing.T) {
	in, _, _ := firehose(t)
	ask := func(source string) string {
		resp := in.request(http.MethodGet, "/events?source="+url.QueryEscape(source), http.Header{"X-User": {"mallory"}})
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		return fmt.Sprint(resp.StatusCode, " ", strings.ReplaceAll(string(body), source, "X"), resp.Header["Content-Type"])
	}
	if hidden, missing := ask("secret"), ask("nobody"); hidden != missing || hidden != "400 unknown source 'X', there are: open\n[text/plain; charset=utf-8]" {
		t.Errorf("a hidden source is answered with %q, a missing one with %q", hidden, missing)
	}
	if both := ask("open,secret"); strings.Contains(both, "200") {
		t.Errorf("a hidden source beside another one is answered with %q", both)
	}
}

// Without a name, nobody sees anything, and learns nothing.
func TestOnlyForbidsWithoutAValue(t *testing.T) {
	in, _, _ := firehose(t)
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for name, header := range map[string]http.Header{
			"missing":  {},
			"empty":    {"X-User": {""}},
			"too long": {"X-User": {strings.Repeat("a", maxKeyValue+1)}},
		} {
			for _, query := range []string{"", "?source=nobody", "?type=public.news"} {
				resp := in.request(method, "/events"+query, header)
				body, err := io.ReadAll(resp.Body)
				must(t, err)
				if want := map[string]string{http.MethodGet: "forbidden\n"}[method]; resp.StatusCode != http.StatusForbidden || string(body) != want {
					t.Errorf("%s, %s%s: status %d, %q", name, method, query, resp.StatusCode, body)
				}
			}
		}
	}
	if resp := in.request(http.MethodHead, "/events", http.Header{"X-User": {"alice"}}); resp.StatusCode != http.StatusOK {
		t.Errorf("with a value, the status is %d", resp.StatusCode)
	}
	wantRefused(t, in, "firehose", map[refusal]uint64{refusedOnly: 18})
}

func TestOnlyWithAnErrorPage(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /e "+a.URL()+" {\nonly type {header.X-User}\n}\nhandle_errors {\nrespond \"page: {err.message}\"\n}")
	resp, body := in.get("/e", "text/event-stream")
	if resp.StatusCode != http.StatusForbidden || body != "page: forbidden" {
		t.Errorf("status %d, %q", resp.StatusCode, body)
	}
}

// only looks at what clients see: the type with its prefix, in an envelope or not.
func TestOnlyLooksAtTheFinalType(t *testing.T) {
	for _, envelope := range []string{"", "envelope json"} {
		t.Run(envelope, func(t *testing.T) {
			o := plain(t)
			in := serve(t, "", "sse_fanin /events "+o.URL()+" {\nstream s\nprefix p.\nevents price message\nonly type p.price p.message\n"+envelope+"\n}\nsse_fanin /other s {\nonly type price message pric*\n}\nsse_fanin /all s")
			up(t, o)
			c, other, all := in.connect("/events"), in.connect("/other"), in.connect("/all")
			o.Emit("halt", "no")
			o.Emit("", "unnamed")
			o.Emit("price", "end")
			for _, got := range []*ssetest.Client{c, all} {
				waitFor(t, got, "the end", func() bool { return len(got.Events()) == 2 })
			}
			if n := len(other.Events()); n != 0 {
				t.Errorf("%d events by their original type", n)
			}
		})
	}
}

// A keyed stream with `only` has a log for each key, and of that a part.
func TestOnlyOfAKeyedStream(t *testing.T) {
	o := plain(t)
	in := serve(t, "", "sse_fanin /{path.0}/* "+o.URL()+"/{path.1} {\nonly type {header.X-User}\n}")
	alice, bob := in.connect("/events/x", asUser("alice")), in.connect("/events/x", asUser("bob"))
	up(t, o)
	o.Emit("alice", "1")
	o.Emit("bob", "2")
	gets(t, alice, "1")
	gets(t, bob, "2")
}

// By an upstream's id, a client resumes after what it may see; to anything else
// the answer is the same, whether the id exists or not.
func TestOnlyWithUpstreamIDs(t *testing.T) {
	o := newOrigin(t, ssetest.OriginConfig{})
	o.SetIDs(func(n uint64) string { return fmt.Sprint("id-", n) })
	in := serve(t, "", "sse_fanin /events "+o.URL()+" {\nids upstream\nprime on\nheartbeat 20ms\nstart live\nonly type {http.request.header.X-User}\n}\nsse_fanin /all "+o.URL()+" {\nids upstream\n}")
	up(t, o)
	all := in.connect("/all")
	alice, _ := in.listen("/events", http.Header{"X-User": {"alice"}})
	for i, typ := range []string{"alice", "bob", "bob", "alice", "bob"} {
		o.Emit(typ, fmt.Sprint("data-", i+1))
		waitData(t, all, fmt.Sprint("data-", i+1))
	}
	complete(t, alice)
	if got := alice.text(); strings.Contains(got, "id-2") || strings.Contains(got, "id-5") || !strings.Contains(got, "id-4") {
		t.Errorf("the ids of others are in %q", got)
	}
	gets(t, in.connect("/events", asUser("alice"), resumeFrom("id-1")), "data-4")
	answer := func(id string) string {
		p, _ := in.listen("/events", http.Header{"X-User": {"alice"}, "Last-Event-Id": {id}})
		complete(t, p)
		_, after, _ := strings.Cut(p.text(), ": sse_fanin\n")
		return strings.ReplaceAll(after, ":\n", "")
	}
	const gap = "event: fanin.gap\ndata: {\"reason\":\"unknown\",\"missed\":null,\"resumed\":null}\n\n"
	for _, id := range []string{"id-2", "id-5", "id-6", "nothing"} {
		if got := answer(id); got != gap {
			t.Errorf("%s is answered with %q", id, got)
		}
	}
}

func TestOnlyWithoutIDs(t *testing.T) {
	o := plain(t)
	in := serve(t, "", "sse_fanin /events "+o.URL()+" {\nids none\nprime on\nheartbeat 20ms\nonly type {http.request.header.X-User}\n}")
	up(t, o)
	alice, _ := in.listen("/events", http.Header{"X-User": {"alice"}, "Last-Event-Id": {"x"}})
	o.Emit("bob", "1")
	o.Emit("alice", "2")
	eventually(t, patience, "the event", func() bool { return strings.Contains(alice.text(), "data: 2\n\n") })
	complete(t, alice)
	_, got, _ := strings.Cut(alice.text(), ": sse_fanin\n")
	if got = strings.ReplaceAll(got, ":\n", ""); got != "event: alice\ndata: 2\n\n" {
		t.Errorf("the client got %q", got)
	}
}

// Users who come and go leave nothing behind, and each sees his own after a reload
// that changes what they may see: a stream that has begun goes on as it was.
func TestOnlyAfterAReload(t *testing.T) {
	o := plain(t)
	site := func(only string) string {
		return "sse_fanin /events {\nstream s\nupstream a " + o.URL() + "\n" + only + "\non_reload keep\n}"
	}
	in := serve(t, "", site("only type {header.X-User}"))
	up(t, o)
	old := in.connect("/events", asUser("alice"))
	in.waitOpen(old)
	in.reload("", site("only type news"))
	late := in.connect("/events", asUser("alice"))
	in.waitOpen(late)
	for _, typ := range []string{"alice", "news", "alice"} {
		o.Emit(typ, typ)
	}
	gets(t, old, "alice", "alice")
	gets(t, late, "news")
}

// With every request and every pattern, a client gets just the events that a
// plain reading of the configuration gives it.
func FuzzOnly(f *testing.F) {
	f.Add("alice", "", "user.alice.mail", "open")
	f.Add("*", "type=*", "user.alice.mail", "open")
	f.Add("a.*", "type=user.*&source=o*", "user.a.b", "open")
	f.Add("alice,bob", "source=secret", "public.x", "secret")
	f.Add("{http.request.header.X-User}", "type=%2A", "", "s")
	h := clockHub()
	only := (&Only{Source: []string{"op*", "s"}, Type: []string{"user.{http.request.header.X-User}.*", "public.*"}}).resolve()
	f.Fuzz(func(t *testing.T, user, query, typ, source string) {
		r := requestOf(user, query)
		visible, err := only.choiceOf(r)
		if user == "" || len(user) > maxKeyValue {
			if err == nil {
				t.Fatal("a user without a name sees something")
			}
			return
		}
		must(t, err)
		number := h.tags.source(source, "")
		defer h.tags.noteUnused(source)
		wanted, err := h.scopeOf(r, visible, true)
		if err != nil {
			return // it asks for too much
		}
		stored := []byte("event: " + typ + "\ndata: \n\n")
		if strings.ContainsAny(typ, "\r\n") {
			return // no type has any
		}
		may := (strings.HasPrefix(source, "op") || source == "s") &&
			(strings.HasPrefix(typ, "user."+user+".") || strings.HasPrefix(typ, "public."))
		v := h.audience.views.join(newView(wanted, h.tags))
		defer h.audience.views.leave(v)
		tag := h.tags.tag(number, []byte(typ))
		if got := v.wants(tag, stored); got && !may || slices.Contains(h.audience.views.index.find(tag, stored), v) != got {
			t.Fatalf("the user %q, who asks %q, gets %q of %q: %t, or the index has it differently", user, query, typ, source, got)
		} else if may && query == "" && !got {
			t.Fatalf("the user %q does not get %q of %q", user, typ, source)
		}
	})
}

// requestOf returns a request as Caddy hands it on.
func requestOf(user, query string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/events", nil)
	r.URL.RawQuery = query
	r.Header["X-User"] = []string{user}
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), &caddyhttp.Server{})
}
