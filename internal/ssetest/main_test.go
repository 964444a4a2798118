package ssetest

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails the suite when a goroutine is left behind.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := leaked(); left != "" {
			fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
			code = 1
		}
	}
	os.Exit(code)
}

// leaked returns the stacks of goroutines of this package or net/http that do
// not end within two seconds: net/http ends some of its own after Close.
func leaked() string {
	deadline := time.Now().Add(2 * time.Second)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for ; ; <-ticker.C {
		buf := make([]byte, 1<<20)
		var left []string
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "TestMain") {
				continue
			}
			if strings.Contains(stack, "ssetest.") || strings.Contains(stack, "net/http") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 || time.Now().After(deadline) {
			return strings.Join(left, "\n\n")
		}
	}
}

// within is a context that ends before the test binary's patience does.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newOrigin(t *testing.T, cfg OriginConfig) *Origin {
	t.Helper()
	o, err := NewOrigin(cfg)
	must(t, err)
	t.Cleanup(o.Close)
	return o
}

func startClient(t *testing.T, cfg ClientConfig) *Client {
	t.Helper()
	c := StartClient(cfg)
	t.Cleanup(c.Close)
	return c
}

// ids returns the ids of the client's events.
func ids(c *Client) string {
	var b []string
	for _, e := range c.Events() {
		b = append(b, e.ID)
	}
	return strings.Join(b, " ")
}
