package filestore

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// segmentBytes returns a segment of the events first to last.
func segmentBytes(first, last int) []byte {
	body := appendHeader(nil, uint64(first))
	for i := first; i <= last; i++ {
		r := event(i)
		r.Offset, r.Term = uint64(i), 1
		body = appendFrame(body, r)
	}
	return body
}

// bytesDisk is a disk whose only file has these bytes, to be read.
type bytesDisk struct {
	disk
	body []byte
}

func (d bytesDisk) open(string, int) (file, error) {
	return bytesFile{Reader: bytes.NewReader(d.body)}, nil
}

type bytesFile struct {
	file
	*bytes.Reader
}

func (f bytesFile) ReadAt(p []byte, at int64) (int, error) { return f.Reader.ReadAt(p, at) }

func (bytesFile) Close() error { return nil }

// readDamaged reads a segment at each of its offsets and times, as a store does
// that had read it, or its index, before it was damaged.
func readDamaged(t *testing.T, seg *segment, body []byte) {
	t.Helper()
	d := bytesDisk{body: body}
	for from := seg.first; from < seg.next; from++ {
		records, err := seg.read(d, from, 100)
		if len(records) == 0 && err == nil {
			t.Fatalf("nothing is read at offset %d, and no error", from)
		}
		for i := range records {
			if offset := int(from) + i; records[i].Offset != uint64(offset) || !isEvent(&records[i], offset) {
				t.Fatalf("%+v was not written at offset %d", records[i], offset)
			}
		}
		// of two that arrived one after the other
		offset, err := seg.since(d, event(int(from)).Time)
		if err == nil && offset != from {
			t.Fatalf("offset %d is taken for that of number %d", offset, from)
		}
	}
}

// FuzzSegment damages a segment, as a list of changes: a position, and what is
// done there. Nothing but what was written is read from it, by what was known of
// it before or without, and neither what is no segment at all is a reason to
// panic.
func FuzzSegment(f *testing.F) {
	whole := segmentBytes(1, 12)
	known, _, err := scanBytes(bytes.NewReader(whole), int64(len(whole)), 1, new(logstore.Sources))
	if err != nil {
		f.Fatal(err)
	}
	// as if it were long: an entry for every third record
	known.index = nil
	for at, offset := headerSize, uint64(1); at < len(whole); offset++ {
		if offset%3 == 1 {
			known.index = append(known.index, indexEntry{offset: offset, time: event(int(offset)).Time, position: int64(at)})
		}
		_, size, err := parseFrame(whole[at:], offset)
		if err != nil {
			f.Fatal(err)
		}
		at += size
	}
	f.Add([]byte{}, uint16(0))
	f.Add([]byte{0, 100, 1, 0xff}, uint16(0))
	f.Add([]byte{1, 0, 3, 40}, uint16(300))
	f.Add(whole, uint16(10))
	f.Fuzz(func(t *testing.T, changes []byte, cut uint16) {
		body := bytes.Clone(whole)
		changes = changes[:min(len(changes), 4*100)] // more take long, and find nothing else
		for ; len(changes) >= 4; changes = changes[4:] {
			at := int(binary.BigEndian.Uint16(changes)) % len(body)
			switch n := int(changes[3]); changes[2] % 5 {
			case 0: // bits
				body[at] ^= changes[3]
			case 1: // bytes that are gone
				body = append(body[:at:at], body[min(at+n, len(body)):]...)
			case 2: // bytes that come twice
				body = append(body[:at:at], append(bytes.Clone(body[at:min(at+n, len(body))]), body[at:]...)...)
			case 3: // a hole
				clear(body[at:min(at+n, len(body))])
			case 4: // older bytes
				copy(body[at:], whole[n%len(whole):min(n%len(whole)+64, len(whole))])
			}
			if len(body) == 0 {
				return
			}
		}
		body = body[:len(body)-min(int(cut), len(body))]
		seg, at, err := scanBytes(bytes.NewReader(body), int64(len(body)), 1, new(logstore.Sources))
		if at > int64(len(body)) || seg.next < 1 || seg.next > 13 || err == nil && seg.next <= 12 && len(body) > len(whole) {
			t.Fatalf("%+v ends at %d of %d: %v", seg, at, len(body), err)
		}
		read := frames{file: bytes.NewReader(body), at: headerSize, end: int64(len(body)), offset: 1}
		for i := 1; ; i++ {
			r, _, err := read.next()
			if err != nil {
				break
			}
			if r.Offset != uint64(i) || !isEvent(&r, i) {
				t.Fatalf("%+v was not written at offset %d", r, i)
			}
		}
		if err == nil || broken(err) {
			readDamaged(t, seg, body)
		}
		readDamaged(t, known, body)
	})
}

// FuzzFiles reads anything as any file of a log.
func FuzzFiles(f *testing.F) {
	f.Add(segmentBytes(1, 3))
	f.Add(headBodyOf(head{last: 7, term: 2}))
	m := meta{Epochs: []logstore.Epoch{{ID: "a", First: 1}}}
	if body, err := m.encode(); err == nil {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		seg, at, err := scanBytes(bytes.NewReader(body), int64(len(body)), 1, new(logstore.Sources))
		if at > int64(len(body)) && !broken(err) {
			t.Fatalf("%+v ends at %d of %d: %v", seg, at, len(body), err)
		}
		_, _ = (&segment{first: 1}).parseIndex(body, 1<<20)
		_, _, _ = parseHead(body)
		_, _ = parseMeta(body)
		_ = laterFrame(body, 0)
		_, _, _ = parseFrame(body, 1)
	})
}

// What looks like the head of a frame at every byte takes no longer to look
// through than a few checksums of it all.
func TestSearchBehindDamageIsBounded(t *testing.T) {
	t.Parallel()
	rest := make([]byte, maxRest)
	for at := 0; at+frameSize <= len(rest); at += frameSize {
		// of half of what is left, with an offset that may be, and a wrong checksum
		binary.LittleEndian.PutUint32(rest[at:], uint32((len(rest)-at)/2))
		binary.LittleEndian.PutUint64(rest[at+8:], 1000)
	}
	begun := time.Now()
	if !laterFrame(rest, 1) {
		t.Error("it is not known to be no damage")
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("searching 64 MiB took %v", took)
	}
	// and a frame far behind is found
	clear(rest)
	r := event(9)
	r.Offset = 9
	frame := appendFrame(nil, r)
	copy(rest[len(rest)-len(frame)-100:], frame)
	if !laterFrame(rest, 1) || laterFrame(rest, 9) || laterFrame(rest[:len(rest)-200], 1) {
		t.Error("a frame at the end is not what is found")
	}
}
