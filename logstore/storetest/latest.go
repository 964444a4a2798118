package storetest

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// latestOf is what Latest returns after these records.
func latestOf(records []logstore.Record) map[string]logstore.Latest {
	all := make(map[string]logstore.Latest)
	for _, r := range events(records) {
		all[r.Source] = logstore.Latest{Offset: r.Offset, Time: r.Time, ID: r.ID}
	}
	return all
}

func latest(t *testing.T, store logstore.Store) map[string]logstore.Latest {
	t.Helper()
	all, err := store.Latest(within(t))
	if err != nil {
		t.Fatalf("asking for the latest of the sources: %v", err)
	}
	return all
}

func sameLatest(t *testing.T, store logstore.Store, want map[string]logstore.Latest) {
	t.Helper()
	if got := latest(t, store); !maps.Equal(got, want) {
		t.Fatalf("the latest of the sources is %v, want %v", got, want)
	}
}

func knowsTheLatestOfSources(t *testing.T, o Opener) {
	store := o.Open(t)
	sameLatest(t, store, nil)
	n := follow(t, store, 1)
	term := campaign(t, store)
	for _, count := range []int{1, 2, 500} {
		appendRecords(t, term, len(events(n.snapshot()))+1, count)
		sameLatest(t, store, latestOf(n.await(lastOf(t, n, count))))
	}
	if err := term.Append(&logstore.Record{Time: 1, Source: "node"}); err != nil { // a fence
		t.Fatal(err)
	}
	appendRecords(t, term, 501, 501)
	want := latestOf(n.await(lastOf(t, n, 501)))
	sameLatest(t, store, want)
	latest(t, store)["source-1"] = logstore.Latest{} // the caller's
	sameLatest(t, store, want)
	closeStore(t, store)

	store = o.open(t)
	n = follow(t, store, 1)
	n.await(want[record(501).Source].Offset)
	sameLatest(t, store, want)
	term = campaign(t, store)
	sameLatest(t, store, want)
	appendRecords(t, term, 502, 502)
	sameLatest(t, store, latestOf(n.await(lastOf(t, n, 502))))
}

func knowsTheLatestOfWhatIsEvicted(t *testing.T, o Opener) {
	store := o.Open(t)
	n := follow(t, store, 1)
	term := campaign(t, store)
	appendRecords(t, term, 1, 9)
	rare := latestOf(n.await(lastOf(t, n, 9)))
	st := evict(t, store, n, term)
	want := latestOf(n.await(st.Last))
	for source, l := range rare {
		if want[source].Offset == l.Offset && l.Offset >= st.First {
			t.Fatalf("offset %d is retained", l.Offset)
		}
	}
	sameLatest(t, store, want)
	closeStore(t, store)
	store = o.open(t)
	n = follow(t, store, 1)
	n.await(st.Last)
	sameLatest(t, store, want)
}

func boundsTheSourcesItKnows(t *testing.T, o Opener) {
	const sources = 3 * logstore.MaxSources
	store := o.Open(t)
	n := follow(t, store, 1)
	term := campaign(t, store)
	put := func(r *logstore.Record) {
		for term.Append(r) != nil {
			if err := term.Wait(within(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range sources {
		r := record(2 * i)
		r.Source = fmt.Sprint("source-", i)
		put(r)
	}
	r := record(0)
	r.Source, r.ID = "long id", strings.Repeat("i", logstore.MaxLatestText+1)
	put(r)
	r.Source, r.ID = strings.Repeat("s", logstore.MaxLatestText+1), "long source"
	put(r)
	records := events(n.await(lastOf(t, n, sources+2)))
	want := latestOf(records[sources+1-logstore.MaxSources : sources+1])
	l := want["long id"]
	l.ID = ""
	want["long id"] = l
	for range 2 {
		if got := latest(t, store); len(got) != len(want) || !maps.Equal(got, want) {
			t.Fatalf("the latest of %d sources is known, want that of %d with the newest records", len(got), len(want))
		}
		closeStore(t, store)
		store = o.open(t)
		n = follow(t, store, 1)
		n.await(records[sources+1].Offset)
	}
}
