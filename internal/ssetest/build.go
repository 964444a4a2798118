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

var builds sync.Map // what was asked for, a buildKey or requiredKey, to its once

func build(command string, race bool) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	binary, args := filepath.Join(Dir(), filepath.Base(command)), []string(nil)
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
	return binary, goBuild(dir, env, append(args, "-o", binary, command)...)
}

// BuildRequired builds a command of another module, by its import path, in the
// version that a module of this repository requires, whose directory is named as
// in "./jetstream". The rest is as with Build.
func BuildRequired(module, command, name string) (binary string, err error) {
	once, _ := builds.LoadOrStore(requiredKey{module, command, name}, sync.OnceValues(func() (string, error) {
		root, err := moduleRoot()
		if err != nil {
			return "", err
		}
		binary := filepath.Join(Dir(), name)
		return binary, goBuild(filepath.Join(root, module), os.Environ(), "-ldflags=-s -w", "-o", binary, command)
	}))
	return once.(func() (string, error))()
}

type requiredKey struct{ module, command, name string }

// goBuild runs go build in a directory.
func goBuild(dir string, env []string, args ...string) error {
	cmd := exec.Command("go", append([]string{"build"}, args...)...)
	cmd.Dir, cmd.Env = dir, env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", args[len(args)-1], err, out)
	}
	return nil
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
