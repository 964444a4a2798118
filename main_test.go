package ssefanin

import (
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func TestMain(m *testing.M) {
	// Many tests wait for the next look at a log, and for the end of connections
	// that servers have left behind.
	watchEvery, reopenAfter, completeEvery = 100*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
	idleGrace = 800 * time.Millisecond
	ssetest.Main(m, ssetest.Suite{})
}
