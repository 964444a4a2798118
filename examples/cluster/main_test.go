package main

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// patience is how long a wait may take on a machine that has other things to do.
// Only a test that fails waits for it.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	if os.Getenv(parentVariable) != "" {
		beParent()
	}
	ssetest.Main(m, ssetest.Suite{})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	must(t, ssetest.Await(patience, what, ok))
}

// buildOnce builds the programs for all tests.
var buildOnce = sync.OnceValues(func() (programs, error) {
	dir := filepath.Join(ssetest.Dir(), "programs")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return programs{}, err
	}
	return build(context.Background(), dir)
})

func builtPrograms(t *testing.T) programs {
	t.Helper()
	built, err := buildOnce()
	must(t, err)
	return built
}
