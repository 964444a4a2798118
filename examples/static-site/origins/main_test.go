package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func TestMain(m *testing.M) {
	ssetest.Main(m, ssetest.Suite{})
}

func freeAddress(t *testing.T) string {
	t.Helper()
	addr, err := ssetest.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func typed(w io.Writer, text string) {
	_, _ = io.WriteString(w, text) // a pipe to ourselves
}

// TestRun starts both servers, stops one, and starts it again.
func TestRun(t *testing.T) {
	prices, builds := freeAddress(t), freeAddress(t)
	in, typing := io.Pipe()
	printed, out := io.Pipe()
	said := make(chan string, 100)
	go func() {
		defer close(said)
		for lines := bufio.NewScanner(printed); lines.Scan(); {
			said <- lines.Text()
		}
	}()
	says := func(want string) {
		t.Helper()
		for deadline := time.After(30 * time.Second); ; {
			select {
			case line := <-said:
				if strings.Contains(line, want) {
					return
				}
			case <-deadline:
				t.Fatalf("it never says %q", want)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, prices, builds, in, out) }()
	says("Ctrl-C ends both")

	firstEvent := func(address string) (string, error) {
		resp, err := http.Get("http://" + address + "/events")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if event, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				return event, nil
			}
		}
		return "", io.ErrUnexpectedEOF
	}
	serves := func(address, want string) {
		t.Helper()
		if got, err := firstEvent(address); got != want || err != nil {
			t.Errorf("%s sends %q, %v; want %q", address, got, err, want)
		}
	}
	serves(prices, "price")
	serves(builds, "build")
	typed(typing, "2\n")
	says("builds is down")
	if event, err := firstEvent(builds); err == nil {
		t.Errorf("it sends %q though it is down", event)
	}
	serves(prices, "price")
	typed(typing, "2\n")
	says("builds is up")
	serves(builds, "build")
	typed(typing, "nonsense\n")
	says("there are servers 1 to 2")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	typing.Close()
	out.Close()
	for range said { // until it is read
	}
}
