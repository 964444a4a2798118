package main

import (
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
)

// programConfig is another program, and what it is started with.
type programConfig struct {
	File string
	Args []string
	Env  []string // besides that of this process
}

// program is another program that runs in the foreground of this process.
type program struct {
	cmd   *exec.Cmd
	stops atomic.Bool   // it was told to end
	ended chan struct{} // closed once it has ended as it was told to
}

// programRole runs another program until stdin ends. Command: start, which
// returns the id of its process. When the program ends by itself, so does this
// process: what the program said last is then the last line of stderr.
func programRole(c *commands) error {
	p := &program{ended: make(chan struct{})}
	handle(c, "start", p.start)
	err := c.serve()
	if p.cmd != nil {
		p.stops.Store(true)
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		<-p.ended
	}
	return err
}

func (p *program) start(cfg programConfig) (pid int, err error) {
	cmd := exec.Command(cfg.File, cfg.Args...) //nolint:gosec // what the coordinator has found or built
	cmd.Env = append(os.Environ(), cfg.Env...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("starting %s: %w", cfg.File, err)
	}
	p.cmd = cmd
	go p.wait()
	return cmd.Process.Pid, nil
}

// wait waits for the program. start starts it; it ends with the program.
func (p *program) wait() {
	_ = p.cmd.Wait() // ended by a signal, or it has said why
	if !p.stops.Load() {
		os.Exit(1)
	}
	close(p.ended)
}
