package filestore

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const metaName = "log.json"

// meta is what is known of a log besides its records. It is replaced as a
// whole.
type meta struct {
	Version int              `json:"version"`
	Epochs  []logstore.Epoch `json:"epochs"`
	Term    uint64           `json:"term"` // the newest

	// Boot is the boot of the machine in which the log was opened last, Synced
	// whether every commit since has waited for the disk, and Orderly whether the
	// log has been closed since, with everything on disk.
	Boot    string `json:"boot"`
	Synced  bool   `json:"synced"`
	Orderly bool   `json:"orderly"`

	// Sources are those that were known when the file was written, as appendSources
	// writes them. The log may have lost their records since.
	Sources []byte                     `json:"sources,omitempty"`
	known   map[string]logstore.Latest // what Sources holds
}

// sealed is the file's form: a meta and its CRC-32C in hex, without which a
// flipped bit could move an epoch's beginning.
type sealed struct {
	Checksum string          `json:"checksum"`
	Log      json.RawMessage `json:"log"`
}

func checksumText(p []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(p, castagnoli)) }

// errMeta is that of a file that this program has not written like this.
var errMeta = errors.New("the checksum does not match")

// readMeta reads the file; nil if there is none. The error wraps errMeta if
// the file is damaged.
func readMeta(d disk, dir string) (*meta, error) {
	name := filepath.Join(dir, metaName)
	body, err := readFile(d, name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := parseMeta(body)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return m, nil
}

func parseMeta(body []byte) (*meta, error) {
	var file sealed
	if json.Unmarshal(body, &file) != nil || file.Checksum != checksumText(file.Log) {
		return nil, errMeta
	}
	m := new(meta)
	if err := json.Unmarshal(file.Log, m); err != nil {
		return nil, err
	}
	if m.Version != formatVersion {
		return nil, fmt.Errorf("it has format version %d, this program knows %d", m.Version, formatVersion)
	}
	var ok bool
	if m.known, ok = parseSources(m.Sources, math.MaxUint64); !ok || len(m.Epochs) == 0 {
		return nil, errMeta
	}
	return m, nil
}

func (m *meta) encode() ([]byte, error) {
	m.Version, m.Sources = formatVersion, appendSources(nil, m.known)
	log, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(sealed{checksumText(log), log})
	if err != nil {
		return nil, err
	}
	return append(body, '\n'), nil
}

func (m *meta) write(d disk, dir string) error {
	body, err := m.encode()
	if err != nil {
		return err
	}
	return replaceFile(d, filepath.Join(dir, metaName), body)
}
