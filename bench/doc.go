// Command bench measures this module against other ways to bring an SSE stream
// to many clients: Caddy's reverse_proxy, nginx with nchan, handlers written by
// hand, a library, and a loop of bare writes as the floor.
//
//	go run ./bench            # from the repository's root; about 80 minutes
//	go run ./bench -short     # does everything work? about a minute
//	go run ./bench -full -out bench/RESULTS.md
//
// Every part of a measurement is a process of its own, so that its CPU and
// memory are its own: the origin that publishes, what feeds the server if it
// does not read the origin itself, the server, and the load process that holds
// the clients. They are this program again, with a role as first argument (see
// role.go), and end when their stdin does. Linux only: CPU and memory come from
// /proc.
//
// Every client checks every event it gets (see verifier.go). A run in which
// events were lost, came twice or in the wrong order has no figures.
//
// A log that several Caddys share (the experiment cluster) needs two programs more:
// Caddy with `log jetstream`, so that all other systems are measured without it, and
// nats-server. They are built from the repository when they are first needed; see
// programs.go. Each Caddy has its clients, in a load process of their own.
//
//	go run ./bench -only '^cluster$' -runs 3     # about 12 minutes
//
// Two scripts beside it measure what changes: compare has another version's Caddy
// measured in turn with this one's (the flag -against), after the micro-benchmarks
// of both, and growth shows by how much Caddy's binary has grown since a commit.
//
//	bench/compare <commit>    # about half an hour
package main
