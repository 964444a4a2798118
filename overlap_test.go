package ssefanin

import (
	"errors"
	"fmt"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func init() {
	caddy.RegisterModule(overlapApp{})
}

// overlapApp is an app that calls a function when it starts: while the
// configuration before it is still in use. Caddy starts apps in any order, so
// that of this module has been started by then in every other case.
type overlapApp struct{}

// inOverlap is what the app calls; nil leaves the app out of configurations.
var inOverlap func() error

func (overlapApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "sse_fanin_overlap", New: func() caddy.Module { return new(overlapApp) }}
}

func (overlapApp) Start() error { return inOverlap() }
func (overlapApp) Stop() error  { return nil }

// whileLoading has a function called within every load of the test.
func whileLoading(t *testing.T, f func() error) {
	t.Helper()
	inOverlap = f
	t.Cleanup(func() { inOverlap = nil })
}

func TestRenamedUpstreamIsNotDoubledWhileBothConfigurationsAreInUse(t *testing.T) {
	a := plain(t)
	site := "sse_fanin /events {\nstream s\nupstream %s " + a.URL() + "\n}"
	in := serve(t, "", fmt.Sprintf(site, "x"))
	connected(t, a)
	c := in.openClient(ssetest.ClientConfig{})
	want := ""
	n := 0
	whileLoading(t, func() error {
		n++
		emitSeen(t, a, c, fmt.Sprint("between", n))
		want += fmt.Sprintf(" between%d", n)
		if n%4 == 0 {
			return errors.New("this configuration fails")
		}
		return nil
	})
	for i := range 16 {
		if err := in.tryReload("", fmt.Sprintf(site, fmt.Sprint("x", i))); (err != nil) != (n%4 == 0) {
			t.Fatal(err)
		}
		emitSeen(t, a, c, fmt.Sprint("after", i))
		want += fmt.Sprintf(" after%d", i)
	}
	wantDatas(t, c, want[1:])
	wantUndisturbed(t, c, a)
}

// While it is not certain that the newer configuration loads, a stream keeps
// what it retains and the ids it writes.
func TestNewSettingsWaitUntilTheEarlierConfigurationHasLeft(t *testing.T) {
	a := newOrigin(t, ssetest.OriginConfig{Source: "a"})
	in := serve(t, "", named("", a))
	connected(t, a)
	c := in.openClient(ssetest.ClientConfig{})
	emitSeen(t, a, c, "one", "two", "three")
	first := waitData(t, c, "one").ID
	epoch := epochOf(t, c)
	check := func(when string) {
		t.Helper()
		if st := logOf(t, "s").Stats(); st.Events < 3 {
			t.Errorf("%s: only %d events are retained", when, st.Events)
		}
		if got := logOf(t, "s").Epoch(); got != epoch {
			t.Errorf("%s: the epoch went from %s to %s", when, epoch, got)
		}
	}
	whileLoading(t, func() error {
		check("between")
		return errors.New("this configuration fails")
	})
	for _, settings := range []string{"retain {\nevents 1\n}", "ids none"} {
		for range 6 {
			if err := in.tryReload("", named(settings, a)); err == nil {
				t.Fatal("it loads")
			}
			check("after")
		}
	}
	again := in.openClient(ssetest.ClientConfig{LastEventID: first})
	emitSeen(t, a, again, "four")
	wantDatas(t, again, "two three four")
	wantUndisturbed(t, c, a)
}
