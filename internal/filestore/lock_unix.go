//go:build unix

package filestore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// cannotSyncDirs: every Unix can flush a directory.
const cannotSyncDirs = false

// lockDir keeps other processes from using a directory until the file is
// closed. The kernel does so too when the process dies.
func lockDir(dir string) (*os.File, error) {
	name := filepath.Join(dir, lockName)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	for tries := 0; errors.Is(err, syscall.EWOULDBLOCK) && tries < 10; tries++ {
		time.Sleep(5 * time.Millisecond) // somebody may only have a look; see holder
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking %s: %w", name, err)
		}
		return nil, fmt.Errorf("%w: %s is held by %s", logstore.ErrInUse, dir, writtenHolder(name))
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintln(f, os.Getpid()) // for people
	}
	return f, nil
}

// holder returns which process has the log in a directory open, for people;
// empty if none has. For a moment it has a lock itself, a shared one.
func holder(dir string) (string, error) {
	name := filepath.Join(dir, lockName)
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil // nobody has ever opened it, or it is a copy
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return writtenHolder(name), nil
	case err != nil:
		return "", fmt.Errorf("finding out who has locked %s: %w", name, err)
	}
	return "", nil
}

// writtenHolder returns the process that a lock's file names.
func writtenHolder(name string) string {
	body, _ := os.ReadFile(filepath.Clean(name))
	if pid := strings.TrimSpace(string(body)); pid != "" {
		return "process " + pid
	}
	return "a process that has just begun"
}
