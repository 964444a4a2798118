package filestore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// keptSuffix is that of a file with what is kept besides the log.
	keptSuffix = ".kept"

	// keptHeader is the length of such a file's header: the format's version in 4
	// bytes and the CRC-32C of the rest in 4, little-endian.
	keptHeader = 8
)

func keptName(dir, name string) string { return filepath.Join(dir, name+keptSuffix) }

func isKept(file string) bool { return strings.HasSuffix(file, keptSuffix) }

// Keep implements logstore.Keeper. The file is written beside the old one, and is on
// disk when it takes its place.
func (s *Store) Keep(ctx context.Context, name string, kept []byte) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.end()
	body := make([]byte, keptHeader, keptHeader+len(kept))
	binary.LittleEndian.PutUint32(body, formatVersion)
	binary.LittleEndian.PutUint32(body[4:], crc32.Checksum(kept, castagnoli))
	if err := replaceFile(s.o.disk, keptName(s.o.Dir, name), append(body, kept...)); err != nil {
		return fmt.Errorf("keeping what is besides the log: %w", err)
	}
	return nil
}

// Kept implements logstore.Keeper. A damaged file is removed: what it had can be had
// from the log, or is gone.
func (s *Store) Kept(ctx context.Context, name string) ([]byte, error) {
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.end()
	file := keptName(s.o.Dir, name)
	kept, err := readKept(s.o.disk, file)
	if errors.Is(err, logstore.ErrDamaged) {
		_ = s.o.disk.remove(file)
	}
	return kept, err
}

// readKept returns what a file has; nil if there is none.
func readKept(d disk, file string) ([]byte, error) {
	body, err := readFile(d, file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case len(body) < keptHeader:
		return nil, fmt.Errorf("reading %s: %w: %d bytes are too few", file, logstore.ErrDamaged, len(body))
	}
	if version := binary.LittleEndian.Uint32(body); version != formatVersion {
		return nil, fmt.Errorf("reading %s: it has format version %d, this program knows %d", file, version, formatVersion)
	}
	kept := body[keptHeader:]
	if crc32.Checksum(kept, castagnoli) != binary.LittleEndian.Uint32(body[4:]) {
		return nil, fmt.Errorf("reading %s: %w: the checksum does not match", file, logstore.ErrDamaged)
	}
	return kept, nil
}

// addKept takes into account what is kept besides the log. While the log is open, a
// file may be replaced meanwhile.
func (r *Report) addKept(entries []os.DirEntry) {
	for _, e := range entries {
		if !isKept(e.Name()) || e.IsDir() {
			continue
		}
		file := filepath.Join(r.Dir, e.Name())
		kept, err := readKept(realDisk{}, file)
		if err != nil {
			r.found(file, 0, err)
		} else if kept != nil {
			if r.Kept == nil {
				r.Kept = make(map[string]int64)
			}
			r.Kept[strings.TrimSuffix(e.Name(), keptSuffix)] = int64(len(kept))
		}
	}
}

// Interface guards
var _ logstore.Holder = (*Store)(nil)
