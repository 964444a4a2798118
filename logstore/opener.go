package logstore

import (
	"context"

	"go.uber.org/zap"
)

// Opener opens the logs of streams. It is what a module of the namespace
// http.handlers.sse_fanin.log implements, one for each stream that is configured
// with it; its fields are the options.
//
// A stream outlives configurations, so a store may be in use after the opener's
// own configuration has gone: it keeps nothing of that but values.
type Opener interface {
	// Key identifies the log of a stream: where two openers of a kind return the
	// same, they open the same log. Options that can change while the log is in
	// use are no part of it.
	Key(stream string) string

	// Open opens the log of a stream. The error says what is at fault, and where;
	// opening is then tried again, until ctx ends.
	Open(ctx context.Context, stream string, o OpenOptions) (Store, error)

	// Adjust applies the options to a store that an opener with the same key has
	// opened.
	Adjust(Store)

	// Memory is how many bytes of the newest records are to be held in memory.
	Memory() int64
}

// Completer is an Opener with options that have no default.
type Completer interface {
	Opener

	// Complete returns an error if such an option is missing. It is not asked of
	// the defaults for streams, which may leave out any.
	Complete() error
}

// Adviser is an Opener that knows what helps where its logs cannot be reached, or
// nobody writes them.
type Adviser interface {
	Opener

	// Advise returns that for the log of a stream. Nothing in it may be secret.
	Advise(stream string) Advice
}

// Advice is what people can do about a log.
type Advice struct {
	Text     string     // whole sentences
	Commands [][]string // that show more, each with its arguments
}

// OpenOptions are what a store gets besides the opener's own options.
type OpenOptions struct {
	Bounds Bounds

	// Hold has a Holder hold all records until it is called; see there.
	Hold bool

	// Logger is for as long as the store is open.
	Logger *zap.Logger
}
