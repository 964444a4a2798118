package sse

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// testMax is a limit that the tests about other things never reach.
const testMax = 1 << 20

// event is an Event that may be kept.
type event struct{ Type, Data, ID string }

// collect decodes the chunks on d and returns a copy of every event.
func collect(d *Decoder, chunks ...string) []event {
	return collectWith(d, func(*Event) {}, chunks...)
}

// collectWith is collect that also calls a function for each event.
func collectWith(d *Decoder, each func(*Event), chunks ...string) []event {
	var got []event
	for _, c := range chunks {
		// A copy, overwritten at once: nothing may refer to a chunk afterwards.
		p := []byte(c)
		d.Decode(p, func(ev *Event) {
			got = append(got, event{string(ev.Type), string(ev.Data), string(ev.ID)})
			each(ev)
		})
		for i := range p {
			p[i] = '#'
		}
	}
	return got
}

func wantEvents(t *testing.T, got []event, want ...event) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("events:\n got %q\nwant %q", got, want)
	}
}

func data(lines ...string) []event {
	var evs []event
	for _, l := range lines {
		evs = append(evs, event{Data: l})
	}
	return evs
}

// decodeCases are the streams whose meaning does not depend on chunks. The
// names beginning with "wpt" are after the tests of web-platform-tests,
// eventsource/.
var decodeCases = []struct {
	name   string
	in     string
	want   []event
	lastID string
	retry  string // empty: none
}{
	// 1. What fires, and what a blank line does.
	{name: "data without colon fires with empty data", in: "data\n\n", want: data("")},
	{name: "data without value fires with empty data", in: "data:\n\n", want: data("")},
	{name: "two empty data lines are one LF", in: "data\ndata\n\n", want: data("\n")},
	{name: "block without data fires nothing", in: "event: a\n\n", want: nil},
	{name: "block without data commits its id", in: "id: 1\n\ndata: x\n\n", want: []event{{"", "x", "1"}}, lastID: "1"},
	{name: "block without data clears the type", in: "event: a\n\ndata: x\n\n", want: data("x")},
	{name: "blank lines alone fire nothing", in: "\n\n\n\ndata: x\n\n\n\n", want: data("x")},
	{name: "data of several lines, one event after another", in: "data: a\ndata: b\n\ndata: c\n\ndata: d\ndata: e\ndata: f\n\ndata: g\n\n", want: data("a\nb", "c", "d\ne\nf", "g")},
	{name: "type is not sticky", in: "event: a\ndata: x\n\ndata: y\n\n", want: []event{{"a", "x", ""}, {"", "y", ""}}},
	{name: "last type of a block wins", in: "event: a\nevent: b\ndata: x\n\n", want: []event{{"b", "x", ""}}},
	{name: "empty type takes back the one before", in: "event: a\nevent\ndata: x\n\n", want: data("x")},
	{name: "order of fields is free", in: "data: x\nid: 1\ndata: y\nevent: a\n\n", want: []event{{"a", "x\ny", "1"}}, lastID: "1"},

	// 2. Ids.
	{name: "id is sticky", in: "id: 1\ndata: x\n\ndata: y\n\n", want: []event{{"", "x", "1"}, {"", "y", "1"}}, lastID: "1"},
	{name: "empty id resets", in: "id: 1\ndata: x\n\nid\ndata: y\n\n", want: []event{{"", "x", "1"}, {"", "y", ""}}},
	{name: "last id of a block wins", in: "id: 1\nid: 2\ndata: x\n\n", want: []event{{"", "x", "2"}}, lastID: "2"},
	{name: "id of a cut event is not committed", in: "id: 1\ndata: x\n\nid: 2\ndata: y\n", want: []event{{"", "x", "1"}}, lastID: "1"},

	// 3. Line ends.
	{name: "LF", in: "data: x\n\ndata: y\n\n", want: data("x", "y")},
	{name: "CR", in: "data: x\r\rdata: y\r\r", want: data("x", "y")},
	{name: "CRLF", in: "data: x\r\n\r\ndata: y\r\n\r\n", want: data("x", "y")},
	{name: "mixed line ends", in: "data: x\r\ndata: y\rdata: z\n\r\ndata: w\n\r", want: data("x\ny\nz", "w")},
	{name: "LF CR is two line ends", in: "data: x\n\rdata: y\n\n", want: data("x", "y")},
	{name: "CR CRLF is two line ends", in: "data: x\r\r\ndata: y\n\n", want: data("x", "y")},
	{name: "CR CR at the end of what was read", in: "data: x\r\r", want: data("x")},
	{name: "wpt format-newlines", in: "data:test\r\ndata\ndata:test\r\n\r", want: data("test\n\ntest")},
	{name: "wpt format-mime-trailing whitespace stays", in: "data: x \t\n\n", want: data("x \t")},

	// 4. Retry.
	{name: "retry counts without an event", in: "retry: 3000\n", retry: "3s"},
	{name: "retry counts in an event", in: "retry:3000\ndata:x\n\n", want: data("x"), retry: "3s"},
	{name: "last valid retry wins", in: "retry: 1000\nretry: 2000\nretry: x\n", retry: "2s"},
	{name: "retry zero", in: "retry: 0\n", retry: "0s"},
	{name: "retry with leading zeros", in: "retry: 0001000\n", retry: "1s"},
	{name: "retry line that did not end", in: "retry: 30"},
	{name: "wpt format-field-retry-bogus", in: "retry:3000\nretry:1000x\ndata:x\n\n", want: data("x"), retry: "3s"},
	{name: "wpt format-field-retry-empty", in: "retry\n\ndata:test\n\n", want: data("test")},
	{name: "retry with a sign", in: "retry: +4000\nretry: -4000\n"},
	{name: "retry with a fraction or an exponent", in: "retry: 1.5\nretry: 1e3\n"},
	{name: "retry with blanks", in: "retry:  4000\nretry: 4000 \n"},
	{name: "retry with digits that are not ASCII", in: "retry: ٤٠٠٠\n"},
	{name: "retry overflow clamps", in: "retry: 99999999999999999999999999\n", retry: "876000h"},
	{name: "retry overflow to a valid number clamps", in: "retry: 18446744073709551617\n", retry: "876000h"},

	// 5. BOM, space, LF, blanks, case.
	{name: "one BOM at the start is dropped", in: "\uFEFFdata: x\n\n", want: data("x")},
	{name: "wpt format-bom-2: a second BOM belongs to the name", in: "\uFEFF\uFEFFdata:1\n\ndata:2\n\n", want: data("2")},
	{name: "wpt format-bom: a BOM later belongs to the name", in: "\uFEFFdata:1\n\n\uFEFFdata:2\n\ndata:3\n\n", want: data("1", "3")},
	{name: "a part of a BOM is none", in: "\xEF\xBBdata: x\n\ndata: y\n\n", want: data("y")},
	{name: "a part of a BOM as a line", in: "\xEF\ndata: y\n\n", want: data("y")},
	{name: "a BOM after a line end is none", in: "\n\uFEFFdata: x\n\ndata: y\n\n", want: data("y")},
	{name: "wpt format-leading-space", in: "data:\ttest\rdata: \ndata:test\n\n", want: data("\ttest\n\ntest")},
	{name: "one space is dropped, not two", in: "data:  x\nid:  1\nevent:  a\n\n", want: []event{{" a", " x", " 1"}}, lastID: " 1"},
	{name: "only the last LF is dropped", in: "data: x\ndata\ndata\n\n", want: data("x\n\n")},
	{name: "a line of blanks is not blank", in: "data: x\n \ndata: y\n\t\n\n", want: data("x\ny")},
	{name: "names are case-sensitive", in: "Data: x\nDATA: x\nID: 1\nEvent: a\ndata: y\n\n", want: data("y")},
	{name: "wpt format-field-parsing", in: "data:\x00\ndata:  2\rData:1\ndata\x00:2\ndata:1\r\x00data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n", want: data("\x00\n 2\n1\n3\n\n4")},
	{name: "wpt format-field-data", in: "data:\n\ndata\ndata\n\ndata:test\n\n", want: data("", "\n", "test")},
	{name: "wpt format-field-unknown", in: "data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n", want: data("test\n\ntest")},
	{name: "wpt format-field-event-empty", in: "event: \ndata:data\n\n", want: data("data")},
	{name: "wpt format-field-id-3", in: "id: 1\ndata: a\n\nid\ndata: b\n\ndata: c\n\n", want: []event{{"", "a", "1"}, {"", "b", ""}, {"", "c", ""}}},
	{name: "names that only begin like a known one", in: "d: 1\ndat: 1\ndatax: 1\ndata : 1\neventx: a\ni: 1\nidx: 1\nretr: 1\nretryx: 1\ndata: y\n\n", want: data("y")},
	{name: "values with colons", in: "data: a:b: c\ndata::\n\n", want: data("a:b: c\n:")},
	{name: "values of one byte", in: "data:x\nid:1\nevent:a\n\n", want: []event{{"a", "x", "1"}}, lastID: "1"},

	// 6. NUL.
	{name: "wpt format-field-id-null", in: "id: 1\ndata: x\n\nid: a\x00b\ndata: y\n\n", want: []event{{"", "x", "1"}, {"", "y", "1"}}, lastID: "1"},
	{name: "id with NUL leaves the block's other id", in: "id: 1\nid: \x00\ndata: x\n\n", want: []event{{"", "x", "1"}}, lastID: "1"},
	{name: "NUL is legal in data and event", in: "event: a\x00\ndata: \x00x\n\n", want: []event{{"a\x00", "\x00x", ""}}},
	{name: "wpt format-null-character", in: "data:\x00\n\n\n\n", want: data("\x00")},

	// 7. Bytes pass unchanged.
	{name: "invalid UTF-8 passes unchanged", in: "event: \xFF\xC0\xAF\ndata: \xF0\x80\x80\nid: \xED\xA0\x80\n\n", want: []event{{"\xFF\xC0\xAF", "\xF0\x80\x80", "\xED\xA0\x80"}}, lastID: "\xED\xA0\x80"},
	{name: "wpt format-utf-8", in: "data:ok…\n\n", want: data("ok…")},
	{name: "line ends of Unicode are none", in: "data: a\u0085b\u2028c\vd\fe\n\n", want: data("a\u0085b\u2028c\vd\fe")},

	// 8. The end.
	{name: "wpt format-data-before-final-empty-line", in: "retry:1000\ndata:test1\n\nid:test\ndata:test2", want: data("test1"), retry: "1s"},
	{name: "event without a blank line is discarded", in: "data: x\n\ndata: y\n", want: data("x")},

	// 10. Comments.
	{name: "comments are ignored", in: ": x\n:\ndata: x\n:data: y\n\n:\n\n", want: data("x")},
	{name: "wpt format-comments", in: "data:1\r:\x00\n:\r\ndata:2\n:" + strings.Repeat("x", 2048) + "\rdata:3\n:data:fail\r:" + strings.Repeat("x", 2048) + "\ndata:4\n\n", want: data("1\n2\n3\n4")},
}

