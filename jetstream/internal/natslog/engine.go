package natslog

import (
	"context"
	"errors"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// The errors of an engine that the protocol tells apart. Any other says that it
// is not known whether something has happened.
var (
	errNoStream = errors.New("the JetStream stream does not exist")
	errNoRecord = errors.New("there is no record at that place")
	errRefused  = errors.New("something else came first")
)

// engine is what the protocol needs of JetStream. Whoever implements it owes the
// protocol nothing but what the comments below say: any call may fail, or take
// until its context ends, and what was asked for may have happened all the same,
// or happen later.
//
// All methods are safe for concurrent use.
type engine interface {
	// info returns the state of the stream, as its leader has it. An old leader
	// that is cut off from the others may still answer.
	info(ctx context.Context) (streamInfo, error)

	// create makes the stream, unless there is one: then its metadata and its first
	// sequence are what somebody else has chosen.
	create(ctx context.Context, incarnation string, first uint64) error

	// setBounds changes what the stream retains.
	setBounds(ctx context.Context, b logstore.Bounds) error

	// record returns one committed record from the leader, or errNoRecord. An old
	// leader may miss records.
	record(ctx context.Context, seq uint64) (message, error)

	// read returns committed records from a sequence on, in order: not more than
	// count, and not many more bytes than size. Any replica may answer, so records may be missing,
	// at the beginning only if they are not retained or that replica is behind.
	read(ctx context.Context, from uint64, count, size int) ([]message, error)

	// follow hands committed records over from a sequence on, in order and without
	// holes but those that eviction makes, until something fails. A batch belongs to
	// the caller. The error of handle is returned.
	follow(ctx context.Context, from uint64, handle func([]message) error) error

	// publish has records appended, all of them or none, if the newest sequence is
	// expected. It calls done with nil once they are committed, with errRefused if
	// they never will be by this call, with another error or never if that is not
	// known. Records that are published one call after the other arrive in this
	// order, late or not at all. It does not wait; done must not either.
	publish(expected uint64, records [][]byte, done func(error))

	// makeBucket makes what has the keys of all streams, unless it is there. Without
	// it, load and save return errNoStream.
	makeBucket(ctx context.Context) (made bool, err error)

	// denied returns why nothing that is published is acknowledged, if it is for want
	// of a permission; else nil.
	denied() error

	// load returns the value of a key and its revision, as its leader has it; 0 if
	// there is none.
	load(ctx context.Context, key string) ([]byte, uint64, error)

	// save changes the value of a key if its revision still is rev, and returns the
	// new one, or errRefused. Revisions rise.
	save(ctx context.Context, key string, value []byte, rev uint64) (uint64, error)

	// say sends something to the other nodes, which may be lost.
	say(p []byte)

	// ask sends something to one node and returns its answer, or ErrNoAnswer.
	ask(ctx context.Context, node string, question []byte) ([]byte, error)

	// listen begins to call said with what other nodes say, and answer with what
	// they ask this one. It is called once. The bytes are not kept.
	listen(node string, said func([]byte), answer func([]byte) []byte) error

	// maxRecord is the longest record that the stream takes, in bytes.
	maxRecord() int

	// state returns nil if the store can be reached as far as that is known without
	// asking.
	state() error

	// close ends what runs. No callback is called after it.
	close()
}

// The keys of a stream.
const (
	leaseKey      = "lease"
	checkpointKey = "checkpoint"
)

// message is what the stream has at a sequence.
type message struct {
	seq  uint64
	data []byte
}

// streamInfo is the state of a stream.
type streamInfo struct {
	incarnation string // random, of the stream's creation
	origin      uint64 // the first sequence that it was created with
	first, last uint64 // last+1 and last if it is empty
	bytes       int64
}
