package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

var (
	duration = flag.Duration("chaos", 0, "how long to go on with new rounds")
	seedFlag = flag.Uint64("chaos.seed", 0, "the seed of the first round; without -chaos, of the only one")
	length   = flag.Duration("chaos.round", 12*time.Second, "how long things happen in a round")
	slack    = flag.Duration("chaos.slack", 8*time.Second, "what an exit may take beyond its 2s, for the machine and the race detector")
	binary   = flag.String("chaos.binary", "", "a Caddy that was built before")
	leaveOut = flag.String("chaos.without", "", "what to leave out, to look past a fault that is known: bodies, control, frozen")
	verbose  = flag.Bool("chaos.verbose", false, "print actions as they happen")
)

func TestMain(m *testing.M) {
	ssetest.Main(m, ssetest.Suite{})
}

func TestChaos(t *testing.T) {
	if *duration == 0 && *seedFlag == 0 {
		t.Skip("no -chaos or -chaos.seed")
	}
	if *binary == "" {
		cc, err := exec.Command("go", "env", "CC").Output()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := exec.LookPath(strings.Fields(string(cc) + " cc")[0]); err != nil {
			t.Skip("no C compiler, which the race detector needs: ", err)
		}
		built, err := buildRace()
		if err != nil {
			t.Fatal(err)
		}
		*binary = built
	}
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1_000_000_000
	}
	end := time.Now().Add(*duration)
	rounds, failed := 0, []uint64(nil)
	for ; rounds == 0 || time.Now().Before(end); seed++ {
		rounds++
		if !t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { play(t, seed) }) {
			failed = append(failed, seed)
		}
	}
	t.Logf("%d rounds", rounds)
	if len(failed) > 0 {
		t.Errorf("%d of %d rounds failed; replay one with -chaos.seed: %v", len(failed), rounds, failed)
	}
}

func without(what string) bool { return slices.Contains(strings.Split(*leaveOut, ","), what) }

// round is one process and what happens to it.
type round struct {
	t        *testing.T
	rnd      *rand.Rand
	begun    time.Time
	ctx      context.Context
	plan     *plan
	judge    *judge
	process  *process
	config   *config
	file     string // the configuration, as it was loaded
	unserved bool   // the configuration that runs has nothing of ours
	idle     usage
	clients  []*client
	states   *ssetest.Client // of the control stream
	blocked  []func()
	reading  sync.WaitGroup
	actions  []string
}

func (r *round) log(format string, args ...any) {
	line := fmt.Sprintf("%8s ", time.Since(r.begun).Truncate(time.Millisecond)) + fmt.Sprintf(format, args...)
	r.actions = append(r.actions, line)
	if *verbose {
		fmt.Fprintln(os.Stderr, line)
	}
}

func (r *round) fail(format string, args ...any) {
	r.log("^ "+format, args...)
	r.judge.violate(nil, format, args...)
}

// play plays the round of a seed.
func play(t *testing.T, seed uint64) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &round{t: t, rnd: rand.New(rand.NewPCG(seed, 0)), begun: time.Now(), ctx: ctx}
	var err error
	defer func() {
		cancel()
		r.leave()
		if r.process != nil {
			r.process.kill()
		}
		r.plan.close()
		r.reading.Wait()
		if t.Failed() {
			r.report(seed)
		}
	}()
	if r.plan, err = draw(r.rnd); err != nil {
		t.Fatal(err)
	}
	r.judge = newJudge(r.plan)
	if r.process, err = startProcess(*binary, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if r.idle, err = r.process.usage(); err != nil {
		t.Fatal(err)
	}
	r.begun = time.Now()
	r.run()
	for _, v := range r.judge.verdicts {
		t.Error(v.text)
	}
	if text := r.process.trouble(); text != "" {
		t.Errorf("the log of caddy has:\n%s", text)
	}
}

