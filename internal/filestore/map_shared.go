//go:build linux || darwin || freebsd

package filestore

import (
	"os"
	"syscall"
)

// mapFile returns the first bytes of a file as memory that is shared with the
// system: what is stored there is in the file, even if the process is killed.
// Nil if that cannot be; not every file system can.
func mapFile(f file, size int) []byte {
	opened, ok := f.(*os.File)
	if !ok {
		return nil
	}
	memory, err := syscall.Mmap(int(opened.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil
	}
	return memory
}

func unmapFile(memory []byte) { _ = syscall.Munmap(memory) }
