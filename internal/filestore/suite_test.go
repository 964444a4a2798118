package filestore

import (
	"errors"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
	"github.com/sse-fanin/caddy-sse-fanin/logstore/storetest"
)

// fullDisk is a disk that takes nothing while it is full.
type fullDisk struct {
	realDisk
	full atomic.Bool
}

type fullFile struct {
	disker
	disk *fullDisk
}

func (d *fullDisk) create(name string) (disker, error) {
	if d.full.Load() {
		return nil, syscall.ENOSPC
	}
	f, err := d.realDisk.create(name)
	return &fullFile{f, d}, err
}

func (d *fullDisk) open(name string) (disker, error) {
	f, err := d.realDisk.open(name)
	return &fullFile{f, d}, err
}

func (f *fullFile) WriteAt(p []byte, at int64) (int, error) {
	if f.disk.full.Load() {
		n, err := f.disker.WriteAt(p[:len(p)/2], at)
		return n, errors.Join(err, syscall.ENOSPC)
	}
	return f.disker.WriteAt(p, at)
}

func TestSuite(t *testing.T) {
	for name, sync := range map[string]Options{
		"always":   {Sync: SyncAlways},
		"interval": {Sync: DefaultSync},
		"off":      {Sync: SyncOff},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Opener {
				o := sync
				o.Dir = t.TempDir()
				o.Buffer = 1 << 20
				disk := new(fullDisk)
				o.disk = disk
				return storetest.Opener{
					Open: func(t *testing.T) logstore.Store {
						s, err := Open(o)
						if err != nil {
							t.Fatal(err)
						}
						return s
					},
					Block: func(*testing.T) func() {
						disk.full.Store(true)
						return func() { disk.full.Store(false) }
					},
				}
			})
		})
	}
}