func TestDecode(t *testing.T) {
	for _, tc := range decodeCases {
		t.Run(tc.name, func(t *testing.T) {
			d := NewDecoder(testMax)
			wantEvents(t, collect(d, tc.in), tc.want...)
			if got := d.LastEventID(); got != tc.lastID {
				t.Errorf("last event id %q, want %q", got, tc.lastID)
			}
			if got := takeRetry(d); got != tc.retry && !sameDuration(got, tc.retry) {
				t.Errorf("retry %q, want %q", got, tc.retry)
			}
			if got := d.Skipped(); got != 0 {
				t.Errorf("%d events skipped", got)
			}
		})
	}
}

// An event's own id is one of its block, not one that is in force.
func TestHasID(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     []bool
	}{
		{"own", "id: 1\ndata: x\n\n", []bool{true}},
		{"in force", "id: 1\ndata: x\n\ndata: y\n\nid: 1\ndata: z\n\n", []bool{true, false, true}},
		{"of a block without data", "id: 1\n\ndata: x\n\n", []bool{false}},
		{"after the data", "data: x\nid: 1\n\ndata: y\n\n", []bool{true, false}},
		{"empty", "id: 1\ndata: x\n\nid\ndata: y\n\n", []bool{true, true}},
		{"with NUL", "id: 1\ndata: x\n\nid: a\x00\ndata: y\n\n", []bool{true, false}},
		{"CRLF", "id: 1\r\ndata: x\r\n\r\ndata: y\r\n\r\n", []bool{true, false}},
		{"CR", "id: 1\rdata: x\r\rdata: y\r\r", []bool{true, false}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, chunks := range [][]string{{tc.in}, strings.Split(tc.in, "")} {
				if got := decodeAll(testMax, chunks).hasID; !slices.Equal(got, tc.want) {
					t.Errorf("in %d chunks: %t, want %t", len(chunks), got, tc.want)
				}
			}
		})
	}
}

