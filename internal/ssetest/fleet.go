package ssetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// FleetConfig describes many clients of one stream.
type FleetConfig struct {
	// Number of clients.
	Clients int

	// The options of every client. Track is the fleet's own. Record: default
	// none.
	Client ClientConfig

	// Changes the configuration of client i, if set.
	Each func(i int, cfg *ClientConfig)

	// Judges the clients, if set.
	Verifier *Verifier

	// Share of the clients, 0 to 1, that disconnect and resume all the time.
	Churn float64

	// Mean time between two disconnects of such a client. Default: 1s.
	Every time.Duration
}

// Fleet is a set of started clients. Its methods are safe for concurrent use.
type Fleet struct {
	Clients []*Client
	Tracks  []*Track // nil without a Verifier

	churned []*Client
	every   time.Duration
	quit    chan struct{}
	stop    sync.Once
	running sync.WaitGroup // the goroutine churn
}

// StartFleet starts the clients. They begin to disconnect at once.
func StartFleet(cfg FleetConfig) *Fleet {
	if cfg.Every <= 0 {
		cfg.Every = time.Second
	}
	if cfg.Client.Record == 0 {
		cfg.Client.Record = -1
	}
	f := &Fleet{every: cfg.Every, quit: make(chan struct{})}
	for i := range cfg.Clients {
		client := cfg.Client
		if cfg.Verifier != nil {
			client.Track = cfg.Verifier.Track(fmt.Sprintf("client-%d", i))
			f.Tracks = append(f.Tracks, client.Track)
		}
		if cfg.Each != nil {
			cfg.Each(i, &client)
		}
		f.Clients = append(f.Clients, StartClient(client))
	}
	f.churned = f.Clients[:int(cfg.Churn*float64(cfg.Clients))]
	if len(f.churned) > 0 {
		f.running.Add(1)
		go f.churn()
	}
	return f
}

// churn disconnects one client after the other, at random. StartFleet starts
// it; StopChurn ends it and waits.
func (f *Fleet) churn() {
	defer f.running.Done()
	ticker := time.NewTicker(max(f.every/time.Duration(len(f.churned)), time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			f.churned[rand.IntN(len(f.churned))].Disconnect()
		case <-f.quit:
			return
		}
	}
}

// StopChurn lets all clients stay connected from now on.
func (f *Fleet) StopChurn() {
	f.stop.Do(func() { close(f.quit) })
	f.running.Wait()
}

// WaitOpen waits until every client has been answered once.
func (f *Fleet) WaitOpen(ctx context.Context) error {
	for i, c := range f.Clients {
		if err := c.WaitOpen(ctx, 1); err != nil {
			return fmt.Errorf("client-%d: %w", i, err)
		}
	}
	return nil
}

// Ends is how many connections of all clients ended in this way.
func (f *Fleet) Ends(kind EndKind) int {
	var n int
	for _, c := range f.Clients {
		n += c.Ends(kind)
	}
	return n
}

// ErrIfEnded is an error when a connection ended, or failed, that no client gave
// up itself.
func (f *Fleet) ErrIfEnded() error {
	var ends []error
	for _, kind := range []EndKind{EndClean, EndError, EndStatus, EndDial} {
		if n := f.Ends(kind); n > 0 {
			ends = append(ends, fmt.Errorf("%d connections of clients ended (%s)", n, kind))
		}
	}
	return errors.Join(ends...)
}

// Close ends all clients and waits.
func (f *Fleet) Close() {
	f.StopChurn()
	var closing sync.WaitGroup
	for _, c := range f.Clients {
		closing.Go(c.Close)
	}
	closing.Wait()
}
