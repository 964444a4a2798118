package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// firefoxSettings are what a fresh profile needs to open the pages that it is
// given and nothing else.
const firefoxSettings = `
user_pref("browser.aboutwelcome.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.startup.homepage_override.mstone", "ignore");
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("datareporting.policy.dataSubmissionPolicyBypassNotification", true);
user_pref("toolkit.telemetry.reportingpolicy.firstRun", false);
user_pref("app.update.auto", false);
user_pref("app.normandy.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("extensions.getAddons.cache.enabled", false);
user_pref("services.settings.server", "data:,");
user_pref("dom.ipc.processPrelaunch.enabled", false);
`

// A reporter has what pages report that nobody can ask, by tab.
type reporter struct {
	server *httptest.Server

	mu      sync.Mutex // protects those below
	reports map[int]report
	orders  map[int]string // for the next report of a tab
}

type report struct {
	seen
	Loads int    `json:"loads"`
	State string `json:"state"`
}

func newReporter(t *testing.T) *reporter {
	t.Helper()
	r := &reporter{reports: make(map[int]report), orders: make(map[int]string)}
	r.server = httptest.NewServer(http.HandlerFunc(r.take))
	t.Cleanup(r.server.Close)
	return r
}

// take takes a report and answers with what the page is to do.
func (r *reporter) take(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	var got report
	tab, err := strconv.Atoi(req.URL.Query().Get("tab"))
	if err == nil {
		err = json.NewDecoder(req.Body).Decode(&got)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reports[tab] = got
	_, _ = io.WriteString(w, r.orders[tab])
	delete(r.orders, tab)
}

// of returns the newest report of a tab.
func (r *reporter) of(tab int) report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reports[tab]
}

// order has a tab do something.
func (r *reporter) order(tab int, what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.orders[tab] = what
}

// patience is how long Firefox may take for what it is to do: it starts beside
// other browsers, and lets the timers of hidden tabs run once a second.
const patience = 3 * time.Minute

// await waits for a report of each tab of which the condition is true.
func (r *reporter) await(t *testing.T, tabs []int, what string, ok func(report) bool) {
	t.Helper()
	for _, tab := range tabs {
		err := ssetest.Await(patience, fmt.Sprintf("tab %d: %s", tab, what), func() bool { return ok(r.of(tab)) })
		if err != nil {
			t.Fatalf("%v; its last report: %+v", err, r.of(tab))
		}
	}
}

// settle checks that each tab gets every event, once.
func (r *reporter) settle(t *testing.T, s *server, tabs []int, o *ssetest.Origin) {
	t.Helper()
	o.SetRate(0)
	last := o.Last()
	r.await(t, tabs, "the last event", func(got report) bool { return got.Sources[o.Source()].Last >= last })
	for _, tab := range tabs {
		got := r.of(tab)
		if want := (source{Count: last, Last: last}); got.Sources[o.Source()] != want || len(got.Gaps) != 0 {
			t.Errorf("tab %d got %+v, want %+v", tab, got, want)
		}
	}
	s.waitClients("s", 1)
}

// TestLibraryInFirefox has tabs of Firefox share a stream over HTTP/1.1, more of
// them than it opens connections to one server. Some are reloaded, most leave.
func TestLibraryInFirefox(t *testing.T) {
	t.Parallel()
	firefox, err := exec.LookPath("firefox-esr")
	if err != nil {
		t.Skipf("no Firefox: %v", err)
	}
	o := newOrigin(t, "a")
	s := newPlainServer(t, wires[0], librarySite(t, "", o))
	waitConnected(t, 1, o)
	r := newReporter(t)
	profile := t.TempDir()
	writeFile(t, filepath.Join(profile, "user.js"), firefoxSettings)
	args := []string{"--headless", "--no-remote", "--profile", profile}
	var tabs []int
	for tab := range 8 {
		tabs = append(tabs, tab)
		query := url.Values{"report": {r.server.URL}, "tab": {strconv.Itoa(tab)}}
		args = append(args, s.url("/library.html?"+query.Encode()))
	}
	p, err := ssetest.StartProcess(t.TempDir(), nil, firefox, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("firefox wrote:\n%s", p.Log.Tail(4000))
		}
	})
	r.await(t, tabs, "open", func(got report) bool { return got.State == "open" })
	s.waitClients("s", 1)
	o.EmitNumbered(100)
	r.settle(t, s, tabs, o)

	o.SetRate(50)
	for _, tab := range tabs[:3] {
		r.order(tab, "reload")
		r.await(t, []int{tab}, "reloaded", func(got report) bool { return got.Loads == 2 })
	}
	r.settle(t, s, tabs, o)
	// all but the last leave, so also the one that leads, whichever it is
	o.SetRate(50)
	for i, tab := range tabs[:len(tabs)-1] {
		r.order(tab, "leave")
		before := o.Last()
		r.await(t, tabs[i+1:], "it goes on", func(got report) bool { return got.Sources["a"].Last > before+10 })
	}
	r.settle(t, s, tabs[len(tabs)-1:], o)
}
