package filestore

import (
	"errors"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

func TestDamagedKeptBytesAreNotReturned(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func([]byte) []byte{
		"a flipped bit": func(p []byte) []byte { p[len(p)/2] ^= 1; return p },
		"cut off":       func(p []byte) []byte { return p[:len(p)-1] },
		"empty":         func([]byte) []byte { return nil },
		"longer":        func(p []byte) []byte { return append(p, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := quick(t.TempDir(), SyncOff)
			s := open(t, o)
			kept := []byte(strings.Repeat("values", 100))
			if err := s.Keep(within(t), "values", kept); err != nil {
				t.Fatal(err)
			}
			shut(t, s)
			file := keptName(o.Dir, "values")
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, damage(body), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := Inspect(o.Dir)
			if err != nil || len(r.Kept) != 0 || len(r.Damage) != 1 || r.Damage[0].File != file || !errors.Is(r.Damage[0].Err, logstore.ErrDamaged) {
				t.Errorf("the report has %v and %v, %v", r.Kept, r.Damage, err)
			}
			s = open(t, o)
			if got, err := s.Kept(within(t), "values"); got != nil || !errors.Is(err, logstore.ErrDamaged) || !strings.Contains(err.Error(), file) {
				t.Errorf("got %q, %v", got, err)
			}
			if got, err := s.Kept(within(t), "values"); got != nil || err != nil {
				t.Errorf("the second time, got %q, %v", got, err)
			}
		})
	}
}

// Bytes that cannot be stored leave the old ones, and the log, as they are.
func TestKeepOnAFullDisk(t *testing.T) {
	t.Parallel()
	o := quick(t.TempDir(), SyncOff)
	d := new(badDisk)
	o.disk = d
	s := open(t, o)
	if err := s.Keep(within(t), "values", []byte("old")); err != nil {
		t.Fatal(err)
	}
	d.full.Store(true)
	if err := s.Keep(within(t), "values", []byte("new")); err == nil {
		t.Error("they were stored on a full disk")
	}
	d.full.Store(false)
	if got, err := s.Kept(within(t), "values"); string(got) != "old" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if st := s.Status(); st.Err != nil || st.State == logstore.Stalled {
		t.Errorf("the log is %s: %v", st.State, st.Err)
	}
	r, err := Check(o.Dir)
	if want := map[string]int64{"values": 3}; err != nil || !maps.Equal(r.Kept, want) || len(r.Damage) > 0 {
		t.Errorf("the report has %v and %v, %v", r.Kept, r.Damage, err)
	}
}

func TestUnfinishedKeptFilesAreRemoved(t *testing.T) {
	t.Parallel()
	o := quick(t.TempDir(), SyncOff)
	file := keptName(o.Dir, "values") + newSuffix
	if err := os.WriteFile(file, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, o)
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
}
