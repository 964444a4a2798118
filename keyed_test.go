package ssefanin

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// echoOrigin answers each request with one event that says what was asked,
// and one more, "go", for each call of more.
type echoOrigin struct {
	*ssetest.Origin

	mu   sync.Mutex // protects what follows
	open map[chan struct{}]string
	uris []string
}

func newEchoOrigin(t *testing.T) *echoOrigin {
	e := &echoOrigin{Origin: newOrigin(t, ssetest.OriginConfig{}), open: make(map[chan struct{}]string)}
	e.Handle(http.HandlerFunc(e.serve))
	return e
}

func (e *echoOrigin) serve(w http.ResponseWriter, r *http.Request) {
	again := make(chan struct{}, 100)
	e.mu.Lock()
	e.open[again] = r.RequestURI
	e.uris = append(e.uris, r.RequestURI)
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.open, again)
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprintf(w, "id: 1\ndata: %s %s\n\n", r.RequestURI, r.Header.Get("Authorization"))
	for {
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-again:
			fmt.Fprintf(w, "data: go\n\n")
		case <-r.Context().Done():
			return
		}
	}
}

// more sends an event to every open request.
func (e *echoOrigin) more() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for again := range e.open {
		again <- struct{}{}
	}
}

// asked returns the request targets so far, as they came.
func (e *echoOrigin) asked() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.uris)
}

// keyedSite is a site with a keyed stream.
func keyedSite(e *echoOrigin, target, options string) string {
	return "sse_fanin /events* http://" + e.Addr() + target + " {\nstart oldest\n" + options + "\n}"
}

// liveKeys counts the keys' streams.
func liveKeys() int {
	n := 0
	keyedStreams.Range(func(_, val any) bool {
		k := val.(*keyedStream)
		k.mu.Lock()
		defer k.mu.Unlock()
		n += len(k.hubs)
		return true
	})
	return n
}

func liveSources() int {
	n := 0
	sources.Range(func(_, _ any) bool { n++; return true })
	return n
}

func allHubs() int {
	return len(liveHubs.list())
}

// status is that of the answer to a request, whose body is left unread.
func (in *instance) status(method, path string, header ...string) (int, http.Header) {
	in.t.Helper()
	fields := make(http.Header)
	for i := 0; i < len(header); i += 2 {
		fields[header[i]] = []string{header[i+1]}
	}
	resp := in.request(method, path, fields)
	resp.Body.Close()
	return resp.StatusCode, resp.Header
}

func TestKeyedSameValuesShareOneConnection(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/users/{query.user}", ""))
	a1 := in.connect("/events?user=ann")
	gets(t, a1, "/users/ann ")
	a2 := in.connect("/events?user=ann&other=1")
	gets(t, a2, "/users/ann ") // from the log
	b := in.connect("/events?user=bob")
	gets(t, b, "/users/bob ")
	e.more()
	for _, c := range []*ssetest.Client{a1, a2} {
		gets(t, c, "/users/ann ", "go")
	}
	gets(t, b, "/users/bob ", "go")
	if got := e.asked(); !slices.Equal(got, []string{"/users/ann", "/users/bob"}) {
		t.Errorf("asked for %q", got)
	}
}

func TestKeyedCursorOfAnotherKeyIsUnknown(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/{query.user}", ""))
	a := in.connect("/events?user=ann")
	gets(t, a, "/ann ")
	b := in.connect("/events?user=bob", resumeFrom(a.LastEventID()))
	gets(t, b, "/bob ")
	if gaps := control(b, "gap"); len(gaps) != 1 || !strings.Contains(gaps[0], `"unknown"`) {
		t.Errorf("the gaps are %q, want an unknown one", gaps)
	}
}

