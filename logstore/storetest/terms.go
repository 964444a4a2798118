package storetest

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

func saysWhenATermIsOver(t *testing.T, o Opener) {
	store := o.open(t)
	term := campaign(t, store)
	if term.Err() != nil {
		t.Errorf("a term that goes on has the error %v", term.Err())
	}
	appendRecords(t, term, 1, 10)
	if err := term.Release(within(t)); err != nil {
		t.Fatalf("releasing: %v", err)
	}
	select {
	case <-term.Done():
	default:
		t.Error("a term that was released is not done")
	}
	if term.Err() == nil {
		t.Error("a term that was released has no error")
	}
	if err := term.Append(record(11)); !errors.Is(err, logstore.ErrOver) {
		t.Errorf("appending after the term: %v", err)
	}
	if err := term.Wait(within(t)); !errors.Is(err, logstore.ErrOver) {
		t.Errorf("waiting after the term: %v", err)
	}
	n := follow(t, store, 1)
	same(t, n.await(lastOf(t, n, 10)), 1, 10) // Release has waited for them
	_ = n.stop()
}

func closesWhatRuns(t *testing.T, o Opener) {
	store := o.Open(t)
	n := follow(t, store, 1)
	term := campaign(t, store)
	waiting := make(chan error, 1)
	go func() {
		_, err := store.Campaign(context.Background())
		waiting <- err
	}()
	closeStore(t, store)
	closeStore(t, store)
	for what, c := range map[string]chan error{"Follow": n.done, "Campaign": waiting} {
		select {
		case err := <-c:
			if !errors.Is(err, logstore.ErrClosed) {
				t.Errorf("%s ended with %v, want ErrClosed", what, err)
			}
		case <-time.After(patience):
			t.Errorf("%s goes on after Close", what)
		}
	}
	if err := term.Append(record(1)); !errors.Is(err, logstore.ErrOver) {
		t.Errorf("appending to a closed store: %v", err)
	}
	if err := store.Follow(context.Background(), 1, func([]logstore.Record) {}); !errors.Is(err, logstore.ErrClosed) {
		t.Errorf("following a closed store: %v", err)
	}
	if _, err := store.Campaign(context.Background()); !errors.Is(err, logstore.ErrClosed) {
		t.Errorf("campaigning for a closed store: %v", err)
	}
	if _, err := store.Latest(context.Background()); !errors.Is(err, logstore.ErrClosed) {
		t.Errorf("asking a closed store for the latest of its sources: %v", err)
	}
	if st := store.Status(); st.State != logstore.Closed {
		t.Errorf("a closed store is %s", st.State)
	}
}

func fillsAndDrainsItsBuffer(t *testing.T, o Opener) {
	if o.Block == nil {
		t.Skip("this store cannot be blocked")
	}
	store := o.open(t)
	n := follow(t, store, 1)
	term := campaign(t, store)
	appendRecords(t, term, 1, 10)
	lastOf(t, n, 10)
	unblock := o.Block(t)
	i := 11
	for ; ; i++ {
		err := term.Append(record(i))
		if errors.Is(err, logstore.ErrNoRoom) {
			break
		}
		if err != nil || i > 10_000_000 {
			t.Fatalf("appending record %d to a store that is blocked: %v", i, err)
		}
	}
	short, cancel := context.WithCancel(context.Background())
	cancel()
	if err := term.Wait(short); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for room with a context that is done: %v", err)
	}
	n.mu.Lock()
	applied := len(events(n.records))
	n.mu.Unlock()
	if applied >= i-1 {
		t.Errorf("%d events were applied while nothing could be committed", applied)
	}
	unblock()
	if err := term.Wait(within(t)); err != nil {
		t.Fatalf("waiting for room: %v", err)
	}
	appendRecords(t, term, i, i+10)
	same(t, n.await(lastOf(t, n, i+10)), 1, i+10)
}

func handsOverBetweenNodes(t *testing.T, o Opener) {
	if !o.Shared {
		t.Skip("one process has this store at a time")
	}
	a, b := o.open(t), o.open(t)
	na, nb := follow(t, a, 1), follow(t, b, 1)
	term := campaign(t, a)
	appendRecords(t, term, 1, 200)
	won := make(chan logstore.Term, 1)
	ctx := within(t)
	go func() {
		if term, err := b.Campaign(ctx); err == nil {
			won <- term
		}
	}()
	select {
	case <-won:
		t.Fatal("two nodes write")
	case <-time.After(50 * time.Millisecond):
	}
	if err := term.Release(within(t)); err != nil {
		t.Fatal(err)
	}
	second := <-won
	if second.Number() <= term.Number() {
		t.Errorf("term %d comes after %d", second.Number(), term.Number())
	}
	sameLatest(t, b, latestOf(na.await(lastOf(t, na, 200))))
	nb.mu.Lock()
	known := len(events(nb.records))
	nb.mu.Unlock()
	if known != 200 {
		t.Errorf("the new writer knows %d events of 200", known)
	}
	appendRecords(t, second, 201, 300)
	last := lastOf(t, na, 300)
	left, right := na.await(last), nb.await(last)
	same(t, left, 1, 300)
	for i := range left {
		if left[i].Offset != right[i].Offset || !bytes.Equal(left[i].Body, right[i].Body) || left[i].Time != right[i].Time {
			t.Fatalf("two nodes have %+v and %+v at the same place", left[i], right[i])
		}
	}
	if a.Epochs()[0] != b.Epochs()[0] {
		t.Errorf("two nodes have the epochs %v and %v", a.Epochs(), b.Epochs())
	}
}

// endsWaitsWithTheirContext has contexts end at any moment of a wait.
func endsWaitsWithTheirContext(t *testing.T, o Opener) {
	store := o.open(t)
	term := campaign(t, store)
	results := make(chan error, 1)
	for i := range 50 {
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			_, err := store.Campaign(ctx)
			results <- err
		}()
		n := follow(t, store, 1)
		for range i * 100 { // not long
			_ = store.Status()
		}
		cancel()
		select {
		case err := <-results:
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("campaigning while this node writes: %v", err)
			}
		case <-time.After(patience):
			t.Fatal("Campaign does not end with its context")
		}
		if err := n.stop(); !errors.Is(err, context.Canceled) {
			t.Fatalf("Follow ended with %v", err)
		}
	}
	if term.Err() != nil {
		t.Errorf("the term ended with %v", term.Err())
	}
	done, cancel := context.WithCancel(context.Background())
	cancel()
	if err := store.Follow(done, 1, func([]logstore.Record) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("following with a context that is done: %v", err)
	}
	if _, err := store.Read(done, 1, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("reading with a context that is done: %v", err)
	}
	if _, err := store.Latest(done); !errors.Is(err, context.Canceled) {
		t.Errorf("asking for the latest of the sources with a context that is done: %v", err)
	}
}
