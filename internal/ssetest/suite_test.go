package ssetest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience is how long what comes at once may take on a busy machine.
const patience = 30 * time.Second

// lingerer waits for release.
func lingerer(release <-chan struct{}) { <-release }

// TestMain's own suite must pass, so what fails one is found out by its parts.
func TestLeftBehindIsFound(t *testing.T) {
	release, linger := make(chan struct{}), func(words ...string) bool {
		return strings.Contains(strings.Join(goroutines(words), "\n"), "lingerer")
	}
	go lingerer(release)
	must(t, Await(patience, "the goroutine is found", func() bool { return linger("ssetest.lingerer") }))
	if linger() {
		t.Error("a goroutine of a test is regarded as the module's")
	}
	close(release)
	must(t, Await(patience, "the goroutine ends", func() bool { return !linger("ssetest.lingerer") }))

	script := filepath.Join(t.TempDir(), "script")
	must(t, os.WriteFile(script, []byte("echo started\nkill -STOP $$\n"), 0o600))
	p, err := StartProcess(t.TempDir(), nil, "sh", script)
	must(t, err)
	t.Cleanup(p.Kill)
	must(t, Await(patience, "it starts", func() bool { return p.Log.String() == "started\n" }))
	if n := len(processesNaming(script)); n != 1 {
		t.Errorf("%d processes are found, want 1", n)
	}
	p.Kill()
	if p.Running() || p.Err() == nil || p.ExitCode() != -1 {
		t.Errorf("after a kill: %v, status %d", p.Err(), p.ExitCode())
	}
	if left := processesNaming(script); len(left) > 0 {
		t.Errorf("found after its end: %s", left)
	}
}

// A stack as the runtime prints it is the module's, or not.
func TestStacksOfTheModule(t *testing.T) {
	const stack = "goroutine 1 [select]:\n%s()\n\t/src/%s:1 +0x1\nnet/http.serve()\n\t/go/server.go:2 +0x1"
	for _, tc := range []struct {
		function, file string
		want           bool
	}{
		{module + ".(*hub).run", "fanin.go", true},
		{module + "/internal/eventlog.run", "log.go", true},
		{module + ".TestHub", "fanin_test.go", false},
		{module + "/internal/ssetest.(*Origin).serve", "origin.go", false},
		{"github.com/caddyserver/caddy/v2.Run", "caddy.go", false},
	} {
		text := strings.NewReplacer("%s()", tc.function+"()", "/src/%s", "/src/"+tc.file).Replace(stack)
		if got := ofModule(text); got != tc.want {
			t.Errorf("%s in %s: %t", tc.function, tc.file, got)
		}
	}
}

func TestSuiteFails(t *testing.T) {
	for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(name, os.Getenv(name)) // run sets them
	}
	outer := dir
	defer func() { dir = outer }()
	for name, tc := range map[string]struct {
		code, want int
		end        error
	}{
		"passes":           {0, 0, nil},
		"tests fail":       {1, 1, nil},
		"its end fails":    {0, 1, errors.New("expected by this test")},
		"both of them do":  {2, 1, errors.New("expected by this test")},
		"tests say how so": {2, 2, nil},
	} {
		s := Suite{End: func() error { return tc.end }}
		made := ""
		code := s.run(func() int { made = Dir(); return tc.code })
		if code != tc.want {
			t.Errorf("%s: status %d, want %d", name, code, tc.want)
		}
		if _, err := os.Stat(made); !os.IsNotExist(err) {
			t.Errorf("%s: its directory is left: %v", name, err)
		}
	}
}