// run does what happens in the round.
func (r *round) run() {
	first := r.plan.first(r.rnd)
	r.config = first
	r.use(first)
	r.states = ssetest.StartClient(ssetest.ClientConfig{
		URL: r.process.url(http11, "/control"), Record: 1 << 20, Stubborn: true,
	})
	for _, s := range r.plan.streams {
		r.drawClient(s, true)
		for range 3 {
			r.drawClient(s, false)
		}
	}
	rest := chance(r.rnd, 2)
	for time.Since(r.begun) < *length && !r.judge.failed() && r.process.Running() {
		r.act()
		pause := time.Duration(10+r.rnd.IntN(250)) * time.Millisecond
		_ = ssetest.Await(pause, "", func() bool { return !r.process.Running() })
	}
	switch {
	case !r.process.Running():
		r.fail("the process has ended: %v", r.process.Err())
		return
	case r.judge.failed():
		return
	case rest:
		r.settle()
		r.empty()
	case chance(r.rnd, 3):
		r.log("loading the configuration without streams")
		r.unserved = true
		for _, c := range r.clients {
			if c.proto == http11Body {
				c.close() // see drawClient
			}
		}
		if status, answer, err := r.process.load(r.process.idle()); err != nil || status != http.StatusOK {
			r.fail("loading the empty configuration: status %d, %v: %s", status, err, answer)
		}
	}
	r.exit()
	r.leave()
	for _, c := range r.clients {
		c.watch.complete()
	}
	r.judge.logs()
	r.log("%s", r.judge)
}

// patience is how long the machine may take for what ought to come at once.
const patience = 30 * time.Second

// settle takes all faults back and waits until every client gets on.
func (r *round) settle() {
	r.log("all faults are taken back")
	for _, s := range r.plan.streams {
		for _, u := range s.upstreams {
			if u.dynamic != "" {
				r.plan.names.set(u.dynamic, addresses(u)...)
			}
		}
	}
	since := make(map[string]uint64)
	for _, f := range r.plan.feeds {
		f.troubled.Store(true) // it is reconnected again and again
		f.heal()
		for _, o := range f.replicas {
			o.CutConnections() // whoever hangs is to come back
		}
	}
	names, err := r.process.streamNames()
	if err != nil {
		r.fail("asking for the streams: %v", err)
		return
	}
	for stream, upstreams := range names {
		for _, u := range upstreams {
			if stream == "control" {
				continue
			}
			if _, err := r.process.call(http.MethodPost, "/sse_fanin/streams/"+stream+"/upstreams/"+u+"/reconnect"); err != nil {
				r.fail("reconnecting %s of %s: %v", u, stream, err)
			}
		}
	}
	for _, f := range r.plan.feeds {
		since[f.name] = f.last()
	}
	var last string
	var behind *client
	err = ssetest.Await(patience, "every client gets on", func() bool {
		if !r.process.Running() {
			return true
		}
		for _, c := range r.clients {
			st := &r.config.states[c.watch.stream.index]
			if !r.expects(c) {
				continue
			}
			if last = c.watch.behind(since, st); last != "" {
				behind = c
				return false
			}
		}
		return true
	})
	if err != nil {
		r.judge.violate([]*watch{behind.watch}, "%v: %s has of %s", err, behind.watch.name, last)
		body, _ := r.process.call(http.MethodGet, "/sse_fanin/streams")
		r.log("streams: %s", body)
		metrics, _ := r.process.call(http.MethodGet, "/metrics")
		for line := range strings.Lines(metrics) {
			if strings.HasPrefix(line, "caddy_sse_fanin_client_disconnects_total{") && !strings.HasSuffix(line, " 0\n") {
				r.log("%s", strings.TrimSpace(line))
			}
		}
		return
	}
	sent := r.plan.control.hush()
	if without("control") {
		return
	}
	_ = ssetest.Await(patience, "", func() bool { return len(r.states.Events()) >= len(sent) })
	if err := compareStates(sent, r.states.Events()); err != nil {
		r.fail("%v", err)
	}
}

// expects reports whether a client must get what is sent now.
func (r *round) expects(c *client) bool {
	s := c.watch.stream
	st := &r.config.states[s.index]
	switch {
	case c.slow, c.closed.Load(), s.mayRefuse, st.full, !r.config.serves(s.index, c.proto.site()):
		return false
	case st.disconnectsSlow() && s.replaysMoreThanItRetains():
		return false
	case c.watch.filter.source != "" && (st.renamed || st.without >= 0):
		return false
	}
	return true
}

