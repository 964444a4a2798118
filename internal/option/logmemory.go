package option

import (
	"fmt"

	"github.com/dustin/go-humanize"
)

const (
	// DefaultLogMemory is how much of a log's newest part is held in memory.
	DefaultLogMemory = 64 << 20

	// leastLogMemory holds a segment of the log in memory.
	leastLogMemory = 64 << 10

	// mostLogMemory is above any memory there is; more is a mistake.
	mostLogMemory = 1 << 40
)

// CheckLogMemory validates the option `memory` of a log.
func CheckLogMemory(n int64) error {
	if n < leastLogMemory && n >= 0 {
		return fmt.Errorf("memory: %d bytes is too little, it must be at least %s", n, humanize.IBytes(leastLogMemory))
	}
	return CheckSize("memory", n, mostLogMemory)
}
