package logstore

import "slices"

const (
	// MaxSources is how many sources a store knows the Latest of: those with the
	// newest records. Configurations name fewer, but addresses that a look-up
	// gives come and go.
	MaxSources = 4096

	// MaxLatestText bounds the texts of a Latest, in bytes, so that all of them
	// have 32 MiB at most. A longer id is left out, and so is a source whose name
	// is longer.
	MaxLatestText = 4 << 10
)

// Latest is what a store knows of the newest record of a source: where to resume
// the upstream from.
type Latest struct {
	Offset uint64 // of the record
	Time   int64  // its arrival, Unix ms
	ID     string // the upstream's id in force after it, empty if it is too long
}

// Sources has the Latest of each source, for stores to build Store.Latest with.
// The zero value is empty. It is not safe for concurrent use.
type Sources struct {
	latest map[string]*Latest // up to twice MaxSources, so that few records have it pruned
}

// Note takes a committed record into account. Records come in the order of their
// offsets. A record of a source that is known allocates nothing.
func (s *Sources) Note(r *Record) {
	if r.Fence() {
		return
	}
	id := r.ID
	if len(id) > MaxLatestText {
		id = ""
	}
	if known := s.latest[r.Source]; known != nil {
		*known = Latest{r.Offset, r.Time, id}
		return
	}
	s.Set(r.Source, Latest{r.Offset, r.Time, id})
}

// Set takes into account what is known of a source, unless something newer is.
func (s *Sources) Set(source string, l Latest) {
	if known := s.latest[source]; known != nil && known.Offset >= l.Offset || len(source) > MaxLatestText {
		return
	}
	if len(l.ID) > MaxLatestText {
		l.ID = ""
	}
	if s.latest == nil {
		s.latest = make(map[string]*Latest)
	}
	s.latest[source] = &l
	if len(s.latest) > 2*MaxSources {
		s.prune()
	}
}

// Cut forgets every source whose newest record has the offset from or a higher
// one: such records are lost.
func (s *Sources) Cut(from uint64) {
	for source, l := range s.latest {
		if l.Offset >= from {
			delete(s.latest, source)
		}
	}
}

// All returns the Latest of each source, of MaxSources at most. The map is the
// caller's.
func (s *Sources) All() map[string]Latest {
	s.prune()
	all := make(map[string]Latest, len(s.latest))
	for source, l := range s.latest {
		all[source] = *l
	}
	return all
}

// prune forgets the sources with the oldest records if there are more than
// MaxSources.
func (s *Sources) prune() {
	n := len(s.latest) - MaxSources
	if n <= 0 {
		return
	}
	offsets := make([]uint64, 0, len(s.latest))
	for _, l := range s.latest {
		offsets = append(offsets, l.Offset)
	}
	slices.Sort(offsets)
	for source, l := range s.latest {
		if l.Offset <= offsets[n-1] {
			delete(s.latest, source)
		}
	}
}