func TestKeyedPlaceholdersAreEscaped(t *testing.T) {
	must(t, os.Setenv("KEYED_SECRET", "secret"))
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/p/{query.p}/end?fixed=1&q={query.q}", ""))
	for _, tc := range []struct{ query, want string }{
		{"p=a&q=b", "/p/a/end?fixed=1&q=b"},
		{"p=a%2Fb&q=c%26d%3De", "/p/a%2Fb/end?fixed=1&q=c%26d%3De"},
		{"p=..%2F..%2Fadmin&q=..", ""}, // a relative path, in the query too
		{"p=..%2F..%2Fadmin&q=x", ""},
		{"p=x&q=..%2F..%2Fadmin", "/p/x/end?fixed=1&q=..%2F..%2Fadmin"}, // it is not in a path
		{"p=%3Fx%3D1%23&q=%23", "/p/%3Fx=1%23/end?fixed=1&q=%23"},
		{"p=%2e%2e%2f&q=b", ""},
		{"p=a..%2fb&q=%252e", "/p/a..%2Fb/end?fixed=1&q=%252e"},
		{"p=a+b&q=a+b", "/p/a%20b/end?fixed=1&q=a+b"},
		{"p=%C3%BC&q=%FF", "/p/%C3%BC/end?fixed=1&q=%FF"},
		{"p=%7Benv.KEYED_SECRET%7D&q=%7Benv.KEYED_SECRET%7D", "/p/%7Benv.KEYED_SECRET%7D/end?fixed=1&q=%7Benv.KEYED_SECRET%7D"},
		{"p=%7Bhttp.request.uri.query.q%7D&q=x", "/p/%7Bhttp.request.uri.query.q%7D/end?fixed=1&q=x"},
		{"p=a%25&q=b", "/p/a%25/end?fixed=1&q=b"},
		{"p=@evil.example.com&q=http://evil", "/p/@evil.example.com/end?fixed=1&q=http%3A%2F%2Fevil"},
		{"p=&q=b", ""},
		{"q=b", ""},
		{"p=.&q=b", ""},
		{"p=..&q=b", ""},
		{"p=a%0d%0ab&q=b", ""},
		{"p=a%00&q=b", ""},
		{"p=a%7f&q=b", ""},
		{"p=" + strings.Repeat("x", maxKeyValue+1) + "&q=b", ""},
	} {
		before := len(e.asked())
		if tc.want == "" {
			if status, _ := in.status(http.MethodGet, "/events?"+tc.query); status != http.StatusBadRequest {
				t.Errorf("%.100s: status %d, want 400", tc.query, status)
			}
			if len(e.asked()) != before {
				t.Errorf("%.100s: the upstream was asked", tc.query)
			}
			continue
		}
		c := in.connect("/events?" + tc.query)
		gets(t, c, tc.want+" ")
		c.Close()
	}
}

func TestKeyedPathPlaceholder(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/{path.1}/feed", ""))
	gets(t, in.connect("/events/ann"), "/ann/feed ")
	gets(t, in.connect("/events/%7Benv.HOME%7D"), "/%7Benv.HOME%7D/feed ")
	if status, _ := in.status(http.MethodGet, "/events"); status != http.StatusBadRequest {
		t.Errorf("without the segment: status %d, want 400", status)
	}
}

func TestKeyedForwardedHeader(t *testing.T) {
	must(t, os.Setenv("KEYED_SECRET", "secret"))
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/feed", "header_up Authorization {http.request.header.Authorization}"))
	with := func(token string) *ssetest.Client {
		return in.connect("/events", func(cfg *ssetest.ClientConfig) {
			cfg.Header = http.Header{"Authorization": {token}}
		})
	}
	ann, bob := with("Bearer ann"), with("Bearer bob")
	gets(t, ann, "/feed Bearer ann")
	gets(t, bob, "/feed Bearer bob")
	gets(t, with("Bearer ann"), "/feed Bearer ann")
	gets(t, with("Bearer {env.KEYED_SECRET}"), "/feed Bearer {env.KEYED_SECRET}")
	if n := len(e.asked()); n != 3 {
		t.Errorf("%d connections for three tokens", n)
	}
	if status, _ := in.status(http.MethodGet, "/events"); status != http.StatusBadRequest {
		t.Errorf("without a token: status %d, want 400", status)
	}
}

