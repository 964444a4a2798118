package ssetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// The ports that FreeAddr gives. They are below those that the system gives to
// clients, which may be taken before somebody listens.
const (
	firstPort = 12000
	blockSize = 100
	allBlocks = 200
	ownBlocks = 20 // the most that a process takes, so that others have some
)

// ports are those that FreeAddr gives in this process, in blocks that no other
// process has: it listens on the first port of each, until it ends.
var ports struct {
	mu     sync.Mutex     // protects the fields below
	blocks []net.Listener // the newest last
	block  int            // the first port of the newest
	given  int            // how many of its ports were given
}

// FreeAddr returns a loopback address to listen on: with port 0, a reload
// would change the port. Nobody else is given it soon, even while nobody listens on
// it: whoever asked may not have started yet, or starts again. Two Caddys with one
// address would share its connections, without an error.
func FreeAddr() (string, error) {
	ports.mu.Lock()
	defer ports.mu.Unlock()
	for range ownBlocks * blockSize {
		if len(ports.blocks) == 0 || ports.given == blockSize-1 {
			if err := takeBlockLocked(); err != nil {
				return "", err
			}
		}
		ports.given++
		addr := fmt.Sprintf("127.0.0.1:%d", ports.block+ports.given)
		conn, err := net.Dial("tcp", addr) //nolint:noctx // a loopback address answers at once
		if err != nil {
			return addr, nil // nobody listens
		}
		_ = conn.Close()
	}
	return "", errors.New("finding a free port: all that were tried are taken")
}

// listen listens on an address. A program that this process starts has the socket that
// listened there before for as long as the start takes, so one that is in use is tried
// again for a while.
func listen(network, address string) (net.Listener, error) {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		ln, err := net.Listen(network, address)
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return ln, err
		}
	}
}

// takeBlockLocked takes a block of ports. When there is none left, the one that
// this process took first is given again.
func takeBlockLocked() error {
	for _, k := range rand.Perm(allBlocks) {
		if len(ports.blocks) == ownBlocks {
			break
		}
		block := firstPort + k*blockSize
		if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", block)); err == nil {
			ports.blocks = append(ports.blocks, ln)
			ports.block, ports.given = block, 0
			return nil
		}
	}
	if len(ports.blocks) == 0 {
		return errors.New("finding a free port: other processes have all of them")
	}
	oldest := ports.blocks[0]
	ports.blocks = append(ports.blocks[1:], oldest)
	ports.block, ports.given = oldest.Addr().(*net.TCPAddr).Port, 0
	return nil
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
