package ssefanin

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

func TestChunkOfTheSamePieceIsMadeOnce(t *testing.T) {
	var f frame
	log := []byte("data: one\n\ndata: two\n\n")
	if got := f.chunk(log[:11], true); string(got) != "b\r\ndata: one\n\n\r\n" {
		t.Fatalf("got %q", got)
	}
	f.buf[3] = 'D' // as nobody does, to see whether it is made anew
	if got := f.chunk(log[:11], true); string(got) != "b\r\nData: one\n\n\r\n" {
		t.Errorf("the same piece was framed again: %q", got)
	}
	for name, p := range map[string][]byte{
		"a longer one":                log,
		"a shorter one":               log[:10],
		"one at another place":        log[11:],
		"another log's with its text": bytes.Clone(log[:11]),
	} {
		f.chunk(log[:11], true)
		got, err := ssetest.ReadChunk(bufio.NewReader(bytes.NewReader(f.chunk(p, true))))
		if err != nil || got != string(p) {
			t.Errorf("%s became %q, %v", name, got, err)
		}
	}
}

// What is not in a log may change at its place.
func TestChunkOfAPieceThatChanges(t *testing.T) {
	var f frame
	p := []byte(":\n")
	f.chunk(p, false)
	p[0] = '1'
	for _, constant := range []bool{false, true} {
		if got := f.chunk(p, constant); string(got) != "2\r\n1\n\r\n" {
			t.Errorf("constant %t: got %q", constant, got)
		}
	}
}

func TestIdleWriterKeepsLittle(t *testing.T) {
	var f frame
	f.chunk([]byte("small"), true)
	f.release()
	if f.piece != nil || f.buf == nil {
		t.Errorf("after a small piece: %q in %d bytes", f.piece, cap(f.buf))
	}
	f.chunk(make([]byte, maxWrite), true)
	f.release()
	if f.piece != nil || f.buf != nil {
		t.Errorf("after a large piece: %d bytes in %d", len(f.piece), cap(f.buf))
	}
}
