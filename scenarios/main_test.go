package scenarios

import (
	"flag"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func TestMain(m *testing.M) {
	ssetest.Main(m, ssetest.Suite{})
}

// long runs the scenarios in full length and size; .ci/run sets it.
var long = flag.Bool("long", false, "run the scenarios in full length and size")

// scale is a scenario's size: short by default, full with -long.
func scale[T any](short, full T) T {
	if *long {
		return full
	}
	return short
}

// besideOthers lets a test run while others do. In full length it has the
// machine for itself. It comes first in a test.
func besideOthers(t *testing.T) {
	t.Helper()
	if !*long {
		t.Parallel()
	}
}