// Headers and URL do not run into each other.
func TestKeyedValuesAreToldApart(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/{query.a}{query.b}", ""))
	gets(t, in.connect("/events?a=x&b=yz"), "/xyz ")
	gets(t, in.connect("/events?a=xy&b=z"), "/xyz ")
	if n := len(e.asked()); n != 2 {
		t.Errorf("%d connections for two sets of values", n)
	}
}

func TestKeyedMaxStreams(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/{query.user}", "max_streams 2\nconnect on_demand 1ms"))
	ann, bob := in.connect("/events?user=ann"), in.connect("/events?user=bob")
	gets(t, ann, "/ann ")
	gets(t, bob, "/bob ")
	status, header := in.status(http.MethodGet, "/events?user=eve")
	if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
		t.Errorf("the third key: status %d, Retry-After %q", status, header.Get("Retry-After"))
	}
	gets(t, in.connect("/events?user=bob"), "/bob ") // no new key
	ann.Close()
	eventually(t, 10*time.Second, "the first key has ended", func() bool { return liveKeys() == 1 })
	gets(t, in.connect("/events?user=eve"), "/eve ")
}

func TestKeyedMaxClientsCountsAllKeys(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/{query.user}", "max_clients 2"))
	ann, bob := in.connect("/events?user=ann"), in.connect("/events?user=bob")
	for _, user := range []string{"ann", "eve"} {
		if status, _ := in.status(http.MethodGet, "/events?user="+user); status != http.StatusServiceUnavailable {
			t.Errorf("a third client, %s: status %d, want 503", user, status)
		}
	}
	if n := liveKeys(); n != 2 || allHubs() != 2 {
		t.Errorf("%d keys and %d hubs, want 2: one is left of a client that was refused", n, allHubs())
	}
	gets(t, ann, "/ann ")
	bob.Close()
	eventually(t, 10*time.Second, "there is room again", func() bool {
		c := ssetest.StartClient(ssetest.ClientConfig{URL: in.url("/events?user=ann"), Once: true})
		defer c.Close()
		must(t, c.WaitOpen(within(t, 10*time.Second), 1))
		return c.Connection().Status == http.StatusOK
	})
}

