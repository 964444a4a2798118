package natslog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// maxChunk is the most that one key has of what is kept, in bytes. Half of a record
	// at most: the answer with it is larger than the message.
	maxChunk = 256 << 10

	// maxReadTries is how often what is kept is read again, since it has been replaced
	// meanwhile.
	maxReadTries = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// keptHead is the value of the key that says what is kept. What is kept is in chunks, in
// one of two sets of keys; the next is stored in the other set, and counts once the
// head names it.
type keptHead struct {
	Set    int    `json:"set"`
	Chunks int    `json:"chunks"`
	Bytes  int    `json:"bytes"`
	CRC    uint32 `json:"crc32c"`
}

func keptKey(name string) string { return "kept-" + name }

func chunkKey(name string, set, i int) string { return fmt.Sprintf("kept-%s-%d-%d", name, set, i) }

// keptRevs has the revisions of keys that this node has stored last. A node that has
// been deposed and does not know it has old ones, with which nothing is stored. Safe for
// concurrent use.
type keptRevs struct {
	mu   sync.Mutex
	revs map[string]uint64
}

func (k *keptRevs) get(key string) (rev uint64, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	rev, ok = k.revs[key]
	return rev, ok
}

func (k *keptRevs) set(key string, rev uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.revs == nil {
		k.revs = make(map[string]uint64)
	}
	k.revs[key] = rev
}

// forget has every revision be asked for again.
func (k *keptRevs) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.revs = nil
}

// Keep implements logstore.Keeper. It is of several steps; where another node stores
// something meanwhile, it fails, and what was kept stays.
func (s *Store) Keep(ctx context.Context, name string, kept []byte) error {
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := s.keep(ctx, name, kept); err != nil {
		s.kept.forget()
		if why := s.over(ctx); why != nil {
			return why
		}
		return fmt.Errorf("keeping what is besides the log: %w", err)
	}
	return nil
}

func (s *Store) keep(ctx context.Context, name string, kept []byte) error {
	before, rev, err := s.loadKeptHead(ctx, name)
	if err != nil {
		return err
	}
	size := max(min(maxChunk, s.eng.maxRecord()/2), 1)
	head := keptHead{Set: 1 - before.Set, Bytes: len(kept), CRC: crc32.Checksum(kept, castagnoli)}
	for rest := kept; len(rest) > 0; head.Chunks++ {
		n := min(size, len(rest))
		if err := s.saveChunk(ctx, chunkKey(name, head.Set, head.Chunks), rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	p, err := json.Marshal(head)
	if err != nil {
		return err
	}
	_, err = s.eng.save(ctx, keptKey(name), p, rev)
	return err
}

// saveChunk stores a chunk, unless another node has since this one has looked.
func (s *Store) saveChunk(ctx context.Context, key string, p []byte) error {
	rev, known := s.kept.get(key)
	if !known {
		var err error
		if _, rev, err = s.eng.load(ctx, key); err != nil {
			return err
		}
	}
	rev, err := s.eng.save(ctx, key, p, rev)
	if err == nil {
		s.kept.set(key, rev)
	}
	return err
}

// loadKeptHead returns what is kept by a name, and the revision of that; 0 if nothing is.
func (s *Store) loadKeptHead(ctx context.Context, name string) (head keptHead, rev uint64, err error) {
	p, rev, err := s.eng.load(ctx, keptKey(name))
	s.heard(err)
	if err != nil || rev == 0 {
		return head, 0, err
	}
	if json.Unmarshal(p, &head) != nil || head.Set != head.Set&1 || head.Chunks < 0 || head.Bytes < 0 {
		return keptHead{}, rev, nil // it is replaced by the next; nobody can read it
	}
	return head, rev, nil
}

// Kept implements logstore.Keeper.
func (s *Store) Kept(ctx context.Context, name string) ([]byte, error) {
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	for range maxReadTries {
		var head keptHead
		var rev uint64
		if head, rev, err = s.loadKeptHead(ctx, name); err != nil || rev == 0 {
			break
		}
		var kept []byte
		if kept, err = s.loadChunks(ctx, name, head); err != nil {
			break
		}
		if len(kept) == head.Bytes && crc32.Checksum(kept, castagnoli) == head.CRC {
			return kept, nil
		}
		err = fmt.Errorf("%w: %d bytes are there, and %d were stored", logstore.ErrDamaged, len(kept), head.Bytes)
	}
	if why := s.over(ctx); why != nil {
		return nil, why
	}
	if err != nil && !errors.Is(err, errNoStream) {
		return nil, fmt.Errorf("reading what is kept besides the log: %w", err)
	}
	return nil, nil
}

// loadChunks returns the chunks that a head names, as far as they are there.
func (s *Store) loadChunks(ctx context.Context, name string, head keptHead) ([]byte, error) {
	kept := []byte{}
	for i := range head.Chunks {
		p, rev, err := s.eng.load(ctx, chunkKey(name, head.Set, i))
		if err != nil || rev == 0 {
			return kept, err
		}
		kept = append(kept, p...)
	}
	return kept, nil
}

// Interface guards
var _ logstore.Keeper = (*Store)(nil)
