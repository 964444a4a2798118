package natslog

import (
	"bytes"
	"compress/flate"
	"encoding/gob"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"sort"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// maxEpochs and maxSpans bound what is remembered of a log's past.
	maxEpochs = 256
	maxSpans  = 1024
)

// state is what a node knows of the log. It follows from the records alone, so
// that all nodes come to the same; a checkpoint saves reading them all. It is not
// safe for concurrent use.
type state struct {
	incarnation string // of the JetStream stream
	head        uint64 // offset of the newest record that is known
	newest      int64  // its arrival
	sum         uint64 // fingerprint of it, unless unknown is set
	unknown     bool

	fence  fence  // the newest
	spans  []span // which term the records are of, oldest first
	epochs []logstore.Epoch
	unsure bool // there may have been epochs that are not known

	sources logstore.Sources
}

// fence is what a term begins with: records without a body.
type fence struct {
	offset, term uint64
	last         uint64 // offset of the last one
	nonce        uint64 // tells two fences apart that have the same number
	node         string
}

// fenceBegins is the type of the first record of a fence.
const fenceBegins = "begin"

// follows reports whether a record can come after the head: only with a fence
// does a term begin. If it does otherwise, other records than those that are known
// are before it.
func (s *state) follows(r *logstore.Record) bool {
	return len(s.spans) == 0 || r.Term == s.term() || r.Term > s.term() && r.Fence() && r.Type == fenceBegins
}

// span is where records of a term begin.
type span struct{ first, term uint64 }

// newState returns the state before the first record of a stream.
func newState(in streamInfo) state {
	return state{
		incarnation: in.incarnation, head: in.first - 1, unknown: true,
		epochs: []logstore.Epoch{{ID: in.incarnation, First: in.origin}},
		unsure: in.first > in.origin,
	}
}

// fingerprint is of a record's bytes, the same in every process.
func fingerprint(data []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(data)
	return h.Sum64()
}

// term returns the term of the newest record.
func (s *state) term() uint64 {
	if len(s.spans) == 0 {
		return 0
	}
	return s.spans[len(s.spans)-1].term
}

// epoch returns the id of the newest epoch.
func (s *state) epoch() string { return s.epochs[len(s.epochs)-1].ID }

// termAt returns the term of a record up to the head. False: it is not known.
func (s *state) termAt(offset uint64) (uint64, bool) {
	i := sort.Search(len(s.spans), func(i int) bool { return s.spans[i].first > offset })
	if i == 0 {
		return 0, false
	}
	return s.spans[i-1].term, true
}

// apply takes the next record into account.
func (s *state) apply(r *logstore.Record) {
	if len(s.spans) == 0 || r.Term != s.term() {
		if r.Fence() && r.Term > s.term() {
			s.fence = fence{offset: r.Offset, term: r.Term, nonce: r.Hash, node: r.Source}
			s.beginEpoch(r.ID, r.Offset)
		}
		s.spans = append(s.spans, span{r.Offset, r.Term})
		if len(s.spans) > maxSpans {
			s.spans = slices.Delete(s.spans, 0, maxSpans/2)
		}
	}
	if r.Fence() && r.Term == s.fence.term && r.Hash == s.fence.nonce {
		s.fence.last = r.Offset
	}
	s.head, s.newest = r.Offset, max(s.newest, r.Time)
	s.sources.Note(r)
}

// beginEpoch notes that a record is the first of an epoch, unless the epoch is
// the present one.
func (s *state) beginEpoch(id string, first uint64) {
	if id == "" || id == s.epoch() {
		return
	}
	s.epochs = slices.DeleteFunc(s.epochs, func(e logstore.Epoch) bool { return e.First > first })
	s.epochs = append(s.epochs, logstore.Epoch{ID: id, First: first})
	if len(s.epochs) > maxEpochs {
		s.epochs = slices.Delete(s.epochs, 0, len(s.epochs)-maxEpochs)
	}
}

// rewind forgets what is known from an offset on: it was lost. It returns the
// sources whose newest record is.
func (s *state) rewind(to uint64) map[string]struct{} {
	s.head, s.unknown = to-1, true
	s.spans = slices.DeleteFunc(s.spans, func(sp span) bool { return sp.first >= to })
	s.fence = fence{}
	if kept := slices.DeleteFunc(slices.Clone(s.epochs), func(e logstore.Epoch) bool { return e.First >= to }); len(kept) > 0 {
		s.epochs = kept
	}
	lost := make(map[string]struct{})
	for source, l := range s.sources.All() {
		if l.Offset >= to {
			lost[source] = struct{}{}
		}
	}
	s.sources.Cut(to)
	return lost
}