// TestDecodeChunks decodes the same streams cut at every place, byte by byte,
// and with empty chunks between.
func TestDecodeChunks(t *testing.T) {
	check := func(t *testing.T, how string, in []string, want []event, lastID, retry string) {
		t.Helper()
		d := NewDecoder(testMax)
		got := collect(d, in...)
		if !slices.Equal(got, want) || d.LastEventID() != lastID {
			t.Errorf("%s: got %q and id %q, want %q and %q", how, got, d.LastEventID(), want, lastID)
		}
		if got := takeRetry(d); got != retry && !sameDuration(got, retry) {
			t.Errorf("%s: retry %q, want %q", how, got, retry)
		}
	}
	for _, tc := range decodeCases {
		t.Run(tc.name, func(t *testing.T) {
			for i := range tc.in {
				check(t, fmt.Sprintf("cut at %d", i), []string{tc.in[:i], "", tc.in[i:]}, tc.want, tc.lastID, tc.retry)
			}
			for n := 1; n <= 9; n++ {
				var parts []string
				for c := range slices.Chunk([]byte(tc.in), n) {
					parts = append(parts, string(c))
				}
				check(t, fmt.Sprintf("in parts of %d", n), parts, tc.want, tc.lastID, tc.retry)
			}
		})
	}
}

