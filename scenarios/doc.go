// Package scenarios has the tests whose Caddy is a process of its own, built
// from cmd/caddy: what many clients are sent over some seconds, connections that
// are taken over, reloads, exits, steps of the clock, logs in files that are
// damaged, get no room or whose file system is frozen, and the command sse-fanin.
// They wait more than they work, so they are not among the tests of the module's
// own package: those share one process, whose configuration is global, and run one
// after the other. go test runs both packages side by side.
//
// With -long, the scenarios have their full length and size, and run alone.
package scenarios
