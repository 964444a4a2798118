package main

import (
	"bytes"
	"errors"
)

var (
	errChunk     = errors.New("malformed chunk")
	errLastChunk = errors.New("the response has ended")
)

// dechunker takes HTTP's chunked framing off a stream that comes in pieces.
type dechunker struct {
	size   int  // of the chunk whose header is being read
	digits bool // the header's number is not over
	left   int  // bytes of data to come
	skip   int  // bytes of a line end to come
}

// feed hands the data in p to v.
func (d *dechunker) feed(p []byte, v *verifier) error {
	for len(p) > 0 {
		switch {
		case d.left > 0:
			n := min(d.left, len(p))
			v.feed(p[:n])
			d.left -= n
			p = p[n:]
			if d.left == 0 {
				d.skip, d.size, d.digits = 2, 0, true
			}
		case d.skip > 0:
			n := min(d.skip, len(p))
			d.skip -= n
			p = p[n:]
		default:
			end := bytes.IndexByte(p, '\n')
			header := p
			if end >= 0 {
				header = p[:end]
			}
			if err := d.header(header); err != nil {
				return err
			}
			if end < 0 {
				return nil
			}
			if d.size == 0 {
				return errLastChunk
			}
			d.left = d.size
			p = p[end+1:]
		}
	}
	return nil
}

// header takes a part of a chunk's header.
func (d *dechunker) header(p []byte) error {
	for _, c := range p {
		switch {
		case c == '\r' || c == ';':
			d.digits = false
		case !d.digits: // an extension
		case c >= '0' && c <= '9':
			d.size = d.size<<4 | int(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			d.size = d.size<<4 | int(c|0x20-'a'+10)
		default:
			return errChunk
		}
		if d.size > 1<<30 {
			return errChunk
		}
	}
	return nil
}

func newDechunker() *dechunker { return &dechunker{digits: true} }
