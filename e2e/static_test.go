package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/demo"
)

// TestStaticSite takes the example as it is, but for the addresses.
func TestStaticSite(t *testing.T) {
	t.Parallel()
	needBrowser(t)
	example, err := filepath.Abs("../examples/static-site")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(example, "Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	prices, builds := demo.NewTicker(), demo.NewBuilds()
	for _, o := range []*demo.Origin{prices, builds} {
		if err := o.StartAt("127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = o.Stop() })
		go o.Produce(t.Context())
	}
	addr, dir := freeAddr(t), t.TempDir()
	site := strings.NewReplacer(
		":8080 {", "http://"+addr+" {",
		"localhost:9001", prices.Address(),
		"localhost:9002", builds.Address(),
		"root site", "root "+filepath.Join(example, "site"),
	).Replace(string(text))
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte("{\n\tadmin off\n\tpersist_config off\n}\n"+site), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stop := run(t, "caddy", "run", "--config", file, "--adapter", "caddyfile")
	listening(t, addr)

	b := newTab(t)
	b.open("http://" + addr + "/")
	shows := func(state, prices, builds, shot string) {
		t.Helper()
		b.waitText("#state", state)
		b.waitText("#sources li:nth-child(1)", "builds is "+builds)
		b.waitText("#sources li:nth-child(2)", "prices is "+prices)
		b.shoot("static-site-" + shot)
		b.dark(true)
		b.shoot("static-site-" + shot + "-dark")
		b.dark(false)
	}
	b.wait("['price', 'build'].every((type) => [...document.querySelectorAll('#events .type')].some((e) => e.textContent === type))")
	shows("live", "up", "up", "both-up")
	if err := builds.Stop(); err != nil {
		t.Fatal(err)
	}
	shows("1 of 2 servers down", "up", "down since", "one-down")
	if err := prices.Stop(); err != nil {
		t.Fatal(err)
	}
	shows("both servers are down", "down since", "down since", "both-down")
	b.open("http://" + addr + "/") // a visitor who comes now
	shows("both servers are down", "down since", "down since", "both-down-from-the-start")
	if err := prices.Start(); err != nil {
		t.Fatal(err)
	}
	shows("1 of 2 servers down", "up", "down since", "one-back")
	if err := builds.Start(); err != nil {
		t.Fatal(err)
	}
	shows("live", "up", "up", "both-back")
	b.forgive()
	stop()
	b.waitText("#state", "reconnecting")
	b.wait("document.querySelectorAll('#sources li').length === 0")
	b.shoot("static-site-without-caddy")
}
