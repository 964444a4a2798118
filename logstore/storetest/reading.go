package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

func followsWhatIsAppended(t *testing.T, o Opener) {
	store := o.open(t)
	if st := store.Status(); st.First != st.Last+1 || st.Oldest != 0 || st.Newest != 0 {
		t.Errorf("status %+v of a new log", st)
	}
	n := follow(t, store, 1)
	term := campaign(t, store)
	appendRecords(t, term, 1, 500)
	last := lastOf(t, n, 500)
	got := n.await(last)
	same(t, got, 1, 500)
	if got[0].Offset != 1 {
		t.Errorf("the first offset is %d", got[0].Offset)
	}
	for _, r := range got {
		if r.Term != term.Number() {
			t.Errorf("offset %d has term %d, want %d", r.Offset, r.Term, term.Number())
		}
	}
	if st := store.Status(); st.State != logstore.Writing || st.Last != last || st.First != 1 || st.Term != term.Number() || st.Bytes == 0 {
		t.Errorf("status %+v after offset %d", st, last)
	} else if newest := got[len(got)-1]; st.Oldest != got[0].Time || st.Newest != newest.Time {
		t.Errorf("the oldest and the newest record arrived at %d and %d, status %+v", got[0].Time, newest.Time, st)
	}
	epochs := store.Epochs()
	if len(epochs) != 1 || epochs[0].First != 1 || !goodEpoch.MatchString(epochs[0].ID) {
		t.Errorf("epochs of a new log: %v", epochs)
	}
	if err := n.stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Follow ended with %v, want its context's error", err)
	}
}

// goodEpoch matches the ID of an epoch.
var goodEpoch = regexp.MustCompile(fmt.Sprintf(`^[a-z0-9]{%d}$`, logstore.EpochLen))

func beginsAnywhere(t *testing.T, o Opener) {
	store := o.open(t)
	n := follow(t, store, 1)
	term := campaign(t, store)
	appendRecords(t, term, 1, 300)
	last := lastOf(t, n, 300)
	all := n.await(last)
	_ = n.stop()
	for _, from := range []uint64{1, 2, 150, last, last + 1} {
		again := follow(t, store, from)
		appendRecords(t, term, int(300+1), 301)
		got := again.await(last + 1)
		if got[0].Offset != from {
			t.Fatalf("following from %d begins at %d", from, got[0].Offset)
		}
		_ = again.stop()
		last++
		all = append(all, got[len(got)-1])
		for i := range got {
			if want := all[from-1+uint64(i)]; !bytes.Equal(got[i].Body, want.Body) || got[i].Offset != want.Offset {
				t.Fatalf("following from %d: offset %d is %q, want %q", from, got[i].Offset, got[i].Body, want.Body)
			}
		}
	}
}

func outlivesItsProcess(t *testing.T, o Opener) {
	store := o.Open(t)
	n := follow(t, store, 1)
	appendRecords(t, campaign(t, store), 1, 400)
	last := lastOf(t, n, 400)
	epochs := store.Epochs()
	closeStore(t, store)
	if err := n.stop(); !errors.Is(err, logstore.ErrClosed) {
		t.Errorf("Follow ended with %v, want ErrClosed", err)
	}
	store = o.open(t)
	n = follow(t, store, 1)
	same(t, n.await(last), 1, 400)
	term := campaign(t, store)
	appendRecords(t, term, 401, 450)
	lastOf(t, n, 450)
	n.mu.Lock()
	got := append([]logstore.Record(nil), n.records...)
	n.mu.Unlock()
	same(t, got, 1, 450)
	if now := store.Epochs(); len(now) != len(epochs) || now[0] != epochs[0] {
		t.Errorf("epochs %v have become %v", epochs, now)
	}
}

func numbersTermsUpwards(t *testing.T, o Opener) {
	var last uint64
	for range 3 {
		store := o.Open(t)
		n := follow(t, store, 1)
		for range 2 {
			term := campaign(t, store)
			if term.Number() <= last {
				t.Errorf("term %d comes after %d", term.Number(), last)
			}
			last = term.Number()
			if err := term.Release(within(t)); err != nil {
				t.Errorf("releasing: %v", err)
			}
		}
		_ = n.stop()
		closeStore(t, store)
	}
}

func keepsTimesInOrder(t *testing.T, o Opener) {
	store := o.open(t)
	n := follow(t, store, 1)
	term := campaign(t, store)
	for i, at := range []int64{5000, 4000, 6000, 1} {
		r := record(i)
		r.Time = at
		if err := term.Append(r); err != nil {
			t.Fatal(err)
		}
	}
	lastOf(t, n, 4)
	if err := term.Release(within(t)); err != nil {
		t.Fatal(err)
	}
	r := record(9)
	r.Time = 2
	if err := campaign(t, store).Append(r); err != nil {
		t.Fatal(err)
	}
	got := events(n.await(lastOf(t, n, 5)))
	times := make([]int64, 0, len(got))
	for _, r := range got {
		times = append(times, r.Time)
	}
	if fmt.Sprint(times) != "[5000 5000 6000 6000 6000]" {
		t.Errorf("arrivals %v, want none before the one before", times)
	}
}

