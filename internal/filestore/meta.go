package filestore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	metaName = "log.json"
	lockName = "lock"
	headName = "head"
)

// meta is what is known of a log besides its records. It is replaced as a
// whole.
type meta struct {
	Version int              `json:"version"`
	Epochs  []logstore.Epoch `json:"epochs"`
	Term    uint64           `json:"term"` // the newest

	// Boot is the boot of the machine in which the log was opened last, and
	// Orderly whether it has been closed since, with everything on disk.
	Boot    string `json:"boot"`
	Orderly bool   `json:"orderly"`
}

func readMeta(dir string) (*meta, error) {
	name := filepath.Join(dir, metaName)
	body, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m := new(meta)
	if err := json.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if m.Version != formatVersion {
		return nil, fmt.Errorf("%s has format version %d, this program knows %d", name, m.Version, formatVersion)
	}
	if len(m.Epochs) == 0 {
		return nil, fmt.Errorf("%s has no epoch", name)
	}
	return m, nil
}

func (m *meta) write(dir string) error {
	m.Version = formatVersion
	body, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(dir, metaName), append(body, '\n')); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names of files in a directory outlive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // not every system can
		return err
	}
	return nil
}

// bootID returns an id of the machine's present boot; empty where there is
// none, which is regarded as another boot each time.
func bootID() string {
	body, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(body))
}

// headFile holds the offset of the newest committed record. It is written with
// every commit and never synced: it survives the process, and says whether
// records have gone since.
type headFile struct{ f *os.File }

func openHead(dir string) (h headFile, last uint64, err error) {
	f, err := os.OpenFile(filepath.Join(dir, headName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return h, 0, err
	}
	var body [8]byte
	if n, _ := f.ReadAt(body[:], 0); n == len(body) {
		last = binary.LittleEndian.Uint64(body[:])
	}
	return headFile{f}, last, nil
}

func (h headFile) write(last uint64) error {
	var body [8]byte
	binary.LittleEndian.PutUint64(body[:], last)
	_, err := h.f.WriteAt(body[:], 0)
	return err
}
