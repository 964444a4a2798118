package ssefanin

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// get asks for a path with an Accept header, and returns the response and its
// body, which the server must end.
func (in *instance) get(path, accept string) (*http.Response, string) {
	in.t.Helper()
	resp := in.open(path, accept)
	body, err := io.ReadAll(resp.Body)
	must(in.t, err)
	return resp, string(body)
}

// open is get, for a body that goes on.
func (in *instance) open(path, accept string) *http.Response {
	in.t.Helper()
	var header http.Header
	if accept != "" {
		header = http.Header{"Accept": {accept}}
	}
	return in.request(http.MethodGet, path, header)
}

// snapshots reads a status stream and hands over each snapshot's JSON; the
// channel is closed when the stream has ended as it should.
func snapshots(t *testing.T, resp *http.Response) <-chan string {
	t.Helper()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatalf("the type is %q", got)
	}
	all := make(chan string, 100) // more than a test lets come
	go func() {
		defer close(all)
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				all <- data
			}
		}
		if err := lines.Err(); err != nil {
			all <- "error: " + err.Error()
		}
	}()
	return all
}

func nextSnapshot(t *testing.T, from <-chan string) statusSnapshot {
	t.Helper()
	select {
	case text, ok := <-from:
		var s statusSnapshot
		if !ok {
			t.Fatal("the status stream has ended")
		}
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		return s
	case <-time.After(patience):
		t.Fatal("no snapshot")
	}
	return statusSnapshot{}
}

// waitEnded waits for the clean end of a status stream.
func waitEnded(t *testing.T, from <-chan string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case text, ok := <-from:
			if !ok {
				return
			}
			if strings.HasPrefix(text, "error: ") {
				t.Fatalf("the status stream ended with an %s", text)
			}
		case <-deadline:
			t.Fatal("the status stream does not end")
		}
	}
}

func TestStatusIsNegotiated(t *testing.T) {
	const chromium = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
	for accept, want := range map[string]string{
		"":                                     typeJSON,
		"*/*":                                  typeJSON,
		chromium:                               typeHTML,
		"text/html":                            typeHTML,
		"TEXT/HTML":                            typeHTML,
		"text/*":                               typeHTML,
		"text/event-stream":                    typeEvents,
		"application/json":                     typeJSON,
		"application/*, text/html;q=0.5":       typeJSON,
		"application/json;q=0.4, text/html":    typeHTML,
		"text/html;q=0.2, text/event-stream":   typeEvents,
		"text/html;q=0, */*;q=0.1":             typeJSON,
		"*/*, application/json;q=0":            typeHTML,
		"text/html; charset=utf-8 ; q=0.3":     typeHTML,
		"text/html;q=high":                     typeHTML,
		"image/png":                            "",
		"*/*;q=0":                              "",
		"image/png, text/event-stream;q=0.001": typeEvents,
	} {
		if got := accepted([]string{accept}, typeJSON, typeHTML, typeEvents); got != want {
			t.Errorf("Accept %q gives %q, want %q", accept, got, want)
		}
	}
}

func TestStatusHasThreeRepresentations(t *testing.T) {
	a := plain(t)
	in := serve(t, "", "sse_fanin /events {\nstream s\nupstream a "+a.URL()+"\n}\nsse_fanin_status /status")
	connected(t, a)

	resp, body := in.get("/status", "text/html")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/html; charset=utf-8" || !strings.HasPrefix(body, "<!doctype html>") {
		t.Errorf("the page: got %s, %q", resp.Status, resp.Header.Get("Content-Type"))
	}
	for field, want := range map[string]string{
		"Vary": "Accept", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
	} {
		if got := resp.Header.Get(field); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}

	resp, body = in.get("/status", "application/json")
	var s statusSnapshot
	must(t, json.Unmarshal([]byte(body), &s))
	if resp.Header.Get("Content-Type") != "application/json" || len(s.Streams) != 1 || s.Streams[0].Name != "s" || len(s.Streams[0].Upstreams) != 1 {
		t.Errorf("JSON: got %s: %s", resp.Header.Get("Content-Type"), body)
	}
	if off := time.Since(time.UnixMilli(s.Time)); off < -time.Second || off > time.Minute {
		t.Errorf("the snapshot's time is %s off", off)
	}

	resp = in.open("/status", "text/event-stream")
	if got := resp.Header.Get("Cache-Control"); got != "no-store, no-transform" {
		t.Errorf("the stream's Cache-Control is %q", got)
	}
	all := snapshots(t, resp)
	asExpected := func(ms int64) bool { return ms >= 500 && ms <= 5000 }
	apart, newest := int64(0), nextSnapshot(t, all).Time
	for range 4 { // on a busy machine, one that is late is nearer to the next one
		before := newest
		newest = nextSnapshot(t, all).Time
		if apart = newest - before; asExpected(apart) {
			break
		}
	}
	if !asExpected(apart) {
		t.Errorf("%d ms between two snapshots", apart)
	}

	resp, _ = in.get("/status", "image/png")
	if resp.StatusCode != http.StatusNotAcceptable {
		t.Errorf("image/png: got %s", resp.Status)
	}
}

