package ssetest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// LogBuffer keeps what a process writes. It is safe for concurrent use.
type LogBuffer struct {
	mu  sync.Mutex // protects buf
	buf bytes.Buffer
}

func (l *LogBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String returns all that has been written.
func (l *LogBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Tail returns the end of what has been written, at most n bytes.
func (l *LogBuffer) Tail(n int) string {
	s := l.String()
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// Process is a program that StartProcess has started. Its methods are safe for
// concurrent use.
type Process struct {
	Log LogBuffer // stdout and stderr

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // how; after done
}

// StartProcess runs a program with home as its home directory, and env besides
// the environment of the test. Kill has to be called.
func StartProcess(home string, env []string, binary string, args ...string) (*Process, error) {
	p := &Process{cmd: exec.Command(binary, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.Log, &p.Log
	p.cmd.Env = append(os.Environ(), "HOME="+home, "XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home)
	p.cmd.Env = append(p.cmd.Env, env...)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", binary, err)
	}
	go p.wait()
	return p, nil
}

// wait reaps the process. StartProcess starts it; an exit or Kill ends it.
func (p *Process) wait() {
	p.err = p.cmd.Wait()
	close(p.done)
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Err waits for the end of the process and returns its error, nil for an exit
// with status 0.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// ExitCode waits for the end of the process and returns its status, -1 after a
// signal.
func (p *Process) ExitCode() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// Terminate sends SIGTERM.
func (p *Process) Terminate() error { return p.cmd.Process.Signal(syscall.SIGTERM) }

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Abort has a Go program write the stacks of its goroutines and end.
func (p *Process) Abort() { _ = p.cmd.Process.Signal(syscall.SIGABRT) }

// Kill ends the process, if it has not ended, and waits for that.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// WaitExit waits for the end of the process and reports whether it came in
// time.
func (p *Process) WaitExit(atMost time.Duration) bool {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
		return false
	}
}
