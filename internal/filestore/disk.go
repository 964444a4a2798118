package filestore

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// disk is what the store does to its directory, so that tests can have each of
// these fail.
type disk interface {
	open(name string, flag int) (file, error) // as os.OpenFile
	rename(from, to string) error
	remove(name string) error
	syncDir(dir string) error
}

// file is an open file of a disk.
type file interface {
	ReadAt(p []byte, at int64) (int, error)
	WriteAt(p []byte, at int64) (int, error)
	Truncate(size int64) error
	Stat() (os.FileInfo, error)
	Sync() error
	Close() error
}

type realDisk struct{}

func (realDisk) open(name string, flag int) (file, error) {
	f, err := os.OpenFile(filepath.Clean(name), flag, 0o600)
	if err != nil {
		return nil, err // and not a file that is nil
	}
	return f, nil
}

func (realDisk) rename(from, to string) error { return os.Rename(from, to) }

func (realDisk) remove(name string) error { return os.Remove(name) }

// syncDir makes the names of files in a directory outlive a power cut.
func (realDisk) syncDir(dir string) error {
	d, err := os.Open(filepath.Clean(dir))
	if err != nil {
		return err
	}
	defer d.Close()
	// not every system can
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) && !cannotSyncDirs {
		return err
	}
	return nil
}

const (
	newSuffix     = ".new"     // of a file that is being written
	damagedSuffix = ".damaged" // of a file that is kept for people, and not read
)

// replaceFile writes a file so that there is either the old one or the new one,
// whatever happens, and it outlives a power cut.
func replaceFile(d disk, name string, body []byte) error {
	f, err := d.open(name+newSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(body, 0)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = d.rename(name+newSuffix, name)
	}
	if err != nil {
		_ = d.remove(name + newSuffix) // it takes room that there may not be
		return err
	}
	return d.syncDir(filepath.Dir(name))
}

// readFile is os.ReadFile of a disk.
func readFile(d disk, name string) ([]byte, error) {
	f, err := d.open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	body := make([]byte, info.Size())
	n, err := f.ReadAt(body, 0)
	if n == len(body) {
		err = nil
	}
	return body[:n], err
}
