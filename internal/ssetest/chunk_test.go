package ssetest

import (
	"bufio"
	"strings"
	"testing"
)

func TestReadChunk(t *testing.T) {
	r := bufio.NewReader(strings.NewReader("1a\r\n" + strings.Repeat("x", 26) + "\r\n2\r\n\r\n\r\n0\r\n\r\n"))
	for _, want := range []string{strings.Repeat("x", 26), "\r\n", ""} {
		if got, err := ReadChunk(r); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}

func TestReadChunkIsStrict(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":             "",
		"no size":             "\r\n",
		"no line end":         "1\nx\r\n",
		"a cut size":          "1",
		"a cut chunk":         "3\r\nx",
		"a cut end":           "1\r\nx\r",
		"upper case":          "A\r\n0123456789\r\n",
		"zeros in front":      "01\r\nx\r\n",
		"an extension":        "1;a\r\nx\r\n",
		"a blank":             "1 \r\nx\r\n",
		"more than it is":     "1\r\nxy\r\n",
		"less than it is":     "2\r\nx\r\n0\r\n\r\n",
		"trailers":            "0\r\nA: b\r\n\r\n",
		"a size of nine":      "100000000\r\n",
		"a sign":              "-1\r\nx\r\n",
		"what is not chunked": "data: x\n\n",
	} {
		if got, err := ReadChunk(bufio.NewReader(strings.NewReader(text))); err == nil {
			t.Errorf("%s: got %q", name, got)
		}
	}
}
