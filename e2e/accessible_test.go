package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
)

// axe is axe-core, which looks for what keeps people from using a page:
// https://github.com/dequelabs/axe-core
var axe = sync.OnceValues(func() (string, error) {
	script, err := os.ReadFile("testdata/axe/axe.min.js")
	return string(script), err
})

// looks are those in which a page has to be accessible.
var looks = []struct {
	name          string
	dark          bool
	width, height int64
}{
	{"light on a desktop", false, 1280, 900},
	{"dark on a desktop", true, 1280, 900},
	{"light on a phone", false, 390, 844},
	{"dark on a phone", true, 390, 844},
}

// accessible fails the test unless axe-core finds nothing wrong with the page,
// in any look. state is what the page shows at the time.
func (b *tab) accessible(state string) {
	b.t.Helper()
	script, err := axe()
	if err != nil {
		b.t.Fatal(err)
	}
	eval[bool](b, script+"; true")
	for _, look := range looks {
		b.do(chromedp.EmulateViewport(look.width, look.height))
		b.dark(look.dark)
		for _, fault := range b.axe() {
			b.t.Errorf("%s, %s: %s", state, look.name, fault)
		}
	}
	b.do(chromedp.EmulateViewport(1280, 900))
	b.dark(false)
}

// axe returns what axe-core finds wrong with the page, a line for each rule
// with the first of the elements.
func (b *tab) axe() (faults []string) {
	b.t.Helper()
	eval[bool](b, `delete window.axeFound, axe.run().then(
		(r) => window.axeFound = JSON.stringify({ passes: r.passes.length, violations: r.violations }),
		(e) => window.axeFound = JSON.stringify({ error: String(e) })), true`)
	b.wait("!!window.axeFound")
	var found struct {
		Error      string
		Passes     int
		Violations []struct {
			ID, Impact string
			Nodes      []struct {
				HTML, FailureSummary string
			}
		}
	}
	if err := json.Unmarshal([]byte(eval[string](b, "axeFound")), &found); err != nil {
		b.t.Fatal(err)
	}
	if found.Error != "" || found.Passes == 0 {
		b.t.Fatalf("axe-core has not run: %d rules passed, error %q", found.Passes, found.Error)
	}
	for _, v := range found.Violations {
		fault := fmt.Sprintf("%s (%s), %d elements:", v.ID, v.Impact, len(v.Nodes))
		for _, node := range v.Nodes[:min(len(v.Nodes), 3)] {
			summary := strings.Join(strings.Fields(node.FailureSummary), " ")
			fault += fmt.Sprintf("\n\t%.160s\n\t\t%s", node.HTML, strings.TrimPrefix(summary, "Fix any of the following: "))
		}
		faults = append(faults, fault)
	}
	return faults
}

func TestStatusPageIsAccessible(t *testing.T) {
	t.Parallel()
	a, c := newOrigin(t, "a"), newOrigin(t, "b")
	s := newServer(t, wires[0], fmt.Sprintf(`sse_fanin /events {
		stream   prices
		upstream kite %s
		upstream lark %s
		backoff  200ms 1s
		start    oldest
	}
	sse_fanin /users http://127.0.0.1:1/{query.user} {
		stream users
	}
	sse_fanin /more %s {
		stream more
		events nothing
	}
	sse_fanin_status /status {
		show_data
	}`, a.URL(), c.URL(), a.URL()))
	viewer := newTab(t)
	viewer.open(s.url("/events.html"))
	viewer.wait("seen.opens == 1")
	a.SetRate(20)
	c.SetRate(5)

	b := newTab(t)
	b.open(s.url("/status"))
	b.waitText("#sumclients", "1")
	b.wait(`parseFloat(document.querySelector("#sumin").textContent) > 10`)
	b.accessible("all is well")
	a.Stop()
	b.waitText("#verdict", "down")
	b.accessible("an upstream is down")
}

func TestDemoIsAccessible(t *testing.T) {
	t.Parallel()
	url := startDemo(t, wires[0])
	b := newTab(t)
	b.open(url)
	b.waitText("#ratio", "2 → 1")
	b.wait(`document.querySelectorAll("#tiles .tile").length > 1`)
	b.wait(`document.querySelectorAll("#console li").length > 1`)
	b.wait(`received > 30`)
	b.accessible("all is well")

	b.click("#bogus")
	b.waitText("#outcome", "Told of a gap")
	b.click(`button[aria-label="Stop Ticker"]`)
	b.waitText(`[data-source=ticker] .badge`, "stopped")
	b.accessible("an origin is stopped, after a gap")

	b.click("#toggle")
	b.waitText("#state", "disconnected")
	b.click("#pause")
	b.accessible("disconnected and paused")
	b.click("#toggle")
	b.waitText("#state", "open")
}

// Nothing moves for who does not want it.
func TestDemoStandsStill(t *testing.T) {
	t.Parallel()
	url := startDemo(t, wires[0]) // outlives the tab, whose console would show its end
	b := newTab(t)
	b.open(url)
	const dots = `[...document.querySelectorAll("[data-busy]")].filter((e) => getComputedStyle(e).display !== "none").length`
	b.wait(dots + " > 1")
	b.prefer("reduced-motion", "reduce")
	b.wait(`document.querySelectorAll("[data-busy]").length > 1`)
	if n := eval[int](b, dots); n != 0 {
		t.Errorf("%d dots move", n)
	}
	if n := eval[int](b, "document.getAnimations().length"); n != 0 {
		t.Errorf("there are %d animations", n)
	}
}

// TestAxeFinds shows that the tests above would see what they exclude.
func TestAxeFinds(t *testing.T) {
	t.Parallel()
	s := newServer(t, wires[0], "")
	b := newTab(t)
	b.open(s.url("/inaccessible.html"))
	script, err := axe()
	if err != nil {
		t.Fatal(err)
	}
	eval[bool](b, script+"; true")
	faults := strings.Join(b.axe(), "\n")
	for _, want := range []string{"color-contrast (serious)", "svg-img-alt (serious)", "button-name (critical)"} {
		if !strings.Contains(faults, want) {
			t.Errorf("%s was not found in\n%s", want, faults)
		}
	}
}
