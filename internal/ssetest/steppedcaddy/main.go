//go:build linux && amd64

// Command steppedcaddy is cmd/caddy with a wall clock that a test can set: the
// file that SSE_FANIN_CLOCK names holds by how many seconds it is ahead, as 8
// bytes in the machine's order. The monotonic clock, and whatever the rest of
// the machine takes for the time, stay as they are.
package main

import (
	"fmt"
	"os"
	"syscall"
	"unsafe" // also for go:linkname

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/sse-fanin/caddy-sse-fanin"
)

// vdsoClockGettime is the kernel's function that Go's runtime calls for the
// time. The runtime offers it to other packages by name.
//
//go:linkname vdsoClockGettime runtime.vdsoClockgettimeSym
var vdsoClockGettime uintptr

// original and ahead are for clockGettime: the kernel's function, and by how
// many seconds the wall clock is ahead.
var (
	original uintptr //nolint:unused // read by clockGettime, which is assembly
	ahead    *int64
)

// addressOf returns the address of clockGettime, which stands in for the kernel's function.
func addressOf() uintptr

func main() {
	if err := install(os.Getenv("SSE_FANIN_CLOCK")); err != nil {
		fmt.Fprintln(os.Stderr, "setting the clock:", err)
		os.Exit(1)
	}
	caddycmd.Main()
}

// install has the runtime ask clockGettime for the time.
func install(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	shared, err := syscall.Mmap(int(f.Fd()), 0, int(unsafe.Sizeof(*ahead)), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	if vdsoClockGettime == 0 {
		return fmt.Errorf("this kernel has no clock without a system call")
	}
	ahead, original = (*int64)(unsafe.Pointer(&shared[0])), vdsoClockGettime
	vdsoClockGettime = addressOf()
	return nil
}
