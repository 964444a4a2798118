package logstore

import (
	"context"
	"errors"
	"time"
)

// The errors that callers tell apart. Stores may wrap them.
var (
	// ErrNoRoom is Append's: what is not committed yet fills the buffer. The
	// record was not taken; wait for room and append it again.
	ErrNoRoom = errors.New("logstore: no room in the buffer")

	// ErrTooLarge is Append's: the store takes no record of this size, ever.
	ErrTooLarge = errors.New("logstore: the record is too large for the store")

	// ErrOver is Append's and Wait's: the term is over. What was appended and has
	// not been applied by the time that the next Campaign returns will never be.
	ErrOver = errors.New("logstore: the term is over")

	// ErrClosed is that of every method once the store has been closed.
	ErrClosed = errors.New("logstore: the store is closed")

	// ErrEvicted is Read's: the record at the offset is no longer retained.
	ErrEvicted = errors.New("logstore: the record is no longer retained")

	// ErrDamaged is Kept's: what was kept is not what was stored.
	ErrDamaged = errors.New("logstore: what was kept is damaged")

	// ErrInUse is that of opening a store which another process holds, and which
	// only one can use.
	ErrInUse = errors.New("logstore: another process uses the store")
)

// Store keeps the log of one stream.
type Store interface {
	// Follow calls apply with the committed records from offset from on, oldest
	// first, and goes on with those that are committed later, until ctx ends or
	// the store is closed; it returns why. from is at least 1. If the record at
	// from has been evicted, Follow begins with the oldest that is retained. A
	// batch is never empty and has no holes; from one batch to the next there is
	// a hole only if eviction has overtaken the reader.
	//
	// A store that has lost records begins an epoch, and may do so while it is
	// followed. The first record of an epoch then is the first of a batch, and Epochs
	// has the epoch by the time that apply is called with it. What was handed over
	// from its offset on, or from a lower one, is no longer in the log: such a batch
	// begins at an offset that has been handed over before.
	//
	// The records and their bytes belong to the store, and are valid until apply
	// returns. The store waits for apply: it is not to block.
	Follow(ctx context.Context, from uint64, apply func(batch []Record)) error

	// Read returns committed records from offset from on, at least one and no
	// more than about size bytes of bodies, or none if from is beyond the last.
	// It is for what a node no longer has in memory, and may read from disk or
	// over a network. The bytes belong to the caller.
	//
	// The error is ErrEvicted, ErrClosed, ctx's, or that of reading.
	Read(ctx context.Context, from uint64, size int) ([]Record, error)

	// Since returns the offset of the first retained record that arrived at t
	// (Unix ms) or later; the last offset + 1 if there is none.
	Since(ctx context.Context, t int64) (uint64, error)

	// Back returns the offset from which on the retained records take about size
	// bytes as stored, the newest at least; the last offset + 1 of an empty log.
	Back(ctx context.Context, size int64) (uint64, error)

	// Latest returns what is known of the newest committed record of each source,
	// whether the record itself is still retained or not: where to resume the
	// upstreams from. It is known as soon as the log's end is, and what earlier
	// terms have committed is in it before Campaign returns. Fences are of no
	// source. Of more than MaxSources those with the newest records are known. A
	// record that is lost has not been: then an older record of the source is
	// returned, or none. The map is the caller's.
	//
	// The error is ErrClosed or ctx's.
	Latest(ctx context.Context) (map[string]Latest, error)

	// Campaign waits until this node is the writer and returns its term. The
	// error is ErrClosed or ctx's.
	Campaign(ctx context.Context) (Term, error)

	// Epochs returns the log's incarnations, oldest first; at least one once the
	// log is open. The slice is the caller's.
	Epochs() []Epoch

	// SetBounds changes what is retained. What the new bounds do not allow is
	// evicted soon.
	SetBounds(Bounds)

	// Status returns what the store is doing. It does not wait for the store.
	Status() Status

	// Close ends Follow, Campaign and the term, and waits until nothing of the
	// store runs or is held open. What was appended is committed first, if that
	// takes no longer than a moment. Closing twice is no error. It waits for
	// apply, so it is not to be called from there, nor with a lock that apply
	// takes.
	Close() error
}

// Term is the time during which one node is the writer. Its methods are for
// one goroutine at a time, but for Done and Err.
type Term interface {
	// Number is higher than that of every earlier term of the log.
	Number() uint64

	// Append hands a record over, which Follow returns once it is committed. It
	// takes a copy of its bytes, sets its Term, and ignores its Offset. A Time
	// before that of the record before counts as the same time. Append does not
	// wait for the store. The error is ErrNoRoom, ErrTooLarge or ErrOver.
	Append(r *Record) error

	// Wait waits until there is room. The error is ErrOver or ctx's.
	Wait(ctx context.Context) error

	// Done is closed when the term is over: another node writes, the term was
	// released, or the store closed. A store that cannot be reached does not
	// end a term.
	Done() <-chan struct{}

	// Err returns why the term is over; nil as long as it is not.
	Err() error

	// Release gives the term up so that another node can campaign at once. It
	// waits until what was appended is committed, or ctx ends.
	Release(ctx context.Context) error
}

// Bounds say what is retained. Whichever is reached first evicts the oldest
// records. A store evicts when it suits it: it may keep some records that Events
// and Age no longer allow, but not for long more than Bytes. The newest record always
// stays.
type Bounds struct {
	Events uint64        // 0 is no bound
	Bytes  int64         // as stored, with all that the store adds; 0 is no bound
	Age    time.Duration // 0 is no bound
}

// State is what a store is doing. A fixed set, for metrics.
type State string

const (
	// Loading: the store is being opened, or reached for the first time. The
	// log's end is not known yet.
	Loading State = "loading"
	// Following: another node writes, or none does.
	Following State = "following"
	// Writing: this node writes.
	Writing State = "writing"
	// Stalled: nothing can be committed at present. Status.Err says why.
	Stalled State = "stalled"
	// Closed: for good.
	Closed State = "closed"
)

// Status is what a store is doing, at about one instant.
type Status struct {
	State State
	Since time.Time // of the state
	Err   error     // why it is stalled, or what went wrong last; nil if nothing has

	First uint64 // offset of the oldest retained record, Last+1 if there is none
	Last  uint64 // offset of the newest committed record, 0 if there never was one
	Bytes int64  // as stored

	Oldest int64 // arrival of the record at First, Unix ms, 0 if there is none
	Newest int64 // of that at Last

	Term      uint64 // the newest known
	Writer    string // which node writes, for people; empty if that is not known
	Takeovers uint64 // terms of this node so far

	Buffered      int   // records that are not committed yet
	BufferedBytes int64 // of their bodies
	Refused       uint64
	Resyncs       uint64
}