func readsAndFindsByTime(t *testing.T, o Opener) {
	store := o.open(t)
	n := follow(t, store, 1)
	appendRecords(t, campaign(t, store), 1, 2000)
	last := lastOf(t, n, 2000)
	all := n.await(last)
	ctx := within(t)
	for _, from := range []uint64{1, 2, 777, 1999, last} {
		got, err := store.Read(ctx, from, 10_000)
		if err != nil || len(got) == 0 || got[0].Offset != from {
			t.Fatalf("reading from %d: %d records, %v", from, len(got), err)
		}
		size := 0
		for i, r := range got {
			if want := all[from-1+uint64(i)]; r.Offset != want.Offset || !bytes.Equal(r.Body, want.Body) {
				t.Fatalf("reading from %d: record %d is %+v, want %+v", from, i, r, want)
			}
			size += len(r.Body)
		}
		if size > 20_000 {
			t.Errorf("reading from %d returned %d bytes, asked for about 10,000", from, size)
		}
	}
	if got, err := store.Read(ctx, last+1, 1); err != nil || len(got) != 0 {
		t.Errorf("reading beyond the end: %d records, %v", len(got), err)
	}
	for _, r := range events(all)[:1500:1500] {
		if r.Offset%97 != 0 {
			continue
		}
		if at, err := store.Since(ctx, r.Time); err != nil || at != r.Offset {
			t.Fatalf("since the arrival of %d: %d, %v", r.Offset, at, err)
		}
	}
	if at, err := store.Since(ctx, all[len(all)-1].Time+1); err != nil || at != last+1 {
		t.Errorf("since the future: %d, %v, want %d", at, err, last+1)
	}
	if at, err := store.Back(ctx, 1<<40); err != nil || at != 1 {
		t.Errorf("back as far as there is: %d, %v", at, err)
	}
	if at, err := store.Back(ctx, 1); err != nil || at > last {
		t.Errorf("back by next to nothing: %d, %v, want one up to the newest, %d", at, err, last)
	}
}

func evictsTheOldest(t *testing.T, o Opener) {
	store := o.open(t)
	n := follow(t, store, 1)
	st := evict(t, store, n, campaign(t, store))
	if st.First == 1 || st.First > st.Last {
		t.Fatalf("offsets %d to %d are retained", st.First, st.Last)
	}
	if _, err := store.Read(within(t), 1, 1); !errors.Is(err, logstore.ErrEvicted) {
		t.Errorf("reading what was evicted: %v", err)
	}
	if oldest, err := store.Read(within(t), st.First, 1); err == nil && oldest[0].Time != st.Oldest {
		t.Errorf("the oldest record arrived at %d, not at %d", oldest[0].Time, st.Oldest)
	}
	_ = n.stop() // one at a time
	late := follow(t, store, 1)
	if got := late.await(st.Last); got[0].Offset < st.First {
		t.Errorf("following begins at %d, the oldest is %d", got[0].Offset, st.First)
	}
	_ = late.stop()
}

// evict appends so much that what was there before is evicted, and returns the
// status after that.
func evict(t *testing.T, store logstore.Store, n *node, term logstore.Term) logstore.Status {
	t.Helper()
	const bound = 8 << 20
	n.mu.Lock()
	n.evicts = true
	n.mu.Unlock()
	store.SetBounds(logstore.Bounds{Bytes: bound})
	first := store.Status().Last + 1
	big := bytes.Repeat([]byte("data: 0123456789\n"), 1000)
	for range 1000 { // 17 MB
		r := record(1)
		r.Body = big
		if err := term.Append(r); errors.Is(err, logstore.ErrNoRoom) {
			if err := term.Wait(within(t)); err != nil {
				t.Fatal(err)
			}
			if err := term.Append(r); err != nil {
				t.Fatal(err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for store.Status().Bytes > bound || store.Status().Last < first+999 || store.Status().Buffered > 0 {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%+v, the bound is %d bytes", store.Status(), bound)
		}
	}
	st := store.Status()
	n.await(st.Last)
	return st
}

// A follower that begins while records are committed gets each of them once.
func goesLiveWithoutAHole(t *testing.T, o Opener) {
	store := o.open(t)
	term := campaign(t, store)
	const total = 3000
	appended := make(chan struct{})
	go func() {
		defer close(appended)
		for i := 1; i <= total; i++ {
			for term.Append(record(i)) != nil {
				if term.Wait(context.Background()) != nil {
					return
				}
			}
		}
	}()
	var all []logstore.Record
	for from := uint64(1); len(events(all)) < total; { // again and again, some records each
		n := follow(t, store, from)
		n.await(min(from+20, total))
		_ = n.stop()
		got := n.await(from)
		if got[0].Offset != from {
			t.Fatalf("following from %d begins at %d", from, got[0].Offset)
		}
		all = append(all, got...)
		from = got[len(got)-1].Offset + 1
	}
	same(t, all, 1, total)
	<-appended
}

// A follower from beyond the end gets what comes from there on.
func waitsForWhatComes(t *testing.T, o Opener) {
	store := o.open(t)
	term := campaign(t, store)
	n := follow(t, store, 10)
	appendRecords(t, term, 1, 30)
	got := n.await(30)
	if got[0].Offset != 10 || got[20].Offset != 30 { // a fence may come before the first
		t.Errorf("following from 10 begins at %d, and offset %d is the 21st", got[0].Offset, got[20].Offset)
	}
	_ = n.stop()
}

// A fence takes an offset, and is handed over.
func takesFences(t *testing.T, o Opener) {
	store := o.open(t)
	n := follow(t, store, 1)
	term := campaign(t, store)
	before := lastOf(t, n, 0)
	if err := term.Append(&logstore.Record{Time: 1, Source: "node"}); err != nil {
		t.Fatal(err)
	}
	appendRecords(t, term, 1, 1)
	last := lastOf(t, n, 1)
	got := n.await(last)
	if last < before+2 || !got[len(got)-2].Fence() || got[len(got)-2].Source != "node" || got[len(got)-1].Fence() {
		t.Errorf("a fence and an event are %+v", got)
	}
}
