package ssetest

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestMain fails the suite when a goroutine of this package or of net/http is
// left behind, too.
func TestMain(m *testing.M) {
	Main(m, Suite{Goroutines: []string{"ssetest.", "net/http"}})
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
