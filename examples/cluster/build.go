package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// What the cluster consists of: tools of this module.
const (
	natsPackage  = "github.com/nats-io/nats-server/v2"
	caddyPackage = "github.com/sse-fanin/caddy-sse-fanin/cmd/caddy-cluster"
)

// programs are the paths of what is started.
type programs struct {
	nats, caddy string
}

// build builds the programs into a directory.
func build(ctx context.Context, dir string) (programs, error) {
	source, err := sourceDirectory()
	if err != nil {
		return programs{}, err
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o750); err != nil {
		return programs{}, err
	}
	// -s -w takes a third less of the linker's time
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", bin, natsPackage, caddyPackage) //nolint:gosec // a directory of our own
	cmd.Dir = source
	if output, err := cmd.CombinedOutput(); err != nil {
		return programs{}, fmt.Errorf("building nats-server and Caddy: %w\n%s", err, output)
	}
	return programs{nats: filepath.Join(bin, "nats-server"), caddy: filepath.Join(bin, "caddy-cluster")}, nil
}

// sourceDirectory returns the directory of this module, which is looked for from
// the working directory upwards.
func sourceDirectory() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		found := filepath.Join(dir, "examples", "cluster")
		if _, err := os.Stat(filepath.Join(found, "go.mod")); err == nil {
			return found, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("finding examples/cluster: the working directory is not in the repository")
		}
		dir = parent
	}
}
