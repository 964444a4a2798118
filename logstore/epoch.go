package logstore

import (
	"crypto/rand"
	"slices"
	"strings"
)

// EpochLen is the length of an epoch's ID. 10 of 32 letters are 50 bits: two
// incarnations of a log share an epoch once in 10^15 times.
const EpochLen = 10

// Epoch is one incarnation of a log: within it, an offset names one record.
type Epoch struct {
	ID    string // random: EpochLen of [a-z0-9], the beginning of clients' positions
	First uint64 // offset of its first record
}

// NewEpochID returns an ID that no epoch has.
func NewEpochID() string { return strings.ToLower(rand.Text()[:EpochLen]) }

// EpochAt returns the epoch that an offset is of: the newest that begins at it
// or before. False if there is none. epochs are those of a store, oldest first.
func EpochAt(epochs []Epoch, offset uint64) (Epoch, bool) {
	for _, e := range slices.Backward(epochs) {
		if e.First <= offset {
			return e, true
		}
	}
	return Epoch{}, false
}

// Good reports whether a cursor of an epoch still names what it named: offsets
// of an epoch are good up to where the next one begins.
func Good(epochs []Epoch, id string, offset uint64) bool {
	for i, e := range epochs {
		if e.ID == id {
			// A cursor may stand before the first record: nothing was read yet.
			return offset+1 >= e.First && (i+1 == len(epochs) || offset < epochs[i+1].First)
		}
	}
	return false
}
