package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// What a cluster consists of: the Caddy that has `log jetstream`, so that all
// others are measured without it, and the server of NATS. Both are built from the
// repository, each with what its own module requires.
const (
	caddyProgram = "caddy-cluster"
	natsProgram  = "nats-server"
)

// builds is where each is built: a folder of the repository, and a package.
var builds = map[string]struct{ dir, pkg string }{
	caddyProgram: {"cmd/caddy-cluster", "."},
	natsProgram:  {"jetstream", "github.com/nats-io/nats-server/v2"},
}

// built are the programs, which are built when first one is needed.
var built struct {
	once sync.Once
	dir  string // empty: there are none
	err  error
}

// clusterProgram returns the file of one of them.
func clusterProgram(name string) (string, error) {
	built.once.Do(func() { built.dir, built.err = buildPrograms() })
	return filepath.Join(built.dir, name), built.err
}

func buildPrograms() (string, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/sse-fanin/caddy-sse-fanin").Output()
	if err != nil {
		return "", fmt.Errorf("%w: the programs of a cluster are built with go, in a clone of the repository: %w", errUnavailable, err)
	}
	dir, err := os.MkdirTemp("", "sse-bench-programs-")
	if err != nil {
		return "", fmt.Errorf("making a directory: %w", err)
	}
	for name, from := range builds {
		cmd := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(dir, name), from.pkg) //nolint:gosec // of the table above
		cmd.Dir = filepath.Join(strings.TrimSpace(string(root)), from.dir)
		cmd.Env = append(os.Environ(), "GOWORK=off")
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			_ = os.RemoveAll(dir)
			return "", fmt.Errorf("building %s: %w", name, err)
		}
	}
	return dir, nil
}

// removePrograms removes what has been built. Nobody may need it any more.
func removePrograms() error {
	if built.dir == "" {
		return nil
	}
	return os.RemoveAll(built.dir)
}

// startProgram starts another program, which ends with the process that is
// returned, and returns the program's own id, too.
func startProgram(ctx context.Context, cfg programConfig) (p *process, pid int, err error) {
	if p, err = startProcess("program"); err != nil {
		return nil, 0, err
	}
	if err = p.call(ctx, "start", cfg, &pid); err != nil {
		p.close()
		return nil, 0, err
	}
	return p, pid, nil
}
