package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// kernelMemory is what the kernel uses on this machine, in bytes, for everybody: what
// it has allocated in slabs, which are its objects for files and sockets, and what
// waits in the buffers of TCP sockets.
func kernelMemory() (uint64, error) {
	slab, err := systemField("/proc/meminfo", "Slab:", 1)
	if err != nil {
		return 0, err
	}
	pages, err := systemField("/proc/net/sockstat", "TCP:", 10)
	if err != nil {
		return 0, err
	}
	return slab<<10 + pages*uint64(os.Getpagesize()), nil
}

// pageTables are those of a process in bytes, which the kernel has for it and
// counts with nothing else.
func pageTables(pid int) (uint64, error) {
	kib, err := procField(pid, "status", "VmPTE:")
	return kib << 10, err
}

// availableMemory is what new processes can have, in bytes.
func availableMemory() (uint64, error) {
	kib, err := systemField("/proc/meminfo", "MemAvailable:", 1)
	return kib << 10, err
}

// systemField reads a word of the line of a file that begins with a name; the name
// is word 0.
func systemField(path, name string, word int) (uint64, error) {
	text, err := os.ReadFile(path) //nolint:gosec // in /proc
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", name, err)
	}
	for line := range bytes.Lines(text) {
		if words := bytes.Fields(line); len(words) > word && string(words[0]) == name {
			return strconv.ParseUint(string(words[word]), 10, 64)
		}
	}
	return 0, fmt.Errorf("reading %s: there is no word %d behind %s", path, word, name)
}
