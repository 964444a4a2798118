package ssefanin

import "strconv"

// keptFrame is how much of its buffer an idle writer keeps, in bytes: enough for
// the chunks of most streams, 512 KiB for all idle writers.
const keptFrame = 4 << 10

// frame is a writer's buffer for the chunk of a body (RFC 9112, section 7.1) that it
// writes. Copying the piece into it costs less than a write of several buffers, and
// clients that stand at the same place in a log get the same chunk.
//
// Not safe for concurrent use.
type frame struct {
	buf   []byte
	piece []byte // of a log, which the chunk in buf has; nil: of none
}

// chunk returns the chunk with a piece, which is not empty. It is good until the
// next call. A constant piece never changes.
func (f *frame) chunk(p []byte, constant bool) []byte {
	if constant && len(p) == len(f.piece) && &p[0] == &f.piece[0] {
		return f.buf
	}
	f.piece = nil
	if constant {
		f.piece = p // it stays in memory, so no other piece can lie there
	}
	f.buf = strconv.AppendUint(f.buf[:0], uint64(len(p)), 16)
	f.buf = append(f.buf, "\r\n"...)
	f.buf = append(f.buf, p...)
	f.buf = append(f.buf, "\r\n"...)
	return f.buf
}

// release lets go of the piece, which keeps a segment of its log in memory, and of
// a buffer that is large.
func (f *frame) release() {
	f.piece = nil
	if cap(f.buf) > keptFrame {
		f.buf = nil
	}
}

// lastChunk ends a body of chunks.
const lastChunk = "0\r\n\r\n"
