package ssetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"time"
)

// FreeAddr returns a loopback address to listen on: with port 0, a reload
// would change the port. The port is below those that the system gives to
// clients, which may be taken before somebody listens.
func FreeAddr() (string, error) {
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 12000+rand.N(20000))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		return addr, ln.Close()
	}
	return "", errors.New("finding a free port: all that were tried are taken")
}

// UnixClient returns a client whose requests all go to a socket, over a
// connection of their own. Zero lets them take as long as they like.
func UnixClient(socket string, timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
}

// AwaitListening waits until somebody listens on an address.
func AwaitListening(atMost time.Duration, addr string) error {
	return Await(atMost, addr+" listens", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// awaitPause is how long Await pauses between two looks at most.
const awaitPause = 10 * time.Millisecond

// Await waits for a condition, which it looks at again and again: soon at first,
// since most conditions are met at once, and then less often.
func Await(atMost time.Duration, what string, ok func() bool) error {
	deadline := time.NewTimer(atMost)
	defer deadline.Stop()
	pause := time.Millisecond
	again := time.NewTimer(pause)
	defer again.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			return fmt.Errorf("not within %s: %s", atMost, what)
		case <-again.C:
		}
		pause = min(2*pause, awaitPause)
		again.Reset(pause)
	}
	return nil
}

// Repeat calls step every so often, until the length is over or step returns an
// error, which it returns.
func Repeat(length, every time.Duration, step func() error) error {
	end := time.NewTimer(length)
	defer end.Stop()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-end.C:
			return nil
		case <-ticker.C:
			if err := step(); err != nil {
				return err
			}
		}
	}
}
