package ssefanin

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"

	"github.com/sse-fanin/caddy-sse-fanin/internal/filestore"
	"github.com/sse-fanin/caddy-sse-fanin/internal/sse"
	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// logCommand is the subcommand `caddy sse-fanin log`.
func logCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log [<dir>] [--check | --print [--from <offset>|<time>] [--to <offset>|<time>] [--source <name>]... [--type <type>]...]",
		Short: "Shows what the log files of streams hold",
		Long: `
Shows what the logs hold that streams keep in files, by "log file". It reads
only, and may be used while Caddy runs.

<dir> is the directory that "log file" has as its "dir", below which each stream
has a folder, or the folder of one stream. By default, it is the one in Caddy's
data directory.

--check reads every event, and compares checksums and offsets. What is damaged
is named by file and byte, and the exit status is 1 then.

--print writes the events of one log to the standard output, a JSON object a
line: offset, epoch, time of arrival, source, type, id (the upstream's that was
in force) and data. --from and --to are offsets, or times such as
2026-01-31T12:00:00Z, and include what they name. --source and --type choose
events by the name of their upstream and their type, and may be given several
times.
`,
		Example: `  caddy sse-fanin log
  caddy sse-fanin log --check
  caddy sse-fanin log /var/lib/caddy/sse/prices --print --from 2026-01-31T12:00:00Z --type trade`,
	}
	cmd.RunE = caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
		return runLogCommand(flags, cmd.OutOrStdout(), cmd.ErrOrStderr())
	})
	cmd.Flags().BoolP("check", "c", false, "Read every event, and exit with status 1 if something is damaged")
	cmd.Flags().BoolP("print", "p", false, "Print the events as lines of JSON")
	cmd.Flags().String("from", "", "The first event to print: an offset, or a time such as 2026-01-31T12:00:00Z")
	cmd.Flags().String("to", "", "The last event to print, likewise")
	cmd.Flags().StringArray("source", nil, "Print only events of this upstream")
	cmd.Flags().StringArray("type", nil, "Print only events of this type; 'message' is that of events without one")
	return cmd
}

// defaultLogDir is where `log file` has the folders of streams by default.
func defaultLogDir() string { return filepath.Join(caddy.AppDataDir(), "sse_fanin", "log") }

// runLogCommand is `caddy sse-fanin log`.
func runLogCommand(flags caddycmd.Flags, stdout, stderr io.Writer) (int, error) {
	selected, err := parseSelection(flags)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	dirs, err := findLogs(flags.Args())
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	switch {
	case flags.Bool("check"):
		err = checkLogs(stdout, dirs)
	case flags.Bool("print"):
		err = printLog(stdout, stderr, dirs, selected)
	default:
		err = listLogs(stdout, dirs)
	}
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	return caddy.ExitCodeSuccess, nil
}