func takeRetry(d *Decoder) string {
	if retry, ok := d.TakeRetry(); ok {
		return retry.String()
	}
	return ""
}

func sameDuration(a, b string) bool {
	x, err := time.ParseDuration(a)
	if err != nil {
		return false
	}
	y, err := time.ParseDuration(b)
	return err == nil && x == y
}

// TestImmediate checks, byte by byte, that an event is out with the first byte
// that completes it (points 3 and 11).
func TestImmediate(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		at       int // the byte that completes the event
	}{
		{"LF LF", "data: x\n\n", 8},
		{"CR CR", "data: x\r\r", 8},
		{"CR CR LF", "data: x\r\r\n", 8},
		{"CRLF CR", "data: x\r\n\r", 9},
		{"LF CR", "data: x\n\r", 8},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := NewDecoder(testMax)
			for i := range tc.in {
				n := len(collect(d, tc.in[i:i+1]))
				if want := i == tc.at; (n == 1) != want {
					t.Errorf("byte %d: %d events", i, n)
				}
			}
		})
	}
}

func TestLateLFIsSwallowedOnce(t *testing.T) {
	d := NewDecoder(testMax)
	wantEvents(t, collect(d, "data: x\r\r"), data("x")...)
	wantEvents(t, collect(d, "", "\ndata: y\n"))
	wantEvents(t, collect(d, "\n"), data("y")...)
}

func TestAnEventOutlivesItsChunks(t *testing.T) {
	d := NewDecoder(testMax)
	got := collect(d, "id: 1", "2\nev", "ent: na", "me\ndata: a", "b\n", "data: c\nd", "ata", "\n", "\n")
	wantEvents(t, got, event{"name", "ab\nc\n", "12"})
}

func TestDataOfOneLineIsNotCopied(t *testing.T) {
	p := []byte("id: 1\nevent: a\ndata: xyz\n\n")
	NewDecoder(testMax).Decode(p, func(ev *Event) {
		if want := &p[len(p)-5]; &ev.Data[0] != want {
			t.Error("the data is a copy")
		}
		if cap(ev.Data) != len(ev.Data) {
			t.Error("appending to the data would write into the chunk")
		}
	})
}

