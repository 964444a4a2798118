// Package natslog keeps the log of a stream in NATS JetStream, where several nodes
// share it: a logstore.Shared. It knows nothing of Caddy.
//
// # What is where
//
// A log has a JetStream stream, in which a record's offset is its sequence. All
// logs of a prefix share a KV bucket; each has two keys in it, the lease and the
// checkpoint. Nodes talk to each other on two subjects of the log.
//
//	engine.go      what the protocol needs of JetStream; sim_test.go has one at its worst
//	jetstream.go   the engine of NATS; connection.go, acks.go, consumer.go, talk.go
//	state.go       what a node knows of the log, from its records alone
//	tracker.go     follows the stream; watch.go asks for its state
//	lost.go        what is done when the stream has lost records
//	follow.go      hands records over; read.go reads older ones
//	lease.go       who may try to write
//	checkpoint.go  what saves a node that comes from reading the whole log
//	campaign.go    becoming the writer
//	term.go        writing
//	peers.go       what nodes say to each other
//
// # Who writes
//
// The lease is a key without a time to live. A candidate takes it by
// compare-and-set, after it has read the same revision for as long as the lease
// lasts. That gives liveness only.
//
// Safety comes from what JetStream compares: each record is published with the
// sequence before it as the newest that is expected. A candidate first appends a
// fence behind all that it knows. If that is accepted, it knows everything, and
// whatever an earlier writer still sends is refused. For this, a fence has to be
// longer than what may be in flight (fenceLength), and is appended as one: records
// are published without waiting for the answer to the one before, and when the
// first is refused, a later one must not find the log as long as it expects. Behind
// a writer that gave the lease back when all it had published was committed, one
// record will do.
//
// No answer but "committed" says what is committed. After any other, or none, the
// leader is asked for what comes behind the last record that is known to be there
// (term.resync), and the rest is published again. The chain makes sure that
// nothing is there twice.
//
// # What is lost
//
// A server that has not forced its files to disk may lose committed records, and
// so does a backup. Each node remembers a fingerprint of the newest record and
// where terms begin, and compares when it follows anew, and now and then. A fence
// that is accepted at an offset which had been given already proves the loss: it
// begins an epoch, whose id it carries, so all nodes see it at the same place.
// Which offsets had been given is known from the node's own log, the lease, the
// checkpoint, and the other nodes. Where this node was handed other records, Follow
// goes back to the first that differs.
//
// A JetStream stream that was deleted is made anew, with offsets beyond all that
// are known, and with that an epoch begins.
package natslog