// findLogs returns the folders of the logs that the arguments name.
func findLogs(args []string) ([]string, error) {
	dir := defaultLogDir()
	switch len(args) {
	case 0:
	case 1:
		dir = args[0]
	default:
		return nil, fmt.Errorf("unexpected '%s': expected one directory at most", args[1])
	}
	const expected = `expected the directory that 'log file' has as its 'dir', or the folder of a stream in it`
	switch info, err := os.Stat(dir); {
	case errors.Is(err, os.ErrNotExist) && len(args) == 0:
		return nil, fmt.Errorf("no stream has its log in the default directory, %s: %s", dir, expected)
	case errors.Is(err, os.ErrNotExist):
		hint := ""
		if there := filepath.Join(defaultLogDir(), dir); dir == filepath.Base(dir) && isDir(there) {
			hint = fmt.Sprintf(" (there is %s)", there)
		}
		return nil, fmt.Errorf("there is no %s%s: %s", dir, hint, expected)
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, fmt.Errorf("%s is not a directory: %s", dir, expected)
	}
	dir, err := filepath.Abs(dir) // the folder's name is the stream's
	if err != nil {
		return nil, err
	}
	if is, err := filestore.IsLog(dir); err != nil {
		return nil, err
	} else if is {
		return []string{dir}, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, e := range entries {
		folder := filepath.Join(dir, e.Name())
		if !isDir(folder) {
			continue
		}
		// What cannot be read is an error later, beside the other logs.
		if is, err := filestore.IsLog(folder); is || err != nil {
			dirs = append(dirs, folder)
		}
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("there is no log in %s: %s", dir, expected)
	}
	return dirs, nil
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// failed is the error of a command that has failed for some logs, of which it
// has said why.
func failed(what string, bad, all int) error {
	if bad == 0 {
		return nil
	}
	return fmt.Errorf("%s: %d of %s", what, bad, count(all, "log"))
}

// count is a number of things, in words.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func listLogs(w io.Writer, dirs []string) error {
	bad := 0
	for i, dir := range dirs {
		if i > 0 {
			fmt.Fprintln(w)
		}
		r, err := filestore.Inspect(dir)
		if err != nil {
			bad++
			fmt.Fprintf(w, "%s\n  error     %v\n", shown(filepath.Base(dir)), err)
			continue
		}
		listLog(w, r)
	}
	return failed("unreadable", bad, len(dirs))
}

// listLog writes what a log holds.
func listLog(w io.Writer, r *filestore.Report) {
	fmt.Fprintf(w, "%s\n  folder    %s\n  state     %s\n", shown(filepath.Base(r.Dir)), r.Dir, logState(r))
	if r.Records > 0 {
		fmt.Fprintf(w, "  offsets   %d–%d\n", r.First, r.Last)
	} else {
		fmt.Fprintf(w, "  offsets   none; the next is %d\n", r.Last+1)
	}
	fmt.Fprintf(w, "  events    %d\n  bytes     %d (%s)\n", r.Records, r.Bytes, humanize.IBytes(uint64(r.Bytes)))
	if r.Records > 0 {
		fmt.Fprintf(w, "  oldest    %s\n  newest    %s\n", arrival(r.Oldest), arrival(r.Newest))
	}
	epochs := make([]string, 0, len(r.Epochs))
	sources := make([]string, 0, len(r.Sources))
	damage := make([]string, 0, len(r.Damage))
	aside := make([]string, 0, len(r.Aside))
	for _, e := range r.Epochs {
		epochs = append(epochs, fmt.Sprintf("%s from offset %d", shown(e.ID), e.First))
	}
	for _, source := range namesOfSources(r) {
		l := r.Sources[source]
		id := "no id"
		if l.ID != "" {
			id = "last id " + shown(l.ID)
		}
		sources = append(sources, fmt.Sprintf("%s: %s, offset %d, %s", shown(source), id, l.Offset, arrival(l.Time)))
	}
	for _, d := range r.Damage {
		damage = append(damage, d.Error())
	}
	kept := make([]string, 0, len(r.Kept))
	for _, name := range slices.Sorted(maps.Keys(r.Kept)) {
		what := shown(name)
		if name == keptValues {
			what = "last values"
		}
		kept = append(kept, fmt.Sprintf("%s, %s", what, humanize.IBytes(uint64(r.Kept[name]))))
	}
	for _, file := range r.Aside {
		aside = append(aside, file+" was found damaged, and is not read")
	}
	for _, row := range []struct {
		name  string
		lines []string // none: the row is left out
	}{
		{"epochs", epochs},
		{"segments", []string{fmt.Sprint(r.Segments)}},
		{"sources", sources},
		{"kept", kept},
		{"damage", damage},
		{"aside", aside},
	} {
		for _, line := range row.lines {
			fmt.Fprintf(w, "  %-9s %s\n", row.name, line)
			row.name = ""
		}
	}
}

// namesOfSources are those of the sources that a log has events of, in order.
func namesOfSources(r *filestore.Report) []string { return slices.Sorted(maps.Keys(r.Sources)) }

// logState is who has a log, or how it was left.
func logState(r *filestore.Report) string {
	switch {
	case r.Holder != "":
		return "in use by " + r.Holder
	case r.Orderly:
		return "closed in order"
	}
	return "not closed in order"
}

// arrival is a time in Unix ms, as RFC 3339 has it.
func arrival(t int64) string { return time.UnixMilli(t).UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// shown is a text of somebody else's for a terminal: in quotes if it is not
// plain.
func shown(text string) string {
	plain := func(r rune) bool {
		return unicode.IsPrint(r) && !unicode.IsSpace(r) && r != '"' && r != unicode.ReplacementChar
	}
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return !plain(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// checkLogs reads logs whole.
func checkLogs(w io.Writer, dirs []string) error {
	bad := 0
	for _, dir := range dirs {
		name := shown(filepath.Base(dir))
		r, err := filestore.Check(dir)
		if err != nil {
			bad++
			fmt.Fprintf(w, "%s: %v\n", name, err)
			continue
		}
		for _, d := range r.Damage {
			fmt.Fprintf(w, "%s: %v\n", name, d)
		}
		if u := r.Unfinished; u != nil && r.Holder == "" {
			fmt.Fprintf(w, "%s: %s ends at byte %d with an event that was not written whole, nor given to anybody; it is cut off when Caddy opens the log\n", name, u.File, u.At)
		}
		for _, file := range r.Aside {
			fmt.Fprintf(w, "%s: %s was found damaged earlier, and is not read\n", name, file)
		}
		what := "nothing is damaged"
		if n := len(r.Damage); n > 0 {
			bad++
			what = "damaged in " + count(n, "place")
		}
		fmt.Fprintf(w, "%s: %s in %s, %s\n", name, count(int(r.Records), "event"), count(r.Segments, "segment"), what)
	}
	return failed("damaged", bad, len(dirs))
}

// selection is which events are printed.
type selection struct {
	from, to *logPosition // nil: no bound
	sources  []string     // empty: all
	types    []string
}

// logPosition is what --from and --to name: an offset, or a time.
type logPosition struct {
	offset uint64 // 0: it is a time
	time   int64  // Unix ms
}

func parseSelection(flags caddycmd.Flags) (*selection, error) {
	s := new(selection)
	if flags.Bool("check") && flags.Bool("print") {
		return nil, errors.New("--check does not go with --print")
	}
	for _, name := range []string{"from", "to", "source", "type"} {
		if flags.Changed(name) && !flags.Bool("print") {
			return nil, fmt.Errorf("--%s goes with --print only", name)
		}
	}
	var err error
	if s.from, err = parseLogPosition(flags, "from"); err != nil {
		return nil, err
	}
	if s.to, err = parseLogPosition(flags, "to"); err != nil {
		return nil, err
	}
	if f, t := s.from, s.to; f != nil && t != nil && (t.offset > 0 && f.offset > t.offset || f.offset == 0 && t.offset == 0 && f.time > t.time) {
		return nil, fmt.Errorf("--from %s comes after --to %s", flags.String("from"), flags.String("to"))
	}
	if s.sources, err = flags.GetStringArray("source"); err != nil {
		return nil, err
	}
	s.types, err = flags.GetStringArray("type")
	return s, err
}

// parseLogPosition reads a flag; nil if it is not given.
func parseLogPosition(flags caddycmd.Flags, name string) (*logPosition, error) {
	if !flags.Changed(name) {
		return nil, nil
	}
	text := flags.String(name)
	if text != "" && strings.Trim(text, "0123456789") == "" {
		offset, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("--%s: the offset %s is too large", name, text)
		}
		if offset == 0 {
			return nil, fmt.Errorf("--%s: offsets begin with 1", name)
		}
		return &logPosition{offset: offset}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return nil, fmt.Errorf("--%s: '%s' is neither an offset such as 1200, nor a time such as 2026-01-31T12:00:00Z", name, text)
	}
	return &logPosition{time: t.UnixMilli()}, nil
}

// wants reports whether a record is to be printed.
func (s *selection) wants(r *logstore.Record) bool {
	return !r.Fence() &&
		(len(s.sources) == 0 || slices.Contains(s.sources, r.Source)) &&
		(len(s.types) == 0 || slices.Contains(s.types, typeName(r)))
}

// beyond reports whether a record, and what follows it, comes after the last
// that is to be printed.
func (s *selection) beyond(r *logstore.Record) bool {
	return s.to != nil && (s.to.offset > 0 && r.Offset > s.to.offset || s.to.offset == 0 && r.Time > s.to.time)
}

func typeName(r *logstore.Record) string {
	if r.Type == "" {
		return unnamedType
	}
	return r.Type
}

// printedEvent is a line of --print.
type printedEvent struct {
	Offset uint64 `json:"offset"`
	Epoch  string `json:"epoch"`
	Time   string `json:"time"`
	Source string `json:"source"`
	Type   string `json:"type"`
	ID     string `json:"id"`
	Data   string `json:"data"`
}

// errPrinted ends a walk.
var errPrinted = errors.New("everything is printed")

// printLog prints events of one log.
func printLog(stdout, stderr io.Writer, dirs []string, s *selection) error {
	if len(dirs) > 1 {
		return fmt.Errorf("--print needs the folder of one stream, such as %s; %s has %d", dirs[0], filepath.Dir(dirs[0]), len(dirs))
	}
	r, err := filestore.Inspect(dirs[0])
	if err != nil {
		return err
	}
	for _, source := range s.sources {
		if _, known := r.Sources[source]; !known && len(r.Sources) < logstore.MaxSources {
			return fmt.Errorf("--source: the log has no events of '%s', it has some of %s", source, someSources(r))
		}
	}
	var from uint64
	var since int64
	if s.from != nil {
		from, since = s.from.offset, s.from.time
	}
	if from > 0 && from < r.First {
		fmt.Fprintf(stderr, "the log begins with offset %d; what is older has been dropped\n", r.First)
	}
	out := bufio.NewWriter(stdout)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	printed := 0
	met, err := r.Walk(from, since, func(record *logstore.Record) error {
		if s.beyond(record) {
			return errPrinted
		}
		if !s.wants(record) {
			return nil
		}
		printed++
		epoch, _ := logstore.EpochAt(r.Epochs, record.Offset)
		return lines.Encode(printedEvent{
			Offset: record.Offset, Epoch: epoch.ID, Time: arrival(record.Time),
			Source: record.Source, Type: typeName(record), ID: record.ID, Data: dataOf(record),
		})
	})
	if errors.Is(err, errPrinted) {
		err = nil
	}
	if err := errors.Join(err, out.Flush()); err != nil {
		return fmt.Errorf("printing: %w", err)
	}
	if printed == 0 {
		where := "it is empty"
		if r.Records > 0 {
			where = fmt.Sprintf("it has offsets %d–%d, of %s to %s", r.First, r.Last, arrival(r.Oldest), arrival(r.Newest))
		}
		fmt.Fprintf(stderr, "no event of the log is what was asked for; %s\n", where)
	}
	met = append(slices.Clone(r.Damage), met...)
	for _, d := range met {
		fmt.Fprintln(stderr, d)
	}
	if len(met) > 0 {
		return fmt.Errorf("the log is damaged, events may be missing; see caddy sse-fanin log %s --check", shellWord(r.Dir))
	}
	return nil
}

// someSources names the sources of a log, not more than fit in a line.
func someSources(r *filestore.Report) string {
	names := namesOfSources(r)
	if len(names) == 0 {
		return "nobody"
	}
	for i, name := range names {
		names[i] = shown(name)
	}
	const most = 10
	if len(names) > most {
		return fmt.Sprintf("%s and %d others", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// dataOf returns the data of an event, as a client gets it.
func dataOf(r *logstore.Record) string {
	data := ""
	sse.NewDecoder(len(r.Body)).Decode(r.Body, func(ev *sse.Event) { data = string(ev.Data) })
	return data
}
