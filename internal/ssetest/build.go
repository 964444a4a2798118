package ssetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// Build builds a command of the module, named as in "./cmd/caddy", and returns
// the binary, which stands in Dir. A command may be a module of its own. Build
// builds each once, and is safe for concurrent use. With race, the binary has the
// race detector, for which a C compiler is needed.
func Build(command string, race bool) (binary string, err error) {
	once, _ := builds.LoadOrStore(buildKey{command, race}, sync.OnceValues(func() (string, error) { return build(command, race) }))
	return once.(func() (string, error))()
}

type buildKey struct {
	command string
	race    bool
}

var builds sync.Map // what Build has been asked for: a buildKey to its once

func build(command string, race bool) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	binary, args := filepath.Join(Dir(), filepath.Base(command)), []string{"build"}
	env := os.Environ()
	if race {
		binary += "-race"
		args = append(args, "-race")
		env = append(env, "CGO_ENABLED=1")
	} else {
		args = append(args, "-ldflags=-s -w") // takes a third less of the linker's time
	}
	dir := root
	if _, err := os.Stat(filepath.Join(root, command, "go.mod")); err == nil {
		dir, command = filepath.Join(root, command), "."
	}
	cmd := exec.Command("go", append(args, "-o", binary, command)...)
	cmd.Dir, cmd.Env = dir, env
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", command, err, out)
	}
	return binary, nil
}

// moduleRoot returns the directory of the module under test, which is this one
// or above: tests run in the directories of their packages.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module "+module+"\n")) {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("finding the module: there is none above the working directory")
		}
		dir = parent
	}
}