func TestKeyedBadFilterLeavesNothing(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/{query.user}", "filters on"))
	if status, _ := in.status(http.MethodGet, "/events?user=ann&source=nobody"); status != http.StatusBadRequest {
		t.Errorf("status %d, want 400", status)
	}
	if n, s := allHubs(), liveSources(); n != 0 || s != 0 || liveKeys() != 0 {
		t.Errorf("%d hubs, %d sources and %d keys are left", n, s, liveKeys())
	}
	if n := e.TotalConnections(); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

func TestKeyedLinger(t *testing.T) {
	e := newEchoOrigin(t)
	const linger = 500 * time.Millisecond
	in := serve(t, "", keyedSite(e, "/{query.user}", "connect on_demand "+linger.String()))
	c := in.connect("/events?user=ann")
	gets(t, c, "/ann ")
	at := c.LastEventID()
	left := time.Now()
	c.Close()
	e.more()
	again := in.connect("/events?user=ann", resumeFrom(at))
	if time.Since(left) < linger { // on a very slow machine this shows nothing
		gets(t, again, "go")
		if n := len(e.asked()); n != 1 {
			t.Errorf("%d connections, though the client came back within the linger", n)
		}
	}
	again.Close()
	eventually(t, 10*time.Second, "the upstream is left", func() bool { return e.Connections() == 0 })
	eventually(t, 10*time.Second, "nothing of the key is kept", func() bool { return liveKeys()+allHubs()+liveSources() == 0 })
}

// A client that finds its key's stream at the moment it ends gets another one.
func TestKeyedStreamThatEndsBeforeItsClientHasJoined(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/{query.user}", "connect on_demand 1m\nmax_streams 1"))
	c := in.connect("/events?user=ann")
	gets(t, c, "/ann ")
	// as after the linger, but before the stream was dropped
	keyedStreams.Range(func(_, val any) bool {
		for _, kh := range val.(*keyedStream).hubs {
			kh.hub.audience.mu.Lock()
			kh.hub.audience.gone = true
			kh.hub.audience.mu.Unlock()
		}
		return true
	})
	again := in.connect("/events?user=ann")
	e.more() // the old stream still has the connection, which is shared
	gets(t, again, "go")
	c.Close()
}

// A client that comes at the moment its key ends is served all the same.
func TestKeyedClientsThatComeAndGoAllTheTime(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/{query.user}", "connect on_demand 1ms\nmax_clients 1000"))
	var done sync.WaitGroup
	transport := &http.Transport{MaxIdleConnsPerHost: 10}
	defer transport.CloseIdleConnections()
	for range 4 {
		done.Go(func() {
			for range 100 {
				resp, err := (&http.Client{Transport: transport}).Get(in.url("/events?user=ann"))
				if err != nil {
					t.Error(err)
					return
				}
				head := make([]byte, 64)
				n, err := io.ReadAtLeast(resp.Body, head, 20)
				resp.Body.Close()
				if !strings.Contains(string(head[:n]), ": sse_fanin") {
					t.Errorf("a client got %q, %v, and no stream", head[:n], err)
					return
				}
			}
		})
	}
	done.Wait()
	eventually(t, 10*time.Second, "nothing of the key is kept", func() bool { return liveKeys()+allHubs()+liveSources() == 0 })
}

func TestKeyedManyKeysLeaveNothing(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/{query.user}", "connect on_demand 1ms"))
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	round := func(users int) {
		var clients []*ssetest.Client
		for i := range users {
			clients = append(clients, ssetest.StartClient(ssetest.ClientConfig{URL: in.url(fmt.Sprint("/events?user=u", i)), Record: 1}))
		}
		for _, c := range clients {
			must(t, c.WaitCount(within(t, 20*time.Second), 1))
		}
		for _, c := range clients {
			c.Close()
		}
		eventually(t, 20*time.Second, "nothing of the keys is kept", func() bool {
			return liveKeys()+allHubs()+liveSources() == 0 && e.Connections() == 0
		})
	}
	round(100)
	goroutines, heap := runtime.NumGoroutine(), memory()
	round(300)
	eventually(t, 10*time.Second, "goroutines end", func() bool { return runtime.NumGoroutine() <= goroutines+5 })
	// what the origin of the test remembers is 1 or 2 KiB a request
	eventually(t, 10*time.Second, "the memory is given back", func() bool { return memory() <= heap+1<<20 })
}

func TestKeyedReloadKeepsClients(t *testing.T) {
	e := newEchoOrigin(t)
	site := keyedSite(e, "/{query.user}", "")
	in := serve(t, "", site)
	c := in.connect("/events?user=ann")
	gets(t, c, "/ann ")
	for i := range 3 {
		in.reload("", site+fmt.Sprint("\nrespond /x ", i))
	}
	e.more()
	gets(t, c, "/ann ", "go")
	gets(t, in.connect("/events?user=ann"), "/ann ", "go")
	if n := len(e.asked()); n != 1 {
		t.Errorf("%d connections over reloads, want 1", n)
	}
	if n := len(c.Connections()); n != 1 {
		t.Errorf("the client connected %d times", n)
	}
}

func TestKeyedReloadThatRemovesTheStreamDrains(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/{query.user}", "drain 200ms"))
	ann, bob := in.connect("/events?user=ann", onceOnly), in.connect("/events?user=bob", onceOnly)
	gets(t, ann, "/ann ")
	gets(t, bob, "/bob ")
	in.reload("", "respond /x 1")
	for _, c := range []*ssetest.Client{ann, bob} {
		must(t, c.WaitEnd(within(t, 10*time.Second), ssetest.EndClean, 1))
	}
	eventually(t, 10*time.Second, "nothing is kept", func() bool { return liveKeys()+allHubs()+liveSources() == 0 && e.Connections() == 0 })
}

func TestKeyedNamedStreamFollowsItsConfiguration(t *testing.T) {
	old, e := newEchoOrigin(t), newEchoOrigin(t)
	site := func(e *echoOrigin, target string) string {
		return keyedSite(e, target, "stream s\ndrain 100ms")
	}
	in := serve(t, "", site(old, "/{query.user}"))
	c := in.connect("/events?user=ann", onceOnly)
	gets(t, c, "/ann ")
	in.reload("", site(e, "/v2/{query.user}")) // the same key, asked elsewhere
	waitFor(t, c, "the client gets the new upstream's events", func() bool {
		return slices.Equal(received(c), []string{"/ann ", "/v2/ann "})
	})
	must(t, old.WaitConnections(within(t, 10*time.Second), 0))
	in.reload("", site(e, "/{query.other}")) // another key: the stream there was ends
	must(t, c.WaitEnd(within(t, 10*time.Second), ssetest.EndClean, 1))
	eventually(t, 10*time.Second, "nothing of the key is kept", func() bool { return liveKeys()+allHubs()+liveSources() == 0 })
}

func TestKeyedHead(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/{query.user}", ""))
	if status, header := in.status(http.MethodHead, "/events?user=ann"); status != http.StatusOK || header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("status %d, type %q", status, header.Get("Content-Type"))
	}
	if status, _ := in.status(http.MethodHead, "/events?user=.."); status != http.StatusBadRequest {
		t.Errorf("a bad value: status %d, want 400", status)
	}
	if allHubs()+liveKeys() != 0 || e.TotalConnections() != 0 {
		t.Error("HEAD made a stream")
	}
}

