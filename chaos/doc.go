// Package chaos holds a test that drives the built Caddy, under the race
// detector, with random configurations, clients, reloads, faults of origins and
// exits, and judges what the clients saw and what the process left behind. What
// it looks for lies between two features or two states, each of which has tests
// of its own.
//
//	go test ./chaos -v -chaos 1m           rounds for a minute
//	go test ./chaos -v -chaos.seed 4711    the round of one seed, again
//	go test ./chaos -timeout 0 -chaos 1h   by hand, before a release
//
// Without either there is nothing to do: building takes minutes. To look past a
// fault that is known, -chaos.without leaves out what finds it.
//
// # Rounds
//
// A round draws everything from its seed: origins (feed_test.go), streams and
// sites (plan_test.go, render_test.go), clients (client_test.go) and what
// happens to them (action_test.go). It starts a process, drives it for some
// seconds, lets it come to rest or not, and ends it. The seed of a round that
// fails is printed with its configurations, its actions, the tail of Caddy's log
// and what the clients concerned saw. The draws of a seed are always the same,
// the timing of a loaded machine is not: a race may need several runs.
//
// # What is judged
//
// Cursors name a log by its epoch and a place in it by its offset, so the judge
// (judge_test.go, watch_test.go) needs to know nothing of configurations to say:
//
//   - All clients that got an offset of an epoch got the same event there.
//   - A client's offsets rise by one, over disconnects, unless it got a
//     fanin.gap, whose `missed` is right; a filtered client got all that its
//     filter lets through, and nothing else, by the name that the upstream had.
//   - The last values after a gap are as many as it says, and from before it; each is
//     the newest of its key, and where everything is kept none is missing.
//   - In each log the numbers of each origin's events rise, but for those from
//     before the first that an origin sends unasked, once, and have no hole
//     where the origin resumes and the upstream was never removed.
//   - An upstream without ids that repeats itself, and ends its connections
//     properly, is delivered as it was sent (control_test.go).
//   - Nothing but events of the origins, and fanin. events, fires.
//   - At rest every client gets on; without clients and configuration the
//     process has the goroutines, descriptors and memory that it began with.
//   - It exits in time, with status 0, and its log has no race and no panic.
package chaos
