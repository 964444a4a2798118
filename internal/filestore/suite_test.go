package filestore

import (
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
	"github.com/sse-fanin/caddy-sse-fanin/logstore/storetest"
)

func TestSuite(t *testing.T) {
	t.Parallel()
	for name, sync := range map[string]Options{
		"always":   {Sync: SyncAlways},
		"interval": {Sync: 10 * time.Millisecond}, // so that it comes
		"off":      {Sync: SyncOff},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) storetest.Opener {
				o := sync
				o.Dir, o.Buffer, o.retry = t.TempDir(), 1<<20, time.Millisecond
				disk := &badDisk{noSync: o.Sync != SyncAlways}
				o.disk = disk
				return storetest.Opener{
					Open: func(t *testing.T) logstore.Store { return open(t, o) },
					Block: func(*testing.T) func() {
						disk.full.Store(true)
						return func() { disk.full.Store(false) }
					},
				}
			})
		})
	}
}
