package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sleeper returns a program that does nothing for long.
func sleeper(t *testing.T) *process {
	t.Helper()
	return &process{name: "sleeper", binary: "sleep", args: []string{"1000"}, dir: t.TempDir()}
}

func TestProcessStartsAgain(t *testing.T) {
	for name, end := range map[string]func(*process) error{
		"killed":  (*process).kill,
		"stopped": func(p *process) error { return p.stop(patience) },
	} {
		t.Run(name, func(t *testing.T) {
			p := sleeper(t)
			must(t, end(p)) // which does not run
			for range 2 {
				must(t, p.start())
				pid := p.pid()
				must(t, p.start()) // which runs already
				if !p.running() || pid == 0 || p.pid() != pid {
					t.Fatalf("after start it runs: %t, as %d, and as %d before", p.running(), p.pid(), pid)
				}
				must(t, end(p))
				if p.running() || p.pid() != 0 {
					t.Fatalf("after its end it runs as %d", p.pid())
				}
			}
		})
	}
}

// One that does not end in order is killed.
func TestStopIsImpatient(t *testing.T) {
	p := &process{name: "stubborn", binary: "sh", args: []string{"-c", "trap '' TERM; echo ready; exec sleep 1000"}, dir: t.TempDir()}
	must(t, p.start())
	eventually(t, "it ignores signals", func() bool { return p.lastLines(1) == "ready" })
	must(t, p.stop(time.Millisecond))
	if err := p.failure(); !strings.Contains(err.Error(), "stubborn has ended: signal: killed\nready") {
		t.Errorf("it ended so: %v", err)
	}
}

// parentVariable has the test's binary be a parent instead of running the tests.
const parentVariable = "CLUSTER_TEST_PARENT"

// beParent starts a process as this program does, writes its number, and waits
// for its own end.
func beParent() {
	p := &process{name: "child", binary: "sleep", args: []string{"1000"}, dir: os.Getenv(parentVariable)}
	if err := p.start(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.pid())
	<-p.ended()
	os.Exit(0)
}

// If this program is killed, the processes end with it.
func TestProcessesEndWithTheirParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ends them")
	}
	self, err := os.Executable()
	must(t, err)
	parent := exec.CommandContext(t.Context(), self)
	parent.Env = append(os.Environ(), parentVariable+"="+t.TempDir())
	output, err := parent.StdoutPipe()
	must(t, err)
	must(t, parent.Start())
	line, err := bufio.NewReader(output).ReadString('\n')
	must(t, err)
	stat := filepath.Join("/proc", strings.TrimSpace(line), "stat")
	if _, err := os.Stat(stat); err != nil {
		t.Fatalf("the parent wrote %q: %v", line, err)
	}
	must(t, parent.Process.Signal(syscall.SIGKILL))
	_ = parent.Wait() // how it ends is known
	eventually(t, "the child ends", func() bool {
		text, err := os.ReadFile(stat)
		return err != nil || strings.Contains(string(text), ") Z ") // nobody may reap it
	})
}
