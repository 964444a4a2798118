// Command bench measures this module against other ways to bring an SSE stream
// to many clients: Caddy's reverse_proxy, nginx with nchan, handlers written by
// hand, a library, and a loop of bare writes as the floor.
//
//	go run ./bench            # from the repository's root; about 50 minutes
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
// The script growth beside it measures something else: by how much Caddy's
// binary has grown since a commit.
package main