func TestKeyedDynamicUpstreams(t *testing.T) {
	p := newPool(t, 2)
	p.publish(0)
	in := serve(t, "", "sse_fanin /events {\n"+strings.Replace(p.upstream(""), "x=1", "user={query.user}", 1)+"\nconnect on_demand 1ms\n}")
	ann := in.connect("/events?user=ann")
	up(t, p.origins[0])
	p.publish(0, 1)
	up(t, p.origins[1])
	for i, o := range p.origins {
		if q := o.Requests()[0].Query; q != "user=ann" {
			t.Errorf("%s was asked for %s", p.member(i), q)
		}
	}
	ann.Close()
	eventually(t, 10*time.Second, "nothing of the key is kept", func() bool { return liveKeys()+allHubs()+liveSources() == 0 })
}

func TestKeyedStreamsShareAnUpstreamWithoutPlaceholders(t *testing.T) {
	own, shared := plainOrigins(t, 1)[0], plainOrigins(t, 1)[0]
	in := serve(t, "", "sse_fanin /events {\nupstream own http://"+own.Addr()+"/{query.user}\nupstream shared "+shared.URL()+"\n}")
	a, b := in.connect("/events?user=a"), in.connect("/events?user=b")
	must(t, own.WaitConnections(within(t, 10*time.Second), 2))
	must(t, shared.WaitConnections(within(t, 10*time.Second), 1))
	shared.Emit("", "to all")
	gets(t, a, "to all")
	gets(t, b, "to all")
	if n := shared.TotalConnections(); n != 1 {
		t.Errorf("the upstream without placeholders was connected %d times, want once", n)
	}
}

func TestKeyedBadRequestSaysWhy(t *testing.T) {
	e := newEchoOrigin(t)
	in := serve(t, "", keyedSite(e, "/{query.user}", ""))
	answer := func(method string) (int, string) {
		req, err := http.NewRequestWithContext(within(t, 10*time.Second), method, in.url("/events?user=.."), nil)
		must(t, err)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(req)
		must(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp.StatusCode, string(body)
	}
	if status, body := answer(http.MethodGet); status != http.StatusBadRequest || body != "the value of {http.request.uri.query.user} is a relative path\n" {
		t.Errorf("status %d, body %q", status, body)
	}
	if status, body := answer(http.MethodHead); status != http.StatusBadRequest || body != "" {
		t.Errorf("to HEAD: status %d, body %q", status, body)
	}
	in.reload("", keyedSite(e, "/{query.user}", "")+"\nhandle_errors {\nrespond custom\n}")
	if _, body := answer(http.MethodGet); body != "custom" {
		t.Errorf("with a page of the configuration's: body %q", body)
	}
}
