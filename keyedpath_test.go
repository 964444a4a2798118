package ssefanin

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// decodingOrigin is an upstream behind a server that decodes the path, resolves
// it and asks its origin for what comes of that, as nginx does.
func decodingOrigin(t *testing.T, times int) (addr string, asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var paths []string
	origin := newOrigin(t, ssetest.OriginConfig{})
	origin.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		paths = append(paths, r.URL.Path)
		mu.Unlock()
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: %s\n\n", r.URL.Path)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	front := httptest.NewServer(&httputil.ReverseProxy{
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			decoded := r.In.URL.Path // decoded once
			for range times - 1 {
				if again, err := url.PathUnescape(decoded); err == nil {
					decoded = again
				}
			}
			r.SetURL(&url.URL{Scheme: "http", Host: origin.Addr()})
			r.Out.URL.Path, r.Out.URL.RawPath = path.Clean(strings.ReplaceAll(decoded, `\`, "/")), ""
		},
	})
	t.Cleanup(front.Close)
	return strings.TrimPrefix(front.URL, "http://"), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(paths)
	}
}

func TestKeyedValuesStayBehindAServerThatDecodes(t *testing.T) {
	for times := 1; times <= 3; times++ {
		t.Run(fmt.Sprint(times), func(t *testing.T) {
			addr, asked := decodingOrigin(t, times)
			in := serve(t, "", "sse_fanin /events http://"+addr+"/users/{query.user}/stream {\nstart oldest\n}")
			for _, value := range hostile {
				for _, value := range []string{value, "x/" + value, value + "/admin"} {
					// each is tried as it is, and encoded up to twice more
					for range 3 {
						if status, _ := in.status(http.MethodGet, "/events?user="+url.QueryEscape(value)); status != http.StatusOK && status != http.StatusBadRequest {
							t.Errorf("%q: status %d", value, status)
						}
						value = url.PathEscape(value)
					}
				}
			}
			gets(t, in.connect("/events?user=last"), "/users/last/stream")
			eventually(t, 20*time.Second, "the origin is asked for what is harmless", func() bool { return len(asked()) >= 20 })
			for _, got := range asked() {
				if !strings.HasPrefix(got, "/users/") || !strings.HasSuffix(got, "/stream") {
					t.Errorf("the origin was asked for %q", got)
				}
			}
		})
	}
}

// A key outlives the request that made it, and must not keep that whole.
func TestKeyedValuesDoNotKeepTheirRequest(t *testing.T) {
	const requests, size = 50, 1 << 20
	def := &definition{placeholders: []string{"test.user"}}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var kept []map[string]string
	var positions []string
	before := heap()
	for range requests {
		r := httptest.NewRequest(http.MethodGet, "/events?user=ann&lastEventId=7&filler="+strings.Repeat("x", size), nil)
		repl := caddy.NewReplacer()
		repl.Set("test.user", r.URL.Query().Get("user"))
		r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, repl))
		values, err := def.keyOf(r)
		must(t, err)
		kept, positions = append(kept, values), append(positions, requestedPosition(r))
	}
	if after := heap(); after > before+requests*size/2 {
		t.Errorf("%d keys keep %d MiB", requests, (after-before)>>20)
	}
	if kept[0]["test.user"] != "ann" || positions[0] != "7" {
		t.Errorf("got %v, %v", kept[0], positions[0])
	}
}
