// Command bench measures this module against other ways to bring an SSE stream
// to many clients: Caddy's reverse_proxy, nginx with nchan, handlers written by
// hand, a library, and a loop of bare writes as the floor.
//
//	go run ./bench            # from the repository's root; about two hours
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
// The experiment crowd has as many clients as a process may have files, or as the
// flag -clients says, for the time of the flag -soak. Its load comes from as many
// processes as are needed, each from an address of its own in 127.0.0.0/8. With the
// flag -busy every run has a neighbour that keeps processors busy:
//
//	go run ./bench -only '^crowd$' -soak 1m      # about 3 minutes
//	go run ./bench -only '^latency$' -systems '^(fanin|raw|nchan)$' -busy 0,1
//
// Beside the figures stand their ratios to those of the write loop, or of the system
// that the flag -base names, round by round: the machine's speed changes between
// rounds, and much less within one.
//
// Two scripts beside it measure what changes: compare has another version's Caddy
// measured in turn with this one's (the flag -against), after the micro-benchmarks
// of both, and growth shows by how much Caddy's binary has grown since a commit.
//
//	bench/compare <commit>    # about half an hour
package main
