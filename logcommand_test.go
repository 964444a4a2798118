package ssefanin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/sse-fanin/caddy-sse-fanin/internal/filestore"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// loggedAt is the arrival of the first event of a log that keepLog makes. It is
// in the future, so that none is too old.
var loggedAt = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

// loggedEvent is the i-th event of such a log, from 1, 20 minutes after the one
// before.
func loggedEvent(i int) *logstore.Record {
	r := &logstore.Record{
		Time:   loggedAt.Add(time.Duration(i-1) * 20 * time.Minute).UnixMilli(),
		Source: []string{"prices", "builds"}[i%2], ID: fmt.Sprint("id-", i),
	}
	switch i % 3 {
	case 0:
		r.Body = fmt.Appendf(nil, "data: %d\ndata:  second <line>\n\n", i)
	case 1:
		r.Type = "tick"
		r.Body = fmt.Appendf(nil, "event: tick\ndata: %d\n\n", i)
	case 2:
		r.Type, r.ID = "tick", ""
		r.Body = fmt.Appendf(nil, "id: %d\nevent: tick\ndata\n\n", i) // with `ids upstream`
	}
	return r
}

// openLog opens a log and appends events to it. Every hour of them is a segment.
func openLog(t *testing.T, dir string, events int) *filestore.Store {
	t.Helper()
	s, err := filestore.Open(filestore.Options{Dir: dir, Sync: filestore.SyncOff, Bounds: logstore.Bounds{Age: 16 * time.Hour}})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	term, err := s.Campaign(t.Context())
	must(t, err)
	for i := range events {
		must(t, term.Append(loggedEvent(i+1)))
		for s.Status().Last <= uint64(i) { // a commit each, so that segments end
			time.Sleep(100 * time.Microsecond)
		}
	}
	must(t, term.Release(t.Context()))
	return s
}

// keepLog makes a log and closes it.
func keepLog(t *testing.T, dir string, events int) {
	t.Helper()
	must(t, openLog(t, dir, events).Close())
}

// runCommandLine runs Caddy's command line with our commands only.
func runCommandLine(args ...string) (stdout, stderr string, err error) {
	root, ours := &cobra.Command{Use: "caddy", SilenceUsage: true}, &cobra.Command{Use: "sse-fanin"}
	caddycmd.Commands()["sse-fanin"].CobraFunc(ours)
	root.AddCommand(ours)
	var out, errs bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&errs)
	root.SetArgs(append([]string{"sse-fanin", "log"}, args...))
	err = root.Execute()
	return out.String(), errs.String(), err
}