// leave ends all clients.
func (r *round) leave() {
	var leaving sync.WaitGroup
	for _, closer := range r.blocked {
		leaving.Go(closer)
	}
	r.blocked = nil
	for _, c := range r.clients {
		leaving.Go(c.close)
	}
	if r.states != nil {
		leaving.Go(r.states.Close)
	}
	leaving.Wait()
}

// What may be there in the end beyond what was there in the beginning: idle
// connections and what Caddy and Go keep for later.
const (
	moreGoroutines  = 15
	moreDescriptors = 15
	moreHeap        = 24 << 20
)

// empty ends all clients, takes all streams away, and waits until the process
// has no more than it began with.
func (r *round) empty() {
	r.log("all clients leave, and all streams go")
	r.unserved = true
	r.leave()
	if status, answer, err := r.process.load(r.process.idle()); err != nil || status != http.StatusOK {
		r.fail("loading the empty configuration: status %d, %v: %s", status, err, answer)
	}
	for _, f := range r.plan.feeds {
		for _, o := range f.replicas {
			o.Stop() // and what is idle may take its time otherwise: minutes
		}
	}
	var u usage
	err := ssetest.Await(patience, "the process is as small as it was", func() bool {
		var err error
		u, err = r.process.usage()
		return err != nil || u.goroutines <= r.idle.goroutines+moreGoroutines &&
			u.descriptors <= r.idle.descriptors+moreDescriptors && u.heap <= r.idle.heap+moreHeap
	})
	if err != nil {
		stacks, _ := r.process.call(http.MethodGet, "/debug/pprof/goroutine?debug=1")
		held, _ := r.process.largestHeld(10)
		r.fail("%v: %+v in the beginning, now %+v\nmost of the heap was allocated by:\n%s\n%s", err, r.idle, u, held, stacks)
	}
	r.log("goroutines %d -> %d, descriptors %d -> %d, heap %d -> %d KiB", r.idle.goroutines, u.goroutines,
		r.idle.descriptors, u.descriptors, r.idle.heap>>10, u.heap>>10)
}

// exit ends the process in the middle of whatever it does.
func (r *round) exit() {
	signal := chance(r.rnd, 2)
	r.judge.end()
	if !r.process.Running() {
		r.fail("the process has ended: %v", r.process.Err())
		return
	}
	r.log("exit, by a signal: %v; %d clients, %d blocked", signal, len(r.clients), len(r.blocked))
	took, err := r.process.exit(signal, 2*time.Second+*slack)
	switch {
	case err == nil:
	case r.unserved && errors.Is(err, errHeldElsewhere):
		// It has none of ours. Caddy does not end an HTTP/2 connection that was
		// accepted just before the exit.
		r.log("not counted: %v", err)
	default:
		r.fail("exit: %v", err)
	}
	r.log("exited after %s", took)
}

// report prints what a replay, and whoever looks for the reason, needs.
func (r *round) report(seed uint64) {
	var b strings.Builder
	fmt.Fprintf(&b, "replay: go test ./chaos -v -chaos.seed %d\n\nfeeds:\n", seed)
	for _, f := range r.plan.feeds {
		fmt.Fprintf(&b, "  %s\n", f)
	}
	fmt.Fprintf(&b, "\nconfiguration:\n%s\nactions:\n%s\n", r.file, strings.Join(r.actions, "\n"))
	shown := make(map[*watch]bool)
	for _, v := range r.judge.verdicts {
		for _, w := range v.watches {
			if !shown[w] {
				shown[w] = true
				fmt.Fprintf(&b, "\n%s\n", w)
			}
		}
	}
	if r.process != nil {
		text := r.process.Log.String()
		fmt.Fprintf(&b, "\nlog of caddy:\n%s\n", text[max(len(text)-8000, 0):])
	}
	r.t.Log(b.String())
}
