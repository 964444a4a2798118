package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/demo"
	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func TestMain(m *testing.M) {
	ssetest.Main(m, ssetest.Suite{})
}

// TestDemo starts the whole demo and waits for the page, its state and an
// event of each origin in the merged stream.
func TestDemo(t *testing.T) {
	d, err := demo.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	get := func(path string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, "GET", d.URL()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { res.Body.Close() })
		if res.StatusCode != http.StatusOK {
			t.Fatalf("GET /%s: %s", path, res.Status)
		}
		return res
	}
	for path, want := range map[string]string{"": "<title>sse_fanin demo</title>", "demo/state": `"name":"builds"`} {
		body, err := io.ReadAll(get(path).Body)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(body), want) {
			t.Errorf("GET /%s has no %s", path, want)
		}
	}

	res := get("events")
	defer res.Body.Close()
	missing := map[string]bool{"event: price": true, "event: build": true}
	for lines := bufio.NewScanner(res.Body); len(missing) > 0; {
		if !lines.Scan() {
			t.Fatalf("the stream ended without %v: %v", missing, lines.Err())
		}
		delete(missing, lines.Text())
	}
}
