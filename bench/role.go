package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"syscall"
)

// rolePrefix begins the first argument of a process that is a part of a
// measurement.
const rolePrefix = "role-"

// roles are what this program can be besides the coordinator.
var roles = map[string]func(*commands) error{
	"origin":    originRole,
	"load":      loadRole,
	"publisher": publisherRole,
	"caddy":     caddyRole,
	"program":   programRole,
	"bare":      bareRole,
	"raw":       rawRole,
	"gosse":     gosseRole,
	"neighbour": neighbourRole,
}

// runRole runs the role that the arguments name, and reports false if they
// name none. A role serves the commands on its stdin and ends with it: when the
// coordinator ends, in whatever way, so does everything that it has started.
func runRole(args []string) bool {
	if len(args) == 0 || !strings.HasPrefix(args[0], rolePrefix) {
		return false
	}
	name := strings.TrimPrefix(args[0], rolePrefix)
	role, ok := roles[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "bench: there is no role %q\n", name)
		os.Exit(2)
	}
	raiseFileLimit()
	if err := role(newCommands(os.Stdin, os.Stdout)); err != nil {
		fmt.Fprintf(os.Stderr, "bench %s: %v\n", name, err)
		os.Exit(1)
	}
	return true
}

// raiseFileLimit lifts the limit of open files to what the system allows: a
// process may have to hold thousands of connections. Where it cannot be lifted,
// the connections that are too many will say so.
func raiseFileLimit() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
}

// fileLimit is how many files this process, and those it starts, may have open.
func fileLimit() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxUint64 // unknown: whoever is out of files will say so
	}
	return limit.Max
}

// request is one line from the coordinator to a process.
type request struct {
	Do   string          `json:"do"`
	Args json.RawMessage `json:"args"`
}

// answer is the line that answers it.
type answer struct {
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// commands are the requests to this process, which it serves one after the
// other.
type commands struct {
	in       *bufio.Reader
	out      io.Writer
	handlers map[string]func(json.RawMessage) (any, error)
}

func newCommands(in io.Reader, out io.Writer) *commands {
	return &commands{in: bufio.NewReader(in), out: out, handlers: map[string]func(json.RawMessage) (any, error){}}
}

// handle sets what does a command. A is what its arguments are decoded to, the
// result is encoded as JSON.
func handle[A, R any](c *commands, do string, f func(A) (R, error)) {
	c.handlers[do] = func(raw json.RawMessage) (any, error) {
		var args A
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &args); err != nil {
				return nil, fmt.Errorf("reading the arguments of %s: %w", do, err)
			}
		}
		return f(args)
	}
}

// serve answers requests until stdin ends, which is no error.
func (c *commands) serve() error {
	for {
		if err := c.serveOne(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// serveOne answers one request; at the end of stdin it returns io.EOF.
func (c *commands) serveOne() error {
	line, err := c.in.ReadBytes('\n')
	if err != nil {
		return io.EOF
	}
	var req request
	if err := json.Unmarshal(line, &req); err != nil {
		return fmt.Errorf("reading a request: %w", err)
	}
	var ans answer
	handler, ok := c.handlers[req.Do]
	if !ok {
		ans.Error = "unknown command " + req.Do
	} else if result, err := handler(req.Args); err != nil {
		ans.Error = err.Error()
	} else if ans.Result, err = json.Marshal(result); err != nil {
		return fmt.Errorf("encoding the result of %s: %w", req.Do, err)
	}
	out, err := json.Marshal(ans)
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	if _, err := c.out.Write(append(out, '\n')); err != nil {
		return fmt.Errorf("answering: %w", err)
	}
	return nil
}

// exitAtEOF ends the process when stdin does, for roles that run something
// which serves no commands. Its goroutine lives as long as the process.
func (c *commands) exitAtEOF() {
	go c.waitForEOF()
}

func (c *commands) waitForEOF() {
	_, _ = io.Copy(io.Discard, c.in)
	os.Exit(0)
}

// none is the arguments or the result of a command that has none.
type none struct{}
