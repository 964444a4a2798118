package filestore

import "github.com/sse-fanin/caddy-sse-fanin/logstore"

// batch is records that were appended, with their frames.
type batch struct {
	frames  []byte
	sizes   []int // of each frame
	bodies  []int // of each record's body, which is the end of its frame
	records []logstore.Record
	bytes   int64 // of the bodies
}

// recordOverhead is about what a record takes in memory besides its frame, in
// bytes: a Record and two numbers. Its texts are shared with whoever appends.
const recordOverhead = 160

// memory is about what the batch takes, in bytes.
func (b *batch) memory() int64 {
	return int64(len(b.frames)) + int64(len(b.records))*recordOverhead
}

func (b *batch) add(r *logstore.Record) {
	at := len(b.frames)
	b.frames = appendFrame(b.frames, r)
	b.sizes = append(b.sizes, len(b.frames)-at)
	b.bodies = append(b.bodies, len(r.Body))
	b.bytes += int64(len(r.Body))
	b.records = append(b.records, *r)
	b.records[len(b.records)-1].Body = nil // it is in the frame; see fill
}

// fill gives the records their bodies, which stand in the frames. Nothing can be
// added afterwards.
func (b *batch) fill() {
	rest := b.frames
	for i, size := range b.sizes {
		b.records[i].Body = rest[size-b.bodies[i] : size : size]
		rest = rest[size:]
	}
}

// split returns the records of the beginning that take no more than about size
// bytes, one at least, and the others.
func (b *batch) split(size int64) (head, rest batch) {
	n, end, bodies := 0, 0, 0
	for n < len(b.sizes) && (n == 0 || int64(end+b.sizes[n]) <= size) {
		end += b.sizes[n]
		bodies += b.bodies[n]
		n++
	}
	head = batch{b.frames[:end], b.sizes[:n], b.bodies[:n], b.records[:n], int64(bodies)}
	rest = batch{b.frames[end:], b.sizes[n:], b.bodies[n:], b.records[n:], b.bytes - int64(bodies)}
	return head, rest
}

// maxSpare bounds the memory that an empty batch holds on to, in bytes.
const maxSpare = 1 << 20

// reset empties the batch. Its memory is used again, unless that is much.
func (b *batch) reset() {
	if cap(b.frames) > maxSpare || cap(b.records)*recordOverhead > maxSpare {
		*b = batch{}
		return
	}
	clear(b.records)
	*b = batch{frames: b.frames[:0], sizes: b.sizes[:0], bodies: b.bodies[:0], records: b.records[:0]}
}
