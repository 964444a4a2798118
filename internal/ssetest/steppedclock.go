package ssetest

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// SteppedCaddy is the package of a Caddy whose wall clock a SteppedClock sets,
// relative to the module's root. It builds where SteppedClocks reports true.
const SteppedCaddy = "./internal/ssetest/steppedcaddy"

// SteppedClocks reports whether the wall clock of a process can be set here.
func SteppedClocks() bool {
	return runtime.GOOS == "linux" && runtime.GOARCH == "amd64"
}

// SteppedClock is the wall clock of one process, which it runs with. The
// process's monotonic clock, and all other processes, know nothing of it.
type SteppedClock struct {
	name string
	file *os.File
}

// NewSteppedClock returns a clock that is right. It keeps a file in dir.
func NewSteppedClock(dir string) (*SteppedClock, error) {
	f, err := os.Create(filepath.Join(dir, "clock"))
	if err != nil {
		return nil, fmt.Errorf("making a clock: %w", err)
	}
	c := &SteppedClock{name: f.Name(), file: f}
	return c, c.Set(0)
}

// Env is what the process needs in its environment.
func (c *SteppedClock) Env() string { return "SSE_FANIN_CLOCK=" + c.name }

// Set sets the clock so far ahead of the right time, or back where it is
// negative, in whole seconds. The process sees it at once.
func (c *SteppedClock) Set(ahead time.Duration) error {
	var seconds [8]byte
	binary.NativeEndian.PutUint64(seconds[:], uint64(ahead/time.Second))
	if _, err := c.file.WriteAt(seconds[:], 0); err != nil {
		return fmt.Errorf("setting a clock: %w", err)
	}
	return nil
}

// Close is called when the process has ended.
func (c *SteppedClock) Close() error { return c.file.Close() }
