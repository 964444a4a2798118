package filestore

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
)

const headName = "head"

// The file head has two slots of fixed size, of which one changes at a time, so
// that the other is whole whenever the process dies:
//
//	magic    8 bytes, "SSEFHEAD"
//	version  uint32
//	crc      uint32, of all but itself
//	number   uint64, of the writing, by which the newer slot is told
//	last     uint64, offset of the newest committed record
//	term     uint64, the newest
//	suspect  1 byte, 1 after an fsync that failed
//	         zeros, up to 64 bytes
//
// It is written with every commit, and synced only when the log is opened and
// closed. So it outlives the process, and shows afterwards whether records have
// gone since.
const (
	headSize    = 64
	headSlots   = 2
	headVersion = 2 // version 1 had one slot
)

var headMagic = [8]byte{'S', 'S', 'E', 'F', 'H', 'E', 'A', 'D'}

// head is what the file head holds.
type head struct {
	number     uint64
	last, term uint64

	// An fsync has failed, after which the system may regard pages as written
	// that are not on disk. The newest segment has to be written again.
	suspect bool
}

// put writes the head to a slot.
func (h head) put(p []byte) {
	clear(p[:headSize])
	copy(p, headMagic[:])
	binary.LittleEndian.PutUint32(p[8:], headVersion)
	binary.LittleEndian.PutUint64(p[16:], h.number)
	binary.LittleEndian.PutUint64(p[24:], h.last)
	binary.LittleEndian.PutUint64(p[32:], h.term)
	if h.suspect {
		p[40] = 1
	}
	binary.LittleEndian.PutUint32(p[12:], headChecksum(p))
}

func headChecksum(p []byte) uint32 {
	return crc32.Update(crc32.Checksum(p[:12], castagnoli), castagnoli, p[16:headSize])
}

// parseSlot returns what a slot holds; false if it is not whole.
func parseSlot(p []byte) (h head, ok bool) {
	if [8]byte(p[:8]) != headMagic || headChecksum(p) != binary.LittleEndian.Uint32(p[12:]) ||
		binary.LittleEndian.Uint32(p[8:]) != headVersion {
		return h, false
	}
	return head{
		number: binary.LittleEndian.Uint64(p[16:]), last: binary.LittleEndian.Uint64(p[24:]),
		term: binary.LittleEndian.Uint64(p[32:]), suspect: p[40] != 0,
	}, true
}

// parseHead returns what the file holds: its newer slot. known is false if no
// slot is whole, whole if one is not: it is damaged, or was being written.
func parseHead(p []byte) (h head, known, whole bool) {
	if len(p) != headSlots*headSize {
		return h, false, false
	}
	whole = true
	for ; len(p) > 0; p = p[headSize:] {
		slot, ok := parseSlot(p[:headSize])
		whole = whole && ok
		if ok && (!known || slot.number > h.number) {
			h, known = slot, true
		}
	}
	return h, known, whole
}

// headFile is the file head of a log that is open. It belongs to the committer.
//
// It is written by a system call, never through memory that is mapped to it: a
// store to such memory waits where the file system is frozen or hangs, the garbage
// collector cannot stop a goroutine that waits so, and all others wait for the
// collector.
type headFile struct {
	file   file
	number uint64                     // of the slot that was written last
	body   [headSlots * headSize]byte // what the file has, or is to have
}

// openHead opens the file, and returns what it holds; known is false if that is
// nothing, or damaged.
func openHead(d disk, dir string) (f *headFile, h head, known bool, err error) {
	opened, err := d.open(filepath.Join(dir, headName), os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, h, false, err
	}
	body := make([]byte, headSlots*headSize+1) // a file that is longer is not ours
	n, _ := opened.ReadAt(body, 0)
	h, known, _ = parseHead(body[:n])
	f = &headFile{file: opened, number: h.number}
	copy(f.body[:], body)
	return f, h, known, nil
}

// prepare writes both slots, and has the file on disk.
func (f *headFile) prepare(h head) error {
	if err := f.file.Truncate(headSlots * headSize); err != nil { // it may be none of ours
		return err
	}
	for range headSlots {
		if err := f.write(h); err != nil {
			return err
		}
	}
	return f.file.Sync()
}

// write changes the slot that is not the newest. It writes the other one, too, as
// it is, so that a file that somebody has cut is whole again.
func (f *headFile) write(h head) error {
	h.number = f.number + 1
	h.put(f.body[h.number%headSlots*headSize:])
	if _, err := f.file.WriteAt(f.body[:], 0); err != nil {
		return err
	}
	f.number = h.number
	return nil
}

// sync has all on disk that was written.
func (f *headFile) sync(h head) error {
	if err := f.write(h); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f *headFile) close() { _ = f.file.Close() }
