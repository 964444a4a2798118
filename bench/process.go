package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// endTimeout is how long a process may take to end once its stdin has; then it
// is killed.
const endTimeout = 5 * time.Second

// maxOutput bounds what is kept of a process's stderr, in bytes: its end,
// where the reason of a failure stands.
const maxOutput = 8 << 10

// process is a part of a measurement, seen from the coordinator. Not safe for
// concurrent use.
type process struct {
	role   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	answer chan answer // unbuffered; closed when stdout has ended
	stderr *tail
	ended  chan struct{} // closed once the process has ended
}

// startProcess starts this program in a role. Close has to be called.
func startProcess(role string) (*process, error) { return startBuild("", role) }

// startBuild does so with another build of this program, unless the name of its
// file is empty.
func startBuild(file, role string) (*process, error) {
	if file == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("finding this program: %w", err)
		}
		file = self
	}
	var err error
	cmd := exec.Command(file, rolePrefix+role) //nolint:gosec // itself, or what the user names
	// Its own group: ^C is for the coordinator, which ends the others in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &process{role: role, cmd: cmd, answer: make(chan answer), stderr: new(tail), ended: make(chan struct{})}
	cmd.Stderr = p.stderr
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", role, err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", role, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", role, err)
	}
	go p.read(stdout)
	return p, nil
}

// read hands the answers on until stdout ends, and waits for the process.
// startProcess starts it; close waits for it.
func (p *process) read(stdout io.Reader) {
	defer close(p.ended)
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var a answer
		if err := json.Unmarshal(line, &a); err != nil {
			a = answer{Error: fmt.Sprintf("unreadable answer %q: %v", line, err)}
		}
		p.answer <- a
	}
	close(p.answer)
	_ = p.cmd.Wait()
}

// call has the process do something and waits for the result, which is decoded
// into result unless that is nil.
func (p *process) call(ctx context.Context, do string, args, result any) error {
	raw, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("%s: encoding the arguments of %s: %w", p.role, do, err)
	}
	line, err := json.Marshal(request{Do: do, Args: raw})
	if err != nil {
		return fmt.Errorf("%s: encoding %s: %w", p.role, do, err)
	}
	if _, err := p.stdin.Write(append(line, '\n')); err != nil {
		return p.failed(do, err)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s: %s: %w", p.role, do, context.Cause(ctx))
	case a, ok := <-p.answer:
		switch {
		case !ok:
			return p.failed(do, errors.New("the process has ended"))
		case a.Error != "":
			return fmt.Errorf("%s: %s: %s", p.role, do, a.Error)
		case result == nil:
			return nil
		}
		if err := json.Unmarshal(a.Result, result); err != nil {
			return fmt.Errorf("%s: reading the result of %s: %w", p.role, do, err)
		}
		return nil
	}
}

// failed is the error of a process that does not answer, with the last thing
// it said.
func (p *process) failed(do string, err error) error {
	if said := p.stderr.lastLine(); said != "" {
		return fmt.Errorf("%s: %s: %w: %s", p.role, do, err, said)
	}
	return fmt.Errorf("%s: %s: %w", p.role, do, err)
}

// hasEnded reports whether the process has ended by itself.
func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// close ends the process and waits for it.
func (p *process) close() {
	_ = p.stdin.Close()
	kill := time.AfterFunc(endTimeout, p.kill)
	defer kill.Stop()
	for range p.answer { // one whose caller has gone
	}
	<-p.ended
}

// kill ends the process and what it has started.
func (p *process) kill() {
	_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
}

// tail keeps the end of what is written to it. Safe for concurrent use.
type tail struct {
	mu  sync.Mutex // protects buf
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - maxOutput; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// lastLine returns the last line that is not empty.
func (t *tail) lastLine() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := bytes.TrimSpace(t.buf)
	return strings.TrimSpace(string(text[bytes.LastIndexByte(text, '\n')+1:]))
}
