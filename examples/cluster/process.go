package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a program that can be killed and started again, with the same files
// and addresses.
//
// All methods are safe for concurrent use.
type process struct {
	name   string
	binary string
	args   []string
	env    []string // besides that of this process
	dir    string   // where its log is

	control sync.Mutex // serialises start and the ways to end it

	mu   sync.Mutex    // protects the fields below
	cmd  *exec.Cmd     // nil until the first start
	done chan struct{} // closed when it has ended
	err  error         // how; after done
}

// start runs the program, unless it runs.
func (p *process) start() error {
	p.control.Lock()
	defer p.control.Unlock()
	if p.running() {
		return nil
	}
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	defer log.Close()                        // the program has its own by then
	cmd := exec.Command(p.binary, p.args...) //nolint:gosec // of our own making
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, log, log
	cmd.SysProcAttr = attributes()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	p.mu.Lock()
	p.cmd, p.done, p.err = cmd, make(chan struct{}), nil
	p.mu.Unlock()
	go p.wait(cmd, p.done)
	return nil
}

// wait reaps the program. Its end ends it.
func (p *process) wait(cmd *exec.Cmd, done chan struct{}) {
	err := cmd.Wait()
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
	close(done)
}

// kill ends the program as kill -9 does, and waits for its end.
func (p *process) kill() error {
	p.control.Lock()
	defer p.control.Unlock()
	return p.end(syscall.SIGKILL, 0)
}

// stop ends the program in order if it takes no longer than patience, and waits
// for its end.
func (p *process) stop(patience time.Duration) error {
	p.control.Lock()
	defer p.control.Unlock()
	return p.end(syscall.SIGTERM, patience)
}

// end sends a signal, and after patience one that nothing survives. control is
// held.
func (p *process) end(signal syscall.Signal, patience time.Duration) error {
	if !p.running() {
		return nil
	}
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.mu.Unlock()
	if signal != syscall.SIGKILL && cmd.Process.Signal(signal) == nil {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-done:
			return nil
		case <-timer.C:
		}
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing %s: %w", p.name, err)
	}
	<-done
	return nil
}

// ended returns a channel that is closed when the program that runs has ended;
// nil before the first start.
func (p *process) ended() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// pid returns the process's number, 0 if it does not run.
func (p *process) pid() int {
	if !p.running() {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// failure is why the program, which was to run, has ended.
func (p *process) failure() error {
	p.mu.Lock()
	err := p.err
	p.mu.Unlock()
	if err == nil {
		err = errors.New("exit status 0")
	}
	return fmt.Errorf("%s has ended: %w\n%s", p.name, err, p.lastLines(15))
}

func (p *process) logFile() string { return filepath.Join(p.dir, p.name+".log") }

// lastLines returns the end of what the program has written.
func (p *process) lastLines(n int) string {
	text, err := os.ReadFile(p.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
