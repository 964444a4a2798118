// Package storetest has the suite that every logstore.Store has to pass, and a
// store in memory to test the suite, and users of stores, with.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// Opener opens one log.
type Opener struct {
	// Open opens the log of a test as one node, again and again: what was
	// committed is there again. Required.
	Open func(t *testing.T) logstore.Store

	// Shared says that several nodes can have the log open; the stores are
	// logstore.Shared then.
	Shared bool

	// Block keeps the store from committing anything, so that its buffer fills
	// up, until the function that it returns is called. Nil: the store cannot be
	// blocked.
	Block func(t *testing.T) (unblock func())
}

// patience bounds every wait, generously.
var patience = 30 * time.Second

// Run runs the suite. newLog returns the opener of an empty log, another one at
// each call.
func Run(t *testing.T, newLog func(t *testing.T) Opener) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(*testing.T, Opener)
	}{
		{"FollowsWhatIsAppended", followsWhatIsAppended},
		{"BeginsAnywhere", beginsAnywhere},
		{"OutlivesItsProcess", outlivesItsProcess},
		{"NumbersTermsUpwards", numbersTermsUpwards},
		{"KeepsTimesInOrder", keepsTimesInOrder},
		{"ReadsAndFindsByTime", readsAndFindsByTime},
		{"EvictsTheOldest", evictsTheOldest},
		{"KnowsTheLatestOfSources", knowsTheLatestOfSources},
		{"KnowsTheLatestOfWhatIsEvicted", knowsTheLatestOfWhatIsEvicted},
		{"BoundsTheSourcesItKnows", boundsTheSourcesItKnows},
		{"GoesLiveWithoutAHole", goesLiveWithoutAHole},
		{"WaitsForWhatComes", waitsForWhatComes},
		{"TakesFences", takesFences},
		{"EndsWaitsWithTheirContext", endsWaitsWithTheirContext},
		{"SaysWhenATermIsOver", saysWhenATermIsOver},
		{"ClosesWhatRuns", closesWhatRuns},
		{"FillsAndDrainsItsBuffer", fillsAndDrainsItsBuffer},
		{"KeepsBytes", keepsBytes},
		{"KeepsNothingOnceClosed", keepsNothingOnceClosed},
		{"KeepsForOtherNodes", keepsForOtherNodes},
		{"HandsOverBetweenNodes", handsOverBetweenNodes},
		{"TellsOtherNodes", tellsOtherNodes},
		{"AsksOtherNodes", asksOtherNodes},
		{"EndsQuestionsWithTheirContext", endsQuestionsWithTheirContext},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, newLog(t)) })
	}
}

// node is one open store that is followed.
type node struct {
	t      *testing.T
	store  logstore.Store
	cancel context.CancelFunc
	done   chan error

	mu      sync.Mutex // protects what follows
	cond    sync.Cond
	records []logstore.Record
	evicts  bool // so much that there may be a hole between two batches
}

func follow(t *testing.T, store logstore.Store, from uint64) *node {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{t: t, store: store, cancel: cancel, done: make(chan error, 1)}
	n.cond.L = &n.mu
	go func() { n.done <- store.Follow(ctx, from, n.apply) }()
	return n
}

func (n *node) apply(batch []logstore.Record) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(batch) == 0 {
		n.t.Error("an empty batch")
	}
	for i, r := range batch {
		k := len(n.records)
		overtaken := k > 0 && i == 0 && n.evicts && r.Offset > n.records[k-1].Offset
		if k > 0 && r.Offset != n.records[k-1].Offset+1 && !overtaken {
			n.t.Errorf("offset %d came after %d", r.Offset, n.records[k-1].Offset)
		}
		r.Body = bytes.Clone(r.Body)
		n.records = append(n.records, r)
	}
	n.cond.Broadcast()
}

// snapshot returns what was applied so far.
func (n *node) snapshot() []logstore.Record {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]logstore.Record(nil), n.records...)
}

