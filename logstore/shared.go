package logstore

import (
	"context"
	"errors"
	"time"
)

// MaxTold bounds what a node tells the others, asks and answers, in bytes.
const MaxTold = 256 << 10

// ErrNoAnswer is Ask's: the node is not known, has gone, or answers nothing.
var ErrNoAnswer = errors.New("logstore: the node does not answer")

// Shared is a Store that several nodes have open at once, and that lets them
// know of each other. What they say is no part of the log: it may be lost, and
// nothing that clients get depends on it.
type Shared interface {
	Store

	// Node returns the name of this node, for people: no other node that has the
	// log open has the same. It does not change while the store is open.
	Node() string

	// Tell has the other nodes know something of this one: what was told last,
	// soon, and for as long as the store is open. It does not wait, and takes a
	// copy. What is longer than MaxTold is not told.
	Tell(told []byte)

	// Peers returns the other nodes that have been heard of lately, by name. A
	// node whose store was closed is forgotten soon. The slice is the caller's,
	// the bytes are not to be changed.
	Peers() []Peer

	// Ask asks another node, and returns its answer. The error is ErrNoAnswer,
	// ErrClosed or ctx's.
	Ask(ctx context.Context, node string, question []byte) ([]byte, error)

	// Answer has the questions of other nodes answered, one at a time. It is
	// called once, before the others can have heard of this node; answer may
	// block for a moment, and is not called any more when Close has returned.
	Answer(answer func(question []byte) []byte)
}

// Peer is another node that has the log open.
type Peer struct {
	Node  string
	Told  []byte    // what it told last
	Heard time.Time // when it was heard of last
}

// Sharer is an Opener whose logs several nodes share.
type Sharer interface {
	Opener

	// Standby reports whether the upstreams are to be connected on every node, not
	// only on the writer: for those that cannot resume.
	Standby() bool

	// Hold is how long the writer keeps its upstreams connected while the store is
	// stalled, if there is room for what they bring. After that, and when there is
	// none, it hangs up, and resumes them when something can be committed.
	Hold() time.Duration
}
