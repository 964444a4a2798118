package ssetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// leakGrace is how long goroutines and processes may take to end after the
// last test.
const leakGrace = 30 * time.Second

// Suite is what the tests of one package need around them, for Main.
type Suite struct {
	// Ends what the tests share besides Dir, if set. Its error fails the suite.
	End func() error

	// What else a stack contains when its goroutine must have ended, besides
	// what LeakedGoroutines looks for.
	Goroutines []string
}

// dir is what Dir returns, empty outside Main.
var dir string

// Dir is the directory that the tests of the running suite share. Main removes
// it.
func Dir() string {
	if dir == "" {
		panic("ssetest: no suite, TestMain does not call Main")
	}
	return dir
}

// Main is the whole of a TestMain. It keeps Caddy away from the home directory
// of whoever runs the tests, runs them, and ends the program. The suite fails
// when a goroutine outlives it, or a process whose command line names Dir.
func Main(m interface{ Run() int }, s Suite) {
	os.Exit(s.run(m.Run))
}

func (s *Suite) run(tests func() int) (code int) {
	if err := prepareSuite(); err != nil {
		fmt.Fprintln(os.Stderr, "preparing the suite:", err)
		return 1
	}
	code = tests()
	if s.End != nil {
		if err := s.End(); err != nil {
			fmt.Fprintln(os.Stderr, "ending the suite:", err)
			code = 1
		}
	}
	if left := awaitNone(leakGrace, func() []string {
		return append(goroutines(s.Goroutines), processesNaming(dir+string(filepath.Separator))...)
	}); left != "" {
		fmt.Fprintf(os.Stderr, "left behind:\n%s\n", left)
		code = 1
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "ending the suite:", err)
		code = 1
	}
	return code
}

func prepareSuite() (err error) {
	if dir, err = os.MkdirTemp("", "sse-fanin-tests-"); err != nil {
		return err
	}
	for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		if err := os.Setenv(name, filepath.Join(dir, "home")); err != nil {
			return err
		}
	}
	return nil
}

// processesNaming returns the command lines that contain a directory; none
// elsewhere than on Linux.
func processesNaming(dir string) []string {
	var left []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(line), dir) { // or it has ended meanwhile
			left = append(left, file+": "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return left
}
