package scenarios

import (
	"context"
	"flag"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func TestMain(m *testing.M) {
	ssetest.Main(m, ssetest.Suite{})
}

var (
	// long runs the scenarios in full length and judges pauses.
	long = flag.Bool("long", false, "run the scenarios in full length and size, and judge how long pauses are")

	// rounds, hopping and down are what takes longest with -long; .ci/run sets less.
	rounds  = flag.Int("rounds", 20, "with -long: how often the writer is killed, stopped and exits; a quarter of that for the leader in NATS")
	hopping = flag.Duration("hopping", 5*time.Minute, "with -long: how long clients go from node to node")
	down    = flag.Duration("down", time.Minute, "with -long: how long all of NATS is down")
)

// scale is a scenario's size: short by default, full with -long.
func scale[T any](short, full T) T {
	if *long {
		return full
	}
	return short
}

// besideOthers lets a test run while others do. In full length it has the machine
// for itself. It comes first in a test.
func besideOthers(t *testing.T) {
	t.Helper()
	if !*long {
		t.Parallel()
	}
}

// patience is the least that a wait gets. Only a test that fails waits for it.
const patience = 2 * time.Minute

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within returns the context of a wait.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
