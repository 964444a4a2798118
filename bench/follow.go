package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"
)

// eventEnd ends an event as the origin writes it.
var eventEnd = []byte("\n\n")

// follow reads the origin's stream and calls got with the events that came in
// one read, each complete with its end, until the stream or ctx ends. The
// memory is got's only during the call.
func follow(ctx context.Context, url string, opened func(), got func(events [][]byte)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("reading the origin: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("reading the origin: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("reading the origin: status %d", resp.StatusCode)
	}
	opened()
	buf := make([]byte, 64<<10) // more than any event
	held := 0                   // bytes of an event that is not complete
	var events [][]byte
	for {
		n, err := resp.Body.Read(buf[held:])
		rest := buf[:held+n]
		events = events[:0]
		for {
			end := bytes.Index(rest, eventEnd)
			if end < 0 {
				break
			}
			end += len(eventEnd)
			events = append(events, rest[:end])
			rest = rest[end:]
		}
		if len(events) > 0 {
			got(events)
		}
		if err != nil {
			return fmt.Errorf("reading the origin: %w", err)
		}
		held = copy(buf, rest)
		if held == len(buf) {
			return fmt.Errorf("reading the origin: an event of more than %d bytes", held)
		}
	}
}

// followAll follows several streams, each in a goroutine that lives as long as
// the process, and returns once all are open. got is called for one at a time.
func followAll(urls []string, got func(events [][]byte)) error {
	var (
		mu     sync.Mutex                        // one got at a time
		opened = make(chan error, 2*len(urls)+1) // each sends twice at most
	)
	for _, url := range urls {
		go func() {
			opened <- follow(context.Background(), url, func() { opened <- nil }, func(events [][]byte) {
				mu.Lock()
				defer mu.Unlock()
				got(events)
			})
		}()
	}
	for range urls {
		if err := <-opened; err != nil {
			return err
		}
	}
	return nil
}
