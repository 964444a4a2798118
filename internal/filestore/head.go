package filestore

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
)

const headName = "head"

// The file head has one record of fixed size:
//
//	magic    8 bytes, "SSEFHEAD"
//	version  uint32
//	crc      uint32, of all but itself
//	last     uint64, offset of the newest committed record
//	term     uint64, the newest
//	suspect  1 byte, 1 after an fsync that failed
//
// It is written with every commit, and synced only when the log is opened and
// closed. So it outlives the process, and shows afterwards whether records have
// gone since.
const headSize = 8 + 4 + 4 + 8 + 8 + 1

var headMagic = [8]byte{'S', 'S', 'E', 'F', 'H', 'E', 'A', 'D'}

// head is what the file head holds.
type head struct {
	last, term uint64

	// An fsync has failed, after which the system may regard pages as written
	// that are not on disk. The newest segment has to be written again.
	suspect bool
}

func (h head) append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, headMagic[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, formatVersion)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, h.last)
	dst = binary.LittleEndian.AppendUint64(dst, h.term)
	if h.suspect {
		dst = append(dst, 1)
	} else {
		dst = append(dst, 0)
	}
	binary.LittleEndian.PutUint32(dst[at+12:], headChecksum(dst[at:]))
	return dst
}

func headChecksum(p []byte) uint32 {
	return crc32.Update(crc32.Checksum(p[:12], castagnoli), castagnoli, p[16:headSize])
}

// parseHead returns what the file held; false if it is not whole.
func parseHead(p []byte) (h head, ok bool) {
	if len(p) != headSize || [8]byte(p[:8]) != headMagic || headChecksum(p) != binary.LittleEndian.Uint32(p[12:]) ||
		binary.LittleEndian.Uint32(p[8:]) != formatVersion {
		return h, false
	}
	return head{
		last: binary.LittleEndian.Uint64(p[16:]), term: binary.LittleEndian.Uint64(p[24:]),
		suspect: p[32] != 0,
	}, true
}

// openHead opens the file, and returns what it holds; known is false if that is
// nothing, or damaged.
func openHead(d disk, dir string) (f file, h head, known bool, err error) {
	name := filepath.Join(dir, headName)
	if f, err = d.open(name, os.O_RDWR|os.O_CREATE); err != nil {
		return nil, h, false, err
	}
	body := make([]byte, headSize+1) // a file that is longer is not ours
	n, _ := f.ReadAt(body, 0)
	h, known = parseHead(body[:n])
	return f, h, known, nil
}
