package filestore

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// headBodyOf is a file head that was written whole, h last.
func headBodyOf(h head) []byte {
	body := make([]byte, headSlots*headSize)
	for number := range uint64(headSlots) {
		h.number = number + 1
		h.put(body[h.number%headSlots*headSize:])
	}
	return body
}

func TestHeadIsItsNewerSlot(t *testing.T) {
	t.Parallel()
	file, err := os.OpenFile(filepath.Join(t.TempDir(), headName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f := &headFile{file: file}
	t.Cleanup(f.close)
	if err := f.prepare(head{term: 1}); err != nil {
		t.Fatal(err)
	}
	var before []byte
	for last := uint64(1); last < 10; last++ {
		if err := f.write(head{last: last, term: 1, suspect: last == 5}); err != nil {
			t.Fatal(err)
		}
		body := load(t, file.Name())
		h, known, whole := parseHead(body)
		if h.last != last || h.term != 1 || h.suspect != (last == 5) || !known || !whole {
			t.Fatalf("after %d the head is %+v, %v, %v", last, h, known, whole)
		}
		if before != nil { // the process dies while it writes
			for at := range body {
				torn := append(bytes.Clone(body[:at]), before[at:]...)
				if h, known, _ := parseHead(torn); !known || h.last != last && h.last != last-1 {
					t.Fatalf("torn at byte %d the head is %+v, %v", at, h, known)
				}
			}
		}
		before = body
	}
}

func TestHeadWhoseFileIsCutGoesOn(t *testing.T) {
	t.Parallel()
	o := Options{Dir: t.TempDir(), Sync: SyncOff}
	s := open(t, o)
	follow(t, s, 1)
	term := campaign(t, s)
	add(t, term, 1, 5)
	await(t, s, 5)
	name := filepath.Join(o.Dir, headName)
	if err := os.Truncate(name, 0); err != nil {
		t.Fatal(err)
	}
	for last := uint64(6); last <= 7; last++ { // once in each slot
		add(t, term, int(last), int(last))
		await(t, s, last)
		if h, known, whole := parseHead(load(t, name)); h.last != last || !known || !whole {
			t.Errorf("after %d the head is %+v, %v, %v", last, h, known, whole)
		}
		if err := os.Truncate(name, 0); err != nil {
			t.Fatal(err)
		}
	}
	add(t, term, 8, 12)
	await(t, s, 12)
	shut(t, s)
	s = open(t, o)
	if records := honest(t, s, s.Epochs()[0].ID, 12); len(records) != 12 || len(s.Epochs()) != 1 {
		t.Errorf("%d records, epochs %v", len(records), s.Epochs())
	}
	shut(t, s)
}

func BenchmarkHead(b *testing.B) {
	file, err := os.OpenFile(filepath.Join(b.TempDir(), headName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	f := &headFile{file: file}
	b.Cleanup(f.close)
	if err := f.prepare(head{}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if err := f.write(head{last: uint64(i)}); err != nil {
			b.Fatal(err)
		}
	}
}
