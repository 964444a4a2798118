// Package ssetest holds independent fakes for the end-to-end tests of an SSE
// fan-in: a scriptable upstream (Origin), a verifying EventSource (Client,
// Fleet), a client that reads slowly or never (Raw) and the judge of what the
// clients saw (Verifier).
//
// It also holds what the suites of several packages have in common: what a
// TestMain does (Main), building and running commands (Build, Process), and
// looking for what is left behind (LeakedGoroutines).
//
// It shares no code with the module under test: events are written as raw
// bytes and read with the parser of this package, so that a mistake in our own
// codec cannot hide itself. Only the standard library is used, and nothing
// depends on testing: the fakes also serve in ordinary programs.
//
// Every type ends its goroutines in Close, which waits for them.
package ssetest