func TestStatusRefusesOtherMethods(t *testing.T) {
	in := serve(t, "", "sse_fanin /events "+plain(t).URL()+"\nsse_fanin_status /status")
	for _, path := range []string{"/status", "/status?ready"} {
		resp := in.do(http.MethodPost, path)
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET, HEAD, OPTIONS" {
			t.Errorf("POST %s: got %s, Allow %q", path, resp.Status, resp.Header.Get("Allow"))
		}
		resp = in.do(http.MethodHead, path)
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode == http.StatusMethodNotAllowed || len(body) > 0 {
			t.Errorf("HEAD %s: got %s, %q", path, resp.Status, body)
		}
	}
}

func TestStatusPolicyAllowsOnlyThePage(t *testing.T) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Accept", "text/html")
	must(t, new(StatusPage).ServeHTTP(w, r, nil))
	policy, page := w.Header().Get("Content-Security-Policy"), w.Body.String()
	if strings.Contains(policy, "unsafe") || !strings.HasPrefix(policy, "default-src 'none';") {
		t.Errorf("the policy is %s", policy)
	}
	for _, element := range []string{"script", "style"} {
		// the elements as a browser takes them: up to the first end tag
		found := regexp.MustCompile(`(?s)<`+element+`\b([^>]*)>(.*?)</`+element).FindAllStringSubmatch(page, -1)
		if len(found) != 1 || found[0][1] != "" {
			t.Fatalf("%d %s elements, want one without attributes", len(found), element)
		}
		sum := sha256.Sum256([]byte(found[0][2]))
		if want := element + "-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "';"; !strings.Contains(policy, want) {
			t.Errorf("the policy has no %s: %s", want, policy)
		}
	}
	// what the policy would refuse, or what leaves the page's own origin
	for _, bad := range []string{`\sstyle="`, `\son[a-z]+="`, `innerHTML`, `outerHTML`, `insertAdjacentHTML`, `document\.write`, `\beval\(`, `\bsrc="`, `@import`, `url\(`, `<link[^>]+href="[^d]`} {
		if at := regexp.MustCompile(bad).FindString(page); at != "" {
			t.Errorf("the page has %q", at)
		}
	}
}

func TestStatusShowsListedStreamsOnly(t *testing.T) {
	a := plain(t)
	in := serve(t, "sse_fanin {\nstream one "+a.URL()+"\nstream two "+a.URL()+"\n}", "sse_fanin_status /one one\nsse_fanin_status /all")
	for path, want := range map[string]string{"/one": "one", "/all": "one two"} {
		var s statusSnapshot
		_, body := in.get(path, "application/json")
		must(t, json.Unmarshal([]byte(body), &s))
		var names []string
		for _, st := range s.Streams {
			names = append(names, st.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s shows %q, want %q", path, got, want)
		}
	}
}

func TestStatusOfAnUndefinedStreamFailsToLoad(t *testing.T) {
	in := serve(t, "", "respond hi")
	err := in.tryReload("sse_fanin {\nstream one "+plain(t).URL()+"\n}", "sse_fanin_status /status two")
	if err == nil || !strings.Contains(err.Error(), "stream 'two' is not defined") {
		t.Errorf("got %v", err)
	}
}

func TestStatusOfAStreamThatIsNotThere(t *testing.T) {
	p := &StatusPage{Streams: []string{"nowhere"}, Quorum: 1}
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/?ready", nil)
	must(t, p.ServeHTTP(w, r, nil))
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "stream 'nowhere' is not defined") {
		t.Errorf("?ready: got %d: %s", w.Code, w.Body)
	}
	for _, accept := range []string{typeJSON, typeEvents} {
		r = httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept", accept)
		err := p.ServeHTTP(httptest.NewRecorder(), r, nil)
		if err == nil || !strings.Contains(err.Error(), "stream 'nowhere' is not defined") {
			t.Errorf("%s: got %v", accept, err)
		}
	}
}

