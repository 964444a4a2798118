package ssetest

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
)

// sizeLine is the line that begins a chunk. The specification allows more: upper
// case, zeros in front, extensions.
var sizeLine = regexp.MustCompile(`^(0|[1-9a-f][0-9a-f]{0,7})\r\n$`)

// ReadChunk reads one chunk of a body (RFC 9112, section 7.1), the last of which is
// empty. Anything but the plainest framing is an error, and so are trailers.
func ReadChunk(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("reading the size of a chunk, after %q: %w", line, noEOF(err))
	}
	match := sizeLine.FindStringSubmatch(line)
	if match == nil {
		return "", fmt.Errorf("a chunk begins with %.40q", line)
	}
	size, err := strconv.ParseUint(match[1], 16, 32)
	if err != nil {
		return "", err
	}
	chunk := make([]byte, size+2)
	if n, err := io.ReadFull(r, chunk); err != nil {
		return "", fmt.Errorf("reading a chunk of %d bytes, after %d of them: %w", size, n, noEOF(err))
	}
	if end := string(chunk[size:]); end != "\r\n" {
		return "", fmt.Errorf("a chunk of %d bytes is followed by %q", size, end)
	}
	return string(chunk[:size]), nil
}

// noEOF is for what may not end there.
func noEOF(err error) error {
	if err == io.EOF { //nolint:errorlint // readers return it as it is
		return io.ErrUnexpectedEOF
	}
	return err
}
