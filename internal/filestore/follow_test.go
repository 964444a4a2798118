package filestore

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// A follower may have read a batch from the file, whole or in part, by the time
// that the committer hands it over.
func TestBatchIsHandedOverOnce(t *testing.T) {
	for name, test := range map[string]struct{ next, want uint64 }{
		"nothing of it is known": {5, 5}, "some is": {8, 8}, "the last is not": {10, 10},
		"all is": {11, 0}, "more is": {20, 0}, "it comes early": {2, 5},
	} {
		t.Run(name, func(t *testing.T) {
			var got []uint64
			calls := 0
			s := new(Store)
			s.cond.L = &s.mu
			s.follower = &follower{live: true, next: test.next, apply: func(batch []logstore.Record) {
				calls++
				for i := range batch {
					got = append(got, batch[i].Offset)
					if !isEvent(&batch[i], int(batch[i].Offset)) {
						t.Errorf("offset %d is %+v", batch[i].Offset, batch[i])
					}
				}
			}}
			var b batch
			for i := 5; i <= 10; i++ {
				r := event(i)
				r.Offset = uint64(i)
				b.add(r)
			}
			b.fill()
			s.publish(&b)
			switch {
			case test.want == 0 && calls > 0:
				t.Errorf("%v was handed over again", got)
			case test.want > 0 && (calls != 1 || got[0] != test.want || len(got) != int(11-test.want)):
				t.Errorf("%v was handed over in %d calls, want %d and later", got, calls, test.want)
			}
		})
	}
}

// A follower that is behind while the store closes gets no later records, which
// would leave a hole.
func TestFollowerThatIsBehindAtTheEnd(t *testing.T) {
	disk := &badDisk{noSync: true}
	var hang atomic.Bool
	hangs, sync := make(chan struct{}, 1), make(chan struct{})
	disk.onSync = func(name string) error {
		if hang.Load() && strings.HasSuffix(name, segmentSuffix) {
			select {
			case hangs <- struct{}{}:
			default:
			}
			<-sync
		}
		return nil
	}
	o := quick(t.TempDir(), SyncAlways)
	o.disk = disk
	s := open(t, o)
	term := campaign(t, s)
	large := event(1)
	large.Body = make([]byte, followBatch)
	for range 3 { // a read each
		put(t, term, large)
	}
	await(t, s, 3)
	hang.Store(true)
	put(t, term, event(4))
	<-hangs

	var got []uint64
	begun, apply := make(chan struct{}), make(chan struct{})
	followed := make(chan error, 1)
	go func() {
		followed <- s.Follow(t.Context(), 1, func(batch []logstore.Record) {
			if len(got) == 0 {
				close(begun)
				<-apply
			}
			for i := range batch {
				got = append(got, batch[i].Offset)
			}
		})
	}()
	<-begun
	closed := make(chan struct{})
	go func() { defer close(closed); shut(t, s) }()
	<-term.Done()
	close(apply)
	time.Sleep(5 * time.Millisecond) // the follower comes to a rest; too early only makes the test weaker
	close(sync)
	<-closed
	if err := <-followed; !errors.Is(err, logstore.ErrClosed) {
		t.Errorf("Follow ended with %v", err)
	}
	for i, offset := range got {
		if offset != uint64(i+1) {
			t.Fatalf("offsets %v were handed over", got)
		}
	}
}
