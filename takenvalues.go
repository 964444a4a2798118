package ssefanin

import "github.com/sse-fanin/caddy-sse-fanin/internal/lastvalue"

// maxTaken is how many different snapshots clients hold at once: while a stream's
// values change, each client that begins would make another one. Beyond that, one
// gets the newest of them, and the events since.
const maxTaken = 16

// takenValues is a snapshot that clients hold. The lock of lastValues protects it.
type takenValues struct {
	snapshot *lastvalue.Snapshot // nil: it was revoked
	head     uint64              // of the log, when a client has got it last
	clients  int
}

// takeLocked is take.
func (v *lastValues) takeLocked() (taken *takenValues, head uint64) {
	head = v.log.memory.Head()
	if n := len(v.taken); n > 0 {
		newest := v.taken[n-1]
		if v.values.Is(newest.snapshot) {
			newest.head = head
		} else if n < maxTaken || newest.head+1 < v.log.memory.Tail() {
			newest = nil
		}
		if newest != nil {
			newest.clients++
			return newest, newest.head
		}
	}
	taken = &takenValues{snapshot: v.values.Snapshot(), head: head, clients: 1}
	v.taken = append(v.taken, taken)
	v.revokeLocked()
	return taken, head
}

// revokeLocked takes from the clients the snapshots that are older than all that the log
// retains. They have no more use for them, and those that are blocked in a write would
// keep events in memory that are long gone. It follows every change of taken.
func (v *lastValues) revokeLocked() {
	tail, until := v.log.memory.Tail(), v.values.Fresh()
	for len(v.taken) > 0 && v.taken[0].head+1 < tail {
		v.taken[0].snapshot = nil
		v.taken = v.taken[1:]
	}
	if len(v.taken) > 0 {
		until = min(until, v.taken[0].head+1)
	}
	v.until.Store(until)
}
