package storetest

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

// brokenEnv names what is wrong with the store that TestBroken runs the suite
// with, in a process of its own.
const brokenEnv = "STORETEST_BROKEN"

// broken is a store with something wrong.
type broken struct {
	logstore.Shared
	what string
}

var opened atomic.Uint64

func (b *broken) Follow(ctx context.Context, from uint64, apply func([]logstore.Record)) error {
	return b.Shared.Follow(ctx, from, func(batch []logstore.Record) {
		switch {
		case b.what == "twice":
			apply(batch)
		case b.what == "loses" && len(batch) > 1:
			batch = append(batch[:1:1], batch[2:]...)
		case b.what == "alters" && len(batch[0].Body) > 0:
			batch[0].Body[0] ^= 1
		case b.what == "late" && len(batch) > 1:
			batch = batch[1:]
		}
		apply(batch)
	})
}

func (b *broken) Campaign(ctx context.Context) (logstore.Term, error) {
	if b.what == "campaigns on" {
		ctx = context.WithoutCancel(ctx)
	}
	term, err := b.Shared.Campaign(ctx)
	return &brokenTerm{term, b.what}, err
}

func (b *broken) Epochs() []logstore.Epoch {
	epochs := b.Shared.Epochs()
	if b.what == "forgets its epoch" {
		epochs[0].ID += string(rune('a' + opened.Load()%26))
	}
	return epochs
}

func (b *broken) Read(ctx context.Context, from uint64, size int) ([]logstore.Record, error) {
	records, err := b.Shared.Read(ctx, from, size)
	if b.what == "reads too much" {
		return b.Shared.Read(ctx, from, 1<<30)
	}
	if b.what == "evicts silently" && err != nil {
		return b.Shared.Read(ctx, b.Status().First, size)
	}
	return records, err
}

func (b *broken) Latest(ctx context.Context) (map[string]logstore.Latest, error) {
	all, err := b.Shared.Latest(ctx)
	for source, l := range all {
		switch {
		case b.what == "forgets sources" && l.Offset < b.Status().First:
			delete(all, source)
		case b.what == "mixes ids up":
			all[source] = logstore.Latest{Offset: l.Offset, Time: l.Time, ID: l.ID + "0"}
		case b.what == "knows too many" && len(all) == logstore.MaxSources:
			all["one more"] = l
		}
	}
	return all, err
}

func (b *broken) SetBounds(bounds logstore.Bounds) {
	if b.what != "keeps everything" {
		b.Shared.SetBounds(bounds)
	}
}

func (b *broken) Node() string {
	if b.what == "names nodes alike" {
		return "node"
	}
	return b.Shared.Node()
}

func (b *broken) Tell(told []byte) {
	if b.what != "tells nothing" {
		b.Shared.Tell(told)
	}
}

func (b *broken) Ask(ctx context.Context, node string, question []byte) ([]byte, error) {
	answer, err := b.Shared.Ask(ctx, node, question)
	if b.what == "answers for nobody" {
		return answer, nil
	}
	return answer, err
}

type brokenTerm struct {
	logstore.Term
	what string
}

func (t *brokenTerm) Number() uint64 {
	if t.what == "numbers terms alike" {
		return 1
	}
	return t.Term.Number()
}

func (t *brokenTerm) Append(r *logstore.Record) error {
	err := t.Term.Append(r)
	if t.what == "appends for ever" {
		return nil
	}
	return err
}

func (t *brokenTerm) Release(ctx context.Context) error {
	if t.what == "releases nothing" {
		return nil
	}
	return t.Term.Release(ctx)
}

// brokenIn is what can be wrong, and a test of the suite that finds it.
var brokenIn = map[string]string{
	"twice":               "FollowsWhatIsAppended",
	"loses":               "FollowsWhatIsAppended",
	"alters":              "FollowsWhatIsAppended",
	"late":                "BeginsAnywhere",
	"campaigns on":        "EndsWaitsWithTheirContext",
	"forgets its epoch":   "OutlivesItsProcess",
	"reads too much":      "ReadsAndFindsByTime",
	"evicts silently":     "EvictsTheOldest",
	"keeps everything":    "EvictsTheOldest",
	"forgets sources":     "KnowsTheLatestOfWhatIsEvicted",
	"mixes ids up":        "KnowsTheLatestOfSources",
	"knows too many":      "BoundsTheSourcesItKnows",
	"numbers terms alike": "NumbersTermsUpwards",
	"appends for ever":    "SaysWhenATermIsOver",
	"releases nothing":    "SaysWhenATermIsOver",
	"names nodes alike":   "AsksOtherNodes",
	"tells nothing":       "TellsOtherNodes",
	"answers for nobody":  "AsksOtherNodes",
}

// TestBroken is the suite with a store that is broken. It is a test of its own
// for a process only.
func TestBroken(t *testing.T) {
	what := os.Getenv(brokenEnv)
	if what == "" {
		t.Skip("runs in a process of its own")
	}
	patience = time.Second
	Run(t, func(*testing.T) Opener {
		o := memoryOpener(0)
		open := o.Open
		o.Open = func(t *testing.T) logstore.Store {
			opened.Add(1)
			return &broken{open(t).(logstore.Shared), what}
		}
		return o
	})
}

// A suite that finds nothing wrong with a broken store is worth nothing.
func TestSuiteFindsWhatIsBroken(t *testing.T) {
	t.Parallel()
	for what, test := range brokenIn {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBroken$/^"+test+"$", "-test.timeout=60s")
			cmd.Env = append(os.Environ(), brokenEnv+"="+what)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Errorf("%s passes:\n%s", test, out)
			} else if !regexp.MustCompile(`--- FAIL: TestBroken/` + test + ` `).Match(out) {
				t.Errorf("%s does not say what is wrong: %v\n%s", test, err, out)
			}
		})
	}
}
