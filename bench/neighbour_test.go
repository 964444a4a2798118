package main

import (
	"context"
	"flag"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

func TestLoopCounts(t *testing.T) {
	for _, c := range []struct{ text, want, err string }{
		{"0", "0", ""},
		{"0, 2,1", "0 2 1", ""},
		{"1,1", "", "1 stands there twice"},
		{"-1", "", `"-1" is no number of loops`},
		{"many", "", `"many" is no number of loops`},
		{"", "", `"" is no number of loops`},
	} {
		var n loopCounts
		flags := flag.NewFlagSet("", flag.ContinueOnError)
		flags.SetOutput(io.Discard)
		flags.Var(&n, "busy", "")
		err := flags.Parse([]string{"-busy=" + c.text})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: error %v, want %q", c.text, err, c.err)
			}
		} else if err != nil || n.String() != c.want {
			t.Errorf("%q: %q, %v", c.text, n.String(), err)
		}
	}
}

// TestNeighbourIsBusy waits until the loops have had more time than an idle process
// ever has.
func TestNeighbourIsBusy(t *testing.T) {
	p, err := startNeighbour(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		used, err := cpuOf(p.pid())
		if err != nil {
			t.Fatal(err)
		}
		if used > 500*time.Millisecond {
			return
		}
		if sleep(ctx, 20*time.Millisecond) != nil {
			t.Fatalf("it has used %s", used)
		}
	}
}

// TestNeighbourOfARun makes sure that a neighbour is there during a run, and only
// then.
func TestNeighbourOfARun(t *testing.T) {
	before := len(childrenOf(os.Getpid()))
	during := -1
	r := &row{testCase: testCase{system: "raw", busy: 1, run: func(context.Context, *system) (figures, error) {
		during = len(childrenOf(os.Getpid()))
		return figures{}, nil
	}}}
	if _, err := r.runOnce(t.Context(), findSystem(systems(), "raw"), 0); err != nil {
		t.Fatal(err)
	}
	if after := len(childrenOf(os.Getpid())); during != before+1 || after != before {
		t.Errorf("%d processes before, %d during, %d after", before, during, after)
	}
}

func TestWithNeighbours(t *testing.T) {
	e := experiment{cases: []testCase{{system: "fanin"}, {label: "slow", system: "raw"}}}
	e.withNeighbours(nil)
	if len(e.cases) != 2 {
		t.Fatalf("%+v", e.cases)
	}
	e.withNeighbours(loopCounts{0, 2})
	var got []string
	for _, c := range e.cases {
		r := row{testCase: c}
		got = append(got, r.name())
	}
	want := "fanin; raw (slow); fanin (busy loops beside it: 2); raw (slow, busy loops beside it: 2)"
	if strings.Join(got, "; ") != want {
		t.Errorf("%q", got)
	}
	if e.cases[1].busy != 0 || e.cases[2].busy != 2 {
		t.Errorf("%+v", e.cases)
	}
}