func TestReset(t *testing.T) {
	for _, tc := range []struct {
		name          string
		before, after string
		want          []event
		lastID        string
	}{
		{"drops the partial event", "data: x\nevent: a\n", "data: y\n\n", data("y"), ""},
		{"drops the partial line", "data: x", "y\n\ndata: z\n\n", data("z"), ""},
		{"drops the beginning of a line", "da", "ta: y\n\ndata: z\n\n", data("z"), ""},
		{"drops a partial comment", ": x", "data: z\n\n", data("z"), ""},
		{"drops an uncommitted id", "id: 1\n\nid: 2\ndata: x\n", "data: y\n\n", []event{{"", "y", "1"}}, "1"},
		{"drops a partial id", "id: 12345", "id: 67890\n\ndata: y\n\n", []event{{"", "y", "67890"}}, "67890"},
		{"drops a partial type", "event: abc", "event: d\ndata: y\n\n", []event{{"d", "y", ""}}, ""},
		{"drops a partial retry", "retry: 1", "2\n\ndata: y\n\n", data("y"), ""},
		{"keeps the committed id", "id: 1\n\n", "data: y\n\n", []event{{"", "y", "1"}}, "1"},
		{"accepts a BOM again", "data: x\n", "\uFEFFdata: y\n\n", data("y"), ""},
		{"drops a partial BOM", "\xEF\xBB", "\xBFdata: x\n\n\ndata: y\n\n", data("y"), ""},
		{"forgets that an event was too large", "data: " + strings.Repeat("x", 101) + "\n", "data: y\n\n", data("y"), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, after := range [][]string{{tc.after}, strings.Split(tc.after, "")} {
				d := NewDecoder(100)
				collect(d, tc.before)
				d.Reset()
				wantEvents(t, collect(d, after...), tc.want...)
				if got := d.LastEventID(); got != tc.lastID {
					t.Errorf("last event id %q, want %q", got, tc.lastID)
				}
				if got := takeRetry(d); got != "" {
					t.Errorf("retry %q", got)
				}
			}
		})
	}
}

func TestResetKeepsCountersAndRetry(t *testing.T) {
	d := NewDecoder(2)
	collect(d, "retry: 1\ndata: xyz\n\n")
	d.Reset()
	if d.Skipped() != 1 || takeRetry(d) != "1ms" {
		t.Error("Reset lost the counter or the retry")
	}
}

func TestRetryIsTakenOnce(t *testing.T) {
	d := NewDecoder(testMax)
	collect(d, "retry: 10\n")
	if got := takeRetry(d); got != "10ms" {
		t.Errorf("retry %q", got)
	}
	if got := takeRetry(d); got != "" {
		t.Errorf("retry taken twice: %q", got)
	}
}

func TestLastEventIDIsCommittedByTheBlankLine(t *testing.T) {
	d := NewDecoder(testMax)
	for _, step := range []struct{ chunk, want string }{
		{"id: 1\n", ""}, {"data: x\n", ""}, {"\n", "1"}, {"id: 2\r", "1"}, {"\r", "2"}, {"id\n", "2"}, {"\n", ""},
	} {
		collect(d, step.chunk)
		if got := d.LastEventID(); got != step.want {
			t.Errorf("after %q: %q, want %q", step.chunk, got, step.want)
		}
	}
}

func TestSetLastEventID(t *testing.T) {
	d := NewDecoder(testMax)
	d.SetLastEventID("s")
	d.Reset()
	wantEvents(t, collect(d, "data: x\n\n"), event{"", "x", "s"})
	if got := d.LastEventID(); got != "s" {
		t.Errorf("last event id %q", got)
	}
	d.SetLastEventID("t")
	if got := d.LastEventID(); got != "t" {
		t.Errorf("last event id %q, set a second time", got)
	}
}

// TestLastEventIDWhileAnEventIsGivenOut: it is the event's, whichever way the
// event was read.
func TestLastEventIDWhileAnEventIsGivenOut(t *testing.T) {
	d := NewDecoder(testMax)
	n := 0
	d.Decode([]byte("id: 1\ndata: x\n\nid: 2\ndata: x\ndata: y\n\ndata: z\n\n"), func(ev *Event) {
		n++
		if got := d.LastEventID(); got != string(ev.ID) {
			t.Errorf("last event id %q in an event with %q", got, ev.ID)
		}
	})
	if n != 3 {
		t.Errorf("%d events", n)
	}
}