func TestStatusReadiness(t *testing.T) {
	up := func(states ...phase) []*upstreamStatus {
		var all []*upstreamStatus
		for i, state := range states {
			all = append(all, &upstreamStatus{Name: string(rune('a' + i)), State: state})
		}
		return all
	}
	for name, tc := range map[string]struct {
		page    StatusPage
		streams []streamStatus
		missing string // streams
	}{
		"no streams":      {StatusPage{Quorum: 1}, nil, ""},
		"one is enough":   {StatusPage{Quorum: 1}, []streamStatus{{Name: "s", Upstreams: up(phaseDown, phaseUp)}}, ""},
		"none is up":      {StatusPage{Quorum: 1}, []streamStatus{{Name: "s", Upstreams: up(phaseDown, phaseConnecting, phaseFinished)}}, "s"},
		"below quorum":    {StatusPage{Quorum: 2}, []streamStatus{{Name: "s", Upstreams: up(phaseUp, phaseDown)}}, "s"},
		"at quorum":       {StatusPage{Quorum: 2}, []streamStatus{{Name: "s", Upstreams: up(phaseUp, phaseUp, phaseDown)}}, ""},
		"each for itself": {StatusPage{Quorum: 1}, []streamStatus{{Name: "r", Upstreams: up(phaseUp, phaseUp)}, {Name: "s", Upstreams: up(phaseDown)}}, "s"},
		"on demand":       {StatusPage{Quorum: 1}, []streamStatus{{Name: "s", OnDemand: true, Upstreams: up(phaseIdle)}}, ""},
		"keyed":           {StatusPage{Quorum: 1}, []streamStatus{{Name: "s", Keyed: true}}, ""},
		"removed":         {StatusPage{Quorum: 1}, []streamStatus{{Name: "s", Removed: true, Upstreams: up(phaseDown)}}, ""},
		"listed, removed": {StatusPage{Quorum: 1, Streams: []string{"s"}}, []streamStatus{{Name: "s", Removed: true, Upstreams: up(phaseUp)}}, "s"},
		"listed, unknown": {StatusPage{Quorum: 1, Streams: []string{"s"}}, nil, "s"},
	} {
		t.Run(name, func(t *testing.T) {
			var names []string
			for _, m := range tc.page.missing(tc.streams, time.Now()) {
				names = append(names, m.Stream)
			}
			if got := strings.Join(names, " "); got != tc.missing {
				t.Errorf("missing are %q, want %q", got, tc.missing)
			}
		})
	}
}

func TestStatusReadyFollowsTheUpstreams(t *testing.T) {
	a, b := plain(t), plain(t)
	in := serve(t, "", `sse_fanin /events {
		stream s
		upstream a `+a.URL()+`
		upstream b `+b.URL()+`
		backoff 20ms 20ms
	}
	sse_fanin_status /one
	sse_fanin_status /both s {
		quorum 2
	}`)
	status := func(path string) int {
		resp, _ := in.get(path+"?ready", "text/html")
		return resp.StatusCode
	}
	eventually(t, 5*time.Second, "both are up", func() bool { return status("/both") == http.StatusOK })
	b.Stop()
	eventually(t, 5*time.Second, "one is missing", func() bool { return status("/both") == http.StatusServiceUnavailable })
	if got := status("/one"); got != http.StatusOK {
		t.Errorf("with one of two up: got %d", got)
	}
	_, body := in.get("/both?ready", "")
	var ready readiness
	must(t, json.Unmarshal([]byte(body), &ready))
	if m := ready.Missing; ready.Ready || len(m) != 1 || m[0].Stream != "s" || m[0].Up != 1 || m[0].Quorum != 2 || strings.Join(m[0].Down, " ") != "b" {
		t.Errorf("got %s", body)
	}
}