// adopt goes over to a stream that was made anew. Its offsets begin beyond all
// that were known to whoever made it, and nothing is left of earlier epochs: how
// many records were lost after a position of theirs, no offset tells.
func (s *state) adopt(in streamInfo) {
	s.incarnation = in.incarnation
	s.head, s.unknown = in.origin-1, true
	s.spans, s.fence = nil, fence{}
	s.epochs = []logstore.Epoch{{ID: in.incarnation, First: in.origin}}
	s.unsure = false
	s.sources.Cut(in.origin) // nothing, unless more was known to this node
}

// checkpoint is a state as it is saved.
type checkpoint struct {
	Incarnation string
	Head        uint64
	Newest      int64
	Sum         uint64
	Unknown     bool
	Fence       struct {
		Offset, Term, Last, Nonce uint64
		Node                      string
	}
	Term   uint64
	Epochs []logstore.Epoch
	Unsure bool

	Sources map[string]logstore.Latest
}

// save returns the state as bytes, size at most: of too many sources those with
// the oldest records are left out.
func (s *state) save(size int) ([]byte, error) {
	c := checkpoint{
		Incarnation: s.incarnation, Head: s.head, Newest: s.newest, Sum: s.sum, Unknown: s.unknown,
		Term: s.term(), Epochs: s.epochs, Unsure: s.unsure, Sources: s.sources.All(),
	}
	c.Fence.Offset, c.Fence.Term, c.Fence.Last = s.fence.offset, s.fence.term, s.fence.last
	c.Fence.Nonce, c.Fence.Node = s.fence.nonce, s.fence.node
	for {
		p, err := c.encode()
		if err != nil {
			return nil, fmt.Errorf("encoding a checkpoint: %w", err)
		}
		if len(p) <= size || len(c.Sources) == 0 {
			return p, nil
		}
		c.dropOldest()
	}
}

// The first byte of a checkpoint.
const (
	plain      = 0
	compressed = 1
)

// compressFrom is from what size on a checkpoint is compressed: that takes more
// memory for a moment than a small one is worth.
const compressFrom = 16 << 10

// encode returns the checkpoint as bytes.
func (c *checkpoint) encode() ([]byte, error) {
	b := bytes.NewBuffer([]byte{plain})
	if err := gob.NewEncoder(b).Encode(c); err != nil || b.Len() < compressFrom {
		return b.Bytes(), err
	}
	small := bytes.NewBuffer([]byte{compressed})
	w, err := flate.NewWriter(small, flate.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(b.Bytes()[1:]); err != nil {
		return nil, err
	}
	err = w.Close()
	return small.Bytes(), err
}

// dropOldest leaves out half of the sources.
func (c *checkpoint) dropOldest() {
	offsets := make([]uint64, 0, len(c.Sources))
	for _, l := range c.Sources {
		offsets = append(offsets, l.Offset)
	}
	slices.Sort(offsets)
	limit := offsets[len(offsets)/2]
	for source, l := range c.Sources {
		if l.Offset <= limit {
			delete(c.Sources, source)
		}
	}
}

// maxCheckpoint bounds a checkpoint that is read, in bytes: 32 MiB of texts and
// as much again for all else.
const maxCheckpoint = 64 << 20

// loadState reads what save has written.
func loadState(p []byte) (state, error) {
	var c checkpoint
	if len(p) == 0 || p[0] > compressed {
		return state{}, errors.New("decoding a checkpoint: its form is not known")
	}
	var from io.Reader = bytes.NewReader(p[1:])
	if p[0] == compressed {
		from = io.LimitReader(flate.NewReader(from), maxCheckpoint)
	}
	if err := gob.NewDecoder(from).Decode(&c); err != nil {
		return state{}, fmt.Errorf("decoding a checkpoint: %w", err)
	}
	if len(c.Epochs) == 0 {
		return state{}, errors.New("decoding a checkpoint: it has no epochs")
	}
	s := state{
		incarnation: c.Incarnation, head: c.Head, newest: c.Newest, sum: c.Sum, unknown: c.Unknown,
		fence:  fence{c.Fence.Offset, c.Fence.Term, c.Fence.Last, c.Fence.Nonce, c.Fence.Node},
		epochs: c.Epochs, unsure: c.Unsure,
	}
	if c.Term > 0 {
		s.spans = []span{{c.Head, c.Term}}
	}
	for source, l := range c.Sources {
		s.sources.Set(source, l)
	}
	return s, nil
}
