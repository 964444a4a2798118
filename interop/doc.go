// Package interop tests that clients other than browsers get every event of a
// stream, once and in time, with the libraries that people use: for each there is
// a small program, in the folder of its language, that prints a line for every
// message that the library hands out. The tests run all of them at once, at one
// stream of a Caddy that is built from cmd/caddy, and once more with detached clients.
//
// Programs whose runtime or library is missing are skipped. For those in
// JavaScript: npm ci in the folder node. -libraries names those to run.
//
// It is a module of its own, so that nobody else depends on the libraries for Go.
package interop
