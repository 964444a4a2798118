package main

import (
	"bytes"
	"compress/gzip"
	"os"
	"testing"
)

// limit is the most that the library may have, in bytes, compressed by gzip.
const limit = 3 << 10

func TestLibraryIsMadeFromSource(t *testing.T) {
	want, err := library()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what src makes; make it with: go run .", made)
	}
}

func TestLibraryIsSmall(t *testing.T) {
	text, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	var compressed bytes.Buffer
	w, err := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, %d compressed", len(text), compressed.Len())
	if compressed.Len() > limit {
		t.Errorf("%s has %d bytes compressed, more than %d", made, compressed.Len(), limit)
	}
}