func TestStatusShowsDataOnlyWhenTold(t *testing.T) {
	a := plain(t)
	in := serve(t, "", `sse_fanin /events {
		stream s
		upstream a `+a.URL()+`
	}
	sse_fanin_status /types
	sse_fanin_status /data {
		show_data
	}`)
	c := in.openClient(ssetest.ClientConfig{})
	connected(t, a)
	for range newestEvents {
		emitSeen(t, a, c, "older")
	}
	a.Emit("secret-type", "secret data\nof two lines")
	waitData(t, c, "secret data\nof two lines")
	emitSeen(t, a, c, strings.Repeat("long", newestEventSize))

	_, body := in.get("/types", "application/json")
	if strings.Contains(body, "secret data") || strings.Contains(body, "recent") || !strings.Contains(body, "secret-type") {
		t.Errorf("without show_data: got %s", body)
	}
	var s statusSnapshot
	_, body = in.get("/data", "application/json")
	must(t, json.Unmarshal([]byte(body), &s))
	recent := s.Streams[0].Recent
	if len(recent) != newestEvents {
		t.Fatalf("%d events are shown, want %d", len(recent), newestEvents)
	}
	if long := recent[0]; long.Type != "message" || !strings.HasPrefix(long.Data, "longlong") || len(long.Data) > newestEventSize {
		t.Errorf("the newest is %d bytes of type %q", len(long.Data), long.Type)
	}
	if ev := recent[1]; ev.Type != "secret-type" || ev.Data != "secret data\nof two lines" || ev.ID == "" || time.Since(time.UnixMilli(ev.Time)) > time.Minute {
		t.Errorf("the one before is %+v", ev)
	}
}

func TestStatusStreamEndsWithItsConfiguration(t *testing.T) {
	a := plain(t)
	stream := "sse_fanin /events {\nstream s\nupstream a " + a.URL() + "\n}\n"
	in := serve(t, "", stream+"sse_fanin_status /status")
	all := snapshots(t, in.open("/status", "text/event-stream"))
	nextSnapshot(t, all)
	in.reload("", stream+"sse_fanin_status /status s")
	waitEnded(t, all)
}

func TestStatusStreamEndsWhenToldTo(t *testing.T) {
	p := &StatusPage{Quorum: 1}
	p.ended, p.end = context.WithCancel(context.Background())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _ = p.ServeHTTP(w, r, nil) }))
	defer server.Close()
	in := &instance{t: t, scheme: "http", addr: server.Listener.Addr().String()}
	all := snapshots(t, in.open("/", "text/event-stream"))
	nextSnapshot(t, all)
	p.end()
	waitEnded(t, all)
	waitEnded(t, snapshots(t, in.open("/", "text/event-stream"))) // and so does one that comes later
}

func TestStatusStreamGoesOnOverHTTP2(t *testing.T) {
	a := plain(t)
	in := serveTLS(t, "", "sse_fanin /events "+a.URL()+"\nsse_fanin_status /status")
	req, err := http.NewRequestWithContext(within(t, 20*time.Second), http.MethodGet, in.url("/status"), nil)
	must(t, err)
	req.Header.Set("Accept", "text/event-stream")
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // our own server
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	must(t, err)
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 {
		t.Fatalf("got %s", resp.Proto)
	}
	all := snapshots(t, resp)
	for range 3 {
		nextSnapshot(t, all)
	}
}

func TestStatusSyntax(t *testing.T) {
	for text, want := range map[string]string{
		"sse_fanin_status":                             `{}`,
		"sse_fanin_status a b":                         `{"streams":["a","b"]}`,
		"sse_fanin_status a {\nquorum 2\nshow_data\n}": `{"streams":["a"],"quorum":2,"show_data":true}`,
		"sse_fanin_status a a":                         "stream 'a' is listed twice",
		"sse_fanin_status https://a.example.com":       "is neither a name nor a URL",
		"sse_fanin_status {\nquorum\n}":                "quorum: missing argument",
		"sse_fanin_status {\nquorum 0\n}":              "quorum",
		"sse_fanin_status {\nquorum 1\nquorum 1\n}":    "quorum is given twice",
		"sse_fanin_status {\nshow_data yes\n}":         "show_data: unexpected 'yes'",
		"sse_fanin_status {\nshow_data {\nall\n}\n}":   "unexpected block",
		"sse_fanin_status {\nshow\n}":                  "unrecognized subdirective 'show'",
	} {
		p := new(StatusPage)
		var got string
		if err := p.UnmarshalCaddyfile(caddyfile.NewTestDispenser(text)); err != nil {
			got = err.Error()
		} else if raw, err := json.Marshal(p); err == nil {
			got = string(raw)
		}
		if !strings.Contains(got, want) || want == "{}" && got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}
