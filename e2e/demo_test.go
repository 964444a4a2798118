package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/demo"
)

var pageLine = regexp.MustCompile(`the page +(http://\S+)`)

// startDemo returns the address of the page. Over HTTP/1.1 it is the demo as
// people run it, which speaks nothing else. Over HTTP/2 it is the demo's
// configuration with TLS.
func startDemo(t *testing.T, w wire) string {
	t.Helper()
	needBrowser(t)
	if w.scheme == "http" {
		out, _ := run(t, "demo", "-listen", "127.0.0.1:0")
		var found []string
		eventually(t, step, "the demo's address", func() bool {
			found = pageLine.FindStringSubmatch(out.String())
			return found != nil
		})
		return found[1]
	}
	d, err := demo.New("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	raw, err := d.Config()
	if err != nil {
		t.Fatal(err)
	}
	type object = map[string]any
	var config object
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificate(t, dir)
	apps := config["apps"].(object)
	server := apps["http"].(object)["servers"].(object)["demo"].(object)
	server["protocols"] = []string{"h1", "h2"}
	server["tls_connection_policies"] = []object{{}}
	apps["tls"].(object)["certificates"] = object{"load_files": []object{{
		"certificate": filepath.Join(dir, "cert.pem"),
		"key":         filepath.Join(dir, "key.pem"),
	}}}
	if raw, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "caddy.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "caddy", "run", "--config", file)
	url := strings.Replace(d.URL(), "http://", "https://", 1)
	listening(t, strings.Trim(strings.TrimPrefix(url, "https:"), "/"))
	return url
}

func TestDemo(t *testing.T) {
	t.Parallel()
	overWires(t, func(t *testing.T, w wire) {
		url := startDemo(t, w)
		b := newTab(t)
		b.open(url)
		b.protocol(w.alpn)
		b.waitText("#state", "open")
		b.waitText("#ratio", "2 → 1")
		b.wait(`document.querySelectorAll("#tiles .tile").length > 1`)
		b.wait(`document.querySelectorAll("#console li").length > 1`)
		b.wait(`received > 30`)
		b.shoot("demo-" + w.name)

		// an origin's death shows, and the other goes on
		b.click(`button[aria-label="Stop Ticker"]`)
		b.waitText("#notes", "Ticker stopped.")
		b.waitText(`[data-source=ticker] .badge`, "stopped")
		b.waitText("#ratio", "1 → 1")
		b.wait(`(window.before ??= received) + 3 < received`)
		b.waitText("#state", "open")
		b.shoot("demo-stopped-" + w.name)
		b.click(`button[aria-label="Start Ticker"]`)
		b.waitText("#notes", "Ticker is back. Caddy asked it for what was missed")
		b.waitText("#ratio", "2 → 1")
		b.waitText("#reconnects", "0")
		b.waitText("#check", "0 lost, 0 repeated")

		// the browser leaves and resumes
		b.click("#toggle")
		b.waitText("#state", "disconnected")
		b.wait("away.since > 5")
		b.click("#toggle")
		b.waitText("#outcome", "Resumed after ")
		if text := b.text("#outcome"); !regexp.MustCompile(`: [1-9]\d* events replayed, 0 lost, 0 repeated\.$`).MatchString(text) {
			t.Errorf("the page says %q", text)
		}

		// a cursor that nobody knows is a gap, and the page says so
		b.click("#bogus")
		b.waitText("#outcome", "Told of a gap")
		b.waitText("#gaps", "1")
		b.waitText("#check", "0 lost, 0 repeated")
		b.dark(true)
		b.shoot("demo-end-dark-" + w.name)
	})
}
