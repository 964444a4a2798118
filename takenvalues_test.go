package ssefanin

import (
	"fmt"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/eventlog"
	"github.com/sse-fanin/caddy-sse-fanin/internal/lastvalue"
)

// A client among many whose values differ gets the newest that others have, and the
// events since.
func TestSnapshotsOfLastValuesAreBounded(t *testing.T) {
	h := valuesHub(eventlog.Options{MaxEvents: 100, MaxBytes: 1 << 20}, 100)
	log := h.log.Load()
	var all []*takenValues
	for i := range 3 * maxTaken {
		log.append(time.Now(), 0, []byte("v"), fmt.Appendf(nil, "event: v\ndata: {\"key\":%d}\n\n", i), nil)
		taken, head := log.values.take()
		values, _ := log.values.between(taken, 0, lastvalue.NoOffset)
		if want := uint64(min(i+1, maxTaken)); head != want || len(values) != int(want) {
			t.Errorf("client %d has %d values up to %d, want %d", i, len(values), head, want)
		}
		all = append(all, taken)
	}
	if n := len(log.values.taken); n != maxTaken {
		t.Errorf("%d snapshots are held", n)
	}
	for _, taken := range all {
		log.values.giveBack(taken)
	}
	if n := len(log.values.taken); n != 0 {
		t.Errorf("%d snapshots are held by nobody", n)
	}
}

// A client that is blocked in a write keeps no values in memory once the log has evicted
// what came after them: it gets a gap when it goes on.
func TestSnapshotsOfLastValuesAreRevoked(t *testing.T) {
	h := valuesHub(eventlog.Options{MaxEvents: 10, MaxBytes: 1 << 20}, 100)
	log := h.log.Load()
	publish := func(typ string) {
		log.append(time.Now(), 0, []byte(typ), fmt.Appendf(nil, "event: %s\ndata: {\"key\":1}\n\n", typ), nil)
	}
	publish("v")
	var all []*takenValues
	for range 3 * maxTaken {
		taken, _ := log.values.take()
		all = append(all, taken)
		if _, ok := log.values.between(taken, 0, lastvalue.NoOffset); !ok {
			t.Fatal("the present values are revoked")
		}
		for range 10 { // the log has what is after them
			publish("other")
		}
		if _, ok := log.values.between(taken, 0, lastvalue.NoOffset); !ok {
			t.Fatal("values are revoked, and the log has all that is after them")
		}
		publish("other")
		if _, ok := log.values.between(taken, 0, lastvalue.NoOffset); ok {
			t.Fatal("a snapshot is not revoked")
		}
		publish("v")
	}
	if n := len(log.values.taken); n != 0 {
		t.Errorf("%d snapshots are held", n)
	}
	for _, taken := range all {
		log.values.giveBack(taken)
	}
}
