package interop

import (
	"flag"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func TestMain(m *testing.M) {
	ssetest.Main(m, ssetest.Suite{})
}

var (
	// long sends more events, cuts more connections, and adds HTTP/2; .ci/run sets it.
	long = flag.Bool("long", false, "send more events, cut more connections, and add HTTP/2")

	// only has the tests run some of the libraries.
	only = flag.String("libraries", "", "which libraries to run, separated by commas; default: all that are there")
)

// scale is a round's size: short by default, full with -long.
func scale(short, full int) int {
	if *long {
		return full
	}
	return short
}

// patience is the least that a wait gets. Only a test that fails waits for it.
const patience = time.Minute

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	must(t, ssetest.Await(patience, what, ok))
}
