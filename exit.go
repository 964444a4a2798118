package ssefanin

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// endingAll says that all clients are being ended, and hubs take no new ones.
var endingAll atomic.Bool

// endAllClients ends the clients of all streams at once when the process
// exits, removed streams and older configurations included.
func endAllClients() {
	if endingAll.CompareAndSwap(false, true) {
		go cutAllClients(time.Now().Add(exitTimeout))
	}
}

// cutAllClients ends every client and, at the deadline, cuts off those that
// do not read. It belongs to the process and ends with the last client; hubs
// take no new ones by then. Deadlines are set again and again since the end of
// a write may take one back.
func cutAllClients(deadline time.Time) {
	again := time.NewTicker(clockStep)
	defer again.Stop()
	for {
		liveHubs.mu.Lock()
		all := slices.Collect(maps.Keys(liveHubs.all))
		liveHubs.mu.Unlock()
		left := 0
		for _, h := range all {
			h.mu.Lock()
			subs := slices.Clone(h.subscribers)
			h.mu.Unlock()
			left += len(subs)
			for _, sub := range subs {
				sub.endNow(endExit)
				sub.deadline.at(deadline)
			}
		}
		if left == 0 {
			return
		}
		<-again.C
	}
}
