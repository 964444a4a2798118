package ssetest

import (
	"runtime"
	"slices"
	"strings"
	"time"
)

// module is the path of the module under test, and begins those of the others.
const module = "github.com/sse-fanin/caddy-sse-fanin"

// LeakedGoroutines returns the stacks of goroutines that do not end within the
// grace: those that run, or were started by, code of this repository, that of
// tests and of this package aside. The caller's own is none of them.
func LeakedGoroutines(grace time.Duration) string {
	return awaitNone(grace, func() []string { return goroutines(nil) })
}

// awaitNone waits until there is nothing left, and returns what is after the
// grace.
func awaitNone(grace time.Duration, look func() []string) string {
	var left []string
	_ = Await(grace, "", func() bool {
		left = look()
		return len(left) == 0
	})
	return strings.Join(left, "\n\n")
}

// goroutines returns the stacks of all goroutines but the caller's that have
// to do with code of this repository, or contain one of the words.
func goroutines(words []string) []string {
	buf := make([]byte, 1<<20)
	n := runtime.Stack(buf, true)
	for ; n == len(buf); n = runtime.Stack(buf, true) {
		buf = make([]byte, 2*len(buf))
	}
	var left []string
	for i, stack := range strings.Split(string(buf[:n]), "\n\n") {
		if i > 0 && (ofModule(stack) || slices.ContainsFunc(words, func(word string) bool { return strings.Contains(stack, word) })) {
			left = append(left, stack)
		}
	}
	return left
}

// ofModule reports whether a frame of the stack is this repository's, tests
// and this package aside.
func ofModule(stack string) bool {
	lines := strings.Split(stack, "\n")
	for i := 1; i+1 < len(lines); i += 2 { // a function, and where it is
		if strings.Contains(lines[i], module) && !strings.Contains(lines[i], "/internal/ssetest") &&
			!strings.Contains(lines[i+1], "_test.go:") {
			return true
		}
	}
	return false
}