func TestMaxEventSize(t *testing.T) {
	long := strings.Repeat("x", 11)
	for _, tc := range []struct {
		name    string
		in      string
		want    []event
		skipped uint64
		lastID  string
	}{
		{"data at the limit", "data: " + long[:10] + "\n\n", data(long[:10]), 0, ""},
		{"data above the limit", "data: " + long + "\n\ndata: y\n\n", data("y"), 1, ""},
		{"lines at the limit", "data: 12345\ndata: 6789\n\n", data("12345\n6789"), 0, ""},
		{"lines above the limit", "data: 12345\ndata: 67890\n\n", nil, 1, ""},
		{"LF of an empty line counts", "data: 0123456789\ndata\n\n", nil, 1, ""},
		{"type, data and id at the limit", "id: 123\nevent: abc\ndata: wxyz\n\n", []event{{"abc", "wxyz", "123"}}, 0, "123"},
		{"type, data and id above the limit", "id: 123\nevent: abc\ndata: vwxyz\n\n", nil, 1, "123"},
		{"type above the limit", "event: " + long + "\ndata: x\n\ndata: y\n\n", data("y"), 1, ""},
		{"id after the data", "data: " + long + "\nid: 7\n\ndata: y\n\n", []event{{"", "y", "7"}}, 1, "7"},
		{"id before the data", "id: 7\ndata: " + long + "\n\ndata: y\n\n", []event{{"", "y", "7"}}, 1, "7"},
		{"id that makes it too large", "data: " + long[:10] + "\nid: 7\n\ndata: y\n\n", []event{{"", "y", "7"}}, 1, "7"},
		{"empty id of a skipped event", "id: 7\n\ndata: " + long + "\nid\n\n", nil, 1, ""},
		{"uncommitted id of a cut event", "id: 6\n\nid: 7\ndata: " + long, nil, 0, "6"},
		{"id above the limit", "id: 6\n\nid: " + long + "\ndata: x\n\ndata: y\n\n", []event{{"", "y", "6"}}, 1, "6"},
		{"id above the limit that is void", "id: 6\n\nid: " + long + "\x00\ndata: x\n\n", []event{{"", "x", "6"}}, 0, "6"},
		{"id above the limit without data", "id: " + long + "\n\ndata: y\n\n", data("y"), 0, ""},
		{"sticky id does not count", "id: 0123456789\n\ndata: 0123456789\n\n", []event{{"", "0123456789", "0123456789"}}, 0, "0123456789"},
		{"comment above the limit", ":" + long + "\ndata: y\n\n", data("y"), 0, ""},
		{"unknown field above the limit", long + ": " + long + "\n" + long + "\ndata: y\n\n", data("y"), 0, ""},
		{"too large without data is no event", "event: " + long + "\n\ndata: y\n\n", data("y"), 0, ""},
		{"counted once", "data: " + long + "\ndata: " + long + "\nevent: " + long + "\n\n", nil, 1, ""},
		{"several", strings.Repeat("data: "+long+"\n\ndata: y\n\n", 3), data("y", "y", "y"), 3, ""},
		{"fields after it stay out of the next event", "data: " + long + "\nevent: a\ndata: x\n\ndata: y\n\n", data("y"), 1, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for n := 1; n <= len(tc.in); n++ {
				d := NewDecoder(10)
				var parts []string
				for c := range slices.Chunk([]byte(tc.in), n) {
					parts = append(parts, string(c))
				}
				wantEvents(t, collect(d, parts...), tc.want...)
				if got := d.Skipped(); got != tc.skipped {
					t.Errorf("parts of %d: %d skipped, want %d", n, got, tc.skipped)
				}
				if got := d.LastEventID(); got != tc.lastID {
					t.Errorf("parts of %d: last event id %q, want %q", n, got, tc.lastID)
				}
			}
		})
	}
}

