package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// neighbourConfig is what a busy neighbour does.
type neighbourConfig struct {
	Loops int // that each keep a processor busy, as far as the system lets them
}

// neighbourRole is what else runs on a machine that is shared. Command: start, from
// which it is busy as long as the process lives.
func neighbourRole(c *commands) error {
	handle(c, "start", func(cfg neighbourConfig) (none, error) {
		runtime.GOMAXPROCS(cfg.Loops + 1) // the one more is for the end of stdin
		for range cfg.Loops {
			go beBusy()
		}
		return none{}, nil
	})
	return c.serve()
}

// beBusy takes all the time that the system gives it. neighbourRole starts it; it
// ends with the process.
func beBusy() {
	for n := uint64(0); ; n++ {
	}
}

// loopCounts are the numbers of busy loops that the cases are run beside, as a flag.
type loopCounts []int

func (n *loopCounts) String() string { return strings.Trim(fmt.Sprint([]int(*n)), "[]") }

func (n *loopCounts) Set(text string) error {
	*n = nil
	for word := range strings.SplitSeq(text, ",") {
		loops, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || loops < 0 {
			return fmt.Errorf("%q is no number of loops", word)
		}
		if slices.Contains(*n, loops) {
			return fmt.Errorf("%d stands there twice", loops)
		}
		*n = append(*n, loops)
	}
	return nil
}

// beside returns the label of a case that runs beside so many busy loops.
func beside(label string, loops int) string {
	if loops == 0 {
		return label
	}
	busy := fmt.Sprintf("busy loops beside it: %d", loops)
	if label == "" {
		return busy
	}
	return label + ", " + busy
}

// withNeighbours has each case of an experiment run beside each number of busy
// loops.
func (e *experiment) withNeighbours(counts loopCounts) {
	if len(counts) == 0 {
		return
	}
	cases := e.cases
	e.cases = nil
	for _, loops := range counts {
		for _, c := range cases {
			c.label, c.busy = beside(c.label, loops), loops
			e.cases = append(e.cases, c)
		}
	}
}

// startNeighbour starts so many busy loops. The process that is returned has to be
// closed; nil: none were wanted.
func startNeighbour(ctx context.Context, loops int) (*process, error) {
	if loops == 0 {
		return nil, nil
	}
	p, err := startProcess("neighbour")
	if err != nil {
		return nil, err
	}
	if err := p.call(ctx, "start", neighbourConfig{Loops: loops}, nil); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}
