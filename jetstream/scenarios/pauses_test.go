package scenarios

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// durations are what a scenario has measured.
type durations []time.Duration

func (d durations) String() string {
	if len(d) == 0 {
		return "none"
	}
	sorted := slices.Sorted(slices.Values(d))
	return fmt.Sprintf("median %s, max %s (of %d)",
		sorted[len(sorted)/2].Round(time.Millisecond), sorted[len(sorted)-1].Round(time.Millisecond), len(sorted))
}

// report logs what was measured. With -long, none may be longer than most.
func (d durations) report(t *testing.T, what string, most time.Duration) {
	t.Helper()
	t.Logf("%s: %s; at most %s is wanted", what, d, most)
	if longest := slices.Max(append(d, 0)); *long && longest > most {
		t.Errorf("%s: %s, want at most %s", what, longest, most)
	}
}
