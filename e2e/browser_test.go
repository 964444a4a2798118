package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// flags are Chromium's, all of which are switches.
var flags = []string{
	"no-sandbox", // it does not start as root otherwise
	"disable-gpu",
	"disable-quic",
	"disable-dev-shm-usage",
	"no-first-run",
	"no-default-browser-check",
	"disable-background-networking",
	"disable-component-update",
	"disable-sync",
	"disable-breakpad",
	"disable-extensions",
	"hide-scrollbars",
	// a tab that is not in front is to go on as if it were
	"disable-background-timer-throttling",
	"disable-backgrounding-occluded-windows",
	"disable-renderer-backgrounding",
	"ignore-certificate-errors",
}

// shared is the browser of all tests; TestMain ends it.
var shared struct {
	ctx    context.Context
	cancel context.CancelFunc
}

// browserOnce starts the browser.
var browserOnce = sync.OnceValue(func() error {
	path, err := exec.LookPath("chromium")
	if err != nil {
		return err
	}
	home := filepath.Join(ssetest.Dir(), "chromium")
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path),
		chromedp.Flag("headless", "new"),
		chromedp.UserDataDir(filepath.Join(home, "profile")),
		chromedp.Env("HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home),
		chromedp.WindowSize(1280, 900),
	}
	for _, name := range flags {
		options = append(options, chromedp.Flag(name, true))
	}
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	shared.ctx = ctx
	shared.cancel = func() {
		cancel()
		cancelAllocator() // waits for the process
	}
	starting := time.AfterFunc(step, cancel)
	defer starting.Stop()
	if err := chromedp.Do(ctx); err != nil {
		return fmt.Errorf("starting %s: %w", path, err)
	}
	return nil
})

// needBrowser skips the test where there is no Chromium.
func needBrowser(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil && os.Getenv("CI") != "true" {
		t.Skipf("no browser: %v", err)
	}
	if err := browserOnce(); err != nil {
		t.Fatalf("no browser: %v", err)
	}
}

// TestMain ends the browser.
func TestMain(m *testing.M) {
	flag.Parse()
	// the tests wait more than they work
	if err := flag.Set("test.parallel", strconv.Itoa(max(8, runtime.GOMAXPROCS(0)))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ssetest.Main(m, ssetest.Suite{End: closeBrowser, Goroutines: []string{"chromedp", "sse-fanin"}})
}

func closeBrowser() error {
	if shared.ctx == nil {
		return nil
	}
	defer shared.cancel()
	closing, cancel := context.WithTimeout(shared.ctx, step)
	defer cancel()
	if err := chromedp.Cancel(closing); err != nil {
		return fmt.Errorf("closing the browser: %w", err)
	}
	return nil
}

// tab is a tab of the browser whose console is watched: what it says of
// errors, the policy's refusals included, fails the test.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu        sync.Mutex // protects those below
	wrong     []string
	forgiving bool // lines about the network are no fault
}

// newTab opens a tab in a profile of its own, like a browser just installed.
func newTab(t *testing.T) *tab {
	t.Helper()
	needBrowser(t)
	return openTab(t, shared.ctx, chromedp.WithNewBrowserContext())
}

// sibling opens another tab in the same profile.
func (b *tab) sibling() *tab {
	b.t.Helper()
	return openTab(b.t, b.ctx)
}

func openTab(t *testing.T, parent context.Context, options ...chromedp.ContextOption) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(parent, options...)
	b := &tab{t: t, ctx: ctx}
	watched := make(chan struct{})
	messages := chromedp.Console(ctx)
	go b.watch(messages, watched)
	t.Cleanup(func() {
		if t.Failed() {
			b.shoot(strings.ReplaceAll(t.Name(), "/", "-") + "-failed")
		}
		_ = chromedp.Cancel(ctx)
		cancel()
		<-watched
		for _, line := range b.console() {
			t.Errorf("console: %s", line)
		}
	})
	b.do(chromedp.EmulateViewport(1280, 900))
	return b
}

// faults are the kinds of messages that a sound page does not cause.
var faults = []chromedp.ConsoleType{chromedp.ConsoleError, chromedp.ConsoleWarning, chromedp.ConsoleException, "assert"}

// watch collects what is wrong, until the tab is closed; openTab waits for it.
func (b *tab) watch(messages func(yield func(chromedp.ConsoleMessage, error) bool), done chan<- struct{}) {
	defer close(done)
	for m, err := range messages {
		if err != nil {
			return
		}
		if !slices.Contains(faults, m.Type) {
			continue
		}
		b.mu.Lock()
		if !b.forgiving || m.Source != "network" {
			b.wrong = append(b.wrong, strings.TrimSpace(m.Source+" "+m.String()+" "+m.URL))
		}
		b.mu.Unlock()
	}
}

// console returns what was wrong so far.
func (b *tab) console() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.wrong)
}

// forgive has the console's lines about the network pass: the server is about
// to be away.
func (b *tab) forgive() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forgiving = true
}

// step is how long one action of a tab may take.
const step = time.Minute

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, step)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *tab) open(url string) {
	b.t.Helper()
	b.do(chromedp.Navigate(url))
}

func (b *tab) click(selector string) {
	b.t.Helper()
	b.do(chromedp.Click(chromedp.CSS(selector)))
}

// eval evaluates an expression in the page.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, step)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// wait waits until an expression is true in the page.
func (b *tab) wait(expression string) {
	b.t.Helper()
	eventually(b.t, step, expression, func() bool { return eval[bool](b, expression) })
}

// waitText waits until an element's text contains another.
func (b *tab) waitText(selector, text string) {
	b.t.Helper()
	var got string
	b.t.Cleanup(func() {
		if b.t.Failed() {
			b.t.Logf("last seen in %s, waiting for %q: %q", selector, text, got)
		}
	})
	eventually(b.t, step, fmt.Sprintf("%s says %q", selector, text), func() bool {
		got = b.text(selector)
		return strings.Contains(got, text)
	})
}

// text returns an element's text, empty when there is none such.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf("document.querySelector(%q)?.textContent ?? ''", selector))
}

// protocol checks over which protocol the page came, in the words of ALPN.
func (b *tab) protocol(want string) {
	b.t.Helper()
	if got := eval[string](b, "performance.getEntriesByType('navigation')[0].nextHopProtocol"); got != want {
		b.t.Errorf("the page came over %s, want %s", got, want)
	}
}

// dark switches between the dark and the light colours.
func (b *tab) dark(on bool) {
	b.t.Helper()
	b.prefer("color-scheme", map[bool]string{false: "light", true: "dark"}[on])
	b.wait("!document.getAnimations().some((a) => a instanceof CSSTransition)")
}

// prefer has the page know of one wish of who looks at it, and of no other.
func (b *tab) prefer(feature, value string) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-" + feature, Value: value}},
		})
		return err
	}))
}

// shoot saves a picture of the whole page.
func (b *tab) shoot(name string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, step)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.MkdirAll("artifacts", 0o750)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join("artifacts", name+".png"), png, 0o600)
	}
	if err != nil {
		b.t.Errorf("screenshot %s: %v", name, err)
	}
}
