package scenarios

import (
	"flag"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func TestMain(m *testing.M) {
	ssetest.Main(m, ssetest.Suite{})
}

var (
	// long runs the scenarios in full length and size; .ci/run sets it.
	long = flag.Bool("long", false, "run the scenarios in full length and size")

	// share shortens what takes longest with -long; .ci/run sets 4.
	share = flag.Int("share", 1, "with -long: what takes longest has the n-th part of its length or size")
)

// scale is a scenario's size: short by default, full with -long.
func scale[T any](short, full T) T {
	if *long {
		return full
	}
	return short
}

// longest is scale for what takes longest.
func longest[T ~int | ~int64](short, full T) T { return scale(short, full/T(*share)) }

// besideOthers lets a test run while others do. In full length it has the
// machine for itself. It comes first in a test.
func besideOthers(t *testing.T) {
	t.Helper()
	if !*long {
		t.Parallel()
	}
}
