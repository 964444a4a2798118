package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	scale    scale
	only     *regexp.Regexp
	systems  *regexp.Regexp
	against  string
	base     string
	out      string
	jsonFile string
}

// parseFlags reads the arguments. Errors have been printed.
func parseFlags(args []string) (options, error) {
	var (
		o        options
		isShort  bool
		isFull   bool
		only     string
		named    string
		duration time.Duration
		runs     int
		busy     loopCounts
		clients  int
		soak     time.Duration
	)
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&isShort, "short", false, "show in about a minute that everything works; the figures say nothing")
	flags.BoolVar(&isFull, "full", false, "measure everything; takes hours")
	flags.StringVar(&only, "only", "", "experiments to run, a `regexp`")
	flags.StringVar(&named, "systems", "", "systems to measure, a `regexp`")
	flags.IntVar(&runs, "runs", 0, "runs of each case (default 5, with -short 1)")
	flags.DurationVar(&duration, "duration", 0, "how long each run measures (default 2s, with -full 4s, with -short 400ms)")
	flags.Uint64Var(&saturationWindow, "window", saturationWindow, "events on their way at most, in the experiment saturation")
	flags.StringVar(&o.against, "against", "", "another build of this program, a `file`: its Caddy is measured, too, in turn with this one's")
	flags.StringVar(&o.base, "base", "raw", "`system` by whose figures those of the others are divided, round by round")
	flags.Var(&busy, "busy", "beside how many busy loops each case is run, a `list` such as 0,1 (default 0)")
	flags.IntVar(&clients, "clients", 0, "clients of the experiment crowd (default: as many as files and memory allow; with -short 300)")
	flags.DurationVar(&soak, "soak", 0, "how long the experiment crowd sends them events (default 10m, with -short 3s)")
	flags.StringVar(&o.out, "out", "", "`file` to write the report to, as Markdown")
	flags.StringVar(&o.jsonFile, "json", "", "`file` to write the figures of every run to")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case isFull:
		o.scale = scale{level: full, runs: 5, warmup: time.Second, duration: 4 * time.Second, soak: 10 * time.Minute}
	case isShort:
		o.scale = scale{level: short, runs: 1, warmup: 200 * time.Millisecond, duration: 400 * time.Millisecond, soak: 3 * time.Second, clients: 300}
	default:
		o.scale = scale{level: medium, runs: 5, warmup: time.Second, duration: 2 * time.Second, soak: 10 * time.Minute}
	}
	if runs > 0 {
		o.scale.runs = runs
	}
	if duration > 0 {
		o.scale.duration = duration
	}
	if clients > 0 {
		o.scale.clients = clients
	}
	if soak > 0 {
		o.scale.soak = soak
	}
	o.scale.busy = busy
	var err error
	if o.only, err = regexp.Compile(only); err == nil {
		o.systems, err = regexp.Compile(named)
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err == nil && saturationWindow >= progressRing {
		err = fmt.Errorf("the window has to be below %d", progressRing)
	}
	if err == nil && findSystem(systems(), o.base) == nil {
		err = fmt.Errorf("-base: there is no system %q", o.base)
	}
	if err != nil {
		fmt.Fprintln(flags.Output(), err)
	}
	return o, err
}

// run is the coordinator. It returns the exit status.
func run(args []string) int {
	o, err := parseFlags(args)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	raiseFileLimit()
	defer func() {
		if err := removePrograms(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	rep := &report{host: describeHost(ctx), started: time.Now(), scale: o.scale, base: o.base}
	for _, e := range experiments(o.scale) {
		if !o.only.MatchString(e.name) {
			continue
		}
		if res := runExperiment(ctx, &e, o.systems.MatchString, o.against, os.Stderr); len(res.rows) > 0 {
			rep.results = append(rep.results, res)
			res.print(os.Stdout)
			res.printRatios(os.Stdout)
			res.printDivided(os.Stdout, o.base)
		}
		if ctx.Err() != nil {
			break
		}
	}
	rep.targets = judge(rep.results)
	printTargets(os.Stdout, rep.targets)
	if o.scale.level == short {
		fmt.Println("\nWith -short: everything works or does not; the figures say nothing.")
	}
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "interrupted; nothing is written")
		return 1
	}
	if err := o.write(rep); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// write writes the files that were asked for.
func (o options) write(rep *report) error {
	if o.out != "" {
		if err := writeFile(o.out, rep.markdown); err != nil {
			return err
		}
	}
	if o.jsonFile == "" {
		return nil
	}
	return writeFile(o.jsonFile, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "\t")
		return enc.Encode(rep.raw())
	})
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path) //nolint:gosec // the user names it
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if err := write(f); err != nil {
		_ = f.Close()
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return f.Close()
}

// result is what the runs of an experiment have shown.
type result struct {
	experiment *experiment
	rows       []*row
}

// row is a case and its runs.
type row struct {
	testCase
	build       string // as in system
	runs        []figures
	unavailable string // the reason why there are none
}

// runExperiment runs the cases of the systems that are wanted, those of a Caddy in
// another build, too, if there is one. The runs are interleaved: what changes on
// the machine meanwhile meets all of them alike.
func runExperiment(ctx context.Context, e *experiment, wanted func(string) bool, against string, log io.Writer) *result {
	res := &result{experiment: e}
	for _, c := range e.casesOf(wanted) {
		res.rows = append(res.rows, &row{testCase: c})
		if against != "" && findSystem(caddySystems(), c.system) != nil {
			res.rows = append(res.rows, &row{testCase: c, build: against})
		}
	}
	all := systems()
	for i := range e.runs {
		for _, r := range inTurn(res.rows, i) {
			if ctx.Err() != nil {
				return res
			}
			if r.unavailable != "" {
				continue
			}
			began := time.Now()
			f, err := r.runOnce(ctx, findSystem(all, r.system), e.lasts)
			switch {
			case errors.Is(err, errUnavailable):
				r.unavailable = err.Error()
				fmt.Fprintf(log, "%s %s: %v\n", e.name, r.name(), err)
				continue
			case err != nil:
				f = figures{Faults: err.Error()}
			}
			r.runs = append(r.runs, f)
			note := ""
			if f.Faults != "" {
				note = ": " + f.Faults
			}
			fmt.Fprintf(log, "%s %s, run %d of %d, %.1f s%s\n", e.name, r.name(), i+1, e.runs, time.Since(began).Seconds(), note)
		}
	}
	return res
}

// inTurn returns the rows in the order of a round: every other goes backwards, so
// that of two neighbours neither always comes first.
func inTurn(rows []*row, round int) []*row {
	if round%2 == 0 {
		return rows
	}
	rows = slices.Clone(rows)
	slices.Reverse(rows)
	return rows
}

// runOnce is one run of a case, which is not to hang for long after the time that
// it lasts.
func (r *row) runOnce(ctx context.Context, s *system, lasts time.Duration) (figures, error) {
	if s == nil {
		return figures{}, fmt.Errorf("there is no system %s", r.system)
	}
	ctx, cancel := context.WithTimeout(ctx, runTimeout+lasts)
	defer cancel()
	neighbour, err := startNeighbour(ctx, r.busy)
	if err != nil {
		return figures{}, err
	}
	if neighbour != nil {
		defer neighbour.close()
	}
	built := *s
	built.build = r.build
	return r.run(ctx, &built)
}

// name names the case.
func (r *row) name() string {
	if r.label == "" {
		return r.title()
	}
	return r.title() + " (" + r.label + ")"
}

// title names what is measured.
func (r *row) title() string {
	if r.build == "" {
		return r.system
	}
	return r.system + ", other build"
}