func TestRetryOfASkippedEventCounts(t *testing.T) {
	d := NewDecoder(1)
	collect(d, "data: xy\nretry: 5\n")
	if got := takeRetry(d); got != "5ms" {
		t.Errorf("retry %q", got)
	}
}

// held is what the decoder's buffers take.
func held(d *Decoder) int {
	return cap(d.typ.buf) + cap(d.data.buf) + cap(d.id.buf) + cap(d.newID.buf) + cap(d.lastID.buf)
}

// TestBoundedMemory sends endless things, 8 MiB of each, past a small limit.
func TestBoundedMemory(t *testing.T) {
	const limit, total = 1 << 10, 8 << 20
	for _, tc := range []struct {
		name, begin, repeat string
		bound               int
	}{
		{"comment", ":", "x", 0},
		{"comments", "", ": x\n", 0},
		{"name", "", "x", 0},
		{"name that begins like a known one", "data", "x", 0},
		{"value of an unknown field", "x: ", "x", 0},
		{"data line", "data: ", "x", 2 * limit},
		{"data lines", "", "data: x\n", 2 * limit},
		{"empty data lines", "", "data\n", 2 * limit},
		{"type", "event: ", "x", 2 * limit},
		{"types", "", "event: x\n", 2 * limit},
		{"id", "id: ", "x", 2 * limit},
		{"ids", "", "id: x\n", 2 * limit},
		{"id with NUL", "id: \x00", "x", 0},
		{"retry", "retry: ", "0", 0},
		{"blocks without data", "", "event: x\nid: x\n\n", 2 * limit},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := NewDecoder(limit)
			chunk := []byte(strings.Repeat(tc.repeat, 32<<10/len(tc.repeat)))
			yield := func(*Event) { t.Fatal("an event") }
			d.Decode([]byte(tc.begin), yield)
			d.Decode(chunk, yield)

			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for n := 0; n < total; n += len(chunk) {
				d.Decode(chunk, yield)
				if got := held(d); got > tc.bound {
					t.Fatalf("the buffers hold %d bytes, bound %d", got, tc.bound)
				}
			}
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > 64<<10 {
				t.Errorf("allocated %d bytes", got)
			}
		})
	}
}

func TestBuffersShrinkAfterALargeEvent(t *testing.T) {
	d := NewDecoder(testMax)
	large := strings.Repeat("x", 300<<10)
	n := 0
	for _, part := range []string{"id: ", large, "\nevent: ", large, "\ndata: ", large, "\n", "\n", "id: 1\n\n"} {
		n += len(collect(d, part))
	}
	if n != 1 {
		t.Fatalf("%d events", n)
	}
	if got := held(d); got > 5*keepBuffer {
		t.Errorf("an idle decoder holds %d bytes", got)
	}
	if d.event.Data != nil || d.data.view != nil {
		t.Error("an idle decoder refers to the chunk")
	}
}

func TestNoAllocationPerEvent(t *testing.T) {
	one := "id: 12345\nevent: price\ndata: {\"symbol\":\"ACME\"}\n\n"
	for _, tc := range []struct {
		name   string
		stream string
		chunk  int
	}{
		{"whole events", strings.Repeat(one, 100), 100 * len(one)},
		{"CRLF", strings.ReplaceAll(strings.Repeat(one, 100), "\n", "\r\n"), 100 * len(one)},
		{"events cut by chunks", strings.Repeat(one, 100), 61},
		{"byte by byte", strings.Repeat(one, 10), 1},
		{"data of several lines", strings.Repeat("id: 1\ndata: a\ndata: b\ndata: c\n\n", 100), 333},
		{"retry and comments", strings.Repeat(": hello\n\nretry: 1000\ndata: x\n\n", 100), 100},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := NewDecoder(testMax)
			p := []byte(tc.stream)
			events := 0
			yield := func(*Event) { events++ }
			run := func() {
				for c := range slices.Chunk(p, tc.chunk) {
					d.Decode(c, yield)
				}
			}
			run() // the buffers find their size
			if n := testing.AllocsPerRun(20, run); n != 0 {
				t.Errorf("%v allocations per run", n)
			}
			if events == 0 {
				t.Error("no events")
			}
		})
	}
}
