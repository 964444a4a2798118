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

	// Shared says that several nodes can have the log open.
	Shared bool

	// Block keeps the store from committing anything, so that its buffer fills
	// up, until the function that it returns is called. Nil: the store cannot be
	// blocked.
	Block func(t *testing.T) (unblock func())
}

// patience bounds every wait, generously.
const patience = 30 * time.Second

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
		{"SaysWhenATermIsOver", saysWhenATermIsOver},
		{"ClosesWhatRuns", closesWhatRuns},
		{"FillsAndDrainsItsBuffer", fillsAndDrainsItsBuffer},
		{"HandsOverBetweenNodes", handsOverBetweenNodes},
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

	mu      sync.Mutex // protects records
	cond    sync.Cond
	records []logstore.Record
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
	for _, r := range batch {
		if k := len(n.records); k > 0 && r.Offset != n.records[k-1].Offset+1 {
			n.t.Errorf("offset %d came after %d", r.Offset, n.records[k-1].Offset)
		}
		r.Body = bytes.Clone(r.Body)
		n.records = append(n.records, r)
	}
	n.cond.Broadcast()
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

func followsWhatIsAppended(t *testing.T, o Opener) {
	store := o.open(t)
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
	}
	epochs := store.Epochs()
	if len(epochs) != 1 || epochs[0].First != 1 || epochs[0].ID == "" {
		t.Errorf("epochs of a new log: %v", epochs)
	}
	if err := n.stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Follow ended with %v, want its context's error", err)
	}
}

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
	if err := <-n.done; !errors.Is(err, logstore.ErrClosed) {
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
	var times []int64
	for _, r := range events(n.await(lastOf(t, n, 5))) {
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
	term := campaign(t, store)
	const bound = 8 << 20
	store.SetBounds(logstore.Bounds{Bytes: bound})
	big := bytes.Repeat([]byte("data: 0123456789\n"), 1000)
	for range 2000 { // 34 MB
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
	last := lastOf(t, n, 2000)
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for store.Status().Bytes > bound {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%d bytes are retained, the bound is %d", store.Status().Bytes, bound)
		}
	}
	st := store.Status()
	if st.First == 1 || st.First > st.Last || st.Last != last {
		t.Fatalf("offsets %d to %d are retained of %d", st.First, st.Last, last)
	}
	if _, err := store.Read(within(t), 1, 1); !errors.Is(err, logstore.ErrEvicted) {
		t.Errorf("reading what was evicted: %v", err)
	}
	_ = n.stop() // one at a time
	late := follow(t, store, 1)
	if got := late.await(last); got[0].Offset < st.First {
		t.Errorf("following begins at %d, the oldest is %d", got[0].Offset, st.First)
	}
	_ = late.stop()
}

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
