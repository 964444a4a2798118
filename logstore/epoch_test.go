package logstore

import (
	"math"
	"testing"
)

func TestEpochs(t *testing.T) {
	epochs := []Epoch{{"a", 1}, {"b", 100}, {"c", 100}, {"d", 300}}
	for offset, want := range map[uint64]string{1: "a", 99: "a", 100: "c", 299: "c", 300: "d", math.MaxUint64: "d"} {
		if e, ok := EpochAt(epochs, offset); !ok || e.ID != want {
			t.Errorf("offset %d is of %v, %v, want %s", offset, e, ok, want)
		}
	}
	if e, ok := EpochAt(epochs, 0); ok {
		t.Errorf("offset 0 is of %v", e)
	}
	if e, ok := EpochAt(nil, 5); ok {
		t.Errorf("offset 5 is of %v, of no epochs", e)
	}
	for _, test := range []struct {
		id     string
		offset uint64
		good   bool
	}{
		{"a", 0, true},
		{"a", 1, true},
		{"a", 99, true},
		{"a", 100, false},
		{"a", 5000, false},
		{"b", 98, false},
		{"b", 99, true},
		{"b", 100, false}, // nothing was ever of it
		{"c", 99, true},
		{"c", 100, true},
		{"c", 299, true},
		{"c", 300, false},
		{"d", 298, false},
		{"d", 299, true},
		{"d", 1 << 50, true},
		{"d", math.MaxUint64, false},
		{"e", 100, false},
		{"", 1, false},
	} {
		if good := Good(epochs, test.id, test.offset); good != test.good {
			t.Errorf("a cursor of %s and %d is good: %v, want %v", test.id, test.offset, good, test.good)
		}
	}
}
