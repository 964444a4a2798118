package eventlog

import (
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

func TestParseCursor(t *testing.T) {
	const epoch = "0a1b2c3d4z"
	for _, tc := range []struct {
		name string
		in   string
		want Cursor
		ok   bool
	}{
		{"usual", epoch + "-42-miaybk0g", Cursor{epoch, 42, 1763856000016}, true},
		{"before the first event", epoch + "-0-0", Cursor{epoch, 0, 0}, true},
		{"longest", epoch + "-9999999999999999999-zzzzzzzzz", Cursor{epoch, maxOffset, maxTime}, true},
		{"empty", "", Cursor{}, false},
		{"only dashes", "--", Cursor{}, false},
		{"only an epoch", epoch, Cursor{}, false},
		{"no time", epoch + "-42", Cursor{}, false},
		{"empty time", epoch + "-42-", Cursor{}, false},
		{"empty offset", epoch + "--1", Cursor{}, false},
		{"short epoch", epoch[1:] + "-42-1", Cursor{}, false},
		{"long epoch", epoch + "a-42-1", Cursor{}, false},
		{"upper case epoch", strings.ToUpper(epoch) + "-42-1", Cursor{}, false},
		{"other character in epoch", "0a1b2c3d_z-42-1", Cursor{}, false},
		{"non-ASCII epoch", "0a1b2c3dé-42-1", Cursor{}, false},
		{"upper case time", epoch + "-42-A", Cursor{}, false},
		{"letter in offset", epoch + "-4a-1", Cursor{}, false},
		{"leading zero in offset", epoch + "-042-1", Cursor{}, false},
		{"leading zero in time", epoch + "-42-01", Cursor{}, false},
		{"plus sign", epoch + "-+42-1", Cursor{}, false},
		{"negative offset", epoch + "--42-1", Cursor{}, false},
		{"negative time", epoch + "-42--1", Cursor{}, false},
		{"underscore", epoch + "-4_2-1", Cursor{}, false},
		{"space before", " " + epoch + "-42-1", Cursor{}, false},
		{"space after", epoch + "-42-1 ", Cursor{}, false},
		{"fourth part", epoch + "-42-1-1", Cursor{}, false},
		{"offset one too large", epoch + "-10000000000000000000-1", Cursor{}, false},
		{"offset overflows", epoch + "-18446744073709551617-1", Cursor{}, false},
		{"time one too large", epoch + "-1-1000000000", Cursor{}, false},
		{"time overflows", epoch + "-1-1y2p0ij32e8e8", Cursor{}, false},
		{"too long", epoch + "-" + strings.Repeat("1", 2000) + "-1", Cursor{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := ParseCursor(tc.in)
			if got != tc.want || ok != tc.ok {
				t.Errorf("ParseCursor(%q) = %+v, %v, want %+v, %v", tc.in, got, ok, tc.want, tc.ok)
			}
			if ok && got.String() != tc.in {
				t.Errorf("String() = %q, want %q", got.String(), tc.in)
			}
		})
	}
}

func TestCursorIsAtMost40Bytes(t *testing.T) {
	l := New(Options{MaxEvents: 1, MaxBytes: 1 << 10})
	// An offset no log reaches, and the last instant a clock can show.
	c := Cursor{Epoch: l.Epoch(), Offset: maxOffset, Time: millis(time.UnixMilli(math.MaxInt64))}
	if s := c.String(); len(s) != 40 {
		t.Errorf("longest cursor %q has %d bytes, want 40", s, len(s))
	}
}

func TestEpochIsRandom(t *testing.T) {
	form := regexp.MustCompile(`^[a-z0-9]{10}$`)
	seen := make(map[string]bool)
	for range 1000 {
		epoch := New(Options{MaxEvents: 1, MaxBytes: 1}).Epoch()
		if !form.MatchString(epoch) || seen[epoch] {
			t.Fatalf("epoch %q: of another form, or not the first of its kind", epoch)
		}
		seen[epoch] = true
	}
}

func FuzzParseCursor(f *testing.F) {
	for _, s := range []string{"", "--", "0a1b2c3d4z-42-mgqs5c0g", "0a1b2c3d4z-9999999999999999999-zzzzzzzzz", "0a1b2c3d4z-01-1", "0a1b2c3d4z-18446744073709551617-1", "\x00-\xff-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := ParseCursor(s)
		if !ok {
			if c != (Cursor{}) {
				t.Errorf("ParseCursor(%q) = %+v, false", s, c)
			}
			return
		}
		if c.String() != s {
			t.Errorf("ParseCursor(%q).String() = %q", s, c.String())
		}
	})
}

func FuzzCursorRoundTrip(f *testing.F) {
	f.Add(uint64(0), int64(0))
	f.Add(uint64(maxOffset), int64(maxTime))
	f.Fuzz(func(t *testing.T, offset uint64, ms int64) {
		c := Cursor{Epoch: logstore.NewEpochID(), Offset: min(offset, maxOffset), Time: millis(time.UnixMilli(ms))}
		s := c.String()
		if got, ok := ParseCursor(s); !ok || got != c || len(s) > 40 {
			t.Errorf("ParseCursor(%q) = %+v, %v, want %+v", s, got, ok, c)
		}
	})
}
