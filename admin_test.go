package ssefanin

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// admin asks the admin API, without Caddy's own server around it. The status
// is that of the error, or 200.
func admin(t *testing.T, method, path string) (status int, body string, header http.Header) {
	t.Helper()
	mux := http.NewServeMux()
	var apiErr error
	for _, route := range (adminAPI{}).Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) { apiErr = route.Handler.ServeHTTP(w, r) })
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	if apiErr == nil {
		return w.Code, w.Body.String(), w.Header()
	}
	var e caddy.APIError
	if !errors.As(apiErr, &e) {
		t.Fatalf("%s %s: %v is no API error", method, path, apiErr)
	}
	return e.HTTPStatus, e.Err.Error(), w.Header()
}

func TestAdminTellsOfStreams(t *testing.T) {
	a := plain(t)
	serve(t, "", directive("/one", "stream one\nupstream u "+a.URL())+directive("/two", "stream two\nupstream u "+a.URL()))
	connected(t, a)
	status, body, header := admin(t, http.MethodGet, "/sse_fanin/streams")
	var all []streamStatus
	if err := json.Unmarshal([]byte(body), &all); err != nil || status != http.StatusOK || len(all) != 2 || all[0].Name != "one" || all[1].Name != "two" {
		t.Errorf("got %d %s", status, body)
	}
	if got := header.Get("Content-Type"); got != "application/json" {
		t.Errorf("the type is %s", got)
	}
	status, body, _ = admin(t, http.MethodGet, "/sse_fanin/streams/two")
	var st streamStatus
	if err := json.Unmarshal([]byte(body), &st); err != nil || status != http.StatusOK || st.Name != "two" || len(st.Upstreams) != 1 {
		t.Errorf("got %d %s", status, body)
	}
}

func TestAdminWithoutStreams(t *testing.T) {
	if status, body, _ := admin(t, http.MethodGet, "/sse_fanin/streams"); status != http.StatusOK || strings.TrimSpace(body) != "[]" {
		t.Errorf("got %d %q", status, body)
	}
	if status, body, _ := admin(t, http.MethodGet, "/sse_fanin/streams/x"); status != http.StatusNotFound || body != "unknown stream 'x', there are none" {
		t.Errorf("got %d %q", status, body)
	}
}

func TestAdminRefuses(t *testing.T) {
	a := plain(t)
	serve(t, "", directive("/one", "stream one\nupstream u "+a.URL()+"\nupstream v "+a.URL()+"?v")+directive("/two", "stream two\nupstream u "+a.URL()))
	for _, tc := range []struct {
		method, path string
		status       int
		text, allow  string
	}{
		{http.MethodPost, "/sse_fanin/streams", 405, "method POST is not allowed, use GET", "GET"},
		{http.MethodDelete, "/sse_fanin/streams/one", 405, "method DELETE is not allowed, use GET", "GET"},
		{http.MethodGet, "/sse_fanin/streams/one/drain", 405, "method GET is not allowed, use POST", "POST"},
		{http.MethodGet, "/sse_fanin/streams/one/upstreams/u/reconnect", 405, "method GET is not allowed, use POST", "POST"},
		{http.MethodGet, "/sse_fanin/streams/three", 404, "unknown stream 'three', there are: one, two", ""},
		{http.MethodPost, "/sse_fanin/streams/three/drain", 404, "unknown stream 'three', there are: one, two", ""},
		{http.MethodPost, "/sse_fanin/streams/three/upstreams/u/reconnect", 404, "unknown stream 'three', there are: one, two", ""},
		{http.MethodPost, "/sse_fanin/streams/one/upstreams/w/reconnect", 404, "unknown upstream 'w', there are: u, v", ""},
		{http.MethodGet, "/sse_fanin/streams/one/upstreams", 404, "there is no /sse_fanin/streams/one/upstreams", ""},
		{http.MethodPost, "/sse_fanin/streams/one/upstreams/u/disconnect", 404, "there is no /sse_fanin/streams/one/upstreams/u/disconnect", ""},
	} {
		status, body, header := admin(t, tc.method, tc.path)
		if status != tc.status || body != tc.text || header.Get("Allow") != tc.allow {
			t.Errorf("%s %s: got %d %q, Allow %q", tc.method, tc.path, status, body, header.Get("Allow"))
		}
	}
}

func askReconnect(t *testing.T, stream, upstream string) {
	t.Helper()
	if status, body, _ := admin(t, http.MethodPost, "/sse_fanin/streams/"+stream+"/upstreams/"+upstream+"/reconnect"); status != http.StatusOK || body != "" {
		t.Fatalf("got %d %q", status, body)
	}
}

