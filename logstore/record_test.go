package logstore

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

func TestRecordComesBack(t *testing.T) {
	for name, r := range map[string]Record{
		"event":       {Term: 3, Time: 1_700_000_000_000, Source: "a", Type: "tick", ID: "x\x00y", Hash: 1 << 63, Body: []byte("data: 1\n\n")},
		"fence":       {Term: 1 << 40, Time: 5, Source: "node"},
		"nothing set": {},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DecodeRecord(r.AppendTo(nil))
			if err != nil {
				t.Fatal(err)
			}
			if got.Fence() != r.Fence() || !bytes.Equal(got.Body, r.Body) {
				t.Errorf("%+v has become %+v", r, got)
			}
			got.Body, r.Body = nil, nil
			if !reflect.DeepEqual(got, r) {
				t.Errorf("%+v has become %+v", r, got)
			}
		})
	}
	early := Record{Time: -5}
	if got, err := DecodeRecord(early.AppendTo(nil)); err != nil || got.Time != 0 {
		t.Errorf("a time before 1970 has become %d, %v", got.Time, err)
	}
}

func TestWhatIsNoRecord(t *testing.T) {
	r := Record{Term: 300, Time: 300, Source: "source", Type: "type", ID: "id", Body: []byte("b")}
	whole := r.AppendTo(nil)
	for n := range len(whole) - 1 { // the body can have any length
		if _, err := DecodeRecord(whole[:n]); !errors.Is(err, ErrRecord) {
			t.Errorf("%d bytes of %d: %v", n, len(whole), err)
		}
	}
	whole[0]++
	if _, err := DecodeRecord(whole); !errors.Is(err, ErrRecord) {
		t.Errorf("another version: %v", err)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	r := Record{Term: 3, Time: 1_700_000_000_000, Source: "a", Type: "tick", ID: "1", Hash: 7, Body: []byte("data: 1\n\n")}
	f.Add(r.AppendTo(nil))
	f.Add([]byte{recordVersion, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := DecodeRecord(p)
		if err != nil {
			if !errors.Is(err, ErrRecord) {
				t.Errorf("the error is %v", err)
			}
			return
		}
		again, err := DecodeRecord(r.AppendTo(nil))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%+v has become %+v, %v", r, again, err)
		}
	})
}
