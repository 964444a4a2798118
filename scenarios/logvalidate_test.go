package scenarios

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sse-fanin/caddy-sse-fanin/internal/ssetest"
)

// What Caddy asks of the system is where a log that is opened cannot hide.
func TestValidateOpensNoLog(t *testing.T) {
	besideOthers(t)
	strace, err := exec.LookPath("strace")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("strace is not installed")
	}
	binary, err := ssetest.Build("./cmd/caddy", false)
	must(t, err)
	p := prepareProcess(t)
	dir := logDir(t)
	file := filepath.Join(p.dir, "Caddyfile")
	site := directive("/events", "stream s\n"+logFile(dir, ""), "http://127.0.0.1:9/")
	must(t, os.WriteFile(file, []byte(p.caddyfile("", site)), 0o600))
	trace := filepath.Join(p.dir, "trace")
	p.binary = strace
	p.start("-f", "-s", "1000", "-e", "trace=openat,open,creat,mkdirat,mkdir", "-o", trace,
		binary, "validate", "--config", file, "--adapter", "caddyfile")
	if err := p.running.Err(); err != nil {
		if strings.Contains(p.running.Log.String(), "Operation not permitted") && os.Getenv("CI") != "true" {
			t.Skip("no process can be traced here")
		}
		t.Fatalf("%v: %s", err, p.running.Log.Tail(1000))
	}
	calls, err := os.ReadFile(trace)
	must(t, err)
	if !strings.Contains(string(calls), file) {
		t.Errorf("the trace has not even the configuration:\n%s", calls)
	}
	for line := range strings.Lines(string(calls)) {
		if strings.Contains(line, dir) {
			t.Errorf("validate called %s", line)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("there is %s", dir)
	}
}
