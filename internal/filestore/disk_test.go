package filestore

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
)

// still is held while a directory is copied: a process that is killed leaves no
// write half done.
var still sync.RWMutex

// badDisk is the real disk, some calls of which fail.
type badDisk struct {
	full atomic.Bool // nothing that takes room succeeds

	calls  atomic.Int64 // that change something, so far
	failAt atomic.Int64 // of them the first that fails; 0: none
	failN  atomic.Int64 // how many fail in a row
	why    error        // syscall.EIO by default

	noSync bool // fsync does nothing, for tests that open many logs

	// onSync is called before each fsync of a file. Its error is returned.
	onSync func(name string) error
	// onRead is called before each read.
	onRead func(name string) error
}

// call counts a call, and returns the error that it fails with.
func (d *badDisk) call(takesRoom bool) error {
	n, at := d.calls.Add(1), d.failAt.Load()
	switch {
	case at > 0 && n >= at && n < at+d.failN.Load():
		if d.why != nil {
			return d.why
		}
		return syscall.EIO
	case takesRoom && d.full.Load():
		return syscall.ENOSPC
	}
	return nil
}

func (d *badDisk) open(name string, flag int) (file, error) {
	if flag != os.O_RDONLY {
		if err := d.call(flag&os.O_TRUNC != 0); err != nil {
			return nil, err
		}
	}
	f, err := realDisk{}.open(name, flag)
	if err != nil {
		return nil, err
	}
	return &badFile{f, d, name}, nil
}

func (d *badDisk) rename(from, to string) error {
	still.RLock()
	defer still.RUnlock()
	return errors.Join(d.call(false), realDisk{}.rename(from, to))
}

func (d *badDisk) remove(name string) error {
	if err := d.call(false); err != nil {
		return err
	}
	return realDisk{}.remove(name)
}

func (d *badDisk) syncDir(dir string) error {
	if err := d.call(false); err != nil || d.noSync {
		return err
	}
	return realDisk{}.syncDir(dir)
}

type badFile struct {
	file
	disk *badDisk
	name string
}

func (f *badFile) ReadAt(p []byte, at int64) (int, error) {
	if f.disk.onRead != nil {
		if err := f.disk.onRead(f.name); err != nil {
			return 0, err
		}
	}
	return f.file.ReadAt(p, at)
}

// WriteAt writes a half of what there is no room for, or what fails.
func (f *badFile) WriteAt(p []byte, at int64) (int, error) {
	still.RLock()
	defer still.RUnlock()
	// the head does not grow, and is not written in parts
	isHead := filepath.Base(f.name) == headName
	if err := f.disk.call(!isHead); err != nil {
		n := 0
		if !isHead {
			n, _ = f.file.WriteAt(p[:len(p)/2], at)
		}
		return n, err
	}
	return f.file.WriteAt(p, at)
}

func (f *badFile) Truncate(size int64) error {
	if err := f.disk.call(false); err != nil {
		return err
	}
	return f.file.Truncate(size)
}

func (f *badFile) Sync() error {
	if err := f.disk.call(false); err != nil {
		return err
	}
	if f.disk.onSync != nil {
		if err := f.disk.onSync(f.name); err != nil {
			return err
		}
	}
	if f.disk.noSync {
		return nil
	}
	return f.file.Sync()
}
