//go:build unix

package filestore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

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
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking %s: %w", name, err)
		}
		body, _ := os.ReadFile(filepath.Clean(name))
		holder := strings.TrimSpace(string(body))
		if holder == "" {
			holder = "that has just begun"
		}
		return nil, fmt.Errorf("%w: %s is held by process %s", logstore.ErrInUse, dir, holder)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintln(f, os.Getpid()) // for people
	}
	return f, nil
}
