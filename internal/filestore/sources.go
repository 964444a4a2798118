package filestore

import (
	"cmp"
	"context"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// What is known of the newest record of each source stands in three places: in
// the newest segment, as its records; in the index of every other segment, up to
// the end of that; and in log.json, up to when it was written. A source whose
// records have been dropped stands in the indexes and in log.json only.

// fewSegments is how many segments have too few indexes, none or one, for losing
// a file to lose nothing: log.json is written before older ones are dropped.
const fewSegments = 2

// Latest implements logstore.Store.
func (s *Store) Latest(ctx context.Context) (map[string]logstore.Latest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); s.closed || err != nil {
		if s.closed {
			err = logstore.ErrClosed
		}
		return nil, err
	}
	return s.sources.All(), nil
}

// allSources is Latest for the committer.
func (s *Store) allSources() map[string]logstore.Latest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sources.All()
}

// sourceSize is what a source takes in a table at most, but for its texts: four
// numbers.
const sourceSize = 4 * binary.MaxVarintLen64

func sourcesSize(sources map[string]logstore.Latest) int {
	size := 0
	for source, l := range sources {
		size += sourceSize + len(source) + len(l.ID)
	}
	return size
}

// appendSources appends a table of sources to dst, in the order of their
// records, so that the same sources are the same bytes:
//
//	offset, time: a uvarint each
//	source, id: each a uvarint with its length, then its bytes
func appendSources(dst []byte, sources map[string]logstore.Latest) []byte {
	names := slices.SortedFunc(maps.Keys(sources), func(a, b string) int {
		return cmp.Or(cmp.Compare(sources[a].Offset, sources[b].Offset), cmp.Compare(a, b))
	})
	for _, source := range names {
		l := sources[source]
		dst = binary.AppendUvarint(dst, l.Offset)
		dst = binary.AppendUvarint(dst, uint64(max(l.Time, 0)))
		for _, text := range [...]string{source, l.ID} {
			dst = binary.AppendUvarint(dst, uint64(len(text)))
			dst = append(dst, text...)
		}
	}
	return dst
}

// parseSources reads what appendSources wrote of records before an offset; false
// if p is something else.
func parseSources(p []byte, before uint64) (sources map[string]logstore.Latest, ok bool) {
	number := func() (n uint64) {
		n, size := binary.Uvarint(p)
		ok = ok && size > 0
		p = p[max(size, 0):]
		return n
	}
	text := func() string {
		n := number()
		if n > logstore.MaxLatestText || n > uint64(len(p)) {
			ok = false
			return ""
		}
		t := string(p[:n])
		p = p[n:]
		return t
	}
	sources = make(map[string]logstore.Latest)
	last := uint64(0)
	for ok = true; len(p) > 0; {
		l := logstore.Latest{Offset: number(), Time: int64(number())}
		source := text()
		l.ID = text()
		_, twice := sources[source]
		if !ok || twice || l.Offset < last || l.Offset >= before || l.Time < 0 || len(sources) == logstore.MaxSources {
			return nil, false
		}
		sources[source], last = l, l.Offset
	}
	return sources, true
}

// learnSources takes over a table of sources, up to a record that is lost.
func learnSources(to *logstore.Sources, table map[string]logstore.Latest, lost uint64) {
	for source, l := range table {
		if l.Offset < lost {
			to.Set(source, l)
		}
	}
}
