package ssefanin

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// exitPoll is how often the exit is looked for where nothing announces it.
const exitPoll = 100 * time.Millisecond

// endingAll is set when all clients are being ended, and hubs take no new ones.
var endingAll atomic.Bool

// exitBegun is done when the viewers of status pages are to end, together with
// all clients.
var exitBegun, beginExit = context.WithCancel(context.Background())

// endAllClients ends the clients of all streams and the viewers of all status
// pages at once when the process exits, removed streams and older configurations
// included.
func endAllClients() {
	if endingAll.CompareAndSwap(false, true) {
		beginExit()
		go cutAllClients(time.Now().Add(exitTimeout))
	}
}

// cutAllClients ends every client and, at the deadline, cuts off the ones that
// do not read; soon after it, it closes the connections where that had no
// effect. It belongs to the process and ends with the last client; hubs take no
// new ones by then. Deadlines are set again and again since the end of a write
// may take one back.
func cutAllClients(deadline time.Time) {
	again := time.NewTicker(clockStep)
	defer again.Stop()
	for {
		left, late := 0, time.Since(deadline) >= closeGrace
		for _, h := range liveHubs.list() {
			subs := h.audience.list()
			left += len(subs)
			for _, sub := range subs {
				sub.endNow(endExit)
				if late {
					sub.deadline.conn.cut()
				} else {
					sub.deadline.setNow(deadline)
				}
			}
		}
		if left == 0 {
			return
		}
		<-again.C
	}
}

// takenClients are the clients whose connections were taken over from their
// servers, until their requests' handlers have returned: no server waits for them.
var takenClients atomic.Int64

func init() {
	// For those of earlier configurations, where the last one has no server of ours.
	caddy.OnExit(awaitTakenClients)
}

// awaitTakenClients waits until all of them have ended, and their lines in the
// access log are written, until ctx ends, or for as long as that can take. It is
// called while the process exits.
func awaitTakenClients(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, exitTimeout+2*closeGrace)
	defer cancel()
	again := time.NewTicker(clockStep)
	defer again.Stop()
	for takenClients.Load() > 0 && ctx.Err() == nil {
		endAllClients() // of which nobody may have heard yet
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
}

// exits looks for the exit on behalf of clients that are served by older
// configurations only. Caddy has no hook for the beginning of the exit but the
// running configuration's, which may have nothing of ours, and its servers wait
// for the clients of all earlier ones.
var exits exitWatch

// exitWatch asks Caddy, again and again, whether the process exits, while there
// are clients and no running configuration has a server that announces it. Safe
// for concurrent use.
type exitWatch struct {
	told atomic.Int64 // configurations in use with such a server

	mu    sync.Mutex  // protects timer
	timer *time.Timer // nil: there is nothing to watch for
}

// hold is called when a configuration with a server that announces the exit
// starts, drop when it has been replaced.
func (e *exitWatch) hold() { e.told.Add(1) }

func (e *exitWatch) drop() {
	e.told.Add(-1)
	e.look()
}

// look begins or ends to watch, whichever is right. It is called when a client
// has come or left.
func (e *exitWatch) look() {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch needed := e.needed(); {
	case needed && e.timer == nil:
		e.timer = time.AfterFunc(exitPoll, e.check)
	case !needed && e.timer != nil:
		e.timer.Stop()
		e.timer = nil
	}
}

func (e *exitWatch) needed() bool {
	return e.told.Load() == 0 && clientWriters.clients.Load() > 0 && !endingAll.Load()
}

// check ends the clients if the process exits, or has the timer call it again.
func (e *exitWatch) check() {
	if caddy.Exiting() {
		endAllClients()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.timer == nil: // stopped meanwhile
	case e.needed():
		e.timer.Reset(exitPoll)
	default:
		e.timer = nil
	}
}