func TestLogCommandLists(t *testing.T) {
	dir := t.TempDir()
	keepLog(t, filepath.Join(dir, "closed"), 10)
	openLog(t, filepath.Join(dir, "held"), 1)
	keepLog(t, filepath.Join(dir, "empty"), 0)
	must(t, os.Mkdir(filepath.Join(dir, "other"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "notes"), []byte("x"), 0o600))
	out, errs, err := runCommandLine(dir)
	if err != nil || errs != "" {
		t.Errorf("%v; %s", err, errs)
	}
	got := regexp.MustCompile(`\b[a-z2-7]{10} from`).ReplaceAllString(out, "EPOCH from")
	got = regexp.MustCompile(`bytes     [0-9]+ \([0-9.]+ K?i?B\)`).ReplaceAllString(got, "bytes     N")
	got = strings.ReplaceAll(got, dir, "DIR")
	got = strings.ReplaceAll(got, fmt.Sprint(os.Getpid()), "PID")
	const want = `closed
  folder    DIR/closed
  state     closed in order
  offsets   1–10
  events    10
  bytes     N
  oldest    2100-01-01T00:00:00.000Z
  newest    2100-01-01T03:00:00.000Z
  epochs    EPOCH from offset 1
  segments  3
  sources   builds: last id id-9, offset 9, 2100-01-01T02:40:00.000Z
            prices: last id id-10, offset 10, 2100-01-01T03:00:00.000Z

empty
  folder    DIR/empty
  state     closed in order
  offsets   none; the next is 1
  events    0
  bytes     N
  epochs    EPOCH from offset 1
  segments  0

held
  folder    DIR/held
  state     in use by process PID
  offsets   1–1
  events    1
  bytes     N
  oldest    2100-01-01T00:00:00.000Z
  newest    2100-01-01T00:00:00.000Z
  epochs    EPOCH from offset 1
  segments  1
  sources   builds: last id id-1, offset 1, 2100-01-01T00:00:00.000Z
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if one, _, err := runCommandLine(filepath.Join(dir, "closed")); err != nil || !strings.HasPrefix(out, one) {
		t.Errorf("of one log it says %v\n%s", err, one)
	}
}

// What others have chosen does nothing to a terminal.
func TestLogCommandQuotes(t *testing.T) {
	for text, want := range map[string]string{
		"a":            "a",
		"id-1/ä:b":     "id-1/ä:b",
		"":             `""`,
		"a b":          `"a b"`,
		"\x1b[2J":      `"\x1b[2J"`,
		"a\xff":        `"a\xff"`,
		"a\u202eb":     `"a\u202eb"`,
		`"`:            `"\""`,
		"a\u200bb\n\t": `"a\u200bb\n\t"`,
	} {
		if got := shown(text); got != want {
			t.Errorf("%q is shown as %s, want %s", text, got, want)
		}
	}
}

func TestLogCommandFindsTheDefaultDirectory(t *testing.T) {
	data := t.TempDir()
	t.Setenv("XDG_DATA_HOME", data)
	keepLog(t, filepath.Join(data, "caddy", "sse_fanin", "log", "live"), 2)
	out, _, err := runCommandLine()
	if err != nil || !strings.HasPrefix(out, "live\n") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, _, err := runCommandLine("live"); err == nil || !strings.Contains(err.Error(), "(there is "+data) {
		t.Errorf("a name in place of a directory: %v", err)
	}
}

func TestLogCommandChecks(t *testing.T) {
	dir := t.TempDir()
	keepLog(t, filepath.Join(dir, "live"), 20)
	keepLog(t, filepath.Join(dir, "other"), 5)
	out, errs, err := runCommandLine("--check", dir)
	if err != nil || errs != "" || out != "live: 20 events in 5 segments, nothing is damaged\nother: 5 events in 2 segments, nothing is damaged\n" {
		t.Errorf("%v; %s%s", err, errs, out)
	}
	segments, err := filepath.Glob(filepath.Join(dir, "live", "*.log"))
	must(t, err)
	for at, file := range map[int]string{100: segments[1], -1: segments[3]} {
		body, err := os.ReadFile(file)
		must(t, err)
		body[(at+len(body))%len(body)] ^= 1
		must(t, os.WriteFile(file, body, 0o600))
	}
	out, _, err = runCommandLine("--check", dir)
	if err == nil || err.Error() != "damaged: 1 of 2 logs" {
		t.Errorf("the error is %v", err)
	}
	lines := strings.Split(out, "\n")
	for i, want := range []string{
		`^live: ` + segments[1] + ` is damaged at byte [1-9][0-9]: the checksum does not match; offsets 6 to 8 are missing behind it$`,
		`^live: ` + segments[3] + ` is damaged at byte [1-9][0-9]+: the record is cut off, or damaged; offset 16 is missing behind it$`,
		`^live: 16 events in 5 segments, damaged in 2 places$`,
		`^other: 5 events in 2 segments, nothing is damaged$`,
	} {
		if !regexp.MustCompile(want).MatchString(lines[i]) {
			t.Errorf("line %d of\n%s\nwant %s", i+1, out, want)
		}
	}
	// the list shows it where it is seen, and is no check
	if out, _, err := runCommandLine(filepath.Join(dir, "live")); err != nil || strings.Contains(out, "damage") {
		t.Errorf("%v\n%s", err, out)
	}
}

// printed returns the events of --print.
func printed(t *testing.T, dir string, args ...string) ([]printedEvent, string) {
	t.Helper()
	out, errs, err := runCommandLine(append([]string{"--print", dir}, args...)...)
	must(t, err)
	var events []printedEvent
	for line := range strings.Lines(out) {
		var ev printedEvent
		must(t, json.Unmarshal([]byte(line), &ev))
		events = append(events, ev)
	}
	return events, errs
}

func TestLogCommandPrints(t *testing.T) {
	dir := t.TempDir()
	live := filepath.Join(dir, "live")
	keepLog(t, live, 20)
	r, err := filestore.Inspect(live)
	must(t, err)
	out, errs, err := runCommandLine("--print", dir, "--from", "2", "--to", "4")
	must(t, err)
	epoch := r.Epochs[0].ID
	want := `{"offset":2,"epoch":"` + epoch + `","time":"2100-01-01T00:20:00.000Z","source":"prices","type":"tick","id":"","data":""}
{"offset":3,"epoch":"` + epoch + `","time":"2100-01-01T00:40:00.000Z","source":"builds","type":"message","id":"id-3","data":"3\n second <line>"}
{"offset":4,"epoch":"` + epoch + `","time":"2100-01-01T01:00:00.000Z","source":"prices","type":"tick","id":"id-4","data":"4"}
`
	if out != want || errs != "" {
		t.Errorf("got\n%s%s\nwant\n%s", errs, out, want)
	}
	all := make([]uint64, 20)
	for i := range all {
		all[i] = uint64(i + 1)
	}
	for _, test := range []struct {
		args string
		want []uint64
	}{
		{"", all},
		{"--from 18", all[17:]},
		{"--to 3", all[:3]},
		{"--to 30", all},
		{"--from 2100-01-01T05:00:00Z", all[15:]},
		{"--from 2100-01-01T05:00:00.001Z", all[16:]},
		{"--from 2100-01-01T07:00:00+02:00 --to 2100-01-01T05:40:00Z", all[15:18]},
		{"--from 3 --to 2100-01-01T01:00:00Z", all[2:4]},
		{"--source prices --to 6", []uint64{2, 4, 6}},
		{"--source prices --source builds --to 6", all[:6]},
		{"--type message", []uint64{3, 6, 9, 12, 15, 18}},
		{"--type tick --source builds --from 10", []uint64{11, 13, 17, 19}},
	} {
		var got []uint64
		events, _ := printed(t, live, strings.Fields(test.args)...)
		for _, ev := range events {
			got = append(got, ev.Offset)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.args, got, test.want)
		}
	}
	for args, want := range map[string]string{
		"--from 21":                   "no event of the log is what was asked for; it has offsets 1–20, of 2100-01-01T00:00:00.000Z to 2100-01-01T06:20:00.000Z\n",
		"--from 2200-01-01T00:00:00Z": "no event of the log is what was asked for",
		"--to 2000-01-01T00:00:00Z":   "no event of the log is what was asked for",
		"--type other":                "no event of the log is what was asked for",
	} {
		if events, errs := printed(t, live, strings.Fields(args)...); len(events) > 0 || !strings.HasPrefix(errs, want) {
			t.Errorf("%s: %v; %s", args, events, errs)
		}
	}
}

// Behind damage the next segment is printed, and the exit status says so.
func TestLogCommandPrintsWhatIsLeft(t *testing.T) {
	dir := t.TempDir()
	keepLog(t, dir, 20)
	segments, err := filepath.Glob(filepath.Join(dir, "*.log"))
	must(t, err)
	body, err := os.ReadFile(segments[1])
	must(t, err)
	body[len(body)-1] ^= 1
	must(t, os.WriteFile(segments[1], body, 0o600))
	out, errs, err := runCommandLine("--print", dir)
	if err == nil || !strings.Contains(err.Error(), "--check") {
		t.Errorf("the error is %v", err)
	}
	if n := strings.Count(out, "\n"); n != 19 || !strings.Contains(errs, segments[1]+" is damaged at byte ") {
		t.Errorf("%d lines; %s", n, errs)
	}
}

func TestLogCommandRefuses(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "none"))
	keepLog(t, filepath.Join(dir, "a"), 3)
	keepLog(t, filepath.Join(dir, "b"), 1)
	must(t, os.Mkdir(filepath.Join(dir, "nothing"), 0o700))
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, nil, 0o600))
	a := filepath.Join(dir, "a")
	const expected = ": expected the directory that 'log file' has as its 'dir', or the folder of a stream in it"
	for args, want := range map[string]string{
		"":                                       "no stream has its log in the default directory, " + filepath.Join(dir, "none", "caddy", "sse_fanin", "log") + expected,
		a + "x":                                  "there is no " + a + "x" + expected,
		file:                                     file + " is not a directory" + expected,
		filepath.Join(dir, "nothing"):            "there is no log in " + filepath.Join(dir, "nothing") + expected,
		a + " " + dir:                            "unexpected '" + dir + "': expected one directory at most",
		a + " --check --print":                   "--check does not go with --print",
		a + " --from 1":                          "--from goes with --print only",
		a + " --to 1":                            "--to goes with --print only",
		a + " --check --source x":                "--source goes with --print only",
		a + " --type x":                          "--type goes with --print only",
		dir + " --print":                         "--print needs the folder of one stream, such as " + a + "; " + dir + " has 2",
		a + " --print --from 0":                  "--from: offsets begin with 1",
		a + " --print --from=-1":                 "--from: '-1' is neither an offset such as 1200, nor a time such as 2026-01-31T12:00:00Z",
		a + " --print --to=":                     "--to: '' is neither an offset such as 1200, nor a time such as 2026-01-31T12:00:00Z",
		a + " --print --to 2026-01-31":           "--to: '2026-01-31' is neither an offset such as 1200, nor a time such as 2026-01-31T12:00:00Z",
		a + " --print --to 99999999999999999999": "--to: the offset 99999999999999999999 is too large",
		a + " --print --from 3 --to 2":           "--from 3 comes after --to 2",
		a + " --print --from 2026-01-02T00:00:00Z --to 2026-01-01T00:00:00Z": "--from 2026-01-02T00:00:00Z comes after --to 2026-01-01T00:00:00Z",
		a + " --print --source other":                                        "--source: the log has no events of 'other', it has some of builds, prices",
		a + " --tail":                                                        "unknown flag: --tail",
	} {
		out, _, err := runCommandLine(strings.Fields(args)...)
		if err == nil || err.Error() != want || out != "" {
			t.Errorf("%s: got\n%v\n%s\nwant\n%s", args, err, out, want)
		}
	}
}

// A log that cannot be read keeps nobody from reading the others.
func TestLogCommandGoesOn(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root reads everything")
	}
	dir := t.TempDir()
	keepLog(t, filepath.Join(dir, "a"), 3)
	keepLog(t, filepath.Join(dir, "b"), 1)
	must(t, os.Chmod(filepath.Join(dir, "a"), 0))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "a"), 0o700) }) // so that it can be removed
	for _, args := range [][]string{{dir}, {dir, "--check"}} {
		out, _, err := runCommandLine(args...)
		if err == nil || err.Error() != "unreadable: 1 of 2 logs" && err.Error() != "damaged: 1 of 2 logs" ||
			!strings.Contains(out, "permission denied") || !strings.Contains(out, "\nb") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

// The word after the command is a URL, unless it is log.
func TestLogIsNoUpstream(t *testing.T) {
	root, ours := &cobra.Command{Use: "caddy"}, &cobra.Command{Use: "sse-fanin"}
	caddycmd.Commands()["sse-fanin"].CobraFunc(ours)
	root.AddCommand(ours)
	for line, want := range map[string]string{
		"sse-fanin log":                           "caddy sse-fanin log",
		"sse-fanin log /a --check":                "caddy sse-fanin log",
		"sse-fanin log=https://a/events":          "caddy sse-fanin",
		"sse-fanin https://a/events log":          "caddy sse-fanin",
		"sse-fanin --listen :80 https://a/events": "caddy sse-fanin",
		"sse-fanin --listen log https://a/events": "caddy sse-fanin",
		"sse-fanin": "caddy sse-fanin",
	} {
		cmd, args, err := root.Find(strings.Fields(line))
		if err != nil || cmd.CommandPath() != want {
			t.Errorf("%s: %v, %v, %v", line, cmd.CommandPath(), args, err)
			continue
		}
		if cmd == ours {
			if err := cmd.ValidateArgs(args); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
	}
}
