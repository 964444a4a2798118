package ssefanin

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails the suite when a goroutine of this module is left behind,
// and removes what the tests share.
func TestMain(m *testing.M) {
	// not those of whoever runs the tests
	home, err := os.MkdirTemp("", "sse-fanin-home-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		if err := os.Setenv(name, home); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code := m.Run()
	if left := leaked(5 * time.Second); left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	_ = os.RemoveAll(home)
	if dir, err := storageDir(); err == nil {
		_ = os.RemoveAll(dir)
	}
	if builtDir != "" {
		_ = os.RemoveAll(builtDir)
	}
	os.Exit(code)
}

// leaked returns the stacks of goroutines with a frame of this module's own
// code, that of tests and of the tests' tools aside, which do not end within
// the grace.
func leaked(grace time.Duration) string {
	deadline := time.Now().Add(grace)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		left := moduleGoroutines()
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
		<-again.C
	}
}

// moduleGoroutines returns the stacks of all goroutines that run, or were
// started by, code of this module that is no test.
func moduleGoroutines() []string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	var ours []string
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		lines := strings.Split(stack, "\n")
		for i := 1; i+1 < len(lines); i += 2 { // a function, and where it is
			if strings.Contains(lines[i], "sse-fanin/caddy-sse-fanin") && !strings.Contains(lines[i], "/internal/ssetest") &&
				!strings.Contains(lines[i+1], "_test.go:") {
				ours = append(ours, stack)
				break
			}
		}
	}
	return ours
}
