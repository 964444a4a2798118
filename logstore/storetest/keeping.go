package storetest

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// keeper returns the store as one that keeps something besides the log. A test of it
// is skipped for one that does not.
func keeper(t *testing.T, store logstore.Store) logstore.Keeper {
	t.Helper()
	k, ok := store.(logstore.Keeper)
	if !ok {
		t.Skip("the store keeps nothing besides the log")
	}
	return k
}

// wantKept fails unless a name has these bytes.
func wantKept(t *testing.T, k logstore.Keeper, name string, want []byte) {
	t.Helper()
	got, err := k.Kept(within(t), name)
	if err != nil || !bytes.Equal(got, want) || (got == nil) != (want == nil) {
		t.Fatalf("%s has %d bytes, %v; want %d", name, len(got), err, len(want))
	}
}

// keepsBytes has a store keep bytes of several sizes, over restarts.
func keepsBytes(t *testing.T, o Opener) {
	store := o.Open(t)
	k := keeper(t, store)
	follow(t, store, 1)
	campaign(t, store)
	wantKept(t, k, "values", nil)
	large := make([]byte, 5<<20)
	for i := range large {
		large[i] = byte(i * 31 >> 3)
	}
	for _, kept := range [][]byte{[]byte("one"), large, []byte("two"), {}, large[:1<<20]} {
		given := bytes.Clone(kept)
		if err := k.Keep(within(t), "values", given); err != nil {
			t.Fatalf("keeping %d bytes: %v", len(kept), err)
		}
		for i := range given {
			given[i] = '?' // the caller's again
		}
		wantKept(t, k, "values", kept)
		wantKept(t, k, "others", nil)
	}
	if err := k.Keep(within(t), "others", []byte("three")); err != nil {
		t.Fatalf("keeping something else: %v", err)
	}
	got, _ := k.Kept(within(t), "others")
	got[0] = '?' // the caller's
	closeStore(t, store)

	store = o.open(t)
	k = keeper(t, store)
	wantKept(t, k, "values", large[:1<<20])
	wantKept(t, k, "others", []byte("three"))
}

// keepsNothingOnceClosed has a store be asked at the wrong time.
func keepsNothingOnceClosed(t *testing.T, o Opener) {
	store := o.Open(t)
	k := keeper(t, store)
	follow(t, store, 1)
	campaign(t, store)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := k.Keep(ctx, "values", []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("keeping with a context that has ended: %v", err)
	}
	if _, err := k.Kept(ctx, "values"); !errors.Is(err, context.Canceled) {
		t.Errorf("reading with a context that has ended: %v", err)
	}
	closeStore(t, store)
	if err := k.Keep(within(t), "values", []byte("x")); !errors.Is(err, logstore.ErrClosed) {
		t.Errorf("keeping when it is closed: %v", err)
	}
	if _, err := k.Kept(within(t), "values"); !errors.Is(err, logstore.ErrClosed) {
		t.Errorf("reading when it is closed: %v", err)
	}
}

// keepsForOtherNodes has one node read what another one has stored.
func keepsForOtherNodes(t *testing.T, o Opener) {
	if !o.Shared {
		t.Skip("one process has the log at a time")
	}
	store, other := o.open(t), o.open(t)
	k := keeper(t, store)
	follow(t, store, 1)
	campaign(t, store)
	for _, kept := range []string{"one", "two"} {
		if err := k.Keep(within(t), "values", []byte(kept)); err != nil {
			t.Fatalf("keeping: %v", err)
		}
		wantKept(t, keeper(t, other), "values", []byte(kept))
	}
}