// A connection that is open is dropped, and made again without a wait.
func TestReconnectOfAnOpenConnection(t *testing.T) {
	a := plain(t)
	in := serve(t, "", directive("/e", "stream s\nbackoff 1m 1m\nupstream u "+a.URL()))
	connected(t, a)
	c := follow(t, in, "/e")
	emitSeen(t, a, c, "one")
	id := upstreamNamed(t, "s", "u").LastEventID
	askReconnect(t, "s", "u")
	eventually(t, 5*time.Second, "there is another connection", func() bool { return a.TotalConnections() == 2 && a.Connections() == 1 })
	emitSeen(t, a, c, "two") // the client has noticed nothing
	if got := a.LastEventIDs(); got[1] != id || id == "" {
		t.Errorf("asked for %q, want %q", got, id)
	}
	becomes(t, "s", "it is counted", func(st streamStatus) bool {
		us := st.Upstreams[0]
		return us.Connects == 2 && us.Disconnects == 1 && us.State == phaseUp
	})
}

// Who waits, or has finished, is dialled at once.
func TestReconnectForgetsWaits(t *testing.T) {
	for name, status := range map[string]int{"backoff": 500, "slow retry": 403, "finished": 204} {
		t.Run(name, func(t *testing.T) {
			a := plain(t)
			a.RespondWith(status, nil, "")
			serve(t, "", directive("/e", "stream s\nbackoff 1m 1m\nupstream u "+a.URL()))
			becomes(t, "s", "it is down", func(st streamStatus) bool {
				return st.Upstreams[0].State == phaseDown || st.Upstreams[0].State == phaseFinished
			})
			a.Clear()
			askReconnect(t, "s", "u")
			connected(t, a)
		})
	}
}

// With replicas, an operator's reconnect begins with the first again.
func TestReconnectGoesBackToTheFirstReplica(t *testing.T) {
	a, b := plain(t), plain(t)
	a.RespondWith(500, nil, "")
	serve(t, "", directive("/e", "stream s\nbackoff 1m 1m\nupstream u "+a.URL()+" "+b.URL()))
	connected(t, b)
	a.Clear()
	askReconnect(t, "s", "u")
	connected(t, a)
	must(t, b.WaitConnections(within(t, 5*time.Second), 0))
}

// The name of an upstream whose addresses are sources stands for all of them.
func TestReconnectOfAllAddresses(t *testing.T) {
	a := plain(t)
	host, port, _ := strings.Cut(a.Addr(), ":")
	serve(t, "", "sse_fanin /e {\nstream s\nupstream u http://example.com/e {\ndynamic a "+host+" "+port+"\n}\n}")
	connected(t, a)
	askReconnect(t, "s", "u")
	eventually(t, 5*time.Second, "there is another connection", func() bool { return a.TotalConnections() == 2 && a.Connections() == 1 })
	askReconnect(t, "s", upstreamNamed(t, "s", streamNamed(t, "s").Upstreams[0].Name).Name)
	eventually(t, 5*time.Second, "there is a third", func() bool { return a.TotalConnections() == 3 && a.Connections() == 1 })
}

// What is not connected at present stays so.
func TestReconnectOfWhatNobodyWants(t *testing.T) {
	a := plain(t)
	serve(t, "", directive("/e", "stream s\nconnect on_demand\nupstream u "+a.URL())+
		directive("/k", "stream k\nupstream u http://"+a.Addr()+"/{query.u}"))
	askReconnect(t, "s", "u")
	askReconnect(t, "k", "u")
	stays(t, 50*time.Millisecond, "it is not dialled", func() bool { return a.Accepts() == 0 })
}

// Drained clients leave with a clean end and find the stream again.
func TestDrain(t *testing.T) {
	a := plain(t)
	in := serve(t, "", directive("/e", "stream s\ndrain 50ms\nretry 1ms\nupstream u "+a.URL())+
		directive("/other", "stream other\nupstream u "+a.URL()))
	connected(t, a)
	c := follow(t, in, "/e")
	follow(t, in, "/other")
	emitSeen(t, a, c, "one")
	if status, body, _ := admin(t, http.MethodPost, "/sse_fanin/streams/s/drain"); status != http.StatusOK || body != "" {
		t.Fatalf("got %d %q", status, body)
	}
	must(t, c.WaitOpen(within(t, 5*time.Second), 2))
	emitSeen(t, a, c, "two")
	gets(t, c, "one", "two")
	wantMetrics(t, in, map[string]float64{
		`caddy_sse_fanin_client_disconnects_total{reason="drained",stream="s"}`:     1,
		`caddy_sse_fanin_client_disconnects_total{reason="drained",stream="other"}`: 0,
		`caddy_sse_fanin_clients{stream="other"}`:                                   1,
	})
	if a.TotalConnections() != 1 {
		t.Error("the upstream was connected again")
	}
}
