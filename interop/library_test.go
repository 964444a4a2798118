package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// types are the types of the events that the tests send, and those that Caddy
// might. Every program is told them, for libraries that hand out only what they are
// asked for.
var types = []string{"message", "price", "build.done", "fanin.gap", "fanin.source"}

// A library is one that people receive streams with.
type library struct {
	name    string
	command func(name string) (argv []string, missing string)
	http2   bool // speaks HTTP/2 as well, over TLS

	// What runs its program, before the URL and the types, or what is missing for
	// that: what command has returned, see lookUp.
	argv    []string
	missing string

	// It may be missing in CI, where what it needs is too large or out of reach.
	optional bool

	faults
}

// faults are what a library does wrong, or otherwise than the others, whatever the
// server: TestLibrary proves each of them. The tests of streams expect no others.
type faults struct {
	// An event that is cut is taken for received: a later request asks for what
	// follows it, so it never comes.
	losesCut bool

	// What there is of an event that is cut is handed out, besides.
	handsOutCut bool

	// Data loses an empty first line, or a byte order mark at its beginning.
	losesFirst bool

	// After a status other than 200 it does not come back.
	givesUp bool
}

var libraries = []library{
	{name: "eventsource", command: node, optional: true, faults: faults{givesUp: true}},
	{name: "eventsource-client", command: node, optional: true},
	{name: "event-source-polyfill", command: node, optional: true, faults: faults{givesUp: true}},
	{name: "reconnecting-eventsource", command: node, optional: true},
	{name: "@microsoft/fetch-event-source", command: node, optional: true, faults: faults{losesCut: true, losesFirst: true}},
	{name: "r3labs/sse", command: golang, http2: true, faults: faults{losesCut: true, handsOutCut: true}},
	{name: "tmaxmax/go-sse", command: golang, http2: true, faults: faults{givesUp: true}},
	{name: "launchdarkly/eventsource", command: golang, http2: true},
	{name: "donovanhide/eventsource", command: golang, http2: true},
	{name: "requests", command: python},
	{name: "httpx", command: python, http2: true},
	{name: "aiohttp", command: python},
	{name: "tornado", command: python},
	{name: "Java's HttpClient", command: java, optional: true, http2: true},
	{name: "curl", command: curl, http2: true},
}

// node runs a library of npm.
func node(name string) (argv []string, missing string) {
	switch program, err := exec.LookPath("node"); {
	case err != nil:
		return nil, "node"
	case exec.Command(program, "-e", "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)").Run() != nil:
		return nil, "node 20 or newer"
	case !exists(filepath.Join("node", "node_modules", name)):
		return nil, "npm's " + name + ": run npm ci in interop/node"
	default:
		return []string{program, "node/follow.mjs", name}, ""
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// golang runs a library of Go.
func golang(name string) (argv []string, missing string) {
	binary, err := ssetest.BuildRequired("./interop", "github.com/sse-fanin/caddy-sse-fanin/interop/follow", "follow")
	if err != nil {
		return nil, "program follow: " + err.Error()
	}
	return []string{binary, name}, ""
}

// python runs a library of Python. Debian's are seen by its own Python only, which
// need not be the first in the PATH.
func python(name string) (argv []string, missing string) {
	modules := name
	if name == "httpx" {
		modules += ", h2"
	}
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if program, err := exec.LookPath(python); err == nil && exec.Command(program, "-c", "import "+modules).Run() == nil {
			return []string{program, "python/follow.py", name}, ""
		}
	}
	return nil, "python3 with the modules of interop/python/requirements.txt"
}

// java runs a program without a library: Java has a client of its own.
func java(string) (argv []string, missing string) {
	program, err := exec.LookPath("java")
	if err != nil || exec.Command(program, "--describe-module", "jdk.compiler").Run() != nil {
		return nil, "JDK"
	}
	return []string{program, "-XX:TieredStopAtLevel=1", "java/Follow.java"}, ""
}

func curl(string) (argv []string, missing string) {
	for _, name := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(name); err != nil {
			return nil, name
		}
	}
	return []string{"bash", "curl/follow.sh"}, ""
}

// lookUp finds out, once, which libraries can be run.
var lookUp = sync.OnceValue(func() []library {
	all := slices.Clone(libraries)
	for i, l := range all {
		all[i].argv, all[i].missing = l.command(l.name)
	}
	return all
})

// present returns the libraries that can be run. Those that cannot are named in a
// subtest that is skipped, or fails where CI is true, unless they may be missing
// there.
func present(t *testing.T) []library {
	t.Helper()
	var all []library
	for _, l := range lookUp() {
		switch {
		case *only != "" && !slices.Contains(strings.Split(*only, ","), l.name):
		case l.missing == "":
			all = append(all, l)
		default:
			t.Run(l.name, func(t *testing.T) {
				if os.Getenv("CI") == "true" && !l.optional {
					t.Fatalf("there is no %s", l.missing)
				}
				t.Skipf("there is no %s", l.missing)
			})
		}
	}
	if len(all) == 0 {
		t.Skip("there is none of the libraries")
	}
	return all
}

// overAll returns the libraries over HTTP/1.1 and, with -long, once more over
// HTTP/2 if they speak it: http2 is what one is to speak now.
func overAll(libraries []library) []library {
	all := overHTTP1(libraries)
	for _, l := range libraries {
		if l.http2 && *long {
			all = append(all, l)
		}
	}
	return all
}

func overHTTP1(libraries []library) (all []library) {
	for _, l := range libraries {
		all = append(all, l.plain())
	}
	return all
}

// plain is the library over HTTP/1.1.
func (l library) plain() library {
	l.http2 = false
	return l
}

func (l library) String() string {
	if l.http2 {
		return l.name + " over HTTP/2"
	}
	return l.name
}