// stop ends following and returns the reason.
func (n *node) stop() error {
	n.cancel()
	select {
	case err := <-n.done:
		return err
	case <-time.After(patience):
		n.t.Fatal("Follow does not end with its context")
		return nil
	}
}

// await returns the records up to an offset, once they were applied.
func (n *node) await(last uint64) []logstore.Record {
	n.t.Helper()
	timer := time.AfterFunc(patience, n.cond.Broadcast)
	defer timer.Stop()
	deadline := time.Now().Add(patience)
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.records) == 0 || n.records[len(n.records)-1].Offset < last {
		if !time.Now().Before(deadline) {
			n.t.Fatalf("offset %d was not applied, %d records were", last, len(n.records))
		}
		n.cond.Wait()
	}
	return append([]logstore.Record(nil), n.records...)
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func campaign(t *testing.T, store logstore.Store) logstore.Term {
	t.Helper()
	term, err := store.Campaign(within(t))
	if err != nil {
		t.Fatalf("campaigning: %v", err)
	}
	return term
}

// record is the i-th record of a test. Bodies differ in length, and ids and types
// are empty at times.
func record(i int) *logstore.Record {
	r := &logstore.Record{
		Time: 1_700_000_000_000 + int64(i), Source: fmt.Sprint("source-", i%3),
		Hash: uint64(i) * 0x9e3779b97f4a7c15,
		Body: []byte(fmt.Sprintf("data: %d %s\n\n", i, bytes.Repeat([]byte{'x'}, i*7%300))),
	}
	if i%2 == 0 {
		r.Type, r.ID = "tick", fmt.Sprint("id-", i)
	}
	return r
}

// appendRecords appends records of numbers first to last, waiting for room.
func appendRecords(t *testing.T, term logstore.Term, first, last int) {
	t.Helper()
	for i := first; i <= last; i++ {
		for {
			err := term.Append(record(i))
			if err == nil {
				break
			}
			if !errors.Is(err, logstore.ErrNoRoom) {
				t.Fatalf("appending record %d: %v", i, err)
			}
			if err := term.Wait(within(t)); err != nil {
				t.Fatalf("waiting for room: %v", err)
			}
		}
	}
}

// events leaves out the fences.
func events(records []logstore.Record) []logstore.Record {
	var all []logstore.Record
	for _, r := range records {
		if !r.Fence() {
			all = append(all, r)
		}
	}
	return all
}

// same fails unless the records are those of numbers first to last.
func same(t *testing.T, got []logstore.Record, first, last int) {
	t.Helper()
	got = events(got)
	if len(got) != last-first+1 {
		t.Fatalf("%d events, want those of numbers %d to %d", len(got), first, last)
	}
	for k, r := range got {
		want := record(first + k)
		if r.Source != want.Source || r.Type != want.Type || r.ID != want.ID || r.Hash != want.Hash ||
			r.Time != want.Time || !bytes.Equal(r.Body, want.Body) {
			t.Fatalf("event %d is %+v, want %+v", first+k, r, want)
		}
	}
}

func closeStore(t *testing.T, store logstore.Store) {
	t.Helper()
	closed := make(chan error, 1)
	go func() { closed <- store.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Errorf("closing: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Close does not return")
	}
}

// open opens the store and closes it at the end of the test, if it is not yet.
func (o Opener) open(t *testing.T) logstore.Store {
	t.Helper()
	store := o.Open(t)
	t.Cleanup(func() { closeStore(t, store) })
	return store
}

// lastOf awaits the status' last offset of a store to which n events were added.
func lastOf(t *testing.T, n *node, events int) uint64 {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for tick := time.NewTicker(time.Millisecond); ; {
		n.mu.Lock()
		count := 0
		var last uint64
		for i := range n.records {
			if !n.records[i].Fence() {
				count++
			}
			last = n.records[i].Offset
		}
		n.mu.Unlock()
		if count >= events {
			tick.Stop()
			return last
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%d events were applied, want %d", count, events)
		}
	}
}
