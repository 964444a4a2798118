package logstore

import "context"

// Keeper is a Store that keeps some bytes besides the log, by name, for its caller:
// what would have to be worked out from the whole log otherwise. They are no part of the
// log. Their offsets are the caller's to compare with what the store has: it may have
// lost records since, or have begun an epoch.
//
// Names have the letters a to z only. There are few of them, and what is kept by one is
// at most as large as what the caller keeps in memory.
type Keeper interface {
	Store

	// Keep stores bytes in place of those that the name had. Once it has returned
	// without an error, they outlive the process, and so does what they were made of: all
	// records that had been applied when it was called. Whatever happens, the name has
	// the old bytes or the new ones, whole. After a power cut it may have the old ones, or
	// none, under the same terms as the newest records. Where several nodes share the
	// log, only the writer calls it.
	//
	// It may take as long as the disk or the network does, is called by one goroutine at
	// a time, and takes a copy. The error is ErrClosed, ctx's, or that of writing.
	Keep(ctx context.Context, name string, kept []byte) error

	// Kept returns the bytes that a name has; nil if there are none. Where several nodes
	// share the log, they are those of any node. The bytes are the caller's. The error is
	// ErrClosed, ctx's, or says what keeps it from reading them; if they are damaged, it
	// wraps ErrDamaged. Keep replaces these, too.
	Kept(ctx context.Context, name string) ([]byte, error)
}

// Holder is a Keeper that evicts no records which are needed besides what is kept, as far
// as it can: what is kept is of some record, and those after it say what has changed since.
// JetStream's servers evict by themselves, so not every Keeper is one.
type Holder interface {
	Keeper

	// Hold has the records from an offset on stay, and those before it go when the
	// bounds say so. It returns at once, and holds until the next call. Where a store
	// opened with OpenOptions.Hold has not been called, it holds all. The store bounds
	// what it holds: it may take some more bytes than Bounds, but not any number.
	Hold(from uint64)
}

// HoldNone is beyond every record.
const HoldNone = ^uint64(0)
