package scenarios

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// Caddy's admin endpoint guards ours as its own.
func TestAdminEndpointOfCaddy(t *testing.T) {
	besideOthers(t)
	a := newOrigin(t, ssetest.OriginConfig{})
	p := startProcess(t, "", directive("/e", "stream s\nupstream u "+a.URL()))
	must(t, a.WaitConnections(within(t, 5*time.Second), 1))
	var all []struct{ Name string }
	if body := p.get("/sse_fanin/streams"); json.Unmarshal([]byte(body), &all) != nil || len(all) != 1 || all[0].Name != "s" {
		t.Errorf("got %s", body)
	}
	if body := p.get("/sse_fanin/streams/x"); !strings.Contains(body, `"error":"unknown stream 'x', there are: s"`) {
		t.Errorf("got %s", body)
	}
	if body := p.get("/metrics"); !strings.Contains(body, `caddy_sse_fanin_upstream_up{stream="s",upstream="u"} 1`) {
		t.Errorf("got %s", body)
	}
	req, err := http.NewRequest(http.MethodPost, "http://caddy/sse_fanin/streams/s/drain", nil)
	must(t, err)
	req.Header.Set("Origin", "https://evil.example.com")
	req.Header.Set("Sec-Fetch-Mode", "cors")
	resp, err := p.admin.Do(req)
	must(t, err)
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusForbidden {
		t.Errorf("another origin got %s: %s", resp.Status, body)
	}
}
