//go:build !unix

package filestore

import (
	"fmt"
	"os"
	"path/filepath"
)

// cannotSyncDirs: a directory cannot be flushed like a file here.
const cannotSyncDirs = true

// lockDir keeps other processes from using a directory by accident. Where there
// are no locks that end with the process, that is left to the operator.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	_, _ = fmt.Fprintln(f, os.Getpid()) // for people
	return f, nil
}

// holder returns which process has the log in a directory open: that is not
// known here.
func holder(string) (string, error) { return "", nil }
